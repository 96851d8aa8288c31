//! The owner that memory, connections and failed attempts are charged to.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// The owner that is charged for the resources of a connection or a request.
#[derive(Clone, Debug, Default, Hash, PartialEq, Eq)]
pub enum Owner {
    /// An authenticated caller.
    Principal(Arc<str>),
    /// Unauthenticated callers of one network: an IPv4 address, or the first 64 bits of an IPv6 address, which are
    /// usually assigned to one subscriber (RFC 6177).
    Network(IpAddr),
    /// Unauthenticated callers on the Unix socket.
    #[default]
    Local,
}

impl Owner {
    /// The owner for the principal `name`.
    pub fn principal(name: &str) -> Self {
        Self::Principal(Arc::from(name))
    }

    /// The owner for unauthenticated callers at `address`; `None` is the Unix socket.
    pub fn at(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            Some(IpAddr::V6(address)) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                Self::Network(IpAddr::V6(Ipv6Addr::from(network)))
            }
            Some(address) => Self::Network(address),
            None => Self::Local,
        }
    }

    /// Whether the caller is authenticated.
    pub fn is_known(&self) -> bool {
        matches!(self, Self::Principal(_))
    }
}

#[cfg(test)]
#[path = "../../tests/unit/owner.rs"]
mod tests;

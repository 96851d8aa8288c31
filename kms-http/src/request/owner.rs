//! Who memory, connections and failed attempts are charged to.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// Who is charged for what a connection or a request takes.
#[derive(Clone, Debug, Default, Hash, PartialEq, Eq)]
pub enum Owner {
    /// A caller that is known.
    Principal(Arc<str>),
    /// Callers of one network that are not known yet: an IPv4 address, or the first 64 bits of an IPv6 address, which
    /// one subscriber has for itself (RFC 6177).
    Network(IpAddr),
    /// Callers on the Unix socket that are not known yet.
    #[default]
    Local,
}

impl Owner {
    /// The caller of this name.
    pub fn principal(name: &str) -> Self {
        Self::Principal(Arc::from(name))
    }

    /// Callers at this address; none is an address on the Unix socket.
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

    /// Whether it is a caller that is known.
    pub fn is_known(&self) -> bool {
        matches!(self, Self::Principal(_))
    }
}

#[cfg(test)]
#[path = "../../tests/unit/owner.rs"]
mod tests;

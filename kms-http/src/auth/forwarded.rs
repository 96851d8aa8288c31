//! The source address of a request: that of the connection, or the one reported by a trusted proxy.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

use crate::request::Peer;

/// Maximum number of forwarded addresses that are examined.
const HOPS: usize = 32;

/// The address that grant conditions are checked against: starting at the connection and going back through
/// `X-Forwarded-For`, the first address that is not a trusted proxy's. Returns `None`, which fails such conditions, if
/// an entry is not an address or the connection is on a Unix socket that is not trusted as a proxy.
pub fn source(headers: &HeaderMap, peer: &Peer, proxies: &[IpNet], trust_unix_socket: bool) -> Option<IpAddr> {
    let is_proxy = |address: &IpAddr| is_proxy(address, proxies);
    match peer.address {
        Some(address) if !is_proxy(&address) => return Some(address.to_canonical()),
        None if !trust_unix_socket => return None,
        _ => {}
    }
    let mut hops = Vec::new();
    for value in headers.get_all("x-forwarded-for") {
        hops.extend(value.to_str().ok()?.split(',').map(str::trim));
    }
    let mut last = peer.address;
    for hop in hops.into_iter().rev().take(HOPS) {
        let address = parse(hop)?;
        if !is_proxy(&address) {
            return Some(address);
        }
        last = Some(address);
    }
    // All addresses are trusted proxies: the outermost proxy made the request itself.
    last.map(|address| address.to_canonical())
}

/// Whether this is the address of a trusted proxy.
pub fn is_proxy(address: &IpAddr, proxies: &[IpNet]) -> bool {
    proxies.iter().any(|network| network.contains(&address.to_canonical()))
}

/// Parses an address with or without a port.
fn parse(hop: &str) -> Option<IpAddr> {
    let address = hop.parse::<IpAddr>().or_else(|_| hop.parse::<SocketAddr>().map(|address| address.ip())).ok();
    address.or_else(|| hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok()).map(|address| address.to_canonical())
}

#[cfg(test)]
#[path = "../../tests/unit/forwarded.rs"]
mod tests;

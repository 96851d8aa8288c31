//! From where a request comes: the connection's address, or what a proxy that is believed says of it.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

use crate::request::Peer;

/// Most addresses of a chain that are looked at.
const HOPS: usize = 32;

/// The address that grant conditions are held against. Going back from the connection's, addresses of believed proxies
/// are passed over; the first other one counts. None, which such conditions deny, if that one is no address.
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
    // Nothing but proxies: the request is the outermost one's own.
    last.map(|address| address.to_canonical())
}

/// Whether a proxy that is believed has this address.
pub fn is_proxy(address: &IpAddr, proxies: &[IpNet]) -> bool {
    proxies.iter().any(|network| network.contains(&address.to_canonical()))
}

/// An address, with or without a port.
fn parse(hop: &str) -> Option<IpAddr> {
    let address = hop.parse::<IpAddr>().or_else(|_| hop.parse::<SocketAddr>().map(|address| address.ip())).ok();
    address.or_else(|| hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok()).map(|address| address.to_canonical())
}

#[cfg(test)]
#[path = "../../tests/unit/forwarded.rs"]
mod tests;

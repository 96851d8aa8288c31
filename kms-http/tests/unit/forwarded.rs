//! Unit tests of `src/auth/forwarded.rs`.

use super::*;

fn from(peer: &str, forwarded: &[&'static str], proxies: &str) -> Option<String> {
    let mut headers = HeaderMap::new();
    for value in forwarded {
        headers.append("x-forwarded-for", value.parse().expect("a header"));
    }
    let peer = Peer { address: peer.parse().ok(), ..Peer::default() };
    let proxies: Vec<IpNet> = proxies.split_whitespace().map(|net| net.parse().expect("a network")).collect();
    source(&headers, &peer, &proxies, false).map(|address| address.to_string())
}

#[test]
fn only_trusted_proxies_name_the_caller() {
    assert_eq!(from("192.0.2.1", &["10.9.9.9"], "").as_deref(), Some("192.0.2.1"));
    assert_eq!(from("192.0.2.1", &["10.9.9.9"], "192.0.2.0/24").as_deref(), Some("10.9.9.9"));
    // Entries before the proxy's own come from the caller and are ignored.
    assert_eq!(from("192.0.2.1", &["1.1.1.1, 10.9.9.9"], "192.0.2.0/24").as_deref(), Some("10.9.9.9"));
    assert_eq!(from("192.0.2.1", &["1.1.1.1", "10.9.9.9, 192.0.2.7"], "192.0.2.0/24").as_deref(), Some("10.9.9.9"));
    assert_eq!(from("::ffff:192.0.2.1", &["[2001:db8::1]:99"], "192.0.2.0/24").as_deref(), Some("2001:db8::1"));
    assert_eq!(from("192.0.2.1", &["unknown"], "192.0.2.0/24"), None);
    assert_eq!(from("192.0.2.1", &[], "192.0.2.0/24").as_deref(), Some("192.0.2.1"));
    assert_eq!(from("unix", &["10.9.9.9"], "0.0.0.0/0"), None);
}

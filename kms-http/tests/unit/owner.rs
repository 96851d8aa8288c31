//! Unit tests of `src/request/owner.rs`.

use super::*;

#[test]
fn a_network_is_an_ipv4_address_or_an_ipv6_prefix_of_64_bits() {
    let at = |text: &str| Owner::at(Some(text.parse().expect("an address")));
    assert_eq!(at("192.0.2.1"), at("::ffff:192.0.2.1"));
    assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
    assert_eq!(at("2001:db8:1:2:3::4"), at("2001:db8:1:2:ffff::1"));
    assert_ne!(at("2001:db8:1:2::1"), at("2001:db8:1:3::1"));
    assert_eq!(Owner::at(None), Owner::Local);
    assert!(Owner::principal("a").is_known() && !at("192.0.2.1").is_known());
}

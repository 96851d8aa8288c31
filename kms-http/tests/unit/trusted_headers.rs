//! Unit tests of `src/auth/trusted_headers.rs`.

use super::*;

const HOST: &str = "127.0.0.1:8080";

fn identify(sent: &[(&'static str, &[u8])], host: &str) -> Result<Actor, ApiError> {
    let mut headers = HeaderMap::new();
    for (name, value) in sent {
        headers.append(*name, HeaderValue::from_bytes(value).expect("a header"));
    }
    let settings = TrustedHeadersSettings { prefix: "dev:".into(), hosts: vec!["kms.example".into()] };
    settings.identify(&headers, host.parse().ok().as_ref())
}

#[test]
fn the_headers_name_the_caller() {
    let actor = identify(&[("x-principal", b"Alice"), ("x-role", b"admin")], HOST).expect("an actor");
    assert_eq!((actor.principal(), actor.role()), ("dev:alice", Role::Admin));
    let actor = identify(&[("x-role", b"root")], HOST).expect("an actor");
    assert_eq!((actor.principal(), actor.role()), ("anonymous", Role::App));
    for name in [&b"J\xc3\xbcrgen"[..], &b"J\xfcrgen"[..]] {
        let actor = identify(&[("x-principal", name)], HOST).expect("an actor");
        assert_eq!(actor.principal(), "dev:j\u{fc}rgen", "UTF-8 and Latin-1");
    }
}

#[test]
fn two_principals_are_refused() {
    assert!(identify(&[("x-principal", b"alice"), ("x-principal", b"bob")], HOST).is_err());
    let unprefixed = TrustedHeadersSettings::default();
    let mut headers = HeaderMap::new();
    headers.append("x-principal", HeaderValue::from_static("scheduler"));
    assert!(unprefixed.identify(&headers, HOST.parse().ok().as_ref()).is_err());
}

#[test]
fn requests_to_other_hosts_are_refused() {
    for (host, is_own) in [
        ("localhost:1", true),
        ("LOCALHOST", true),
        ("127.9.9.9", true),
        ("[::1]:80", true),
        ("kms.example:443", true),
        ("KMS.example", true),
        ("evil.example", false),
        ("localhost.evil.example", false),
        ("192.0.2.1", false),
        ("[2001:db8::1]", false),
        ("", false),
    ] {
        assert_eq!(identify(&[("x-principal", b"alice")], host).is_ok(), is_own, "{host:?}");
    }
}

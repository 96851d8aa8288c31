//! Unit tests of `src/auth/oidc/fetch.rs`.

#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn plain_http_is_only_for_loopback() {
    for good in ["https://id.example.com", "https://[2001:db8::1]:8443/x", "http://127.0.0.1:1/a", "http://[::1]/"] {
        assert!(parse_url(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "id.example.com",
        "/path",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "http://id.example.com/",
        "http://10.0.0.1/",
        "http://localhost.example.com/",
        "https://user:secret@id.example.com/",
    ] {
        assert!(parse_url(bad).is_err(), "{bad}");
    }
}

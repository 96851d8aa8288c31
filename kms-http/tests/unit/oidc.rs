//! Unit tests of `src/auth/oidc/mod.rs`.

#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

#[test]
fn claims_are_found_by_name_and_by_pointer() {
    let Value::Object(claims) =
        json!({"sub": "s", "https://x/roles": ["r"], "realm_access": {"roles": ["a"]}, "a/b": {"c~d": "e"}})
    else {
        unreachable!()
    };
    assert_eq!(lookup(&claims, "sub"), Some(&json!("s")));
    assert_eq!(lookup(&claims, "/sub"), Some(&json!("s")));
    assert_eq!(lookup(&claims, "https://x/roles"), Some(&json!(["r"])));
    assert_eq!(lookup(&claims, "/realm_access/roles"), Some(&json!(["a"])));
    assert_eq!(lookup(&claims, "/realm_access/roles/0"), Some(&json!("a")));
    assert_eq!(lookup(&claims, "/a~1b/c~0d"), Some(&json!("e")));
    for missing in ["", "/", "realm_access/roles", "/realm_access/nothing", "/sub/x", "//"] {
        assert_eq!(lookup(&claims, missing), None, "{missing:?}");
    }
}

#[test]
fn an_email_counts_only_when_it_is_verified() {
    let named = |verified: Value| {
        let others = json!([{"email": "e@f"}]);
        json!({"email": "a@b", "email_verified": verified, "user": {"email": "c@d"}, "list": others})
    };
    for verified in [json!(false), json!("true"), json!(1), Value::Null, json!(true)] {
        let Value::Object(claims) = named(verified.clone()) else { unreachable!() };
        for path in ["email", "/email"] {
            assert_eq!(lookup(&claims, path).is_some(), verified == json!(true), "{path} {verified}");
        }
        for path in ["/user/email", "/list/0/email"] {
            assert_eq!(lookup(&claims, path), None, "the email address at {path} is not verified");
        }
    }
}

#[test]
fn invalid_settings_are_refused() {
    let of = |issuer: &str, audience: &str| OidcSettings {
        issuer: issuer.into(),
        audiences: vec![audience.into()],
        ..OidcSettings::default()
    };
    let good = || of("https://id.example.com", "kms");
    assert!(OidcVerifier::new(good()).is_ok());
    for broken in [
        of("http://id.example.com", "kms"),
        of("https://id.example.com?tenant=1", "kms"),
        of("", "kms"),
        of("https://id.example.com", ""),
        OidcSettings { audiences: vec![], ..good() },
        OidcSettings { principal_claim: String::new(), ..good() },
        OidcSettings { stale_seconds: 1, ..good() },
        OidcSettings { jwks_uri: Some("http://id.example.com/keys".into()), ..good() },
        OidcSettings { ca_file: Some("/nonexistent/ca.pem".into()), ..good() },
        OidcSettings { role_claim: Some("roles".into()), ..good() },
        OidcSettings { admin_values: vec!["admin".into()], ..good() },
    ] {
        let error = OidcVerifier::new(broken.clone()).err().map(|e| e.code());
        assert_eq!(error, Some(ErrorCode::InvalidConfiguration), "{broken:?}");
    }
}

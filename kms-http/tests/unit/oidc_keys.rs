//! Unit tests of `src/auth/oidc/keys.rs`.

#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

fn set(keys: serde_json::Value) -> Result<KeySet, String> {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
}

#[test]
fn keys_that_cannot_verify_are_skipped() {
    let ec = json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "ec"});
    let with = |name: &str, value: serde_json::Value| {
        let mut key = ec.clone();
        key[name] = value;
        key
    };
    for useless in [
        json!({"kty": "oct", "k": "AAAA", "kid": "ec"}),
        json!({"kty": "new", "kid": "ec"}),
        json!({"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"}),
        json!({"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}),
        json!({"kty": "RSA", "n": "AA"}),
        json!("text"),
        with("use", json!("enc")),
        with("key_ops", json!(["sign"])),
        with("alg", json!("HS256")),
        with("alg", json!("RS256")),
        with("alg", json!("ES256K")),
        with("kid", json!(1)),
    ] {
        assert!(set(json!([useless])).is_err(), "{useless}");
        let both = set(json!([useless, ec])).unwrap();
        assert_eq!(both.keys.len(), 1, "{useless}");
    }
    assert!(set(json!([with("alg", json!("ES256")), with("use", json!("sig"))])).is_ok());
}

#[test]
fn keys_are_found_by_id_and_type() {
    let keys = set(json!([
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "a"},
        {"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA", "kid": "b"},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "c", "alg": "RS256"},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
    ]))
    .unwrap();
    assert!(matches!(keys.find(Some("a"), Algorithm::ES256), Lookup::Found(_)));
    assert!(matches!(keys.find(Some("a"), Algorithm::ES384), Lookup::Unfit(_)));
    assert!(matches!(keys.find(Some("c"), Algorithm::RS256), Lookup::Found(_)));
    assert!(matches!(keys.find(Some("c"), Algorithm::PS256), Lookup::Unfit(_)));
    assert!(matches!(keys.find(Some("c"), Algorithm::HS256), Lookup::Unfit(_)));
    assert!(matches!(keys.find(Some("z"), Algorithm::RS256), Lookup::Unknown));
    assert!(matches!(keys.find(None, Algorithm::ES384), Lookup::Found(_)));
    assert!(matches!(keys.find(None, Algorithm::PS256), Lookup::Found(_)));
    assert!(matches!(keys.find(None, Algorithm::RS256), Lookup::Unfit(_)));
    assert!(matches!(keys.find(None, Algorithm::EdDSA), Lookup::Unknown));
}

#[test]
fn malformed_key_sets_are_refused() {
    for text in ["", "[]", "{}", "null", r#"{"keys":{}}"#, r#"{"keys":[]}"#] {
        assert!(KeySet::parse(text.as_bytes()).is_err(), "{text}");
    }
    let many: Vec<_> = (0..=MOST_KEYS).map(|_| json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"})).collect();
    assert!(set(json!(many)).is_err());
}

//! An issuer's JSON Web Key Set (RFC 7517), reduced to the keys that can verify signatures.

use std::sync::Arc;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Maximum number of keys in a key set; more than any issuer publishes.
const MOST_KEYS: usize = 128;

const RSA: &[Algorithm] =
    &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

/// Whether an algorithm is accepted: only those with a public key (RFC 8725, section 3.1), so neither `none` nor `HS*`.
pub(super) fn is_asymmetric(algorithm: Algorithm) -> bool {
    RSA.contains(&algorithm) || matches!(algorithm, Algorithm::ES256 | Algorithm::ES384 | Algorithm::EdDSA)
}

/// The result of looking up a token's key.
pub(super) enum Lookup {
    /// The key, which fits the token's algorithm.
    Found(Arc<IssuerKey>),
    /// No key of the issuer matches the token.
    Unknown,
    /// The named key is not for the token's algorithm, or several keys fit a token that names none.
    Unfit(&'static str),
}

/// A public key of the issuer.
pub(super) struct IssuerKey {
    /// The key, for verifying.
    pub decoding: DecodingKey,
    /// The SHA-256 digest of its published form. A key that is fetched again has the same.
    pub digest: [u8; 32],
}

struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: Arc<IssuerKey>,
}

/// The usable keys of one fetched key set.
pub(super) struct KeySet {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// Parses a key set. Keys that cannot be used here (symmetric, for encryption, of unknown types, malformed) are
    /// ignored, as RFC 7517, section 5 says; a set without usable keys is an error.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let document: Document =
            serde_json::from_slice(text).map_err(|e| format!("the key set does not conform to RFC 7517: {e}"))?;
        if document.keys.len() > MOST_KEYS {
            return Err(format!("the key set has more than {MOST_KEYS} keys"));
        }
        let keys: Vec<Key> = document.keys.into_iter().filter_map(usable_key).collect();
        if keys.is_empty() {
            return Err("the key set has no key that can verify a signature".to_owned());
        }
        Ok(Self { keys })
    }

    /// Finds the key that a token names by `kid`. For a token without `kid`, exactly one key must fit the algorithm
    /// (OpenID Connect Core, section 10.1).
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Lookup {
        let fitting = |key: &&Key| key.algorithms.contains(&algorithm);
        let Some(id) = id else {
            let mut candidates = self.keys.iter().filter(fitting);
            return match (candidates.next(), candidates.next()) {
                (None, _) => Lookup::Unknown,
                (Some(key), None) => Lookup::Found(key.key.clone()),
                (Some(_), Some(_)) => Lookup::Unfit("the token has no kid, and several keys fit its algorithm"),
            };
        };
        let mut named = self.keys.iter().filter(|key| key.id.as_deref() == Some(id)).peekable();
        if named.peek().is_none() {
            return Lookup::Unknown;
        }
        match named.find(fitting) {
            Some(key) => Lookup::Found(key.key.clone()),
            None => Lookup::Unfit("the token's algorithm does not match the key that it names"),
        }
    }
}

fn usable_key(value: serde_json::Value) -> Option<Key> {
    let digest = Sha256::digest(value.to_string()).into();
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    let common = &jwk.common;
    if common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
        return None;
    }
    if common.key_operations.as_ref().is_some_and(|operations| !operations.contains(&KeyOperations::Verify)) {
        return None;
    }
    let mut algorithms = algorithms_of_type(&jwk.algorithm);
    if let Some(only) = common.key_algorithm {
        algorithms.retain(|algorithm| jsonwebtoken::jwk::KeyAlgorithm::from(*algorithm) == only);
    }
    if algorithms.is_empty() {
        return None;
    }
    let decoding = DecodingKey::from_jwk(&jwk).ok()?;
    Some(Key { id: common.key_id.clone(), algorithms, key: Arc::new(IssuerKey { decoding, digest }) })
}

/// The algorithms that a key of this type can verify (RFC 7518, section 3.1; RFC 8037). The cryptography provider
/// checks the size of RSA keys (at least 2048 bits) and that points are on the curve when it verifies.
fn algorithms_of_type(parameters: &AlgorithmParameters) -> Vec<Algorithm> {
    match parameters {
        AlgorithmParameters::RSA(_) => RSA.to_vec(),
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => vec![Algorithm::ES256],
            EllipticCurve::P384 => vec![Algorithm::ES384],
            _ => Vec::new(),
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => vec![Algorithm::EdDSA],
        _ => Vec::new(),
    }
}

#[cfg(test)]
#[path = "../../../tests/unit/oidc_keys.rs"]
mod tests;

//! An issuer's keys: a JSON Web Key Set (RFC 7517), reduced to what may verify a signature.

use std::sync::Arc;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

/// More keys than any issuer publishes.
const MOST_KEYS: usize = 128;

const RSA: &[Algorithm] =
    &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

/// The algorithms that are taken at all: with a public key only (RFC 8725, 3.1), so neither `none` nor `HS*`.
pub(super) fn is_asymmetric(algorithm: Algorithm) -> bool {
    RSA.contains(&algorithm) || matches!(algorithm, Algorithm::ES256 | Algorithm::ES384 | Algorithm::EdDSA)
}

/// What looking for a token's key comes to.
pub(super) enum Lookup {
    /// This key, for this algorithm.
    Found(Arc<DecodingKey>),
    /// No key of this name.
    Unknown,
    /// The key of this name is not for this algorithm, or no single key is meant.
    Unfit(&'static str),
}

struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: Arc<DecodingKey>,
}

/// The keys of one fetch.
pub(super) struct KeySet {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// Reads a key set. Keys that cannot verify anything here (symmetric, for encryption, of unknown types, too weak)
    /// are passed by, as RFC 7517, 5 says; a set without any other is an error.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let document: Document =
            serde_json::from_slice(text).map_err(|e| format!("the key set is not as RFC 7517 says: {e}"))?;
        if document.keys.len() > MOST_KEYS {
            return Err(format!("the key set has more than {MOST_KEYS} keys"));
        }
        let keys: Vec<Key> = document.keys.into_iter().filter_map(usable_key).collect();
        if keys.is_empty() {
            return Err("the key set has no key that can verify a signature".to_owned());
        }
        Ok(Self { keys })
    }

    /// The key that a token names by `kid`. Without a name it must be clear which one is meant (OpenID Connect Core,
    /// 10.1).
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Lookup {
        let fitting = |key: &&Key| key.algorithms.contains(&algorithm);
        let Some(id) = id else {
            let mut candidates = self.keys.iter().filter(fitting);
            return match (candidates.next(), candidates.next()) {
                (None, _) => Lookup::Unknown,
                (Some(key), None) => Lookup::Found(key.key.clone()),
                (Some(_), Some(_)) => Lookup::Unfit("the token does not say which of the issuer's keys signed it"),
            };
        };
        let mut named = self.keys.iter().filter(|key| key.id.as_deref() == Some(id)).peekable();
        if named.peek().is_none() {
            return Lookup::Unknown;
        }
        match named.find(fitting) {
            Some(key) => Lookup::Found(key.key.clone()),
            None => Lookup::Unfit("the token's algorithm is not that of the key it names"),
        }
    }
}

fn usable_key(value: serde_json::Value) -> Option<Key> {
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
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    Some(Key { id: common.key_id.clone(), algorithms, key: Arc::new(key) })
}

/// What a key of this type may verify (RFC 7518, 3.1; RFC 8037). The size of RSA keys (2048 bits at least) and points
/// off the curve are looked at by the provider when it verifies.
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

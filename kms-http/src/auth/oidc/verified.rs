//! Remembers verified tokens, so that the signature of each is checked once: a caller that sends the same token with
//! every request costs no signature check before its rate is limited.
//!
//! Only the digest of a token is kept, and what the token says. A token is recognized until it expires, and only while
//! the issuer still publishes the key that verified it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jsonwebtoken::{Algorithm, get_current_timestamp};
use kms_lib::Role;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::keys::IssuerKey;
use super::{Claims, TokenKey};

/// Minimum number of tokens that are remembered; the maximum is twice this.
const REMEMBERED: usize = 8_192;

/// The facts to remember of a token whose signature and claims were valid.
#[derive(Clone)]
pub(super) struct Verified {
    /// Name of the caller.
    pub principal: Arc<str>,
    /// Role of the caller.
    pub role: Role,
    /// The name by which the token referred to the issuer's key.
    pub key_id: Option<Arc<str>>,
    /// The algorithm of the signature.
    pub algorithm: Algorithm,
    /// The digest of the issuer's key.
    key: [u8; 32],
    /// Seconds since 1970 at which the token begins to be valid, if it says so, and at which it expires.
    times: (Option<f64>, f64),
}

impl Verified {
    /// The facts to remember of a token with these verified claims. `None` if they have no usable times.
    pub(super) fn new(principal: &str, role: Role, by: &TokenKey, claims: &Claims) -> Option<Self> {
        // Verification rounds times in the same way.
        let begin = match claims.get("nbf") {
            Some(begin) => Some(begin.as_f64()?.round()),
            None => None,
        };
        let end = claims.get("exp").and_then(Value::as_f64)?.round();
        Some(Self {
            principal: Arc::from(principal),
            role,
            key_id: by.id.as_deref().map(Arc::from),
            algorithm: by.algorithm,
            key: by.key.digest,
            times: (begin, end),
        })
    }

    /// Whether the token is valid at this time, with this tolerance in seconds.
    fn is_in_time(&self, now: u64, leeway: u64) -> bool {
        let (begin, end) = self.times;
        begin.is_none_or(|begin| begin <= now.saturating_add(leeway) as f64) && end >= now.saturating_sub(leeway) as f64
    }

    /// Whether this is the key that verified the token.
    pub(super) fn is_by(&self, key: &IssuerKey) -> bool {
        self.key == key.digest
    }
}

/// Verified tokens by their SHA-256 digests, in two generations: when the newer one is full, it replaces the older one.
#[derive(Default)]
pub(super) struct VerifiedTokens(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    newer: HashMap<[u8; 32], Verified>,
    older: HashMap<[u8; 32], Verified>,
}

impl VerifiedTokens {
    /// The remembered facts of this token, if it is valid now.
    pub(super) fn find(&self, token: &str, leeway: u64) -> Option<Verified> {
        let digest = Sha256::digest(token).into();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match all.newer.get(&digest) {
            Some(found) => found.clone(),
            // Tokens in use stay.
            None => all.older.remove(&digest).inspect(|found| all.insert(digest, found.clone()))?,
        };
        found.is_in_time(get_current_timestamp(), leeway).then_some(found)
    }

    /// Remembers a token that was verified just now.
    pub(super) fn insert(&self, token: &str, verified: Verified) {
        let digest = Sha256::digest(token).into();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, verified);
    }
}

impl Generations {
    fn insert(&mut self, digest: [u8; 32], verified: Verified) {
        if self.newer.len() >= REMEMBERED {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(digest, verified);
    }
}

#[cfg(test)]
#[path = "../../../tests/unit/oidc_verified.rs"]
mod tests;

//! The signing keys of a log, in sequence, and the links between them.
//!
//! A key is replaced by a record that names the old and the new key. Both sign the checkpoint that ends with this
//! record; earlier checkpoints are signed only by the old key, later ones only by the new one. So a verifier that
//! trusts one of the keys can reach all others: forwards, since the key signed the record that names its successor, and
//! backwards, since the checkpoints it signed include the records that name its predecessors.

use super::checkpoint::{self, Checkpoint, Verify};
use crate::types::error::{Error, ErrorCode, Result};

/// A public key of the log, and the beginning of its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningKey {
    /// The key's number, counted from 1.
    pub number: u32,
    /// The sequence number of the record that introduced the key. It signs checkpoints of this size and larger.
    pub first_seq: u64,
    /// The Ed25519 public key (RFC 8032).
    pub public_key: [u8; 32],
}

/// A record's statement about the log's signing key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The sequence number of the record.
    pub seq: u64,
    /// The key from this record on, in the form that verifiers pin.
    pub key: String,
    /// The previous key; none for the first one.
    pub previous: Option<String>,
}

/// All signing keys of a log, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningKeys {
    origin: String,
    keys: Vec<SigningKey>,
}

impl SigningKeys {
    /// The keys of the log with this origin. They are numbered from 1, and each begins after its predecessor.
    pub fn new(origin: String, keys: Vec<SigningKey>) -> Result<Self> {
        let bad = |why: &str| Error::new(ErrorCode::IntegrityFailure, format!("the log's signing keys {why}"));
        if keys.first().is_none_or(|first| first.number != 1 || first.first_seq != 1) {
            return Err(bad("do not begin with the first"));
        }
        let follows =
            |pair: &[SigningKey]| pair[1].number == pair[0].number + 1 && pair[1].first_seq > pair[0].first_seq;
        if !keys.windows(2).all(follows) {
            return Err(bad("do not follow each other"));
        }
        Ok(Self { origin, keys })
    }

    /// Returns these keys and one more.
    pub fn with(&self, key: SigningKey) -> Result<Self> {
        let mut keys = self.keys.clone();
        keys.push(key);
        Self::new(self.origin.clone(), keys)
    }

    /// The name of the log.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// All keys, oldest first.
    pub fn all(&self) -> &[SigningKey] {
        &self.keys
    }

    /// The key that signs now.
    pub fn newest(&self) -> &SigningKey {
        // Never empty, which `new` ensures.
        &self.keys[self.keys.len() - 1]
    }

    /// The key that signs checkpoints of this size.
    pub fn at(&self, size: u64) -> &SigningKey {
        self.keys.iter().rev().find(|key| key.first_seq <= size).unwrap_or(&self.keys[0])
    }

    /// The key with this public key; none if the log never had it.
    pub fn find(&self, public_key: &[u8; 32]) -> Option<&SigningKey> {
        self.keys.iter().find(|key| key.public_key == *public_key)
    }

    /// A key in the form that verifiers pin (C2SP signed note).
    pub fn verifier_key(&self, key: &SigningKey) -> String {
        checkpoint::verifier_key(&self.origin, &key.public_key)
    }

    /// Opens a note if the key for its size signed it, and also the previous key if its range ends there.
    pub fn open(&self, note: &str, verify: &Verify<'_>) -> Result<Checkpoint> {
        let claimed = checkpoint::claimed(note)
            .ok_or_else(|| Error::new(ErrorCode::IntegrityFailure, "the checkpoint is malformed"))?;
        let key = self.at(claimed.size);
        let opened = checkpoint::open(note, &self.origin, &key.public_key, verify)?;
        if opened.origin != self.origin {
            return Err(Error::new(ErrorCode::IntegrityFailure, "the checkpoint belongs to another log"));
        }
        if let Some(before) = self.keys.iter().find(|before| before.number + 1 == key.number)
            && opened.size == key.first_seq
        {
            checkpoint::open(note, &self.origin, &before.public_key, verify)?;
        }
        Ok(opened)
    }

    /// The links that the records after `after`, up to `to`, must contain, and no others.
    pub fn links(&self, after: u64, to: u64) -> Vec<Link> {
        let mut links = Vec::new();
        let mut previous = None;
        for key in &self.keys {
            let text = self.verifier_key(key);
            if key.first_seq > after && key.first_seq <= to {
                links.push(Link { seq: key.first_seq, key: text.clone(), previous });
            }
            previous = Some(text);
        }
        links
    }
}

//! Root key generations, and material wrapped under them.

use super::ids::{RootKeyId, ServiceKeyId};
use super::named::named;
use super::time::Timestamp;

named!(
    /// What holds a root key.
    RootKeyProvider {
        /// This process: 32 bytes, or a passphrase.
        Local = "local",
        /// A key in AWS KMS, named by its ARN.
        AwsKms = "aws-kms",
    }
);

named!(
    /// Whether a root key generation is in use.
    RootKeyState {
        /// New material is wrapped under it, unless it is compromised, and it opens material.
        Active = "ACTIVE",
        /// It is about to be retired: it opens material, and nothing new is wrapped under it.
        Retiring = "RETIRING",
        /// It opens nothing any more; its wrappings are erased.
        Retired = "RETIRED",
    }
);

/// A generation of the root key, as far as it is stored: never the key itself. One row of `root_keys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootKeyGeneration {
    /// Identifies the row.
    pub id: RootKeyId,
    /// Counted from 1, without gaps.
    pub generation: u32,
    /// What holds the key.
    pub provider: RootKeyProvider,
    /// The key's name at its provider; none for a local key.
    pub reference: Option<String>,
    /// How the key is derived from what is configured.
    pub derivation: String,
    /// The salt of the derivation.
    pub salt: Option<Vec<u8>>,
    /// A known text wrapped under the key.
    pub check_value: Vec<u8>,
    /// Whether it is in use.
    pub state: RootKeyState,
    /// When it was said that somebody else may have it.
    pub compromised_at: Option<Timestamp>,
    /// The sequence number of the record since which nothing new is wrapped under it.
    pub closed_seq: Option<u64>,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it was retired.
    pub retired_at: Option<Timestamp>,
    /// The sequence number of the record of its last change.
    pub revision: u64,
}

impl RootKeyGeneration {
    /// Whether it may open material.
    pub fn is_active(&self) -> bool {
        self.state != RootKeyState::Retired
    }
    /// Whether new material is wrapped under it.
    pub fn wraps(&self) -> bool {
        self.state == RootKeyState::Active && self.compromised_at.is_none()
    }
}

/// Material wrapped under one generation of the root key.
#[derive(Clone, PartialEq, Eq)]
pub struct Wrapped {
    /// The generation whose key made the wrapping.
    pub generation: u32,
    /// The wrapped material.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Wrapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wrapped(generation {})", self.generation)
    }
}

/// The generations of wrappings, ascending.
pub fn generations_of(wrapped: &[Wrapped]) -> Vec<u32> {
    let mut generations: Vec<u32> = wrapped.iter().map(|wrapped| wrapped.generation).collect();
    generations.sort_unstable();
    generations
}

named!(
    /// A key of the service itself.
    ServiceKeyKind {
        /// The key that seals rows (HMAC-SHA256).
        Integrity = "integrity",
        /// Signs the log.
        Signing = "signing",
    }
);

named!(
    /// Whether a key of the service is in use.
    ServiceKeyState {
        /// It seals or signs what is written now.
        Current = "CURRENT",
        /// Its successor is in use, and rows that it sealed before are still to be resealed.
        Resealing = "RESEALING",
        /// It was replaced; its wrappings are erased.
        Replaced = "REPLACED",
    }
);

/// A key of the service itself, as far as it is stored: never the key. One row of `service_keys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceKey {
    /// Identifies the row, and is the subject of the key's wrappings.
    pub id: ServiceKeyId,
    /// Whether the key seals rows or signs the log.
    pub kind: ServiceKeyKind,
    /// Counted from 1.
    pub number: u32,
    /// Of a signing key.
    pub public_key: Option<[u8; 32]>,
    /// Derived from the key ([`crate::envelope::service_fingerprint`]).
    pub fingerprint: [u8; 32],
    /// The first sequence number it is valid for.
    pub first_seq: u64,
    /// Whether it is in use.
    pub state: ServiceKeyState,
    /// The sequence number of the record of its last change.
    pub revision: u64,
}

impl ServiceKey {
    /// Whether it has material.
    pub fn has_material(&self) -> bool {
        self.state != ServiceKeyState::Replaced
    }
}

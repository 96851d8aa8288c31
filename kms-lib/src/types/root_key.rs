//! Root key generations, and material wrapped under them.

use super::ids::{RootKeyId, ServiceKeyId};
use super::named::named;
use super::time::Timestamp;

named!(
    /// The provider of a root key.
    RootKeyProvider {
        /// A local root key in this process: 32 bytes, or derived from a passphrase.
        Local = "local",
        /// A key in AWS KMS, named by its ARN.
        AwsKms = "aws-kms",
    }
);

named!(
    /// The state of a root key generation.
    RootKeyState {
        /// The generation unwraps material. New material is wrapped under it unless it is marked as compromised.
        Active = "ACTIVE",
        /// The generation is being retired: it unwraps material, but nothing new is wrapped under it.
        Retiring = "RETIRING",
        /// The generation is no longer used; its wrappings are erased or being erased.
        Retired = "RETIRED",
    }
);

/// The stored description of a root key generation, without the key. One row of `root_keys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootKeyGeneration {
    /// The identifier of the row.
    pub id: RootKeyId,
    /// The number of the generation, counted from 1 without gaps.
    pub generation: u32,
    /// The provider of the key.
    pub provider: RootKeyProvider,
    /// The key's name at its provider, such as an ARN; `None` for a local key.
    pub reference: Option<String>,
    /// The method by which the key is derived from the configured secret.
    pub derivation: String,
    /// The salt of the derivation, if it uses one.
    pub salt: Option<Vec<u8>>,
    /// A known text wrapped under the key, by which a wrong root key is recognized.
    pub check_value: Vec<u8>,
    /// Whether the generation is in use, being retired or retired.
    pub state: RootKeyState,
    /// When the generation was marked as compromised.
    pub compromised_at: Option<Timestamp>,
    /// The sequence number of the record from which on nothing new is wrapped under the generation.
    pub closed_seq: Option<u64>,
    /// Time at which the generation was added.
    pub created_at: Timestamp,
    /// Time at which the generation was retired.
    pub retired_at: Option<Timestamp>,
    /// The sequence number of the record of its last change.
    pub revision: u64,
}

impl RootKeyGeneration {
    /// Whether the generation may unwrap material.
    pub fn is_active(&self) -> bool {
        self.state != RootKeyState::Retired
    }
    /// Whether new material is wrapped under the generation.
    pub fn wraps(&self) -> bool {
        self.state == RootKeyState::Active && self.compromised_at.is_none()
    }
}

/// Material wrapped under one generation of the root key.
#[derive(Clone, PartialEq, Eq)]
pub struct Wrapped {
    /// The generation whose key made the wrapping.
    pub generation: u32,
    /// The wrapped material, in the format of the generation's provider.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Wrapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wrapped(generation {})", self.generation)
    }
}

/// The root key generations of these wrappings, ascending.
pub fn generations_of(wrapped: &[Wrapped]) -> Vec<u32> {
    let mut generations: Vec<u32> = wrapped.iter().map(|wrapped| wrapped.generation).collect();
    generations.sort_unstable();
    generations
}

named!(
    /// The kind of a key of the service.
    ServiceKeyKind {
        /// The integrity key, which seals rows (HMAC-SHA256).
        Integrity = "integrity",
        /// The signing key, which signs checkpoints of the log (Ed25519).
        Signing = "signing",
    }
);

named!(
    /// The state of a key of the service.
    ServiceKeyState {
        /// The key seals or signs new data.
        Current = "CURRENT",
        /// The key has a successor, and rows that it sealed are being resealed.
        Resealing = "RESEALING",
        /// The key was replaced; its wrappings are erased.
        Replaced = "REPLACED",
    }
);

/// The stored description of a key of the service, without the key. One row of `service_keys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceKey {
    /// The row's identifier, which is also the subject of the key's wrappings.
    pub id: ServiceKeyId,
    /// The kind of key.
    pub kind: ServiceKeyKind,
    /// The number of the key within its kind, counted from 1.
    pub number: u32,
    /// The Ed25519 public key, for a signing key.
    pub public_key: Option<[u8; 32]>,
    /// Derived from the key ([`crate::envelope::service_fingerprint`]).
    pub fingerprint: [u8; 32],
    /// The first sequence number that the key is valid for.
    pub first_seq: u64,
    /// Whether the key is current, being replaced or replaced.
    pub state: ServiceKeyState,
    /// The sequence number of the record of its last change.
    pub revision: u64,
}

impl ServiceKey {
    /// Whether the key has material.
    pub fn has_material(&self) -> bool {
        self.state != ServiceKeyState::Replaced
    }
}

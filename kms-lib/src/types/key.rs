//! Keys and their versions, as stored and as the catalog holds them.

use super::ids::{KeyId, VersionId};
use super::named::named;
use super::root_key::Wrapped;
use super::time::Timestamp;

named!(
    /// What kind of key it is.
    KeyType {
        /// AES with 256 bits in Galois/Counter Mode (NIST SP 800-38D).
        Aes256Gcm = "AES256_GCM",
        /// RSA with 2048 bits: OAEP-SHA256 for encryption, PKCS#1 v1.5 and PSS with SHA-256 for signing (RFC 8017).
        Rsa2048 = "RSA_2048",
    }
);

named!(
    /// What a key may be used for.
    KeyPurpose {
        /// Encrypting, decrypting and data keys.
        Encryption = "ENCRYPTION",
        /// Signing and verifying; RSA only.
        Signing = "SIGNING",
    }
);

named!(
    /// Where a key stands in its life.
    KeyState {
        /// In use.
        Enabled = "ENABLED",
        /// Out of use, by an admin or because its current version was revoked.
        Disabled = "DISABLED",
        /// Revoked with all its versions, for ever.
        Revoked = "REVOKED",
        /// Waiting for its deletion, which can still be cancelled.
        PendingDeletion = "PENDING_DELETION",
        /// Its material is erased; the record and the name stay.
        Destroyed = "DESTROYED",
    }
);

named!(
    /// Why a key is disabled, which decides what is still allowed.
    DisabledReason {
        /// Somebody disabled it.
        Admin = "ADMIN",
        /// Its current version was revoked; a rotation enables it again.
        CurrentVersionRevoked = "CURRENT_VERSION_REVOKED",
    }
);

named!(
    /// Where a version stands in its life.
    VersionState {
        /// The current version.
        Enabled = "ENABLED",
        /// A former version, or one disabled by hand: it still decrypts and verifies until its window ends.
        Disabled = "DISABLED",
        /// Revoked for ever.
        Revoked = "REVOKED",
        /// Its material is erased.
        Destroyed = "DESTROYED",
    }
);

named!(
    /// Where a version's material comes from.
    Origin {
        /// Generated here.
        Generated = "GENERATED",
        /// Brought from another system: it decrypts and verifies, but never encrypts.
        Imported = "IMPORTED",
    }
);

named!(
    /// How the encryption context appears in the audit records of a key.
    AuditContext {
        /// As it is.
        Clear = "clear",
        /// As an HMAC under the store's integrity key.
        Hmac = "hmac",
    }
);

/// A key, without its versions. One row of `keys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Identifies the key.
    pub id: KeyId,
    /// Unique for ever, among destroyed keys too.
    pub name: String,
    /// Its kind.
    pub key_type: KeyType,
    /// Its use.
    pub purpose: KeyPurpose,
    /// Where it stands.
    pub state: KeyState,
    /// Set while the state, or the one a cancelled deletion returns to, is `Disabled`.
    pub disabled_reason: Option<DisabledReason>,
    /// The state a cancelled deletion returns to; set while the deletion is pending. `Destroyed` once the erasure of
    /// the material has begun, which nothing cancels.
    pub state_before_deletion: Option<KeyState>,
    /// Days after which the scheduler rotates it.
    pub rotation_period_days: Option<u32>,
    /// Days a former version stays usable after a rotation; without it, the service's default.
    pub grace_period_days: Option<u32>,
    /// The version that encrypts and signs.
    pub current_version: u32,
    /// When the scheduler rotates it next: the current version's age plus the rotation period.
    pub rotate_at: Option<Timestamp>,
    /// When its material is erased; set while the deletion is pending.
    pub delete_at: Option<Timestamp>,
    /// The waiting period, in days, that `delete_at` was computed from.
    pub deletion_wait_days: Option<u32>,
    /// How records show its contexts.
    pub audit_context: AuditContext,
    /// JSON object given by its owners; canonical (RFC 8785) text.
    pub metadata: Option<String>,
    /// The import that brought it, for a key that was not made here.
    pub import: Option<KeyImport>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The sequence number of the record of its last change.
    pub revision: u64,
}

/// The import that a key belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyImport {
    /// The name of the source.
    pub source: String,
    /// Whether the import is finalised. Until then the source decides on the key, and here it can only be revoked.
    pub is_final: bool,
}

/// A version of a key without its material: all that deciding needs. One row of `key_versions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyVersion {
    /// Identifies the version.
    pub id: VersionId,
    /// The key it belongs to.
    pub key_id: KeyId,
    /// Counted from 1.
    pub version: u32,
    /// Where it stands.
    pub state: VersionState,
    /// From when it is usable.
    pub not_before: Option<Timestamp>,
    /// Until when it decrypts and verifies; for ever without one.
    pub not_after: Option<Timestamp>,
    /// The grace period that its window was made from.
    pub grace_period_days: Option<u32>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Where its material comes from.
    pub origin: Origin,
    /// Derived from the material ([`crate::envelope::fingerprint`]); stays when the material is erased. A version
    /// number that comes back with other material after a restore has another fingerprint.
    pub fingerprint: [u8; 32],
    /// SHA-256 of the public key's PEM text, for RSA.
    pub public_key_digest: Option<[u8; 32]>,
    /// The sequence number of the record of its last change.
    pub revision: u64,
}

impl Key {
    /// Whether the key is unusable for ever: revoked, also while its deletion is pending, or losing its material.
    pub fn is_revoked(&self) -> bool {
        self.state == KeyState::Revoked || self.state_before_deletion == Some(KeyState::Revoked) || self.is_erased()
    }

    /// Whether the key belongs to an import that is not finalised.
    pub fn is_held_by_import(&self) -> bool {
        self.import.as_ref().is_some_and(|import| !import.is_final)
    }

    /// Whether its material is being erased, which has not come to its end.
    pub fn is_being_erased(&self) -> bool {
        self.state == KeyState::PendingDeletion && self.state_before_deletion == Some(KeyState::Destroyed)
    }

    /// Whether its material is erased or being erased.
    pub fn is_erased(&self) -> bool {
        self.state == KeyState::Destroyed || self.is_being_erased()
    }

    /// The state of one of the key's versions. Revoking and destroying a key writes only the key's row, so the state in
    /// the version's row is not the whole answer.
    pub fn state_of(&self, version: &KeyVersion) -> VersionState {
        match version.state {
            _ if self.state == KeyState::Destroyed => VersionState::Destroyed,
            VersionState::Enabled | VersionState::Disabled if self.is_revoked() => VersionState::Revoked,
            state => state,
        }
    }
}

impl KeyVersion {
    /// What a ciphertext names of the version that made it.
    pub fn material_id(&self) -> MaterialId {
        MaterialId { key: self.key_id, version: self.version, fingerprint: self.fingerprint }
    }
}

/// The key, version and material that a ciphertext is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaterialId {
    /// The key.
    pub key: KeyId,
    /// The version of the key.
    pub version: u32,
    /// The fingerprint of the version's material.
    pub fingerprint: [u8; 32],
}

/// The stored material of a version.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// Wrapped, once under each generation of the root key that it is wrapped under; none once it is erased.
    pub wrapped: Vec<Wrapped>,
    /// SubjectPublicKeyInfo as PEM (RFC 7468), for RSA.
    pub public_key_pem: Option<String>,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material").field("public_key_pem", &self.public_key_pem).finish_non_exhaustive()
    }
}

/// A version's counters. They change with every use and are therefore outside of the row's seal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VersionUsage {
    /// Messages encrypted under it.
    pub encryptions: u64,
    /// When it was last used for anything.
    pub last_used_at: Option<Timestamp>,
}

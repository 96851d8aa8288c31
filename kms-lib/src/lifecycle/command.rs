//! Commands: the changes that callers request, before the rows to change are determined.

use std::fmt;
use std::sync::Arc;

use super::imported::{ImportFinalization, ImportRotation, ImportRun, ImportedGrants, ImportedKey, LegacyPage};
use super::new_version::NewVersion;
use crate::audit::recorded::Recorded;
use crate::crypto::provider::Ed25519;
use crate::envelope::Seals;
use crate::envelope::row::StoredWrapping;
use crate::types::actor::Role;
use crate::types::audit::Action;
use crate::types::grant::{Conditions, GrantScope, Permission};
use crate::types::ids::{CredentialId, GrantId, KeyId, QuarantineId, ServiceKeyId, VersionId};
use crate::types::key::{AuditContext, KeyPurpose, KeyType};
use crate::types::quarantine::{EntityRow, EntityTable, Quarantined};
use crate::types::root_key::{RootKeyGeneration, ServiceKeyKind, Wrapped, generations_of};
use crate::types::time::Timestamp;

/// The number of credentials that one command removes.
pub const REMOVED_AT_ONCE: usize = 64;
/// The number of days for which a token that expired or was revoked is kept.
pub const ENDED_TOKEN_DAYS: u32 = 30;

/// A key to be created, with validated attributes.
#[derive(Clone, Debug)]
pub struct CheckedKey {
    /// The key's id.
    pub id: KeyId,
    /// The key's name.
    pub name: String,
    /// The key's type.
    pub key_type: KeyType,
    /// The permitted use of the key.
    pub purpose: KeyPurpose,
    /// The rotation period, in days.
    pub rotation_period_days: Option<u32>,
    /// Length of a former version's grace window, in days.
    pub grace_period_days: Option<u32>,
    /// The form in which audit records show encryption contexts.
    pub audit_context: AuditContext,
    /// The metadata as canonical JSON (RFC 8785).
    pub metadata: Option<String>,
    /// The key's first version with its material.
    pub first: NewVersion,
    /// The grant for the creator, unless that is an admin: id and principal.
    pub creator_grant: Option<(GrantId, String)>,
}

/// An edit of a key: outer `None` leaves a value unchanged, inner `None` removes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyEdit {
    /// The rotation period, in days.
    pub rotation_period_days: Option<Option<u32>>,
    /// Length of a former version's grace window, in days.
    pub grace_period_days: Option<Option<u32>>,
    /// The metadata as canonical JSON (RFC 8785).
    pub metadata: Option<Option<String>>,
    /// The form in which audit records show encryption contexts.
    pub audit_context: Option<AuditContext>,
}

/// A grant to be made. It replaces the one that the principal has from the same grantor on the same scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedGrant {
    /// The id of a new grant. If the grant replaces another one, it keeps that one's id instead.
    pub id: GrantId,
    /// The principal that gets the grant.
    pub principal: String,
    /// The role of the callers that the grant is meant for; informative.
    pub role: Role,
    /// The keys that the grant covers.
    pub scope: GrantScope,
    /// The permissions, sorted and without duplicates.
    pub permissions: Vec<Permission>,
    /// The conditions of the grant.
    pub conditions: Conditions,
}

/// A credential to be created, with validated attributes.
#[derive(Clone, Debug)]
pub struct CheckedCredential {
    /// The credential's id.
    pub id: CredentialId,
    /// The principal that the token authenticates.
    pub principal: String,
    /// The role that the token gives.
    pub role: Role,
    /// SHA-256 of the token's secret.
    pub secret_hash: [u8; 32],
    /// The purpose of the token, as text from its creator.
    pub label: Option<String>,
    /// The token is not accepted at or after this time.
    pub expires_at: Option<Timestamp>,
    /// Whether it must be the store's first credential; `Conflict` if another exists or existed.
    pub is_first: bool,
}

/// A new signing key of the log.
#[derive(Clone)]
pub struct NewSigningKey {
    /// The number of the key, one higher than that of the current key.
    pub number: u32,
    /// The new key's id, which is also the subject of its wrappings.
    pub id: ServiceKeyId,
    /// The key, wrapped under each generation in use.
    pub wrapped: Vec<Wrapped>,
    /// The fingerprint of the material.
    pub fingerprint: [u8; 32],
    /// The key, ready for use.
    pub key: Arc<dyn Ed25519>,
}

impl fmt::Debug for NewSigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewSigningKey").field("number", &self.number).finish_non_exhaustive()
    }
}

/// A new integrity key.
#[derive(Clone, Debug)]
pub struct NewIntegrityKey {
    /// The number of the key, one higher than that of the current key.
    pub number: u32,
    /// The new key's id, which is also the subject of its wrappings.
    pub id: ServiceKeyId,
    /// The key, wrapped under each generation in use.
    pub wrapped: Vec<Wrapped>,
    /// The fingerprint of the material.
    pub fingerprint: [u8; 32],
    /// The seals under the new key.
    pub seals: Seals,
    /// The rows as of the verified records. Only these may be sealed under the new key.
    pub recorded: Arc<Recorded>,
}

/// Rows to be sealed under the current integrity key.
#[derive(Clone, Debug)]
pub struct Resealing {
    /// The number of the current integrity key.
    pub number: u32,
    /// The rows of one page, each with its new seal.
    pub rows: Vec<ResealedRow>,
}

/// A row with its new seal.
#[derive(Clone, Debug)]
pub struct ResealedRow {
    /// The table of the row.
    pub table: &'static str,
    /// The row's own identifier.
    pub id: [u8; 16],
    /// The row's former seal.
    pub former: Vec<u8>,
    /// The seal under the current integrity key.
    pub seal: [u8; 32],
}

/// A new wrapping of existing material, under a further generation of the root key.
#[derive(Clone, Debug)]
pub struct NewWrapping {
    /// The subject of the wrapping.
    pub subject: Wrapping,
    /// The fingerprint of the material.
    pub fingerprint: [u8; 32],
    /// The material, wrapped under one generation.
    pub wrapped: Wrapped,
}

/// The subject of a wrapping, with the values by which it is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrapping {
    /// A version of a key.
    Version(KeyId, u32, VersionId),
    /// A key of the service: its kind and number.
    Service(ServiceKeyKind, u32, ServiceKeyId),
}

impl Wrapping {
    /// The identifier under which the wrapping is stored.
    pub fn subject(&self) -> [u8; 16] {
        match self {
            Self::Version(_, _, id) => *id.as_bytes(),
            Self::Service(_, _, id) => *id.as_bytes(),
        }
    }
}

/// A check that other generations of the root key can open everything that one wraps: its result, and the state of the
/// store before it. Whatever was changed since is checked again under the head lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetirementCheck {
    /// The generation to retire.
    pub generation: u32,
    /// The revision of the catalog.
    pub revision: u64,
    /// The last record that withdrew the mark of a verified wrapping; none if there was none.
    pub withdrawn: Option<String>,
    /// The number of materials that no other generation can open.
    pub unverified: u64,
}

/// A wrapping that was opened, with the result that its verification mark records.
#[derive(Clone, Debug)]
pub struct CheckedWrapping {
    /// The wrapping as it was read.
    pub stored: StoredWrapping,
    /// The seal of the wrapping's row.
    pub seal: Vec<u8>,
    /// The fingerprint of the material.
    pub fingerprint: [u8; 32],
    /// Whether the content matched the fingerprint. If not, an earlier mark is removed.
    pub opens: bool,
}

/// A generation of the root key to be added.
#[derive(Clone, Debug)]
pub struct NewGeneration {
    /// The new row, whose generation follows the newest one.
    pub root: RootKeyGeneration,
    /// The service's keys, wrapped under the new generation.
    pub wrappings: Vec<NewWrapping>,
}

/// A row to be quarantined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewQuarantined {
    /// The id of the entry.
    pub id: QuarantineId,
    /// The table of the row.
    pub table: EntityTable,
    /// The row's own identifier.
    pub row: [u8; 16],
    /// The key that the row belongs to.
    pub key: Option<KeyId>,
    /// The name of the key, for a row of `keys`.
    pub key_name: Option<String>,
}

/// A row to be released from the quarantine.
#[derive(Clone, Debug)]
pub struct Released {
    /// The entry that names the row.
    pub entry: Quarantined,
    /// The row as it was verified.
    pub row: EntityRow,
}

/// A range of version numbers, first and last inclusive.
pub type VersionRange = (u32, u32);

/// A change of keys, grants, credentials, service keys, root keys or the quarantine.
#[derive(Clone, Debug)]
pub enum Command {
    /// Create a key with its first version.
    CreateKey(Box<CheckedKey>),
    /// Rotate a key to this version.
    Rotate(KeyId, NewVersion),
    /// Enable a disabled key.
    EnableKey(KeyId),
    /// Disable a key until it is enabled again.
    DisableKey(KeyId),
    /// Revoke a key and all its versions.
    RevokeKey(KeyId),
    /// Enable the current version.
    EnableVersion(KeyId, u32),
    /// Disable a version until it is enabled again.
    DisableVersion(KeyId, u32),
    /// Revoke a version permanently.
    RevokeVersion(KeyId, u32),
    /// Set, extend or end a former version's grace window.
    SetWindow(KeyId, u32, Option<Timestamp>),
    /// Edit a key's periods, metadata or the form of its recorded contexts.
    UpdateKey(KeyId, KeyEdit),
    /// Schedule a deletion after this many days.
    ScheduleDeletion(KeyId, u32),
    /// Cancel a scheduled deletion.
    CancelDeletion(KeyId),
    /// Erase the material of those of these versions that are revoked or past their grace window.
    Trim(KeyId, Vec<u32>),
    /// Begin to erase the material of a key. From then on its deletion cannot be cancelled.
    BeginDestruction(KeyId),
    /// Erase the material of some versions of a key that is being erased. No row of the catalog changes.
    EraseMaterial(KeyId, VersionRange),
    /// Erase the material of the last versions of a key that is being erased. The key is destroyed then.
    DestroyKey(KeyId, VersionRange),
    /// Make or replace a grant.
    PutGrant(Box<CheckedGrant>),
    /// Withdraw a grant; with the flag, everything that was passed on through it too.
    WithdrawGrant(GrantId, bool),
    /// Create a credential, the record of an access token.
    CreateCredential(Box<CheckedCredential>),
    /// Withdraw a credential, so that its token no longer authenticates.
    WithdrawCredential(CredentialId),
    /// Remove some of the credentials that ended long ago, in the order of their ends.
    RemoveCredentials,
    /// Quarantine rows that do not match the log.
    Quarantine(Vec<NewQuarantined>),
    /// Release rows from the quarantine. Each is stored in the state that the log has of it.
    Release(Vec<Released>),
    /// Replace the signing key of the log.
    ReplaceSigningKey(Box<NewSigningKey>),
    /// Add a generation of the root key.
    AddRootKey(Box<NewGeneration>),
    /// Mark this generation as compromised: nothing new is wrapped under it from then on.
    MarkCompromised(u32),
    /// Begin to retire a generation: nothing new is wrapped under it from then on.
    BeginRetirement(u32),
    /// Complete the retirement of a generation.
    RetireRootKey(RetirementCheck),
    /// Add wrappings under further generations. No row of the catalog changes.
    AddWrappings(Vec<NewWrapping>),
    /// Set or remove the verification marks of wrappings. No row of the catalog changes.
    MarkVerified(Vec<CheckedWrapping>),
    /// Erase the wrappings of these subjects under a retired generation. No row of the catalog changes.
    EraseWrappings(u32, Vec<[u8; 16]>),
    /// Replace the integrity key. Nothing else changes in the same batch.
    ReplaceIntegrityKey(Box<NewIntegrityKey>),
    /// Seal rows under the current integrity key. Their content stays, so no row of the catalog changes.
    Reseal(Resealing),
    /// Erase the integrity key before the one with this number, under which no row is sealed any more.
    EndResealing(u32),
    /// Begin a run of an import. Earlier runs of the same source can write nothing from then on.
    #[cfg_attr(not(feature = "import"), allow(dead_code, reason = "only an import makes them"))]
    BeginImport(ImportRun),
    /// Append rows to an imported log. No row of the catalog changes.
    #[cfg_attr(not(feature = "import"), allow(dead_code, reason = "only an import makes them"))]
    ImportRows(LegacyPage),
    /// Create a key of an import, or update it to match its source.
    #[cfg_attr(not(feature = "import"), allow(dead_code, reason = "only an import makes them"))]
    ImportKey(Box<ImportedKey>),
    /// Rotate a key of an import to a version that is generated here.
    #[cfg_attr(not(feature = "import"), allow(dead_code, reason = "only an import makes them"))]
    RotateImported(Box<ImportRotation>),
    /// Create grants of an import, or update them to match their source.
    #[cfg_attr(not(feature = "import"), allow(dead_code, reason = "only an import makes them"))]
    ImportGrants(ImportedGrants),
    /// Finalize an import for these keys, which belong to this store from then on.
    #[cfg_attr(not(feature = "import"), allow(dead_code, reason = "only an import makes them"))]
    FinalizeImport(ImportFinalization),
    /// Record something that the service did. No row changes.
    Record(Action),
}

impl Command {
    /// Whether the command only takes away rights or keys, or is needed before that can be done. Such commands are
    /// accepted even on a full disk.
    pub fn takes_away(&self) -> bool {
        match self {
            Self::DisableKey(_)
            | Self::RevokeKey(_)
            | Self::DisableVersion(..)
            | Self::RevokeVersion(..)
            | Self::SetWindow(_, _, Some(_))
            | Self::ScheduleDeletion(..)
            | Self::Trim(..)
            | Self::BeginDestruction(_)
            | Self::EraseMaterial(..)
            | Self::DestroyKey(..)
            | Self::WithdrawGrant(..)
            | Self::Quarantine(_)
            | Self::WithdrawCredential(_)
            | Self::MarkCompromised(_)
            | Self::BeginRetirement(_)
            | Self::RetireRootKey(_)
            | Self::EraseWrappings(..)
            | Self::EndResealing(_)
            // Without these, the store cannot be opened.
            | Self::Record(Action::ClockAcknowledge | Action::RestoreAcknowledge | Action::QueuedAckOn) => true,
            Self::CreateKey(_)
            | Self::Rotate(..)
            | Self::EnableKey(_)
            | Self::EnableVersion(..)
            | Self::SetWindow(_, _, None)
            | Self::UpdateKey(..)
            | Self::CancelDeletion(_)
            | Self::PutGrant(_)
            | Self::CreateCredential(_)
            | Self::RemoveCredentials
            | Self::ReplaceSigningKey(_)
            | Self::Release(_)
            | Self::AddRootKey(_)
            | Self::AddWrappings(_)
            | Self::MarkVerified(_)
            | Self::ReplaceIntegrityKey(_)
            | Self::Reseal(_)
            | Self::BeginImport(_)
            | Self::ImportRows(_)
            | Self::ImportKey(_)
            | Self::RotateImported(_)
            | Self::ImportGrants(_)
            | Self::FinalizeImport(_)
            | Self::Record(_) => false,
        }
    }

    /// The approximate number of rows that the command reads and writes.
    pub fn rows(&self) -> usize {
        let in_range = |(first, last): VersionRange| last.saturating_sub(first) as usize + 1;
        match self {
            Self::Trim(_, versions) => versions.len(),
            Self::EraseMaterial(_, range) | Self::DestroyKey(_, range) => in_range(*range),
            Self::RemoveCredentials => REMOVED_AT_ONCE,
            Self::Quarantine(rows) => rows.len(),
            Self::Release(rows) => rows.len(),
            Self::AddRootKey(new) => new.wrappings.len(),
            Self::AddWrappings(new) => new.len(),
            Self::MarkVerified(checked) => checked.len(),
            Self::EraseWrappings(_, subjects) => subjects.len(),
            Self::Reseal(resealing) => resealing.rows.len(),
            Self::ImportRows(page) => page.bodies.len(),
            Self::ImportKey(key) => 1 + key.versions.len(),
            Self::ImportGrants(imported) => imported.grants.len() + imported.withdrawn.len(),
            Self::FinalizeImport(ended) => ended.keys.len(),
            _ => 1,
        }
    }

    /// Whether the command changes generations of the root key, wrappings under them, or seals of rows.
    pub fn is_of_root_keys(&self) -> bool {
        matches!(
            self,
            Self::AddRootKey(_)
                | Self::MarkCompromised(_)
                | Self::BeginRetirement(_)
                | Self::RetireRootKey(_)
                | Self::AddWrappings(_)
                | Self::MarkVerified(_)
                | Self::EraseWrappings(..)
                | Self::ReplaceIntegrityKey(_)
                | Self::Reseal(_)
                | Self::EndResealing(_)
        )
    }

    /// The generations that the command wraps new material under, ascending; `None` if it has no new material.
    pub fn wrapped_under(&self) -> Option<Vec<u32>> {
        match self {
            Self::CreateKey(new) => Some(generations_of(&new.first.material.wrapped)),
            Self::Rotate(_, new) => Some(generations_of(&new.material.wrapped)),
            Self::ReplaceSigningKey(new) => Some(generations_of(&new.wrapped)),
            Self::ReplaceIntegrityKey(new) => Some(generations_of(&new.wrapped)),
            Self::ImportKey(imported) => imported.wrapped_under(),
            Self::RotateImported(rotation) => Some(generations_of(&rotation.new.material.wrapped)),
            _ => None,
        }
    }

    /// The run of an import that the command belongs to.
    pub fn import_run(&self) -> Option<&ImportRun> {
        match self {
            Self::BeginImport(run) => Some(run),
            Self::ImportRows(page) => Some(&page.run),
            Self::ImportKey(imported) => Some(&imported.run),
            Self::RotateImported(rotation) => Some(&rotation.run),
            Self::ImportGrants(imported) => Some(&imported.run),
            Self::FinalizeImport(end) => Some(&end.run),
            _ => None,
        }
    }
}

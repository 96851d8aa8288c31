//! Commands: what a caller wants changed, before it is known which rows that changes.

use std::fmt;
use std::sync::Arc;

use super::imported::{ImportFinalisation, ImportRotation, ImportRun, ImportedGrants, ImportedKey, LegacyPage};
use crate::audit::recorded::Recorded;
use crate::crypto::provider::Ed25519;
use crate::envelope::Seals;
use crate::envelope::row::StoredWrapping;
use crate::types::actor::Role;
use crate::types::audit::Action;
use crate::types::grant::{Conditions, GrantScope, Permission};
use crate::types::ids::{CredentialId, GrantId, KeyId, QuarantineId, ServiceKeyId, VersionId};
use crate::types::key::{AuditContext, KeyPurpose, KeyType, Material};
use crate::types::quarantine::{EntityRow, EntityTable, Quarantined};
use crate::types::root_key::{RootKeyGeneration, ServiceKeyKind, Wrapped, generations_of};
use crate::types::time::Timestamp;

/// A version's new material, generated and wrapped.
#[derive(Clone, Debug)]
pub struct NewVersion {
    /// The new version's id.
    pub id: VersionId,
    /// Its number.
    pub version: u32,
    /// Its wrapped material and public key.
    pub material: Material,
    /// The material's fingerprint.
    pub fingerprint: [u8; 32],
}

/// A key to be created, checked.
#[derive(Clone, Debug)]
pub struct CheckedKey {
    /// Its id.
    pub id: KeyId,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub key_type: KeyType,
    /// Its use.
    pub purpose: KeyPurpose,
    /// Days between rotations.
    pub rotation_period_days: Option<u32>,
    /// Days a former version stays usable.
    pub grace_period_days: Option<u32>,
    /// How records show its contexts.
    pub audit_context: AuditContext,
    /// Canonical JSON.
    pub metadata: Option<String>,
    /// Its first version.
    pub first: NewVersion,
    /// The grant for its creator, unless that is an admin: id and principal.
    pub creator_grant: Option<(GrantId, String)>,
}

/// An edit of a key: what is none stays; an inner none removes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyEdit {
    /// Days between rotations.
    pub rotation_period_days: Option<Option<u32>>,
    /// Days a former version stays usable.
    pub grace_period_days: Option<Option<u32>>,
    /// Canonical JSON.
    pub metadata: Option<Option<String>>,
    /// How records show its contexts.
    pub audit_context: Option<AuditContext>,
}

/// A grant to be made, or put in the place of the one that its principal has from the same grantor on the same scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedGrant {
    /// Its id, if it is a new one.
    pub id: GrantId,
    /// To whom.
    pub principal: String,
    /// A note about the callers it is meant for.
    pub role: Role,
    /// On which keys.
    pub scope: GrantScope,
    /// What it allows, sorted.
    pub permissions: Vec<Permission>,
    /// Under which conditions.
    pub conditions: Conditions,
}

/// A credential to be made, checked.
#[derive(Clone, Debug)]
pub struct CheckedCredential {
    /// Its id.
    pub id: CredentialId,
    /// Who shows it is this principal.
    pub principal: String,
    /// In this role.
    pub role: Role,
    /// SHA-256 of the token's secret.
    pub secret_hash: [u8; 32],
    /// What it is for.
    pub label: Option<String>,
    /// From when on it is not accepted.
    pub expires_at: Option<Timestamp>,
    /// Whether it must be the first one: a conflict if there is another one or ever was.
    pub is_first: bool,
}

/// A key that is to sign the log from now on.
#[derive(Clone)]
pub struct NewSigningKey {
    /// The number behind that of the present one.
    pub number: u32,
    /// Identifies the new key, as the subject of its wrappings.
    pub id: ServiceKeyId,
    /// The key under each generation in use.
    pub wrapped: Vec<Wrapped>,
    /// Identifies the material without revealing it.
    pub fingerprint: [u8; 32],
    /// It, ready for use.
    pub key: Arc<dyn Ed25519>,
}

impl fmt::Debug for NewSigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewSigningKey").field("number", &self.number).finish_non_exhaustive()
    }
}

/// A key that is to seal rows from now on.
#[derive(Clone, Debug)]
pub struct NewIntegrityKey {
    /// The number behind that of the present one.
    pub number: u32,
    /// Identifies the new key, as the subject of its wrappings.
    pub id: ServiceKeyId,
    /// The key under each generation in use.
    pub wrapped: Vec<Wrapped>,
    /// Identifies the material without revealing it.
    pub fingerprint: [u8; 32],
    /// The seals under it.
    pub seals: Seals,
    /// The rows as verified records left them: no others may come under it.
    pub recorded: Arc<Recorded>,
}

/// Rows to be sealed under the present integrity key.
#[derive(Clone, Debug)]
pub struct Resealing {
    /// The number of that key.
    pub number: u32,
    /// The rows of one page, each with its new seal.
    pub rows: Vec<ResealedRow>,
}

/// A row with the seal it is to have.
#[derive(Clone, Debug)]
pub struct ResealedRow {
    /// The table of the row.
    pub table: &'static str,
    /// The row's own identifier.
    pub id: [u8; 16],
    /// The seal it carries.
    pub former: Vec<u8>,
    /// The seal under the present integrity key.
    pub seal: [u8; 32],
}

/// Material wrapped under one more generation of the root key.
#[derive(Clone, Debug)]
pub struct NewWrapping {
    /// What is wrapped.
    pub subject: Wrapping,
    /// The fingerprint of the material.
    pub fingerprint: [u8; 32],
    /// The material under one generation.
    pub wrapped: Wrapped,
}

/// What a wrapping is of, in the terms in which it is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrapping {
    /// A version of a key.
    Version(KeyId, u32, VersionId),
    /// A key of the service: its kind and number.
    Service(ServiceKeyKind, u32, ServiceKeyId),
}

impl Wrapping {
    /// The identifier under which it is stored.
    pub fn subject(&self) -> [u8; 16] {
        match self {
            Self::Version(_, _, id) => *id.as_bytes(),
            Self::Service(_, _, id) => *id.as_bytes(),
        }
    }
}

/// A wrapping that was opened, and what that says of its mark.
#[derive(Clone, Debug)]
pub struct CheckedWrapping {
    /// The wrapping as it was read.
    pub stored: StoredWrapping,
    /// The seal it carried.
    pub seal: Vec<u8>,
    /// The fingerprint of the material.
    pub fingerprint: [u8; 32],
    /// Whether it held what the fingerprint says. If not, an earlier mark is withdrawn.
    pub opens: bool,
}

/// A generation of the root key to be added.
#[derive(Clone, Debug)]
pub struct NewGeneration {
    /// Its row, whose generation follows the newest one.
    pub root: RootKeyGeneration,
    /// The service's keys under it.
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

/// Numbers of versions, the first and the last.
pub type VersionRange = (u32, u32);

/// A change somebody wants made.
#[derive(Clone, Debug)]
pub enum Command {
    /// Create a key.
    CreateKey(Box<CheckedKey>),
    /// Rotate a key.
    Rotate(KeyId, NewVersion),
    /// Enable a key.
    EnableKey(KeyId),
    /// Disable a key.
    DisableKey(KeyId),
    /// Revoke a key and all its versions.
    RevokeKey(KeyId),
    /// Enable the current version.
    EnableVersion(KeyId, u32),
    /// Disable a version.
    DisableVersion(KeyId, u32),
    /// Revoke a version.
    RevokeVersion(KeyId, u32),
    /// Set, extend or end a version's window.
    SetWindow(KeyId, u32, Option<Timestamp>),
    /// Edit a key.
    UpdateKey(KeyId, KeyEdit),
    /// Schedule a deletion after this many days.
    ScheduleDeletion(KeyId, u32),
    /// Cancel a deletion.
    CancelDeletion(KeyId),
    /// Erase the material of these versions, as far as they are revoked or past their window.
    Trim(KeyId, Vec<u32>),
    /// Begin to erase the material of a key: from then on its deletion cannot be cancelled.
    BeginDestruction(KeyId),
    /// Erase the material of some versions of such a key. No row of the catalog changes.
    EraseMaterial(KeyId, VersionRange),
    /// Erase the material of the last of them. The key is destroyed then.
    DestroyKey(KeyId, VersionRange),
    /// Make or replace a grant.
    PutGrant(Box<CheckedGrant>),
    /// Withdraw a grant; with the flag, everything that was passed on through it too.
    WithdrawGrant(GrantId, bool),
    /// Make a credential.
    CreateCredential(Box<CheckedCredential>),
    /// Withdraw a credential.
    WithdrawCredential(CredentialId),
    /// Put rows into the quarantine.
    Quarantine(Vec<NewQuarantined>),
    /// Release rows from the quarantine: each as it is stored, which is what the log says of it.
    Release(Vec<Released>),
    /// Replace the key that signs the log.
    ReplaceSigningKey(Box<NewSigningKey>),
    /// Add a generation of the root key.
    AddRootKey(Box<NewGeneration>),
    /// Say that somebody else may have this generation: nothing new is wrapped under it from then on.
    MarkCompromised(u32),
    /// Wrap nothing new under a generation any more: it is about to be retired.
    BeginRetirement(u32),
    /// Retire a generation.
    RetireRootKey(u32),
    /// Wrap material under one more generation. No row of the catalog changes.
    AddWrappings(Vec<NewWrapping>),
    /// Note which wrappings hold what they should, and which do not any more. No row of the catalog changes.
    MarkVerified(Vec<CheckedWrapping>),
    /// Erase the wrappings of these subjects under a retired generation. No row of the catalog changes.
    EraseWrappings(u32, Vec<[u8; 16]>),
    /// Replace the key that seals rows. Nothing else changes in its batch.
    ReplaceIntegrityKey(Box<NewIntegrityKey>),
    /// Seal rows under the present integrity key. They are as they were; so no row of the catalog changes.
    Reseal(Resealing),
    /// Erase the integrity key before the one of this number: no row has a seal of it any more.
    EndResealing(u32),
    /// Begin a run of an import. Runs of the same source that began before write nothing from then on.
    #[cfg_attr(not(feature = "import"), allow(dead_code, reason = "only an import makes them"))]
    BeginImport(ImportRun),
    /// Append rows to an imported log. No row of the catalog changes.
    #[cfg_attr(not(feature = "import"), allow(dead_code, reason = "only an import makes them"))]
    ImportRows(LegacyPage),
    /// Bring a key of an import here, or up to date with its source.
    ImportKey(Box<ImportedKey>),
    /// Give a key of an import a version of this store's own.
    RotateImported(Box<ImportRotation>),
    /// Bring grants of an import here, or up to date with their source.
    ImportGrants(ImportedGrants),
    /// End an import for these keys: from then on they are this store's own.
    FinaliseImport(ImportFinalisation),
    /// Only record something the service did. No row changes.
    Record(Action),
}

impl Command {
    /// Whether it only takes rights or keys away, or leads to where that can be done, so that it must be possible even
    /// when little else is.
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
            // Without these nothing at all can be done.
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
            | Self::FinaliseImport(_)
            | Self::Record(_) => false,
        }
    }

    /// How many rows it reads and writes, about.
    pub fn rows(&self) -> usize {
        let in_range = |(first, last): VersionRange| last.saturating_sub(first) as usize + 1;
        match self {
            Self::Trim(_, versions) => versions.len(),
            Self::EraseMaterial(_, range) | Self::DestroyKey(_, range) => in_range(*range),
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
            Self::FinaliseImport(ended) => ended.keys.len(),
            _ => 1,
        }
    }

    /// Whether it changes generations of the root key, what is wrapped under them, or the seals of rows.
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

    /// The generations that it wraps new material under, ascending; none if it makes no new material.
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

    /// The run of an import that it belongs to.
    pub fn import_run(&self) -> Option<&ImportRun> {
        match self {
            Self::BeginImport(run) => Some(run),
            Self::ImportRows(page) => Some(&page.run),
            Self::ImportKey(imported) => Some(&imported.run),
            Self::RotateImported(rotation) => Some(&rotation.run),
            Self::ImportGrants(imported) => Some(&imported.run),
            Self::FinaliseImport(end) => Some(&end.run),
            _ => None,
        }
    }
}

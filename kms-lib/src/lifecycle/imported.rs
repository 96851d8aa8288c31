//! What an import brings here.

use std::sync::Arc;

use super::command::NewVersion;
use crate::types::actor::Role;
use crate::types::grant::{GrantScope, Permission, StoredConditions};
use crate::types::ids::{GrantId, ImportRunId, KeyId, VersionId};
use crate::types::key::{KeyPurpose, KeyState, KeyType, Material, VersionState};
use crate::types::root_key::generations_of;
use crate::types::time::Timestamp;

/// A run of an import. Only the latest run of a source writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportRun {
    /// The name of the source.
    pub source: String,
    /// Tells the runs of one source apart.
    pub id: ImportRunId,
}

/// A key of an import as its source has it, with some of its versions.
#[derive(Clone, Debug)]
pub struct ImportedKey {
    /// The run that brings it.
    pub run: ImportRun,
    /// The key's id, which is kept.
    pub id: KeyId,
    /// The name that it gets if it is new here.
    pub name: String,
    /// What kind of key it is.
    pub key_type: KeyType,
    /// What the key may be used for.
    pub purpose: KeyPurpose,
    /// Its state there.
    pub state: KeyState,
    /// Days between rotations.
    pub rotation_period_days: Option<u32>,
    /// Days a former version stays usable.
    pub grace_period_days: Option<u32>,
    /// The metadata as canonical JSON (RFC 8785).
    pub metadata: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its current version there.
    pub current_version: u32,
    /// Versions, in any order. Those that are not here have their material.
    pub versions: Vec<ImportedVersion>,
}

impl ImportedKey {
    /// The generations that its new versions are wrapped under; none that can be if they differ.
    pub(super) fn wrapped_under(&self) -> Option<Vec<u32>> {
        let new = self.versions.iter().filter_map(|version| version.new.as_ref());
        let mut under = new.map(|new| generations_of(&new.material.wrapped));
        let first = under.next()?;
        Some(if under.all(|other| other == first) { first } else { Vec::new() })
    }
}

/// A version of an import as its source has it.
#[derive(Clone, Debug)]
pub struct ImportedVersion {
    /// The version's id, which is kept.
    pub id: VersionId,
    /// The number of the version.
    pub version: u32,
    /// Its state there.
    pub state: VersionState,
    /// From when it is usable.
    pub not_before: Option<Timestamp>,
    /// Until when it decrypts and verifies once it is a former one.
    pub not_after: Option<Timestamp>,
    /// The grace period that its window was made from.
    pub grace_period_days: Option<u32>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its material, if it is not here yet.
    pub new: Option<ImportedMaterial>,
}

/// The material of a version of an import, wrapped under the root keys of this store.
#[derive(Clone, Debug)]
pub struct ImportedMaterial {
    /// Wrapped material and public key.
    pub material: Material,
    /// The material's fingerprint.
    pub fingerprint: [u8; 32],
}

/// Grants of an import.
#[derive(Clone, Debug)]
pub struct ImportedGrants {
    /// The run that brings them.
    pub run: ImportRun,
    /// Grants as the source has them.
    pub grants: Vec<ImportedGrant>,
    /// Grants that it does not have any more.
    pub withdrawn: Vec<GrantId>,
}

/// A grant of an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedGrant {
    /// The grant's id, which is kept.
    pub id: GrantId,
    /// The principal that the grant is for.
    pub principal: String,
    /// A note about the callers it is meant for.
    pub role: Role,
    /// On which keys.
    pub scope: GrantScope,
    /// What it allows, sorted, at least one.
    pub permissions: Vec<Permission>,
    /// Under which conditions; unknown ones deny.
    pub conditions: StoredConditions,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Rows of an imported log, to be appended to those of the same source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyPage {
    /// The run that brings them.
    pub run: ImportRun,
    /// How many rows the source has before these.
    pub sealed: u64,
    /// The rows in their stored form.
    pub bodies: Arc<[String]>,
}

/// A rotation of a key whose current version is an imported one. The former version gets no window.
#[derive(Clone, Debug)]
pub struct ImportRotation {
    /// The run that makes it.
    pub run: ImportRun,
    /// The key.
    pub key: KeyId,
    /// The new version. Until the import is finalised, its number leaves room for rotations at the source.
    pub new: NewVersion,
    /// Whether the import ends for this key at the same time.
    pub finalise: bool,
}

/// The end of an import for some of its keys.
#[derive(Clone, Debug)]
pub struct ImportFinalisation {
    /// The run that ends it.
    pub run: ImportRun,
    /// The keys, which are this store's own from then on.
    pub keys: Vec<KeyId>,
    /// Whether they are the last ones: then no run of this source can begin any more.
    pub is_last: bool,
}

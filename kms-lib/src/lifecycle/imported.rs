//! The commands of an import: keys, versions, grants and log rows from another system.

use std::sync::Arc;

use super::new_version::NewVersion;
use crate::types::actor::Role;
use crate::types::grant::{GrantScope, Permission, StoredConditions};
use crate::types::ids::{GrantId, ImportRunId, KeyId, VersionId};
use crate::types::key::{KeyPurpose, KeyState, KeyType, Material, VersionState};
use crate::types::root_key::generations_of;
use crate::types::time::Timestamp;

/// A run of an import. Only the latest run of a source can write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportRun {
    /// The name of the source.
    pub source: String,
    /// The identifier of the run.
    pub id: ImportRunId,
}

/// A key of an import in its state at the source, with some of its versions.
#[derive(Clone, Debug)]
pub struct ImportedKey {
    /// The run that imports the key.
    pub run: ImportRun,
    /// The key's id, the same as at the source.
    pub id: KeyId,
    /// The name that the key gets if it is new in this store.
    pub name: String,
    /// The key's type.
    pub key_type: KeyType,
    /// The permitted use of the key.
    pub purpose: KeyPurpose,
    /// The key's state at the source.
    pub state: KeyState,
    /// The rotation period, in days.
    pub rotation_period_days: Option<u32>,
    /// Length of a former version's grace window, in days.
    pub grace_period_days: Option<u32>,
    /// The metadata as canonical JSON (RFC 8785).
    pub metadata: Option<String>,
    /// When the key was created at the source.
    pub created_at: Timestamp,
    /// The current version at the source.
    pub current_version: u32,
    /// Versions, in any order. Those that this store does not have yet come with their material.
    pub versions: Vec<ImportedVersion>,
}

impl ImportedKey {
    /// The generations that the new versions are wrapped under; `None` without new versions. If the versions differ,
    /// the empty list, which never matches the generations in use.
    pub(super) fn wrapped_under(&self) -> Option<Vec<u32>> {
        let new = self.versions.iter().filter_map(|version| version.new.as_ref());
        let mut under = new.map(|new| generations_of(&new.material.wrapped));
        let first = under.next()?;
        Some(if under.all(|other| other == first) { first } else { Vec::new() })
    }
}

/// A version of an import in its state at the source.
#[derive(Clone, Debug)]
pub struct ImportedVersion {
    /// The version's id, the same as at the source.
    pub id: VersionId,
    /// The number of the version.
    pub version: u32,
    /// The version's state at the source.
    pub state: VersionState,
    /// Before this time, the version cannot be used.
    pub not_before: Option<Timestamp>,
    /// End of the grace window of a former version, exclusive; `None`: no end.
    pub not_after: Option<Timestamp>,
    /// The grace period, in days, from which `not_after` was computed.
    pub grace_period_days: Option<u32>,
    /// When the version was created at the source.
    pub created_at: Timestamp,
    /// The version's material, if this store does not have it yet.
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
    /// The run that imports the grants.
    pub run: ImportRun,
    /// Grants that the source has.
    pub grants: Vec<ImportedGrant>,
    /// Grants that the source no longer has.
    pub withdrawn: Vec<GrantId>,
}

/// A grant of an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedGrant {
    /// The grant's id, the same as at the source.
    pub id: GrantId,
    /// The principal that has the grant.
    pub principal: String,
    /// The role of the callers that the grant is meant for; informative.
    pub role: Role,
    /// The keys that the grant covers.
    pub scope: GrantScope,
    /// The permissions, sorted, at least one.
    pub permissions: Vec<Permission>,
    /// The conditions; with unknown ones, the grant allows nothing.
    pub conditions: StoredConditions,
    /// When the grant was made at the source.
    pub created_at: Timestamp,
}

/// Rows of an imported log, to be appended to those of the same source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyPage {
    /// The run that imports the rows.
    pub run: ImportRun,
    /// Number of rows of the source before these.
    pub sealed: u64,
    /// The rows in their stored form.
    pub bodies: Arc<[String]>,
}

/// A rotation of a key whose current version is an imported one. The grace window of the former version has no end.
#[derive(Clone, Debug)]
pub struct ImportRotation {
    /// The run that rotates the key.
    pub run: ImportRun,
    /// The key to rotate.
    pub key: KeyId,
    /// The new version. Until the import is finalized, its number leaves a gap for rotations at the source.
    pub new: NewVersion,
}

/// The finalization of an import for some of its keys.
#[derive(Clone, Debug)]
pub struct ImportFinalization {
    /// The run that finalizes the import.
    pub run: ImportRun,
    /// The keys, which belong to this store from then on.
    pub keys: Vec<KeyId>,
    /// Whether these are the last keys; afterwards no further run of this source can begin.
    pub is_last: bool,
}

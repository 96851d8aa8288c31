//! Descriptions of keys, versions and grants, as callers see them: without material.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::storage::Connection;
use crate::storage::tables::entities::{self, VersionFacts};
use crate::types::actor::Role;
use crate::types::change::Change;
use crate::types::error::Result;
use crate::types::grant::{Conditions, Grant, GrantScope, Permission, StoredConditions};
use crate::types::ids::{GrantId, KeyId, VersionId};
use crate::types::key::{
    AuditContext, DisabledReason, Key, KeyPurpose, KeyState, KeyType, KeyVersion, Origin, VersionState,
};
use crate::types::limits::PAGE_LIMIT;
use crate::types::time::Timestamp;
use crate::types::view::CatalogView;

/// The description of a key, without its material.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct KeyDescription {
    /// The key's identifier, a UUID.
    pub id: KeyId,
    /// The key's name, unique in the store.
    pub name: String,
    /// The key's type, fixed at creation.
    #[serde(rename = "type")]
    pub key_type: KeyType,
    /// The permitted use of the key.
    pub purpose: KeyPurpose,
    /// The key's lifecycle state.
    pub state: KeyState,
    /// The reason why the key is disabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled_reason: Option<DisabledReason>,
    /// The age of the current version, in days, at which the scheduler rotates the key; `None`: no rotation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation_period_days: Option<u32>,
    /// Length of a former version's grace window, in days; `None`: the service's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_days: Option<u32>,
    /// When the scheduler rotates the key next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotate_at: Option<Timestamp>,
    /// When the key's material is due to be erased; set while the deletion is pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delete_at: Option<Timestamp>,
    /// The source of the import that the key belongs to, as long as the import is not finalized.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_import: Option<String>,
    /// The form in which audit records show encryption contexts.
    pub audit_context: AuditContext,
    /// A JSON object set by the key's owners.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// Time of creation; for an imported key, at its source.
    pub created_at: Timestamp,
    /// The version that encrypts and signs.
    pub current_version: u32,
    /// The sequence number of the audit record of the last change of the key itself: its state, current version,
    /// periods or metadata. Changes of its other versions do not count. See [`KeyUpdate`](crate::KeyUpdate).
    pub revision: u64,
    /// The versions of the key, newest first, at most 1,000 of them; `None` in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub versions: Option<Vec<VersionDescription>>,
}

/// The description of a version of a key, without its material.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct VersionDescription {
    /// The version's identifier, a UUID.
    pub id: VersionId,
    /// The key that the version belongs to.
    pub key_id: KeyId,
    /// The version's number within its key, counted from 1.
    pub version: u32,
    /// The version's lifecycle state.
    pub state: VersionState,
    /// Time of creation; for an imported version, at its source.
    pub created_at: Timestamp,
    /// Before this time, the version cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// End of the grace window of a former version, exclusive; `None`: no end. Ignored while the version is `ENABLED`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// The public key of an RSA version (SubjectPublicKeyInfo as PEM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key_pem: Option<String>,
    /// The grace period, in days, from which `not_after` was computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_days: Option<u32>,
    /// The origin of the version's material.
    pub origin: Origin,
    /// Number of messages encrypted under the version. If the store could not be read after a change was committed, the
    /// result of the change has `None` here and in `public_key_pem`, except for a version that the change created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryptions: Option<u64>,
    /// Time of the last use of any kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
}

impl VersionDescription {
    /// The description of a version, with the values that are only in the store.
    pub(crate) fn of(key: &Key, version: &KeyVersion, stored: Option<&VersionFacts>) -> Self {
        Facts::of(version, stored).describe(&in_state(key, version))
    }
}

/// The description of a grant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct GrantDescription {
    /// The grant's identifier, a UUID.
    pub id: GrantId,
    /// The principal that has the grant.
    pub principal: String,
    /// The role of the callers that the grant is meant for. Informative: it does not affect decisions.
    pub role: Role,
    /// The key's id, or `*` for all keys.
    pub key_id: GrantScope,
    /// The permissions of the grant.
    pub allowed_ops: Vec<Permission>,
    /// The conditions of the grant; `None` if it has no conditions or unknown ones, with which it allows nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Conditions>,
    /// Time of creation; for an imported grant, at its source.
    pub created_at: Timestamp,
    /// The principal that made the grant; `system` for the grant that the creator of a key gets.
    pub granted_by: String,
    /// The grants that an app passed on by this one, sorted by id. Empty for grants by admins and the service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub granted_through: Vec<GrantId>,
}

/// The values of a version that are only in the store, not in the catalog.
#[derive(Default)]
struct Facts {
    public_key_pem: Option<String>,
    encryptions: Option<u64>,
    last_used_at: Option<Timestamp>,
}

impl Facts {
    /// The counters, and the public key if it matches the digest in the version's sealed row.
    fn of(version: &KeyVersion, stored: Option<&VersionFacts>) -> Self {
        let pem = stored
            .and_then(|facts| facts.public_key_pem.clone())
            .filter(|pem| version.public_key_digest.as_deref() == Some(&<[u8; 32]>::from(Sha256::digest(pem))));
        Self {
            public_key_pem: pem,
            encryptions: Some(stored.map_or(0, |facts| facts.usage.encryptions)),
            last_used_at: stored.and_then(|facts| facts.usage.last_used_at),
        }
    }

    fn describe(self, version: &KeyVersion) -> VersionDescription {
        VersionDescription {
            id: version.id,
            key_id: version.key_id,
            version: version.version,
            state: version.state,
            created_at: version.created_at,
            not_before: version.not_before,
            not_after: version.not_after,
            public_key_pem: self.public_key_pem,
            grace_period_days: version.grace_period_days,
            origin: version.origin,
            encryptions: self.encryptions,
            last_used_at: self.last_used_at,
        }
    }
}

/// A version in its effective state: all versions of a revoked key are revoked.
fn in_state(key: &Key, version: &KeyVersion) -> KeyVersion {
    KeyVersion { state: key.state_of(version), ..version.clone() }
}

/// A key and its newest versions as of one revision, without the values that are only in the store.
pub struct Outline {
    key: KeyDescription,
    id: KeyId,
    versions: Vec<KeyVersion>,
}

impl Outline {
    /// The outline of a key in this view, if the key exists.
    pub fn of(view: &dyn CatalogView, id: KeyId) -> Option<Self> {
        let key = view.key(id)?;
        let mut versions = Vec::new();
        view.newest_versions(id, PAGE_LIMIT, &mut |version| versions.push(in_state(key, version)));
        Some(Self { key: key_description(key), id, versions })
    }

    /// Adds the values that are only in the store: counters and public keys.
    pub async fn complete(self, connection: &mut dyn Connection) -> Result<KeyDescription> {
        let stored = entities::facts(connection, self.id, PAGE_LIMIT).await?;
        Ok(self.describe(|version| Facts::of(version, stored.get(&version.version))))
    }

    /// The description without the values from the store, except for versions that these changes created.
    pub fn without_store(self, changes: &[Change]) -> KeyDescription {
        let made = |number: u32| {
            changes.iter().find_map(|change| match change {
                Change::InsertVersion(version, material) if version.version == number => Some(material),
                _ => None,
            })
        };
        self.describe(|version| {
            made(version.version).map_or_else(Facts::default, |material| Facts {
                public_key_pem: material.public_key_pem.clone(),
                encryptions: Some(0),
                last_used_at: None,
            })
        })
    }

    fn describe(self, facts: impl Fn(&KeyVersion) -> Facts) -> KeyDescription {
        let described = self.versions.iter().map(|version| facts(version).describe(version));
        KeyDescription { versions: Some(described.collect()), ..self.key }
    }
}

/// Parses stored metadata. It was checked before it was stored, so an error is only logged.
fn metadata(key: &Key, text: &str) -> Option<Value> {
    let read = serde_json::from_str(text);
    read.inspect_err(|error| tracing::error!(%error, key = %key.id, "the metadata of a key cannot be read")).ok()
}

/// The description of a key, without its versions.
pub fn key_description(key: &Key) -> KeyDescription {
    KeyDescription {
        id: key.id,
        name: key.name.clone(),
        key_type: key.key_type,
        purpose: key.purpose,
        state: key.state,
        disabled_reason: key.disabled_reason,
        rotation_period_days: key.rotation_period_days,
        grace_period_days: key.grace_period_days,
        rotate_at: key.rotate_at,
        delete_at: key.delete_at,
        open_import: key.import.as_ref().filter(|import| !import.is_final).map(|import| import.source.clone()),
        audit_context: key.audit_context,
        metadata: key.metadata.as_deref().and_then(|text| metadata(key, text)),
        created_at: key.created_at,
        current_version: key.current_version,
        revision: key.revision,
        versions: None,
    }
}

/// The description of a grant.
pub fn grant_description(grant: &Grant) -> GrantDescription {
    GrantDescription {
        id: grant.id,
        principal: grant.principal.clone(),
        role: grant.role,
        key_id: grant.scope,
        allowed_ops: grant.permissions.clone(),
        conditions: match &grant.conditions {
            StoredConditions::Known(conditions) if !conditions.is_empty() => Some(conditions.clone()),
            _ => None,
        },
        created_at: grant.created_at,
        granted_by: grant.grantor.principal.clone(),
        granted_through: grant.grantor.through.clone(),
    }
}

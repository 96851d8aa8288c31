//! Keys, versions and grants as callers see them: everything but the material.

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

/// A key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct KeyDescription {
    /// Identifies the key.
    pub id: KeyId,
    /// Its name.
    pub name: String,
    /// Its kind.
    #[serde(rename = "type")]
    pub key_type: KeyType,
    /// Its use.
    pub purpose: KeyPurpose,
    /// Where it stands.
    pub state: KeyState,
    /// Why it is disabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled_reason: Option<DisabledReason>,
    /// Days between rotations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation_period_days: Option<u32>,
    /// Days a former version stays usable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_days: Option<u32>,
    /// When the scheduler rotates it next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotate_at: Option<Timestamp>,
    /// When its material is erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delete_at: Option<Timestamp>,
    /// The source of the import that the key came with, as long as that is not finalised and decides on the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_import: Option<String>,
    /// How records show contexts.
    pub audit_context: AuditContext,
    /// Given by its owners.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The version that encrypts and signs.
    pub current_version: u32,
    /// The sequence number of the record of the last change of the key itself: its state, current version, periods or
    /// metadata. Changes of its other versions do not count. See [`KeyUpdate`](crate::KeyUpdate).
    pub revision: u64,
    /// Its versions, newest first, at most 1,000 of them; not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub versions: Option<Vec<VersionDescription>>,
}

/// A version of a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct VersionDescription {
    /// Identifies the version.
    pub id: VersionId,
    /// Its key.
    pub key_id: KeyId,
    /// Counted from 1.
    pub version: u32,
    /// Where it stands.
    pub state: VersionState,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when it is usable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Until when it decrypts and verifies once it is a former one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// Its public half, for RSA (SubjectPublicKeyInfo, PEM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key_pem: Option<String>,
    /// The grace period its window was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_days: Option<u32>,
    /// Where its material comes from.
    pub origin: Origin,
    /// Messages encrypted under it. None in the answer to a change if the store could not be read after the commit; so
    /// is the public half of a version that the change did not make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryptions: Option<u64>,
    /// When it was last used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
}

impl VersionDescription {
    /// A version of a key, with what only the store has of it.
    pub(crate) fn of(key: &Key, version: &KeyVersion, stored: Option<&VersionFacts>) -> Self {
        Facts::of(version, stored).describe(&in_state(key, version))
    }
}

/// A grant as callers see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct GrantDescription {
    /// Identifies the grant.
    pub id: GrantId,
    /// To whom.
    pub principal: String,
    /// A note about the callers it is meant for. It restricts nothing and gives nothing.
    pub role: Role,
    /// On which keys: an id, or `*`.
    pub key_id: GrantScope,
    /// What it allows.
    pub allowed_ops: Vec<Permission>,
    /// Under which conditions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Conditions>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The principal that made it; `system` for what the creator of a key gets.
    pub granted_by: String,
    /// The grants that it was passed on through, if an app made it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub granted_through: Vec<GrantId>,
}

/// What only the store has of a version.
#[derive(Default)]
struct Facts {
    public_key_pem: Option<String>,
    encryptions: Option<u64>,
    last_used_at: Option<Timestamp>,
}

impl Facts {
    /// Counters, and the public key if it is the version's own.
    fn of(version: &KeyVersion, stored: Option<&VersionFacts>) -> Self {
        let pem = stored.and_then(|facts| facts.public_key_pem.clone()).filter(|pem| {
            version.public_key_digest.is_some_and(|digest| digest == <[u8; 32]>::from(Sha256::digest(pem)))
        });
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

/// A version in the state that callers see: all versions of a revoked key are revoked.
fn in_state(key: &Key, version: &KeyVersion) -> KeyVersion {
    KeyVersion { state: key.state_of(version), ..version.clone() }
}

/// A key and its newest versions as of one moment, without what is only in the store.
pub struct Outline {
    key: KeyDescription,
    id: KeyId,
    versions: Vec<KeyVersion>,
}

impl Outline {
    /// Of a key in this view.
    pub fn of(view: &dyn CatalogView, id: KeyId) -> Option<Self> {
        let key = view.key(id)?;
        let mut versions = Vec::new();
        view.newest_versions(id, PAGE_LIMIT, &mut |version| versions.push(in_state(key, version)));
        Some(Self { key: key_description(key), id, versions })
    }

    /// Adds what the store has of the versions: counters, and public keys, if they are the versions' own.
    pub async fn complete(self, connection: &mut dyn Connection) -> Result<KeyDescription> {
        let stored = entities::facts(connection, self.id, PAGE_LIMIT).await?;
        Ok(self.describe(|version| Facts::of(version, stored.get(&version.version))))
    }

    /// Without what the store has, but for the versions that these changes made.
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

/// Metadata as it was given. What is stored was checked, and can be read.
fn metadata(key: &Key, text: &str) -> Option<Value> {
    let read = serde_json::from_str(text);
    read.inspect_err(|error| tracing::error!(%error, key = %key.id, "the metadata of a key cannot be read")).ok()
}

/// A key without its versions.
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

/// A grant.
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

//! Keys and versions as callers see them: everything but the material.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::keys::KeyFilter;
use super::refusal::refusal;
use super::{KeyRef, Session};
use crate::policy;
use crate::storage::tables::entities;
use crate::types::attempt::{Decision, Operation};
use crate::types::audit::Action;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::{KeyId, VersionId};
use crate::types::key::{
    AuditContext, DisabledReason, Key, KeyPurpose, KeyState, KeyType, KeyVersion, Origin, VersionState,
};
use crate::types::limits::PAGE_LIMIT;
use crate::types::time::Timestamp;
use crate::types::view::View;

/// A key.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
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
    /// How records show contexts.
    pub audit_context: AuditContext,
    /// Given by its owners.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The version that encrypts and signs.
    pub current_version: u32,
    /// Its versions, newest first, at most 1,000 of them; not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub versions: Option<Vec<VersionDescription>>,
}

/// A version of a key.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
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
    /// Messages encrypted under it.
    pub encryptions: u64,
    /// When it was last used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
}

/// A page of keys.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyPage {
    /// By name, without their versions.
    pub keys: Vec<KeyDescription>,
    /// Give this to get the next page; none on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl Session {
    /// A key with its versions.
    pub async fn get_key(&self, key: impl Into<KeyRef>) -> Result<KeyDescription> {
        let id = self.locate(&key.into()).await?;
        self.permit_reading(Action::KeyRead, Operation::ReadKey, id).await?;
        match id {
            Some(id) => self.describe(id, true).await,
            None => Err(refusal(ErrorCode::KeyNotFound)),
        }
    }

    /// A page of the keys the caller may read, by name: at most 1,000. `cursor` is the one of the page before.
    pub async fn list_keys(&self, filter: &KeyFilter, limit: usize, cursor: Option<&str>) -> Result<KeyPage> {
        if limit == 0 || limit > PAGE_LIMIT {
            return Err(Error::invalid(format!("a page has 1 to {PAGE_LIMIT} entries")));
        }
        self.shared.catalog.ensure_fresh().await?;
        let image = self.shared.catalog.image();
        let now = self.shared.clock.now();
        if !policy::is_authenticated(&*image, &self.attempt(Operation::ReadKey, None), now) {
            return Err(refusal(ErrorCode::NotAuthenticated));
        }
        let readable = |key: &Key| {
            let attempt = self.attempt(Operation::ReadKey, Some(key.id));
            matches!(policy::decide(&*image, &attempt, now), Decision::Allowed { .. })
        };
        let mut keys = Vec::new();
        let mut next_cursor = None;
        for key in image.keys_by_name(cursor) {
            if filter.matches(key) && readable(key) {
                if keys.len() == limit {
                    next_cursor = keys.last().map(|key: &KeyDescription| key.name.clone());
                    break;
                }
                keys.push(description(key));
            }
        }
        Ok(KeyPage { keys, next_cursor })
    }

    /// The public half of a version, as PEM (SubjectPublicKeyInfo). It stays readable when the version is revoked.
    pub async fn public_key(&self, key: impl Into<KeyRef>, version: u32) -> Result<String> {
        let id = self.locate(&key.into()).await?;
        self.permit_reading(Action::KeyRead, Operation::ReadKey, id).await?;
        let id = id.ok_or_else(|| refusal(ErrorCode::KeyNotFound))?;
        let digest = match self.shared.catalog.image().version(id, version) {
            None => return Err(refusal(ErrorCode::VersionNotFound)),
            Some(version) => version.public_key_digest,
        };
        let digest =
            digest.ok_or_else(|| Error::new(ErrorCode::WrongKeyType, "an AES256_GCM key has no public half"))?;
        let mut connection = self.shared.store.reader().await?;
        let material = entities::material(connection.as_mut(), id, version).await?;
        match material.and_then(|material| material.public_key_pem) {
            Some(pem) if <[u8; 32]>::from(Sha256::digest(&pem)) == digest => Ok(pem),
            _ => Err(Error::new(ErrorCode::IntegrityFailure, "the stored public key is not the version's")),
        }
    }

    /// A key as the image has it, with or without its versions.
    pub(super) async fn describe(&self, id: KeyId, versions: bool) -> Result<KeyDescription> {
        let (mut key, of_image) = {
            let image = self.shared.catalog.image();
            let key = image.key(id).map(description).ok_or_else(|| refusal(ErrorCode::KeyNotFound))?;
            let mut of_image: Vec<KeyVersion> = Vec::new();
            if versions {
                image.each_version(id, &mut |version| of_image.push(version.clone()));
            }
            (key, of_image)
        };
        if versions {
            let mut connection = self.shared.store.reader().await?;
            let stored = entities::facts(connection.as_mut(), id, PAGE_LIMIT).await?;
            let described = of_image.into_iter().rev().take(PAGE_LIMIT).map(|version| {
                let facts = stored.get(&version.version);
                let pem = facts.and_then(|facts| facts.public_key_pem.clone()).filter(|pem| {
                    version.public_key_digest.is_some_and(|digest| digest == <[u8; 32]>::from(Sha256::digest(pem)))
                });
                VersionDescription {
                    id: version.id,
                    key_id: version.key_id,
                    version: version.version,
                    state: version.state,
                    created_at: version.created_at,
                    not_before: version.not_before,
                    not_after: version.not_after,
                    public_key_pem: pem,
                    grace_period_days: version.grace_period_days,
                    origin: version.origin,
                    encryptions: facts.map_or(0, |facts| facts.usage.encryptions),
                    last_used_at: facts.and_then(|facts| facts.usage.last_used_at),
                }
            });
            key.versions = Some(described.collect());
        }
        Ok(key)
    }
}

impl KeyFilter {
    fn matches(&self, key: &Key) -> bool {
        self.state.is_none_or(|state| state == key.state)
            && self.key_type.is_none_or(|key_type| key_type == key.key_type)
            && self.purpose.is_none_or(|purpose| purpose == key.purpose)
            && self.name_prefix.as_deref().is_none_or(|prefix| key.name.starts_with(prefix))
    }
}

/// Metadata as it was given. What is stored was checked, and can be read.
fn metadata(key: &Key, text: &str) -> Option<Value> {
    let read = serde_json::from_str(text);
    read.inspect_err(|error| tracing::error!(%error, key = %key.id, "the metadata of a key cannot be read")).ok()
}

fn description(key: &Key) -> KeyDescription {
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
        audit_context: key.audit_context,
        metadata: key.metadata.as_deref().and_then(|text| metadata(key, text)),
        created_at: key.created_at,
        current_version: key.current_version,
        versions: None,
    }
}

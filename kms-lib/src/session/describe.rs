//! Keys as callers see them, and pages of them.

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::refusal::refusal;
use super::requests::KeyFilter;
use super::{KeyRef, Session};
use crate::catalog::{KeyDescription, Outline, key_description};
use crate::policy;
use crate::storage::tables::entities;
use crate::types::attempt::{Decision, Operation};
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::key::Key;
use crate::types::limits::PAGE_LIMIT;
use crate::types::view::View;

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
        let id = self.permit_reading_key(&key.into()).await?;
        self.describe(id).await
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
                keys.push(key_description(key));
            }
        }
        Ok(KeyPage { keys, next_cursor })
    }

    /// The public half of a version, as PEM (SubjectPublicKeyInfo). It stays readable when the version is revoked.
    pub async fn public_key(&self, key: impl Into<KeyRef>, version: u32) -> Result<String> {
        let id = self.permit_reading_key(&key.into()).await?;
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

    /// A key with its versions, as they are now.
    pub(super) async fn describe(&self, id: KeyId) -> Result<KeyDescription> {
        let outline = Outline::of(&*self.shared.catalog.image(), id).ok_or_else(|| refusal(ErrorCode::KeyNotFound))?;
        let mut connection = self.shared.store.reader().await?;
        outline.complete(connection.as_mut()).await
    }

    /// A key after a change that is committed: whatever cannot be read now, the change is not reported as a failure.
    /// What only the store has is left out then, but for the versions that the change itself made.
    pub(super) async fn describe_changed(&self, id: KeyId, changes: &[Change]) -> Result<KeyDescription> {
        match self.describe(id).await {
            Ok(description) => Ok(description),
            Err(error) => {
                tracing::warn!(%error, key = %id, "a change was made; its answer lacks what the store would add");
                let missing =
                    || Error::new(ErrorCode::Internal, "a change was made to a key that is not in the catalog");
                Ok(Outline::of(&*self.shared.catalog.image(), id).ok_or_else(missing)?.without_store(changes))
            }
        }
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

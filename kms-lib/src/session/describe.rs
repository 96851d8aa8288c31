//! Keys as callers see them, and pages of them.

use sha2::{Digest, Sha256};

use super::refusal::refusal;
use super::requests::{KeyFilter, Page, Paging};
use super::{KeyRef, Session};
use crate::catalog::{KeyDescription, Outline, key_description};
use crate::policy;
use crate::storage::tables::entities;
use crate::types::attempt::{Decision, Operation};
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::key::Key;
use crate::types::view::View;

impl Session {
    /// A key with its versions.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn get_key(&self, key: impl Into<KeyRef>) -> Result<KeyDescription> {
        let id = self.permit_reading_key(&key.into()).await?;
        self.describe(id).await
    }

    /// The keys that the caller may read, by name, without their versions.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn list_keys(&self, filter: &KeyFilter, paging: &Paging) -> Result<Page<KeyDescription>> {
        paging.check()?;
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
        let wanted = image.keys_by_name(paging.cursor.as_deref()).filter(|key| filter.matches(key) && readable(key));
        let keys = wanted.take(paging.limit + 1).map(key_description).collect();
        Ok(Page::of(keys, paging.limit, |key: &KeyDescription| key.name.clone()))
    }

    /// The public half of a version, as PEM (SubjectPublicKeyInfo). It stays readable when the version is revoked.
    ///
    /// Cancellation: dropping the future changes nothing.
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

//! Describing keys to callers, singly and in pages.

use std::ops::Bound;

use sha2::{Digest, Sha256};

use super::listing::{Slice, page};
use super::refusal::refusal;
use super::requests::{KeyFilter, Page, Paging};
use super::{KeyRef, Session};
use crate::catalog::{KeyDescription, Outline, Snapshot, key_description};
use crate::policy;
use crate::storage::tables::entities;
use crate::types::attempt::{Decision, Operation};
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::key::Key;
use crate::types::view::CatalogView;

impl Session {
    /// Returns a key with its versions.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn get_key(&self, key: impl Into<KeyRef>) -> Result<KeyDescription> {
        let id = self.permit_reading_key(&key.into()).await?;
        self.describe(id).await
    }

    /// Lists the keys that the caller may read, by name, without their versions. The work for one page is bounded: with
    /// a filter that few keys pass, a page may be shorter than the limit, even empty, and still have a cursor.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn list_keys(&self, filter: &KeyFilter, paging: &Paging) -> Result<Page<KeyDescription>> {
        paging.check()?;
        self.shared.catalog.ensure_fresh().await?;
        let reading = self.attempt(Operation::ReadKey, None);
        if !policy::is_authenticated(&*self.shared.catalog.snapshot(), &reading, self.shared.clock.now()) {
            return Err(refusal(ErrorCode::NotAuthenticated));
        }
        let _admission = self.admit_list()?;
        page(
            paging.limit,
            |key: &KeyDescription| key.name.clone(),
            |room, last| {
                let snapshot = self.shared.catalog.snapshot();
                let after = last.or(paging.cursor.as_deref()).map(|cursor| name_of(&snapshot, cursor)).transpose()?;
                Ok(self.some_keys(&snapshot, filter, after.as_deref(), room))
            },
        )
        .await
    }

    /// The next few keys after a name that pass the filter and that the caller may read.
    fn some_keys(
        &self,
        snapshot: &Snapshot,
        filter: &KeyFilter,
        after: Option<&str>,
        room: usize,
    ) -> Slice<KeyDescription> {
        let now = self.shared.clock.now();
        let attempt = |key: Option<KeyId>| self.attempt(Operation::ReadKey, key);
        let prefix = filter.name_prefix.as_deref().unwrap_or_default();
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        // A caller that may not read every key reads those that its grants name.
        let keys: Box<dyn Iterator<Item = &Key>> = match policy::has_right(snapshot, &attempt(None), now) {
            true => Box::new(snapshot.keys_from(from)),
            false => Box::new(snapshot.keys_granted(self.actor.principal(), from)),
        };
        let is_readable =
            |key: &Key| matches!(policy::decide(snapshot, &attempt(Some(key.id)), now), Decision::Allowed { .. });
        let see = |key: &&Key| (filter.matches(key) && is_readable(key)).then(|| key_description(key));
        // The cursor is an id: the caller may not be allowed to see the name of an unlisted key.
        Slice::of(keys.take_while(|key| key.name.starts_with(prefix)), room, see, |key| key.id.to_string())
    }

    /// Returns the public key of a version as PEM (SubjectPublicKeyInfo). It stays readable when the version is
    /// revoked.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn public_key(&self, key: impl Into<KeyRef>, version: u32) -> Result<String> {
        let id = self.permit_reading_key(&key.into()).await?;
        let digest = match self.shared.catalog.snapshot().version(id, version) {
            None => return Err(refusal(ErrorCode::VersionNotFound)),
            Some(version) => version.public_key_digest.as_deref().copied(),
        };
        let digest =
            digest.ok_or_else(|| Error::new(ErrorCode::WrongKeyType, "an AES256_GCM key has no public half"))?;
        let mut connection = self.reader().await?;
        let material = entities::material(connection.as_mut(), id, version).await?;
        match material.and_then(|material| material.public_key_pem) {
            Some(pem) if <[u8; 32]>::from(Sha256::digest(&pem)) == digest => Ok(pem),
            _ => Err(Error::new(
                ErrorCode::IntegrityFailure,
                "the stored public key does not match the version's row; verify the log",
            )),
        }
    }

    /// Returns a key with its versions, as they are now.
    pub(super) async fn describe(&self, id: KeyId) -> Result<KeyDescription> {
        let outline =
            Outline::of(&*self.shared.catalog.snapshot(), id).ok_or_else(|| refusal(ErrorCode::KeyNotFound))?;
        let mut connection = self.reader().await?;
        outline.complete(connection.as_mut()).await
    }

    /// Describes a key after a committed change. A failed read is not reported as a failure of the change; values that
    /// only the store has are then left out, except for the versions that the change itself made.
    pub(super) async fn describe_changed(&self, id: KeyId, changes: &[Change]) -> Result<KeyDescription> {
        match self.describe(id).await {
            Ok(description) => Ok(description),
            Err(error) => {
                tracing::warn!(%error, key = %id, "the answer to a change lacks values that could not be read");
                let missing =
                    || Error::new(ErrorCode::Internal, "a change was made to a key that is not in the catalog");
                Ok(Outline::of(&*self.shared.catalog.snapshot(), id).ok_or_else(missing)?.without_store(changes))
            }
        }
    }
}

/// Returns the name that a cursor represents: the name of the last listed key, or the id of a key that was only
/// examined. The page continues after it.
fn name_of(snapshot: &Snapshot, cursor: &str) -> Result<String> {
    match KeyRef::from(cursor) {
        KeyRef::Name(name) => Ok(name),
        KeyRef::Id(id) => {
            let key = snapshot.key(id).ok_or_else(|| refusal(ErrorCode::KeyNotFound))?;
            Ok(key.name.clone())
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

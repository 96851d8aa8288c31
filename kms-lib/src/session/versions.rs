//! Single versions of a key, and pages of them.

use serde::Serialize;

use super::refusal::refusal;
use super::{KeyRef, Session};
use crate::catalog::VersionDescription;
use crate::policy;
use crate::storage::tables::entities;
use crate::types::attempt::Operation;
use crate::types::audit::Action;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::key::{Key, KeyVersion};
use crate::types::limits::PAGE_LIMIT;
use crate::types::view::View;

/// A page of versions.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionPage {
    /// The versions of this page, oldest first.
    pub versions: Vec<VersionDescription>,
    /// Give this to get the next page; none on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<u32>,
}

impl Session {
    /// A page of a key's versions, oldest first: at most 1,000, from the one after `cursor` on.
    pub async fn list_versions(
        &self,
        key: impl Into<KeyRef>,
        limit: usize,
        cursor: Option<u32>,
    ) -> Result<VersionPage> {
        if limit == 0 || limit > PAGE_LIMIT {
            return Err(Error::invalid(format!("a page has 1 to {PAGE_LIMIT} entries")));
        }
        let id = self.readable_key(&key.into()).await?;
        let (key, found, more) = {
            let image = self.shared.catalog.image();
            let key = image.key(id).cloned().ok_or_else(|| refusal(ErrorCode::KeyNotFound))?;
            let last = key.current_version;
            let mut versions = (cursor.unwrap_or(0).saturating_add(1)..=last).filter_map(|n| image.version(id, n));
            let found: Vec<KeyVersion> = versions.by_ref().take(limit).cloned().collect();
            let more = versions.next().is_some();
            (key, found, more)
        };
        let next_cursor = found.last().filter(|_| more).map(|version| version.version);
        Ok(VersionPage { versions: self.complete(&key, found).await?, next_cursor })
    }

    /// A version of a key.
    pub async fn get_version(&self, key: impl Into<KeyRef>, version: u32) -> Result<VersionDescription> {
        let id = self.readable_key(&key.into()).await?;
        let (key, found) = {
            let image = self.shared.catalog.image();
            let key = image.key(id).cloned().ok_or_else(|| refusal(ErrorCode::KeyNotFound))?;
            (key, image.version(id, version).cloned().ok_or_else(|| refusal(ErrorCode::VersionNotFound))?)
        };
        self.complete(&key, vec![found]).await?.pop().ok_or_else(|| refusal(ErrorCode::VersionNotFound))
    }

    /// Whether the caller may read every key, also those to come.
    pub(crate) async fn may_read_all_keys(&self) -> Result<bool> {
        self.shared.catalog.ensure_fresh().await?;
        let attempt = self.attempt(Operation::ReadKey, None);
        Ok(policy::has_right(&*self.shared.catalog.image(), &attempt, self.shared.clock.now()))
    }

    async fn readable_key(&self, key: &KeyRef) -> Result<KeyId> {
        let id = self.locate(key).await?;
        self.permit_reading(Action::KeyRead, Operation::ReadKey, id).await?;
        id.ok_or_else(|| refusal(ErrorCode::KeyNotFound))
    }

    /// Adds what only the store has of versions of a key, given in order.
    async fn complete(&self, key: &Key, versions: Vec<KeyVersion>) -> Result<Vec<VersionDescription>> {
        let (Some(first), Some(last)) = (versions.first(), versions.last()) else { return Ok(Vec::new()) };
        let mut connection = self.shared.store.reader().await?;
        let facts = entities::facts_between(connection.as_mut(), key.id, first.version, last.version).await?;
        let describe = |version: &KeyVersion| VersionDescription::of(key, version, facts.get(&version.version));
        Ok(versions.iter().map(describe).collect())
    }
}

//! Reading versions of a key, singly and in pages.

use super::refusal::refusal;
use super::requests::{Page, Paging};
use super::{KeyRef, Session};
use crate::catalog::VersionDescription;
use crate::policy;
use crate::storage::tables::entities;
use crate::types::attempt::Operation;
use crate::types::audit::Action;
use crate::types::error::{ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::key::{Key, KeyVersion};
use crate::types::view::CatalogView;

impl Session {
    /// Lists the versions of a key, oldest first.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn list_versions(&self, key: impl Into<KeyRef>, paging: &Paging) -> Result<Page<VersionDescription>> {
        paging.check()?;
        let after: u32 = paging.cursor_as()?.unwrap_or(0);
        let id = self.readable_key(&key.into()).await?;
        let _admission = self.admit_list()?;
        let (key, page) = {
            let snapshot = self.shared.catalog.snapshot();
            let key = snapshot.key(id).cloned().ok_or_else(|| refusal(ErrorCode::KeyNotFound))?;
            let versions = snapshot.versions_behind(id, after);
            let found: Vec<KeyVersion> = versions.take(paging.limit + 1).cloned().collect();
            (key, Page::of(found, paging.limit, |version| version.version))
        };
        Ok(Page { items: self.complete(&key, page.items).await?, next_cursor: page.next_cursor })
    }

    /// Returns a version of a key.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn get_version(&self, key: impl Into<KeyRef>, version: u32) -> Result<VersionDescription> {
        let id = self.readable_key(&key.into()).await?;
        let (key, found) = {
            let snapshot = self.shared.catalog.snapshot();
            let key = snapshot.key(id).cloned().ok_or_else(|| refusal(ErrorCode::KeyNotFound))?;
            (key, snapshot.version(id, version).cloned().ok_or_else(|| refusal(ErrorCode::VersionNotFound))?)
        };
        self.complete(&key, vec![found]).await?.pop().ok_or_else(|| refusal(ErrorCode::VersionNotFound))
    }

    /// Whether the caller may read every key, including future ones.
    pub(crate) async fn may_read_all_keys(&self) -> Result<bool> {
        self.shared.catalog.ensure_fresh().await?;
        let attempt = self.attempt(Operation::ReadKey, None);
        Ok(policy::has_right(&*self.shared.catalog.snapshot(), &attempt, self.shared.clock.now()))
    }

    /// Whether the caller may read all keys or the metrics, according to the rights in memory.
    pub(crate) fn could_read_metrics(&self) -> bool {
        let (snapshot, now) = (self.shared.catalog.snapshot(), self.shared.clock.now());
        let may = |operation| policy::has_right(&*snapshot, &self.attempt(operation, None), now);
        may(Operation::ReadKey) || may(Operation::ReadMetrics)
    }

    async fn readable_key(&self, key: &KeyRef) -> Result<KeyId> {
        let id = self.locate(key).await?;
        self.permit_reading(Action::KeyRead, Operation::ReadKey, id).await?;
        id.ok_or_else(|| refusal(ErrorCode::KeyNotFound))
    }

    /// Adds the values that only the store has to versions of a key, given in order.
    async fn complete(&self, key: &Key, versions: Vec<KeyVersion>) -> Result<Vec<VersionDescription>> {
        let (Some(first), Some(last)) = (versions.first(), versions.last()) else { return Ok(Vec::new()) };
        let mut connection = self.reader().await?;
        let facts = entities::facts_between(connection.as_mut(), key.id, first.version, last.version).await?;
        let describe = |version: &KeyVersion| VersionDescription::of(key, version, facts.get(&version.version));
        Ok(versions.iter().map(describe).collect())
    }
}

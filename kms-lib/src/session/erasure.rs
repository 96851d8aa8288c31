//! Erasing the material of versions in short steps, so that other changes are not delayed: of keys whose deletion is
//! due, and of former versions that can no longer be used.

use super::change::Intent;
use super::{KeyRef, Session};
use crate::catalog::{KeyDescription, Snapshot};
use crate::ledger::Details;
use crate::lifecycle::{Command, is_trimmable};
use crate::storage::StoreFuture;
use crate::storage::tables::wrappings;
use crate::types::attempt::{Decision, Operation};
use crate::types::audit::Action;
use crate::types::error::Result;
use crate::types::ids::KeyId;
use crate::types::key::Key;
use crate::types::view::CatalogView;

/// The number of versions whose material is erased in one step. Their rows are kept.
const ERASED_AT_ONCE: u32 = 500;
/// The number of versions that are trimmed in one step. Each has its own row.
const TRIMMED_AT_ONCE: usize = 100;
/// The number of versions that are examined while the snapshot is locked.
const LOOKED_AT: usize = 1_000;

impl Session {
    /// Erases the material of former versions that cannot be used any more: revoked ones, and those whose window is
    /// over. Their window can then not be extended. The versions stay in the key's history as `DESTROYED`, and no
    /// longer count towards `limits.versions`. Needs the permission `delete`.
    ///
    /// Many versions are trimmed in several steps, each a change with its own record. If a step fails, the steps before
    /// it have been made; repeat the request to continue.
    ///
    /// Cancellation: before a change is submitted, dropping the future does nothing more; the changes before are made.
    pub async fn trim_key(&self, key: impl Into<KeyRef>) -> Result<KeyDescription> {
        let key = key.into();
        let mut due = Vec::new();
        if let Some(id) = self.locate(&key).await? {
            let attempt = self.attempt(Operation::TrimKey, Some(id));
            // A refusal is left to the last step.
            let mut next = matches!(self.decide(&attempt).0, Decision::Allowed { .. }).then_some(1);
            while let Some(first) = next {
                (due, next) = self.trimmable(id, first);
                if next.is_some() && !due.is_empty() {
                    let (attempt, details) = (attempt.clone(), Details::default());
                    let intent = Intent { action: Action::KeyTrim, attempt, version: None, details, once: None };
                    self.change(intent, Command::Trim(id, due)).await?;
                    due = Vec::new();
                }
            }
        }
        let command = |id| Command::Trim(id, due);
        self.detailed(key, Action::KeyTrim, None, Operation::TrimKey, Details::default(), command).await
    }

    /// Returns versions that can be trimmed, starting at `first`, and the version at which to continue, if any are
    /// left.
    fn trimmable(&self, id: KeyId, first: u32) -> (Vec<u32>, Option<u32>) {
        let snapshot = self.shared.catalog.snapshot();
        let now = self.shared.clock.now();
        let Some(key) = snapshot.key(id) else { return (Vec::new(), None) };
        let mut due = Vec::new();
        for (looked_at, number) in (first..key.current_version).enumerate() {
            if looked_at == LOOKED_AT || due.len() == TRIMMED_AT_ONCE {
                return (due, Some(number));
            }
            let version = snapshot.version(id, number).filter(|version| is_trimmable(key, version, now));
            due.extend(version.map(|version| version.version));
        }
        (due, None)
    }

    /// Erases the material of a key whose deletion is due, or continues to. Only the scheduler calls this.
    pub(crate) async fn destroy_located(&self, id: KeyId) -> Result<()> {
        let is_begun = self.shared.catalog.snapshot().key(id).is_some_and(Key::is_being_erased);
        if !is_begun {
            self.begin_destruction(id).await?;
        }
        self.erase_in_steps(id, ERASED_AT_ONCE).await
    }

    /// Begins a destruction. From here on, the deletion cannot be cancelled.
    pub(super) async fn begin_destruction(&self, id: KeyId) -> Result<()> {
        let (action, command) = (Action::KeyDestroyStart, Command::BeginDestruction(id));
        self.erase_step(id, action, Operation::DestroyKey, Details::default(), command).await
    }

    /// Erases the material in steps. If this is interrupted, any process can continue it.
    pub(super) fn erase_in_steps<'a>(&'a self, id: KeyId, at_once: u32) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            // An import may have brought versions beyond the current one.
            let newest = |snapshot: &Snapshot| snapshot.versions_newest_first(id).next().map(|version| version.version);
            let last = newest(&self.shared.catalog.snapshot()).unwrap_or_default();
            let mut first = 1;
            while last.saturating_sub(first) >= at_once {
                let range = (first, first + at_once - 1);
                let mut connection = self.shared.store.reader().await?;
                let are_left = wrappings::are_left(connection.as_mut(), id, range.0, range.1).await?;
                drop(connection);
                if are_left {
                    let command = Command::EraseMaterial(id, range);
                    self.erase_step(id, Action::KeyErase, Operation::EraseKey, range_details(range), command).await?;
                }
                first += at_once;
            }
            let range = (first, last);
            let command = Command::DestroyKey(id, range);
            self.erase_step(id, Action::KeyDestroy, Operation::EraseKey, range_details(range), command).await
        })
    }

    async fn erase_step(
        &self,
        id: KeyId,
        action: Action,
        operation: Operation,
        details: Details,
        command: Command,
    ) -> Result<()> {
        let intent = Intent { action, attempt: self.attempt(operation, Some(id)), version: None, details, once: None };
        self.change(intent, command).await.map(drop)
    }
}

/// The details of an erasure's record: the versions that lost their material.
fn range_details((first, last): (u32, u32)) -> Details {
    let mut details = Details::default();
    details.number("firstVersion", first.into()).number("lastVersion", last.into());
    details
}

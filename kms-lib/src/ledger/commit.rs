//! One batch, one transaction: from the lock on the head to the commit, and what follows from it.

use std::sync::Arc;

use tokio::time::{Instant, sleep};

use super::failure::Failure;
use super::other_nodes::Backoff;
use super::plan::Plan;
use super::submission::Submission;
use super::writer::{RETRY, Writer};
use crate::storage::Connection;
use crate::storage::tables::{audit, secrets};
use crate::types::change::Change;
use crate::types::error::ErrorCode;
use crate::types::key::VersionState;

impl Writer {
    /// Commits a batch; retries it when other nodes took precedence, and when they replaced a key of the service.
    pub(super) async fn try_commit(&mut self, batch: &[Submission]) -> Result<Plan, Failure> {
        let mut backoff = Backoff::new();
        loop {
            match self.commit_once(batch).await {
                Err(Failure::KeysBehind(error)) => {
                    // Outside the lock: unwrapping under the root key may involve a remote call.
                    tracing::info!(%error, "reading the service's new keys");
                    if !self.catch_up_keys().await? {
                        // Another task of this process may have read the key first. If that happens again and again,
                        // the key is not in the store.
                        if backoff.is_over() {
                            return Err(self.stop("a key of the service is not in the store"));
                        }
                        sleep(RETRY).await;
                    }
                }
                Err(Failure::Contended(error)) if !backoff.is_over() => {
                    tracing::debug!(%error, "another node took precedence");
                    backoff.pause().await;
                }
                done => return done,
            }
        }
    }

    /// Takes over the keys that another process added; returns whether there were any.
    async fn catch_up_keys(&mut self) -> Result<bool, Failure> {
        let signer = &self.deps.signer;
        let mut connection = self.deps.store.reader().await?;
        let rows = secrets::service_keys(connection.as_mut()).await;
        // Read after the keys: the checkpoint that a key begins with is stored in the key's transaction.
        let kept = audit::checkpoints(connection.as_mut(), signer.keys().public().newest().first_seq).await;
        connection.close().await?;
        let signing = match signer.catch_up(&rows?, &kept?).await {
            Err(error) if error.code() == ErrorCode::IntegrityFailure => {
                return Err(self.stop("the signing keys of the log were altered"));
            }
            caught_up => caught_up?,
        };
        match self.deps.catalog.catch_up_seals().await {
            Err(error) if error.code() == ErrorCode::IntegrityFailure => {
                Err(self.stop("the integrity key was altered"))
            }
            sealing => Ok(signing | sealing?),
        }
    }

    async fn commit_once(&mut self, batch: &[Submission]) -> Result<Plan, Failure> {
        let started = Instant::now();
        self.log.check_writable()?;
        let mut begun = self.connection.take(&self.log.seen).await?;
        let mut plan = match self.write(&mut begun, batch).await {
            Ok(plan) => plan,
            // A SQLite connection opened on a read-only file stays read-only: the next attempt opens the file again.
            Err(failure) if failure.error().code() == ErrorCode::StoreReadOnly => return Err(failure),
            Err(failure) => {
                self.connection.put_back(begun.connection).await;
                return Err(failure);
            }
        };
        self.end_transaction(begun.connection, &plan).await?;
        self.outage.end();
        self.queue.counters.commit(started.elapsed());
        self.log.note_commit(&plan.head);
        self.follow_up(&mut plan).await;
        Ok(plan)
    }

    /// The commit point: everything before it can be rolled back. Fails if the commit did not take place.
    async fn end_transaction(&mut self, mut connection: Box<dyn Connection>, plan: &Plan) -> Result<(), Failure> {
        let Err(error) = connection.commit().await else {
            self.connection.keep(connection);
            return Ok(());
        };
        if error.code() == ErrorCode::StoreContended {
            // The engine reports that it did not commit.
            self.connection.put_back(connection).await;
            return Err(error.into());
        }
        tracing::debug!(%error, "a commit failed; finding out whether it took place");
        self.outage.note(&error, 0);
        let rolled_back = connection.rollback().await.is_ok() && connection.dialect().rollback_is_proof;
        drop(connection);
        if self.settle(plan, rolled_back).await? { Ok(()) } else { Err(error.into()) }
    }

    /// Brings the process up to a plan that was committed, before its submissions are answered.
    async fn follow_up(&mut self, plan: &mut Plan) {
        let erases = |change: &Change| matches!(change, Change::EraseVersion(_) | Change::UpdateServiceKey(_));
        if plan.keys.is_some() || plan.has_erased || plan.changes.iter().any(erases) {
            self.scrub().await;
        } else if self.deps.space.is_known_full() {
            // After every commit: the log would use up the disk reserve before the engine empties it automatically.
            self.connection.empty_log().await;
        }
        if let Some(keys) = plan.keys.take() {
            self.deps.signer.install(Arc::new(keys.settled()));
        }
        if let Some(seals) = plan.seals.take() {
            self.deps.catalog.replace_seals(seals);
        }
        if !plan.changes.is_empty() {
            self.deps.catalog.apply(&plan.changes, plan.head.revision);
            // Before the change is answered, since the answer allows releases again.
            self.queue.set_revision(plan.head.revision);
            self.forget(&plan.changes);
        }
        plan.changes.clear();
    }

    /// Drops the material of versions that may no longer be used.
    fn forget(&self, changes: &[Change]) {
        let materials = &self.deps.materials;
        for change in changes {
            match change {
                Change::UpdateVersion(version) | Change::EraseVersion(version)
                    if matches!(version.state, VersionState::Revoked | VersionState::Destroyed) =>
                {
                    materials.forget(version.key_id, version.version);
                }
                Change::UpdateKey(key) if key.is_revoked() => materials.forget_key(key.id),
                _ => {}
            }
        }
        materials.sweep();
    }
}

//! The only writer: takes a batch, locks the head, plans, writes, signs, commits and answers.
//!
//! Its work is never aborted. A caller may stop waiting for its answer; the commit continues.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::LedgerDeps;
use super::plan::Plan;
use super::queue::Queue;
use super::rations::Rations;
use super::seen::Seen;
use super::submission::Submission;
use crate::outage::Outage;
use crate::storage::Connection;
use crate::storage::tables::head::Locked;
use crate::storage::tables::{audit, secrets};
use crate::types::audit::Head;
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::key::VersionState;

/// The pause between retries while the store cannot be used: for released results, or after an unknown commit.
pub(super) const RETRY: Duration = Duration::from_millis(100);
/// The pause after a commit on a store with several writers whose lock has no queue: it lets the others get the lock.
const YIELD: Duration = Duration::from_micros(1_500);
/// How long a batch is retried when other nodes take precedence.
const CONTENTION: Duration = Duration::from_secs(10);
/// The longest pause before such a retry; the first pauses are a fraction of it.
const CONTENTION_PAUSE: Duration = Duration::from_millis(64);

/// The pause before the next attempt to remove erased material from the engine's own log, after readers held it back.
const SCRUB: Duration = Duration::from_secs(1);
/// The pause before the next attempt to remove erased material, after one that failed.
const SCRUB_FAILED: Duration = Duration::from_secs(60);

/// How often an idle writer checks whether another process has erased material.
pub(super) const SCRUB_LOOK: Duration = Duration::from_secs(10);

/// A transaction that holds the lock on the head.
pub(super) type Begun = (Box<dyn Connection>, Locked);

pub(super) struct Writer {
    pub deps: LedgerDeps,
    pub queue: Arc<Queue>,
    /// The end of the log as this process last saw it.
    pub known: Head,
    /// Shares the known state with the rest of this process.
    pub seen: Seen,
    /// The largest state of the log that was seen before the head was last locked: a cluster's members commit beside
    /// that lock, so what is seen later proves nothing about the locked head.
    pub seen_before: (u64, [u8; 32]),
    pub connection: Option<Box<dyn Connection>>,
    /// The next transaction, or the error from beginning it, if it was begun ahead of time.
    pub begun: Option<Result<Begun>>,
    pub exhausted: HashSet<(KeyId, u32)>,
    /// How much of the disk reserve each principal has used.
    pub rations: Rations,
    /// Set once the log contradicts what this process has committed: nothing more is written.
    pub stopped: Option<Error>,
    /// Another process has replaced the signing key or the integrity key: the successor must be read first.
    pub keys_behind: bool,
    /// The time when another process last moved the head.
    pub contended: Option<Instant>,
    /// The time of the next removal of erased material from the engine's own log.
    pub scrub_at: Option<Instant>,
    /// The time until which nothing is written, so that another process can write.
    pub pause_until: Option<Instant>,
    /// Whether the last failure occurred while data of the batch was looked up or written: then one of its submissions
    /// may be the cause.
    pub is_at_fault: bool,
    /// Tracks whether the store can be written.
    pub outage: Outage,
    /// The number of released results that could not be written before the end, and the error.
    pub lost: Option<(usize, Error)>,
}

impl Writer {
    /// Runs as a task of its own until the queue is closed and empty. Fails if released results were abandoned.
    pub async fn run(mut self) -> Result<()> {
        // If this task ends early, no caller may wait for it indefinitely.
        let _end = End(Arc::clone(&self.queue));
        let mut last = 0;
        while let Some(mut batch) = self.take().await {
            self.begin_and_gather(&mut batch, last).await;
            last = batch.len();
            self.write_batch(batch).await;
            self.give_back().await;
            if self.deps.store.yields_after_commit() && self.has_company() {
                sleep(YIELD).await;
            }
        }
        self.finish().await
    }

    /// Writes and answers a batch.
    pub async fn write_batch(&mut self, batch: Vec<Submission>) {
        self.queue.counters.batch(batch.len());
        // Released results must reach the log: their callers have received them and cannot be informed of a failure.
        let (released, mut rest): (Vec<_>, Vec<_>) = batch.into_iter().partition(|s| s.released_at.is_some());
        if released.is_empty() {
            self.commit(rest).await;
        } else {
            self.commit_released(released, &mut rest).await;
        }
    }

    /// Closes the connection. Fails if released results were abandoned.
    pub async fn finish(mut self) -> Result<()> {
        if let Some(connection) = self.connection.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "the connection for writing did not close cleanly");
        }
        let Some((count, error)) = self.lost else { return Ok(()) };
        let text = format!("released results missing from the log: {count}; {}", error.message());
        Err(error.with_message(text))
    }

    /// The next batch. Before it, or while there is none, erased material is removed from the engine's own log when
    /// that is due.
    async fn take(&mut self) -> Option<Vec<Submission>> {
        let queue = Arc::clone(&self.queue);
        loop {
            let look = self.next_scrub();
            if look <= Instant::now() {
                self.scrub().await;
            } else if let Ok(taken) = timeout_at(look, queue.take()).await {
                return taken;
            }
        }
    }

    /// When erased material is to be removed from the engine's own log, or when to look next whether there is any,
    /// including material erased by another process, which may have ended before removing it.
    pub fn next_scrub(&mut self) -> Instant {
        if self.deps.catalog.take_erased() && self.scrub_at.is_none() {
            self.scrub_at = Some(Instant::now() + SCRUB);
        }
        let due = self.scrub_at.filter(|_| self.connection.is_some());
        due.unwrap_or_else(|| Instant::now() + SCRUB_LOOK)
    }

    /// Lets another process write if one wants to: nothing is written for a moment.
    pub fn yield_after_commit(&mut self) {
        let yields = self.deps.store.yields_after_commit() && self.has_company();
        self.pause_until = yields.then(|| Instant::now() + YIELD);
    }

    /// The time until which nothing may be written, if it is not over.
    pub fn pause(&self) -> Option<Instant> {
        self.pause_until.filter(|until| *until > Instant::now())
    }

    /// Removes erased material from the engine's own log; retries later if a reader still uses that log.
    pub async fn scrub(&mut self) {
        self.scrub_at = match &mut self.connection {
            None => Some(Instant::now()),
            Some(connection) => match connection.scrub().await {
                Ok(true) => None,
                Ok(false) => Some(Instant::now() + SCRUB),
                Err(error) => {
                    tracing::warn!(%error, "erased key material may still be in the store's write-ahead log");
                    Some(Instant::now() + SCRUB_FAILED)
                }
            },
        };
    }

    /// Whether another process moved the head within the last second.
    fn has_company(&self) -> bool {
        self.contended.is_some_and(|last| last.elapsed() < Duration::from_secs(1))
    }

    /// Takes the lock on the head while the `last` callers that were just answered submit again, and adds their
    /// submissions to the batch. If other processes write too, the lock is taken only afterwards.
    async fn begin_and_gather(&mut self, batch: &mut Vec<Submission>, last: usize) {
        let queue = Arc::clone(&self.queue);
        let gathered = queue.gather(last.saturating_sub(batch.len()));
        if self.has_company() {
            gathered.await;
        } else if self.stopped.is_none() {
            let (begun, ()) = tokio::join!(self.begin(), gathered);
            self.begun = Some(begun);
        }
        queue.take_more(batch);
    }

    /// Ends a transaction in which nothing was written.
    async fn give_back(&mut self) {
        if let Some(Ok((connection, _))) = self.begun.take() {
            self.put_back(connection).await;
        }
    }

    /// Runs a transaction from the lock on the head to the commit; retries it when other nodes took precedence.
    pub(super) async fn try_commit(&mut self, batch: &[Submission]) -> Result<Plan> {
        let begun = Instant::now();
        let mut pause = CONTENTION_PAUSE / 64;
        loop {
            match self.commit_once(batch).await {
                Err(error) if std::mem::take(&mut self.keys_behind) => {
                    // Outside the lock: unwrapping under the root key may involve a remote call.
                    tracing::info!(%error, "reading the service's new keys");
                    if !self.catch_up_keys().await? {
                        // Another task of this process may have read it first, but not repeatedly.
                        if begun.elapsed() >= CONTENTION {
                            return Err(self.stop("a key of the service is not in the store"));
                        }
                        sleep(RETRY).await;
                    }
                }
                Err(error) if error.code() == ErrorCode::StoreContended && begun.elapsed() < CONTENTION => {
                    tracing::debug!(%error, "another node took precedence");
                    // The random pause spreads nodes that were rejected together.
                    sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                    pause = CONTENTION_PAUSE.min(pause * 2);
                }
                done => return done,
            }
        }
    }

    /// Takes over the keys that another process added; returns whether there were any.
    async fn catch_up_keys(&mut self) -> Result<bool> {
        let mut connection = self.deps.store.reader().await?;
        let rows = secrets::service_keys(connection.as_mut()).await;
        // Read after the keys: the checkpoint that a key begins with is stored in the key's transaction.
        let kept = audit::checkpoints(connection.as_mut(), self.deps.signer.keys().public().newest().first_seq).await;
        connection.close().await?;
        let caught_up = self.deps.signer.catch_up(&rows?, &kept?).await;
        match caught_up {
            Err(error) if error.code() == ErrorCode::IntegrityFailure => {
                Err(self.stop("the signing keys of the log were altered"))
            }
            Err(error) => Err(error),
            Ok(signing) => match self.deps.catalog.catch_up_seals().await {
                Err(error) if error.code() == ErrorCode::IntegrityFailure => {
                    Err(self.stop("the integrity key was altered"))
                }
                sealing => Ok(signing | sealing?),
            },
        }
    }

    async fn commit_once(&mut self, batch: &[Submission]) -> Result<Plan> {
        let started = Instant::now();
        self.is_at_fault = false;
        if let Some(error) = &self.stopped {
            return Err(error.clone());
        }
        self.seen.check_writable()?;
        let begun = match self.begun.take() {
            Some(begun) => begun,
            None => self.begin().await,
        };
        let (mut connection, locked) = begun?;
        let mut plan = match self.write(connection.as_mut(), locked, batch).await {
            Ok(plan) => plan,
            // A SQLite connection opened on a read-only file stays read-only: the next attempt opens the file again.
            Err(error) if error.code() == ErrorCode::StoreReadOnly => return Err(error),
            Err(error) => {
                self.put_back(connection).await;
                return Err(error);
            }
        };
        self.is_at_fault = false;
        // The commit point: everything before it can be rolled back.
        if let Err(error) = connection.commit().await {
            if error.code() == ErrorCode::StoreContended {
                // The engine reports that it did not commit.
                self.put_back(connection).await;
                return Err(error);
            }
            tracing::debug!(%error, "a commit failed; finding out whether it took place");
            self.outage.note(&error, 0);
            let rolled_back = connection.rollback().await.is_ok() && connection.dialect().rollback_is_proof;
            drop(connection);
            if !self.settle(&plan, rolled_back).await? {
                return Err(error);
            }
        } else {
            self.connection = Some(connection);
        }
        self.outage.end();
        self.queue.counters.commit(started.elapsed());
        self.known = plan.head.clone();
        self.seen.note(&plan.head);
        if plan.keys.is_some()
            || plan.changes.iter().any(|change| matches!(change, Change::EraseVersion(_)))
            || plan.has_erased
            || plan.changes.iter().any(|change| matches!(change, Change::UpdateServiceKey(_)))
        {
            self.scrub().await;
        } else if self.deps.space.is_known_full() {
            self.empty_log().await;
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
            self.forget(&plan.changes).await;
        }
        plan.changes.clear();
        Ok(plan)
    }

    pub(super) fn stop(&mut self, why: &str) -> Error {
        let error = Error::new(ErrorCode::IntegrityFailure, format!("{why}; nothing more is written"));
        tracing::error!(%error, "the ledger stops");
        self.queue.counters.stop();
        // No further result may be released before its record is committed.
        self.queue.hold_releases(true);
        self.stopped = Some(error.clone());
        error
    }

    /// Drops the material of versions that may no longer be used.
    async fn forget(&self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::UpdateVersion(version) | Change::EraseVersion(version)
                    if matches!(version.state, VersionState::Revoked | VersionState::Destroyed) =>
                {
                    self.deps.materials.forget(version.key_id, version.version).await;
                }
                Change::UpdateKey(key) if key.is_revoked() => self.deps.materials.forget_key(key.id).await,
                _ => {}
            }
        }
        if !changes.is_empty() {
            self.deps.materials.sweep().await;
        }
    }
}

/// Abandons the remaining submissions in the queue when the task ends.
pub(super) struct End(pub Arc<Queue>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

//! The one task that writes: takes a batch, locks the head, walks, writes, signs, commits, answers.
//!
//! It is never aborted. Whoever waits for an answer may go away; what is being committed is committed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::disk_space::Space;
use super::plan::Plan;
use super::queue::Queue;
use super::rations::Rations;
use super::seen::Seen;
use super::signer::Signer;
use super::submission::Submission;
use crate::catalog::{Catalog, MaterialCache};
use crate::outage::Outage;
use crate::storage::tables::head::Locked;
use crate::storage::tables::{audit, secrets};
use crate::storage::{Connection, Store};
use crate::types::audit::Head;
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::key::VersionState;
use crate::types::time::Clock;

/// How often something is tried again while the store cannot be used: released results, an unclear commit.
pub(super) const RETRY: Duration = Duration::from_millis(100);
/// After a commit on a store that others write too, the time they have to get the lock, where it has no queue.
const YIELD: Duration = Duration::from_micros(1_500);
/// How long a batch is tried again when other nodes come first.
const CONTENTION: Duration = Duration::from_secs(10);
/// The longest pause before such a try; they begin with a fraction of it.
const CONTENTION_PAUSE: Duration = Duration::from_millis(64);

/// The pause before the next attempt to remove erased material from the engine's own log, after readers held it back.
const SCRUB: Duration = Duration::from_secs(1);
/// The same, after an attempt that failed.
const SCRUB_FAILED: Duration = Duration::from_secs(60);

/// How often an idle writer looks whether another process has erased material.
const SCRUB_LOOK: Duration = Duration::from_secs(10);

/// A transaction that has the head's lock.
pub(super) type Begun = (Box<dyn Connection>, Locked);

pub(super) struct Writer {
    pub store: Arc<dyn Store>,
    pub space: Arc<Space>,
    pub catalog: Arc<Catalog>,
    pub materials: Arc<MaterialCache>,
    pub queue: Arc<Queue>,
    pub signer: Arc<Signer>,
    pub default_grace_days: Option<u32>,
    pub versions_max: u32,
    pub clock: Clock,
    /// The end of the log as this process last saw it.
    pub known: Head,
    /// What others in this process are told of that.
    pub seen: Seen,
    /// The largest state of the log that was seen before the head was last locked: a cluster's members commit beside
    /// that lock, so what is seen later proves nothing about the locked head.
    pub seen_before: (u64, [u8; 32]),
    pub connection: Option<Box<dyn Connection>>,
    /// What beginning the next transaction came to, if that is done already.
    pub begun: Option<Result<Begun>>,
    pub exhausted: HashSet<(KeyId, u32)>,
    /// What each principal has had of the disk reserve.
    pub rations: Rations,
    /// Set once the log contradicts what this process has committed: nothing is written any more.
    pub stopped: Option<Error>,
    /// Another process has replaced the key that signs the log or the one that seals rows: its successor must be read
    /// first.
    pub keys_behind: bool,
    /// When another process last moved the head.
    pub contended: Option<Instant>,
    /// When erased material is next to be removed from the engine's own log.
    pub scrub_at: Option<Instant>,
    /// Whether the last failure came while something of the batch was looked up or written: then one of its
    /// submissions may be the cause.
    pub is_at_fault: bool,
    /// Told whether the store can be written.
    pub outage: Outage,
    /// How many results that were released could not be written before the end, and why.
    pub lost: Option<(usize, Error)>,
}

impl Writer {
    /// Works until the queue is closed and empty. Fails if released results were given up.
    pub async fn run(mut self) -> Result<()> {
        // Should this task end before its time, nobody must wait for it for ever.
        let _end = End(Arc::clone(&self.queue));
        let mut last = 0;
        while let Some(mut batch) = self.take().await {
            self.begin_and_gather(&mut batch, last).await;
            last = batch.len();
            self.queue.counters.batch(last);
            // Released results must reach the log: their callers are gone and cannot be told otherwise.
            let (released, mut rest): (Vec<_>, Vec<_>) = batch.into_iter().partition(|s| s.released_at.is_some());
            if released.is_empty() {
                self.commit(rest).await;
            } else {
                self.commit_released(released, &mut rest).await;
            }
            self.give_back().await;
            if self.store.yields_after_commit() && self.has_company() {
                sleep(YIELD).await;
            }
        }
        if let Some(connection) = self.connection.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "the writing connection did not close cleanly");
        }
        let Some((count, error)) = self.lost else { return Ok(()) };
        let text = format!("released results that the log lacks: {count}; {}", error.message());
        Err(error.with_message(text))
    }

    /// The next batch. Before it, or while there is none, erased material is removed from the engine's own log if it is
    /// time for that; also what another process erased, which may have ended before it could do that.
    async fn take(&mut self) -> Option<Vec<Submission>> {
        let queue = Arc::clone(&self.queue);
        loop {
            if self.catalog.take_erased() && self.scrub_at.is_none() {
                self.scrub_at = Some(Instant::now() + SCRUB);
            }
            let due = self.scrub_at.filter(|_| self.connection.is_some());
            let until = due.unwrap_or_else(|| Instant::now() + SCRUB_LOOK);
            if until > Instant::now()
                && let Ok(taken) = tokio::time::timeout_at(until, queue.take()).await
            {
                return taken;
            }
            if due.is_some() {
                self.scrub().await;
            }
        }
    }

    /// Removes erased material from the engine's own log; later, if somebody still reads that.
    async fn scrub(&mut self) {
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

    /// Whether other processes write too.
    fn has_company(&self) -> bool {
        self.contended.is_some_and(|last| last.elapsed() < Duration::from_secs(1))
    }

    /// Takes the lock on the head while the callers who were just answered, `last` of them, come back, and adds them to
    /// the batch. When others want the lock too it is not held for that.
    ///
    /// A ledger with a thread of its own waits for nobody: the callers work beside it, and it does beside them.
    async fn begin_and_gather(&mut self, batch: &mut Vec<Submission>, last: usize) {
        if self.store.blocks_thread() {
            return;
        }
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

    /// Ends a transaction that nobody wrote in.
    async fn give_back(&mut self) {
        if let Some(Ok((connection, _))) = self.begun.take() {
            self.put_back(connection).await;
        }
    }

    /// A transaction from the lock on the head to the commit; tried again when other nodes came first.
    pub(super) async fn try_commit(&mut self, batch: &[Submission]) -> Result<Plan> {
        let begun = Instant::now();
        let mut pause = CONTENTION_PAUSE / 64;
        loop {
            match self.commit_once(batch).await {
                Err(error) if std::mem::take(&mut self.keys_behind) => {
                    // Not under the lock: the root key that unwraps may be far away.
                    tracing::info!(%error, "reading the service's new keys");
                    if !self.catch_up_keys().await? {
                        // Another task of this process may have read it first, but not again and again.
                        if begun.elapsed() >= CONTENTION {
                            return Err(self.stop("a key of the service is not in the store"));
                        }
                        sleep(RETRY).await;
                    }
                }
                Err(error) if error.code() == ErrorCode::StoreContended && begun.elapsed() < CONTENTION => {
                    tracing::debug!(%error, "another node came first");
                    // Those who were turned down together must not come back together.
                    sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                    pause = CONTENTION_PAUSE.min(pause * 2);
                }
                done => return done,
            }
        }
    }

    /// Takes over the keys that another process added; answers whether there were any.
    async fn catch_up_keys(&mut self) -> Result<bool> {
        let mut connection = self.store.reader().await?;
        let rows = secrets::service_keys(connection.as_mut()).await;
        // Afterwards: the state that a key begins with is kept in its transaction.
        let kept = audit::checkpoints(connection.as_mut(), self.signer.keys().public().newest().first_seq).await;
        connection.close().await?;
        let caught_up = self.signer.catch_up(&rows?, &kept?).await;
        match caught_up {
            Err(error) if error.code() == ErrorCode::IntegrityFailure => {
                Err(self.stop("the keys that sign the log were altered"))
            }
            Err(error) => Err(error),
            Ok(signing) => match self.catalog.catch_up_seals().await {
                Err(error) if error.code() == ErrorCode::IntegrityFailure => {
                    Err(self.stop("the key that seals rows was altered"))
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
            // SQLite goes on to refuse what could not be written when the file was opened: the next one opens it anew.
            Err(error) if error.code() == ErrorCode::StoreReadOnly => return Err(error),
            Err(error) => {
                self.put_back(connection).await;
                return Err(error);
            }
        };
        self.is_at_fault = false;
        // The commit point. Everything before can be undone, everything after has happened.
        if let Err(error) = connection.commit().await {
            if error.code() == ErrorCode::StoreContended {
                // The engine's own word that it did not.
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
        } else if self.space.is_known_full() {
            self.empty_log().await;
        }
        if let Some(keys) = plan.keys.take() {
            self.signer.install(Arc::new(keys.settled()));
        }
        if let Some(seals) = plan.seals.take() {
            self.catalog.replace_seals(seals);
        }
        if !plan.changes.is_empty() {
            self.catalog.apply(&plan.changes, plan.head.revision);
            // Before the change is answered, and with it releases are allowed again.
            self.queue.set_revision(plan.head.revision);
            self.forget(&plan.changes).await;
        }
        plan.changes.clear();
        Ok(plan)
    }

    pub(super) fn stop(&mut self, why: &str) -> Error {
        let error = Error::new(ErrorCode::IntegrityFailure, format!("{why}: nothing more is written"));
        tracing::error!(%error, "the ledger stops");
        self.queue.counters.stop();
        // Nobody may be promised a record any more.
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
                    self.materials.forget(version.key_id, version.version).await;
                }
                Change::UpdateKey(key) if key.is_revoked() => self.materials.forget_key(key.id).await,
                _ => {}
            }
        }
        if !changes.is_empty() {
            self.materials.sweep().await;
        }
    }
}

/// Gives up what is left in the queue when the task ends.
struct End(Arc<Queue>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

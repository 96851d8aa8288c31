//! The only writer: takes a batch, locks the head, plans, writes, signs, commits and answers.
//!
//! Its work is never aborted. A caller may stop waiting for its answer; the commit continues.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::LedgerDeps;
use super::connection::WriteConnection;
use super::failure::Failure;
use super::known_log::KnownLog;
use super::other_nodes::OtherNodes;
use super::queue::Queue;
use super::rations::Rations;
use super::scrubbing::Scrubbing;
use super::submission::Submission;
use crate::outage::Outage;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;

/// The pause between retries while the store cannot be used: for released results, or after an unknown commit.
pub(super) const RETRY: Duration = Duration::from_millis(100);

pub(super) struct Writer {
    pub deps: LedgerDeps,
    pub queue: Arc<Queue>,
    pub log: KnownLog,
    pub connection: WriteConnection,
    pub other_nodes: OtherNodes,
    pub scrubbing: Scrubbing,
    /// Versions that have reached their limit of encryptions, as far as this process has noticed.
    pub exhausted: HashSet<(KeyId, u32)>,
    /// How much of the disk reserve each principal has used.
    pub rations: Rations,
    /// Tracks whether the store can be written.
    pub outage: Outage,
    /// The number of released results that could not be written before the end, and the error.
    pub lost: Option<(usize, Error)>,
}

impl Writer {
    pub fn new(deps: LedgerDeps, queue: Arc<Queue>, log: KnownLog) -> Self {
        Self {
            connection: WriteConnection::new(Arc::clone(&deps.store)),
            other_nodes: OtherNodes::new(deps.store.yields_after_commit()),
            deps,
            queue,
            log,
            scrubbing: Scrubbing::new(),
            exhausted: HashSet::new(),
            rations: Rations::default(),
            outage: Outage::new("the store cannot be written"),
            lost: None,
        }
    }

    /// Runs as a task of its own until the queue is closed and empty. Fails if released results were abandoned.
    pub async fn run(mut self) -> Result<()> {
        // If this task ends early, no caller may wait for it indefinitely.
        let _end = End(Arc::clone(&self.queue));
        let mut last = 0;
        while let Some(mut batch) = self.take().await {
            self.begin_and_gather(&mut batch, last).await;
            last = batch.len();
            self.write_batch(batch).await;
            self.connection.end_begun().await;
            if let Some(pause) = self.other_nodes.pause() {
                sleep(pause).await;
            }
        }
        self.finish().await
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

    /// Takes the lock on the head while the `last` callers that were just answered submit again, and adds their
    /// submissions to the batch. If other nodes write too, the lock is taken only afterwards.
    async fn begin_and_gather(&mut self, batch: &mut Vec<Submission>, last: usize) {
        let queue = Arc::clone(&self.queue);
        let gathered = queue.gather(last.saturating_sub(batch.len()));
        if self.other_nodes.are_writing() {
            gathered.await;
        } else if self.log.stopped.is_none() {
            tokio::join!(self.connection.begin_ahead(&self.log.seen), gathered);
        }
        queue.take_more(batch);
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
    pub async fn finish(self) -> Result<()> {
        self.connection.close().await;
        let Some((count, error)) = self.lost else { return Ok(()) };
        let text = format!("released results missing from the log: {count}; {}", error.message());
        Err(error.with_message(text))
    }

    /// Whether erased material is to be removed from the engine's own log, now or later, including material that
    /// another process erased, which may have ended before removing it.
    pub fn is_scrub_wanted(&mut self) -> bool {
        if self.deps.catalog.take_erased() {
            self.scrubbing.request();
        }
        self.scrubbing.is_wanted()
    }

    /// When to remove erased material, or when to look next whether there is any.
    pub fn next_scrub(&mut self) -> Instant {
        self.is_scrub_wanted();
        self.scrubbing.next(self.connection.idle().is_some())
    }

    /// Removes erased material from the engine's own log; tries again later if a reader still uses that log.
    pub async fn scrub(&mut self) {
        self.scrubbing.run(self.connection.idle()).await;
    }

    /// Ends all writing: the log contradicts what this process has committed or seen.
    pub(super) fn stop(&mut self, why: &str) -> Failure {
        let error = Error::new(ErrorCode::IntegrityFailure, format!("{why}; nothing more is written"));
        tracing::error!(%error, "the ledger stops");
        self.queue.counters.stop();
        // No further result may be released before its record is committed.
        self.queue.hold_releases(true);
        self.log.stopped = Some(error.clone());
        Failure::Unusable(error)
    }
}

/// Abandons the remaining submissions in the queue when the task ends.
pub(super) struct End(pub Arc<Queue>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

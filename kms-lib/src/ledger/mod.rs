//! The single write path: a queue, and a task that commits queued operations in batches, each with its audit record.

mod batches;
mod budget;
mod commit;
mod connection;
mod counters;
mod counting;
mod details;
mod disk_space;
mod failure;
mod few;
mod head_check;
mod idempotency;
mod import_runs;
mod known_log;
mod lane;
mod leader;
mod other_nodes;
mod plan;
mod queue;
mod rations;
mod remaining;
mod retry;
mod scrubbing;
mod seen;
mod shares;
mod signer;
pub mod skew;
mod sound;
mod submission;
mod thread;
mod unknown_commit;
mod wrappings;
mod write;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

pub use counters::{BATCH_BOUNDS, COMMIT_BOUNDS, CommitMetrics, Counters};
pub use details::{Details, context_json, is_recorded_whole};
pub use disk_space::{Space, SpaceLimits, StorageMetrics};
pub use few::Few;
#[cfg(feature = "import")]
pub(crate) use import_runs::ImportState;
pub use leader::Leader;
pub use plan::changed_rows;
pub use queue::Limits;
pub use remaining::Remaining;
pub use retry::RetrySlot;
pub use seen::Seen;
pub use shares::Lane;
pub use signer::{HeadKeys, Signer};
pub use submission::{Admission, Draft, Entry, Idempotency, Outcome, Submission, Use, Verdict};
pub use write::{CHECKPOINT_EVERY, wrapping_seals};

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::catalog::{Catalog, MaterialCache};
use crate::lifecycle::Command;
use crate::storage::Store;
use crate::types::audit::{Head, Receipt};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::time::Clock;
use known_log::KnownLog;
use leader::SharedWriter;
use queue::Queue;
use writer::Writer;

/// When results are released to their callers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuditAck {
    /// Results are released when their record is committed.
    #[default]
    Durable,
    /// Results of cryptographic operations are released when their record is queued; a crash loses the records of the
    /// last moments (normally less than 20 ms). Changes stay durable. No other process may use the store.
    Queued,
}

/// The entry point of the ledger: sessions submit their records and changes here.
pub struct Ledger {
    queue: Arc<Queue>,
    clock: Clock,
    ack: AuditAck,
    seen: Seen,
    /// The writer that blocking callers may take.
    shared: Option<Arc<SharedWriter>>,
    ended: watch::Receiver<Ended>,
}

/// The result of the ledger once it has ended: an error if results that it released could not be written.
type Ended = Option<Result<()>>;

/// The dependencies and settings of the ledger.
pub struct LedgerDeps {
    /// The store that the ledger writes to.
    pub store: Arc<dyn Store>,
    /// The catalog that decisions are based on; the ledger keeps it up to date.
    pub catalog: Arc<Catalog>,
    /// The disk space of the store.
    pub space: Arc<Space>,
    /// The cache from which revoked and destroyed material is dropped.
    pub materials: Arc<MaterialCache>,
    /// The signer of the head.
    pub signer: Arc<Signer>,
    /// The grace period, in days, of keys that have none of their own.
    pub default_grace_days: Option<u32>,
    /// The maximum number of versions with material per key.
    pub versions_max: u32,
    /// The source of the current time.
    pub clock: Clock,
}

impl Ledger {
    /// Starts the ledger: as a task on the current runtime, or on a thread of its own if writing to the store blocks
    /// the thread. Then blocking callers may write too. The head is that of the log when the store was opened, already
    /// checked; the limits are those on operations in flight.
    pub fn start(deps: LedgerDeps, head: Head, limits: Limits, ack: AuditAck) -> Result<Self> {
        let queue = Arc::new(Queue::new(limits));
        queue.set_revision(head.revision);
        queue.set_releasable(deps.space.releasable());
        let (clock, seen) = (deps.clock.clone(), Seen::new(&head));
        let writer = Writer::new(deps, Arc::clone(&queue), KnownLog::new(head, seen.clone()));
        let (end, ended) = watch::channel(None);
        let shared = if writer.deps.store.blocks_thread() {
            let shared = thread::start(writer, end)?;
            // A leader that writes released results could not stop when they cannot be written.
            (ack == AuditAck::Durable).then_some(shared)
        } else {
            // Connections to servers belong to a runtime, and its threads wake each other for every round trip.
            tokio::spawn(async move {
                let written = writer.run().await;
                end.send_replace(Some(written));
            });
            None
        };
        Ok(Self { queue, clock, ack, seen, shared, ended })
    }

    /// Admits an operation whose result has about `bytes` bytes. Fails with `Overloaded` before any work is done.
    pub fn admit(&self, lane: Lane, principal: &str, bytes: usize) -> Result<Arc<Admission>> {
        self.queue.admit(lane, principal, bytes)
    }

    /// Like [`admit`](Self::admit), for what the service itself writes while it is closing.
    pub fn admit_last(&self, lane: Lane, principal: &str, bytes: usize) -> Result<Arc<Admission>> {
        self.queue.admit_last(lane, principal, bytes)
    }

    /// Stops admitting operations: the service is closing.
    pub fn shut(&self) {
        self.queue.shut();
    }

    /// Stops releasing results before they are written if the store's disk is getting full. Called after each check of
    /// the disk; the ledger allows releases again after a commit.
    pub fn heed(&self, space: &Space) {
        if space.releasable().is_none() {
            self.queue.hold_releases(true);
        }
    }

    /// Submits records, and possibly a change, and waits until they are in the log or refused.
    pub async fn submit(
        &self,
        admission: &Arc<Admission>,
        decided_at: u64,
        entries: Vec<Entry>,
        command: Option<Command>,
        retry: Option<RetrySlot>,
    ) -> Outcome {
        let releasable = self.ack == AuditAck::Queued
            && command.is_none()
            && entries.iter().all(|entry| matches!(entry.verdict, Verdict::Allowed { .. }));
        let count = entries.len();
        let cost = submission::cost_of(&entries, command.as_ref());
        let mut submission = Submission {
            decided_at,
            entries,
            command: command.map(Box::new),
            cost,
            retry,
            released_at: None,
            admission: Arc::clone(admission),
            reply: None,
        };
        if releasable {
            match self.queue.release(submission, self.clock.now()) {
                Ok(()) => {
                    self.queue.wake();
                    let receipts = (0..count).map(|_| Receipt { seq: 0, hash: [0; 32] }).collect();
                    return Outcome::Committed { receipts, changes: Vec::new() };
                }
                Err(returned) => submission = returned,
            }
        }
        let (reply, answer) = oneshot::channel();
        submission.reply = Some(reply);
        let pushed = self.queue.push(submission);
        if !self.shared.as_ref().is_some_and(leader::offer) {
            self.queue.wake();
        }
        match pushed {
            Ok(()) => answer.await.unwrap_or_else(|_| {
                Outcome::Failed(Error::new(ErrorCode::OutcomeUnknown, "the ledger ended before it returned a result"))
            }),
            Err(error) => Outcome::Failed(error),
        }
    }

    /// The setting that says when results are released.
    pub fn ack(&self) -> AuditAck {
        self.ack
    }

    /// The counters of the ledger.
    pub fn counters(&self) -> &Counters {
        &self.queue.counters
    }

    /// The largest state of the log that this process has seen, and whether the database may be written.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Whether the ledger accepts and writes submissions.
    pub fn is_running(&self) -> bool {
        !self.queue.is_shut() && !self.queue.is_closed() && !self.queue.counters.is_stopped()
    }

    /// Whether the ledger has stopped permanently without having been closed.
    pub fn has_failed(&self) -> bool {
        let has_ended = || self.ended.borrow().is_some() || self.ended.has_changed().is_err();
        self.queue.counters.is_stopped() || (!self.queue.is_shut() && has_ended())
    }

    /// Whether a blocking caller could write now.
    #[cfg(test)]
    fn is_free(&self) -> bool {
        self.shared.as_ref().is_some_and(|writer| writer.is_free())
    }

    /// The number of queued submissions.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Closes the ledger and waits, for at most `longest`, until all submissions are committed; the rest are abandoned.
    /// Fails if submissions were abandoned, or if there are results that were released before their commit (`audit.ack
    /// = "queued"`) and could not be written.
    pub async fn close(&self, longest: Duration) -> Result<()> {
        self.queue.shut();
        self.queue.close();
        if let Ok(ended) = timeout(longest, self.ended()).await {
            return ended;
        }
        self.queue.abandon();
        let text = format!(
            "the store did not commit the pending operations within {longest:?}; the remaining ones were abandoned"
        );
        Err(Error::new(ErrorCode::StoreUnavailable, text))
    }

    async fn ended(&self) -> Result<()> {
        // This must not be a task handle: the task would end with the runtime that the ledger was started on.
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(ended) => ended.clone().unwrap_or(Ok(())),
            Err(_) => {
                tracing::error!("the ledger ended unexpectedly");
                // The runtime may have ended. Without early release no result was promised, so nothing is lost.
                match self.ack {
                    AuditAck::Durable => Ok(()),
                    AuditAck::Queued => Err(Error::new(ErrorCode::Internal, "the ledger ended unexpectedly")),
                }
            }
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // Without a call of `close` the task still commits what is queued, and then ends.
        self.queue.close();
    }
}

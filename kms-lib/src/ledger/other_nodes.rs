//! Other nodes that write to the same store: pauses that let them have the lock, and retries of a batch that they
//! overtook.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The pause after a commit on a store with several writers whose lock has no queue: it lets the others get the lock.
const YIELD: Duration = Duration::from_micros(1_500);
/// How long another node counts as writing after it moved the head.
const ACTIVE: Duration = Duration::from_secs(1);
/// How long a batch is retried when other nodes take precedence.
const CONTENTION: Duration = Duration::from_secs(10);
/// The longest pause before such a retry; the first pauses are a fraction of it.
const CONTENTION_PAUSE: Duration = Duration::from_millis(64);

/// The writer's knowledge of other nodes.
pub(super) struct OtherNodes {
    /// Whether other nodes get the lock only if this one pauses.
    need_pauses: bool,
    /// The time when one of them last moved the head.
    moved_at: Option<Instant>,
    /// The time until which nothing is written, so that another one can write.
    pause_until: Option<Instant>,
}

impl OtherNodes {
    /// Knows of none yet. `need_pauses` is [`Store::yields_after_commit`](crate::storage::Store::yields_after_commit).
    pub fn new(need_pauses: bool) -> Self {
        Self { need_pauses, moved_at: None, pause_until: None }
    }

    /// Notes that one of them moved the head.
    pub fn note_move(&mut self) {
        self.moved_at = Some(Instant::now());
    }

    /// Whether one of them moved the head within the last second.
    pub fn are_writing(&self) -> bool {
        self.moved_at.is_some_and(|last| last.elapsed() < ACTIVE)
    }

    /// The pause after a commit, if one of them may want to write.
    pub fn pause(&self) -> Option<Duration> {
        (self.need_pauses && self.are_writing()).then_some(YIELD)
    }

    /// Begins the pause after a commit, without waiting for its end.
    pub fn begin_pause(&mut self) {
        self.pause_until = self.pause().map(|pause| Instant::now() + pause);
    }

    /// The time until which nothing may be written, if it is not over.
    pub fn paused_until(&self) -> Option<Instant> {
        self.pause_until.filter(|until| *until > Instant::now())
    }
}

/// The retries of one batch.
pub(super) struct Backoff {
    since: Instant,
    pause: Duration,
}

impl Backoff {
    /// The batch is tried for the first time now.
    pub fn new() -> Self {
        Self { since: Instant::now(), pause: CONTENTION_PAUSE / 64 }
    }

    /// Whether the batch has been retried for too long.
    pub fn is_over(&self) -> bool {
        self.since.elapsed() >= CONTENTION
    }

    /// Waits before the next retry. The pauses grow; they are random, which spreads nodes that were rejected together.
    pub async fn pause(&mut self) {
        sleep(self.pause.mul_f64(rand::random_range(0.5..1.0))).await;
        self.pause = CONTENTION_PAUSE.min(self.pause * 2);
    }
}

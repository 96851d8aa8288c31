//! The way into the ledger: bounded, with lanes that do not hold each other up, and in each of them turns by principal.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, TryAcquireError};
use tokio::time::timeout;

use super::budget::Budget;
use super::counters::Counters;
use super::lane::FairLane;
use super::retry::{Retries, RetrySlot};
use super::shares::{Lane, Shares};
use super::submission::{Admission, Submission};
use crate::lifecycle::Command;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;

#[cfg(test)]
mod tests;

/// Most submissions of one batch, and what they cost together: one more may begin below it.
const BATCH: Room = Room { submissions: 1_024, cost: 1024 * 1024 };
/// Each lane has this part of a batch for certain.
const LANES: usize = 4;

/// So many turns of the other tasks without a new submission end the gathering of a batch.
const IDLE_TURNS: usize = 8;
/// How long rotations wait at most for what earlier ones superseded.
const HOLD: Duration = Duration::from_millis(50);

/// How much may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Cryptographic operations.
    pub operations: usize,
    /// Changes.
    pub changes: usize,
    /// Bytes that operations hold: copies of large inputs, and results that wait for their commit.
    pub bytes: usize,
}

/// What a batch may still take.
#[derive(Clone, Copy)]
struct Room {
    submissions: usize,
    cost: usize,
}

impl Room {
    fn is_left(self) -> bool {
        self.submissions > 0 && self.cost > 0
    }

    fn without(self, submission: &Submission) -> Self {
        Self { submissions: self.submissions.saturating_sub(1), cost: self.cost.saturating_sub(submission.cost) }
    }

    /// The part of a batch that is one lane's, as far as there is room.
    fn part(self) -> Self {
        Self { submissions: self.submissions.min(BATCH.submissions / LANES), cost: self.cost.min(BATCH.cost / LANES) }
    }
}

#[derive(Default)]
struct Lanes {
    /// Already released to their callers: whatever comes later must stand behind them in the log.
    released: VecDeque<Submission>,
    /// What these cost, with those that are being committed, and may cost.
    released_cost: usize,
    releasable_cost: usize,
    /// Superseded before: they go ahead of the next rotation, or they could be superseded for ever.
    again: FairLane,
    /// Changes other than rotations.
    changes: FairLane,
    rotations: FairLane,
    uses: FairLane,
    closed: bool,
    /// Changes queued or being committed.
    changing: usize,
    /// The revision of the last committed change: what was decided at an older one is not released.
    revision: u64,
    /// Set while released results cannot be written: nothing more is released then.
    held: bool,
    /// Versions that have encrypted as much as they may: with these, nothing is released before it is counted.
    exhausted: HashSet<(KeyId, u32)>,
    /// Since when rotations wait for superseded submissions.
    waiting_since: Option<Instant>,
}

/// The queue.
pub struct Queue {
    /// For those who watch.
    pub counters: Counters,
    lanes: Mutex<Lanes>,
    retries: Arc<Retries>,
    /// How many results may be released and not yet written.
    releasable: usize,
    /// Whether only the service itself is let in, which is closing.
    is_shut: AtomicBool,
    shares: Arc<Shares>,
    operations: Arc<Semaphore>,
    changes: Arc<Semaphore>,
    budget: Arc<Budget>,
}

impl Queue {
    /// An empty queue.
    pub fn new(limits: Limits) -> Self {
        Self {
            counters: Counters::default(),
            lanes: Mutex::default(),
            retries: Arc::default(),
            shares: Arc::default(),
            is_shut: AtomicBool::new(false),
            releasable: limits.operations.div_ceil(4),
            operations: Arc::new(Semaphore::new(limits.operations)),
            changes: Arc::new(Semaphore::new(limits.changes)),
            budget: Arc::new(Budget::new(limits.bytes)),
        }
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets an operation in whose result has about this many bytes, or refuses it before any work is done.
    ///
    /// No principal may hold more places than are free: one alone gets half of them, two a third each, so that there is
    /// always room for one who comes later.
    pub fn admit(self: &Arc<Self>, lane: Lane, principal: &str, bytes: usize) -> Result<Arc<Admission>> {
        if self.is_shut() { Err(closed()) } else { self.admit_last(lane, principal, bytes) }
    }

    /// The same for what the service itself has to write before it is closed.
    pub fn admit_last(self: &Arc<Self>, lane: Lane, principal: &str, bytes: usize) -> Result<Arc<Admission>> {
        let refuse = |error: TryAcquireError| match error {
            TryAcquireError::Closed => closed(),
            TryAcquireError::NoPermits => {
                Error::new(ErrorCode::Overloaded, "too many operations in flight; nothing was done, retry later")
            }
        };
        let places = if lane == Lane::Change { &self.changes } else { &self.operations };
        let operations = Arc::clone(places).try_acquire_owned().map_err(refuse)?;
        let share = self.shares.take(lane, principal, places.available_permits() + 1)?;
        // What is less than a kibibyte is not worth the lock: the places bound it.
        let bytes = if bytes < 1024 { None } else { Some(self.budget.take(principal, bytes)?) };
        Ok(Arc::new(Admission { _operations: operations, _bytes: bytes, _share: share }))
    }

    /// Puts a submission in. If it may be released before its commit, and no change is pending, `released` is set.
    pub fn push(&self, mut submission: Submission, release: Option<crate::Timestamp>) -> Result<bool> {
        // Paid when it is back in its lane, and not under the lock.
        let retry = submission.retry.take();
        let mut lanes = self.lanes();
        if lanes.closed {
            return Err(closed());
        }
        // A full lane of released results holds its next callers back until theirs are written.
        let released = release.is_some_and(|now| submission.holds_at(now))
            && submission.decided_at == lanes.revision
            && lanes.changing == 0
            && !lanes.held
            && !submission.encrypts_with(&lanes.exhausted)
            && lanes.released.len() < self.releasable
            && lanes.released_cost < lanes.releasable_cost;
        lanes.changing += usize::from(submission.command.is_some());
        if released {
            submission.released_at = release;
            lanes.released_cost += submission.cost;
            lanes.released.push_back(submission);
        } else if is_rotation(&submission) {
            // One that comes back is the next, but never before what rotations superseded: that could be superseded for
            // ever.
            if retry.is_some() { lanes.rotations.push_front(submission) } else { lanes.rotations.push(submission) }
        } else if retry.is_some() {
            lanes.again.push(submission);
        } else if submission.command.is_some() {
            lanes.changes.push(submission);
        } else {
            lanes.uses.push(submission);
        }
        drop(lanes);
        drop(retry);
        self.retries.ready.notify_one();
        Ok(released)
    }

    /// Waits for submissions and takes what is there. None when the queue is closed and empty.
    pub async fn take(&self) -> Option<Vec<Submission>> {
        let mut batch = Vec::new();
        loop {
            let holding = {
                let mut lanes = self.lanes();
                lanes.take(&mut batch, self.retries.is_waiting());
                if !batch.is_empty() {
                    return Some(batch);
                }
                if lanes.closed {
                    return None;
                }
                !lanes.rotations.is_empty()
            };
            if holding {
                // Rotations that wait are let go when their time is over, whatever happens.
                let _ = timeout(HOLD, self.retries.ready.notified()).await;
            } else {
                self.retries.ready.notified().await;
            }
        }
    }

    /// Callers who were just answered come back at once. To commit for the first of them alone would make the others
    /// wait for a commit of their own: while fewer than `missing` wait, the other tasks get some turns.
    pub async fn gather(&self, missing: usize) {
        let mut waiting = self.len();
        let mut idle = 0;
        while waiting < missing && idle < IDLE_TURNS {
            tokio::task::yield_now().await;
            let now = self.len();
            idle = if now == waiting { idle + 1 } else { 0 };
            waiting = now;
        }
    }

    /// Adds what has come meanwhile to a batch.
    pub fn take_more(&self, batch: &mut Vec<Submission>) {
        self.lanes().take(batch, self.retries.is_waiting());
    }

    /// Notes that a submission was superseded and comes back.
    pub fn open_retry(&self) -> RetrySlot {
        self.retries.open()
    }

    /// Says that so many changes have been answered, and released results that cost so much been written.
    pub fn ended(&self, changes: usize, released_cost: usize) {
        let mut lanes = self.lanes();
        lanes.changing = lanes.changing.saturating_sub(changes);
        lanes.released_cost = lanes.released_cost.saturating_sub(released_cost);
    }

    /// Says which revision the last committed change has.
    pub fn set_revision(&self, revision: u64) {
        self.lanes().revision = revision;
    }

    /// Notes that a version has encrypted as much as it may.
    pub fn exhaust(&self, key: KeyId, version: u32) {
        self.lanes().exhausted.insert((key, version));
    }

    /// Says what results may cost that are released before their commit; none if there may be none.
    pub fn set_releasable(&self, cost: Option<usize>) {
        let mut lanes = self.lanes();
        lanes.held = cost.is_none();
        lanes.releasable_cost = cost.unwrap_or(lanes.releasable_cost);
    }

    /// Says whether results may be released before their commit.
    pub fn hold_releases(&self, held: bool) {
        self.lanes().held = held;
    }

    /// Takes everything that was not released: while released results cannot be written, it cannot be either.
    pub fn take_unreleased(&self) -> Vec<Submission> {
        let mut lanes = self.lanes();
        let Lanes { again, changes, rotations, uses, .. } = &mut *lanes;
        [again, changes, rotations, uses].into_iter().flat_map(FairLane::drain).collect()
    }

    /// Whether the queue is closed.
    pub fn is_closed(&self) -> bool {
        self.lanes().closed
    }

    /// Lets no operation in any more. Those that are under way can still be submitted.
    pub fn shut(&self) {
        self.is_shut.store(true, Ordering::SeqCst);
    }

    /// Whether that is so.
    pub fn is_shut(&self) -> bool {
        self.is_shut.load(Ordering::SeqCst)
    }

    /// Closes the queue: nothing new comes in, what is in it is still taken.
    pub fn close(&self) {
        self.lanes().closed = true;
        self.operations.close();
        self.changes.close();
        self.retries.ready.notify_one();
    }

    /// Closes the queue for good: what is in it is given up, and its callers are told so.
    pub fn abandon(&self) {
        self.close();
        let mut guard = self.lanes();
        guard.released_cost = 0;
        let Lanes { released, again, changes, rotations, uses, .. } = &mut *guard;
        let given_up = (std::mem::take(released), [again, changes, rotations, uses].map(std::mem::take));
        // Dropped outside of the lock: submissions give back what they hold.
        drop(guard);
        drop(given_up);
    }

    /// How many submissions wait.
    pub fn len(&self) -> usize {
        let lanes = self.lanes();
        let Lanes { released, again, changes, rotations, uses, .. } = &*lanes;
        released.len() + again.len() + changes.len() + rotations.len() + uses.len()
    }
}

impl Lanes {
    /// Adds submissions to a batch, as many as it may have. Rotations stay behind while retries are on their way back.
    fn take(&mut self, batch: &mut Vec<Submission>, is_retry_waiting: bool) {
        let mut room = batch.iter().fold(BATCH, Room::without);
        while room.is_left()
            && let Some(submission) = self.released.pop_front()
        {
            room = room.without(&submission);
            batch.push(submission);
        }
        room = fill(room, room.part(), &mut self.again, batch);
        room = fill(room, room.part(), &mut self.changes, batch);
        if self.may_rotate(is_retry_waiting) {
            room = fill(room, room.part(), &mut self.rotations, batch);
        }
        room = fill(room, room.part(), &mut self.uses, batch);
        // What a lane does not need is for the others; but for rotations, which stand behind what they would supersede.
        for lane in [&mut self.again, &mut self.changes, &mut self.uses] {
            room = fill(room, room, lane, batch);
        }
    }

    /// Whether rotations may be taken now. While superseded submissions wait, or are on their way back, they are held
    /// for at most [`HOLD`].
    fn may_rotate(&mut self, is_retry_waiting: bool) -> bool {
        let must_wait = !self.closed && !self.rotations.is_empty() && (is_retry_waiting || !self.again.is_empty());
        if must_wait && self.waiting_since.get_or_insert_with(Instant::now).elapsed() < HOLD {
            return false;
        }
        self.waiting_since = None;
        true
    }
}

/// Adds submissions of a lane to a batch, as far as this part of it goes. Answers what room is left.
fn fill(mut room: Room, mut part: Room, lane: &mut FairLane, batch: &mut Vec<Submission>) -> Room {
    while part.is_left()
        && let Some(submission) = lane.pop()
    {
        part = part.without(&submission);
        room = room.without(&submission);
        batch.push(submission);
    }
    room
}

fn is_rotation(submission: &Submission) -> bool {
    matches!(submission.command, Some(Command::Rotate(..)))
}

fn closed() -> Error {
    Error::new(ErrorCode::Closed, "the service is closed")
}

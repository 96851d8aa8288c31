//! The queue of the ledger: bounded, with lanes that do not block each other, and turns by principal in each lane.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::budget::Budget;
use super::counters::Counters;
use super::lane::FairLane;
use super::retry::{Retries, RetrySlot};
use super::shares::{Lane, Shares, closed};
use super::submission::{Admission, Submission};
use crate::lifecycle::Command;
use crate::types::error::Result;
use crate::types::ids::KeyId;

#[cfg(test)]
mod tests;

/// The maximum number of submissions in a batch, and the cost below which another one may be added.
const BATCH: Room = Room { submissions: 1_024, cost: 1024 * 1024 };
/// Each lane is guaranteed one part in this many of a batch.
const LANES: usize = 4;

/// The number of turns of other tasks without a new submission that end the gathering of a batch.
const IDLE_TURNS: usize = 8;
/// The longest time that rotations wait for submissions that earlier rotations superseded.
pub(super) const HOLD: Duration = Duration::from_millis(50);

/// Limits on operations in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The number of cryptographic operations.
    pub operations: usize,
    /// The number of changes.
    pub changes: usize,
    /// Bytes that operations hold: copies of large inputs, and results that wait for their commit.
    pub bytes: usize,
}

/// The result of an attempt to take a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// There is a batch.
    Batch,
    /// Only rotations wait, which are held back for at most [`HOLD`].
    Held,
    /// The queue is open, and no submission waits.
    Nothing,
    /// The queue is closed and empty.
    Closed,
}

/// The remaining capacity of a batch.
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

    /// The part of a batch that is reserved for one lane, as far as there is room.
    fn part(self) -> Self {
        Self { submissions: self.submissions.min(BATCH.submissions / LANES), cost: self.cost.min(BATCH.cost / LANES) }
    }
}

#[derive(Default)]
struct Lanes {
    /// Results already released to their callers: later submissions must follow them in the log.
    released: VecDeque<Submission>,
    /// The cost of these results and of those being committed.
    released_cost: usize,
    releasable_cost: usize,
    /// Superseded submissions: they precede the next rotation, or they could be superseded indefinitely.
    again: FairLane,
    /// Changes other than rotations.
    changes: FairLane,
    rotations: FairLane,
    uses: FairLane,
    closed: bool,
    /// Changes queued or being committed.
    changing: usize,
    /// The revision of the last committed change: results decided at an older one are not released.
    revision: u64,
    /// Set while nothing more may be released, for example because released results cannot be written.
    held: bool,
    /// Versions that have reached their limit of encryptions: their results are not released before they are counted.
    exhausted: HashSet<(KeyId, u32)>,
    /// The time since which rotations have waited for superseded submissions.
    waiting_since: Option<Instant>,
}

/// The bounded queue of the ledger.
pub struct Queue {
    /// The counters of the ledger, for metrics.
    pub counters: Counters,
    lanes: Mutex<Lanes>,
    retries: Arc<Retries>,
    /// The maximum number of results that are released and not yet written.
    releasable: usize,
    /// Whether only the closing service itself may still submit.
    is_shut: AtomicBool,
    shares: Arc<Shares>,
    budget: Arc<Budget>,
}

impl Queue {
    /// An empty queue with these limits.
    pub fn new(limits: Limits) -> Self {
        Self {
            counters: Counters::default(),
            lanes: Mutex::default(),
            retries: Arc::default(),
            shares: Arc::new(Shares::new(limits.operations, limits.changes)),
            is_shut: AtomicBool::new(false),
            releasable: limits.operations.div_ceil(4),
            budget: Arc::new(Budget::new(limits.bytes)),
        }
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits an operation whose result has about `bytes` bytes, or refuses it before any work is done.
    pub fn admit(self: &Arc<Self>, lane: Lane, principal: &str, bytes: usize) -> Result<Arc<Admission>> {
        if self.is_shut() { Err(closed()) } else { self.admit_last(lane, principal, bytes) }
    }

    /// Like [`admit`](Self::admit), for what the service itself has to write before it is closed.
    pub fn admit_last(self: &Arc<Self>, lane: Lane, principal: &str, bytes: usize) -> Result<Arc<Admission>> {
        let share = self.shares.take(lane, principal)?;
        // Less than a kibibyte is not counted: the number of places bounds it.
        let bytes = if bytes < 1024 { None } else { Some(self.budget.take(principal, bytes)?) };
        Ok(Arc::new(Admission { _bytes: bytes, _share: share }))
    }

    /// Adds a submission whose result is released before its commit, without waking the ledger. Returns the submission
    /// if its result may not be released now, for example because a change is pending.
    pub fn release(&self, mut submission: Submission, now: crate::Timestamp) -> std::result::Result<(), Submission> {
        let retry = submission.retry.take();
        let mut lanes = self.lanes();
        // If the lane of released results is full, further results are released only after their commit.
        let may_be_released = submission.holds_at(now)
            && submission.decided_at == lanes.revision
            && !lanes.closed
            && lanes.changing == 0
            && !lanes.held
            && !submission.encrypts_with(&lanes.exhausted)
            && lanes.released.len() < self.releasable
            && lanes.released_cost < lanes.releasable_cost;
        if !may_be_released {
            return Err(Submission { retry, ..submission });
        }
        submission.release(now);
        lanes.released_cost += submission.cost;
        lanes.released.push_back(submission);
        drop(lanes);
        // Dropped once the submission is back in its lane, and outside the lock.
        drop(retry);
        Ok(())
    }

    /// Adds a submission, without waking the ledger.
    pub fn push(&self, mut submission: Submission) -> Result<()> {
        // Dropped once the submission is back in its lane, and outside the lock.
        let retry = submission.retry.take();
        let mut lanes = self.lanes();
        if lanes.closed {
            return Err(closed());
        }
        lanes.changing += usize::from(submission.command.is_some());
        if is_rotation(&submission) {
            // A rotation that returns goes first among rotations, but never before submissions that rotations
            // superseded: those could be superseded indefinitely.
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
        Ok(())
    }

    /// Wakes the ledger.
    pub fn wake(&self) {
        self.retries.ready.notify_one();
    }

    /// Waits until somebody wakes the ledger.
    pub async fn woken(&self) {
        self.retries.ready.notified().await;
    }

    /// Waits for submissions and takes a batch. None when the queue is closed and empty.
    pub async fn take(&self) -> Option<Vec<Submission>> {
        let mut batch = Vec::new();
        loop {
            match self.take_now(&mut batch) {
                Taken::Batch => return Some(batch),
                Taken::Closed => return None,
                // Waiting rotations proceed after the timeout in any case.
                Taken::Held => drop(timeout(HOLD, self.woken()).await),
                Taken::Nothing => self.woken().await,
            }
        }
    }

    /// Takes a batch, if there is one.
    pub fn take_now(&self, batch: &mut Vec<Submission>) -> Taken {
        let mut lanes = self.lanes();
        lanes.take(batch, self.retries.is_waiting());
        match &*lanes {
            _ if !batch.is_empty() => Taken::Batch,
            lanes if lanes.closed => Taken::Closed,
            lanes if !lanes.rotations.is_empty() => Taken::Held,
            _ => Taken::Nothing,
        }
    }

    /// Yields to other tasks while fewer than `missing` submissions wait. Callers that were just answered submit again
    /// at once; a commit for the first of them alone would make the others wait for another commit.
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

    /// Adds submissions that have arrived in the meantime to a batch.
    pub fn take_more(&self, batch: &mut Vec<Submission>) {
        self.lanes().take(batch, self.retries.is_waiting());
    }

    /// Notes that a submission was superseded and will return.
    pub fn open_retry(&self) -> RetrySlot {
        self.retries.open()
    }

    /// Notes that this many changes were answered, and that released results with this total cost were written.
    pub fn ended(&self, changes: usize, released_cost: usize) {
        let mut lanes = self.lanes();
        lanes.changing = lanes.changing.saturating_sub(changes);
        lanes.released_cost = lanes.released_cost.saturating_sub(released_cost);
    }

    /// Sets the revision of the last committed change.
    pub fn set_revision(&self, revision: u64) {
        self.lanes().revision = revision;
    }

    /// Notes that a version has reached its limit of encryptions.
    pub fn exhaust(&self, key: KeyId, version: u32) {
        self.lanes().exhausted.insert((key, version));
    }

    /// Sets the total cost of results that may be released before their commit; with none, no result may be.
    pub fn set_releasable(&self, cost: Option<usize>) {
        let mut lanes = self.lanes();
        lanes.held = cost.is_none();
        lanes.releasable_cost = cost.unwrap_or(lanes.releasable_cost);
    }

    /// Sets whether releases before the commit are held back.
    pub fn hold_releases(&self, held: bool) {
        self.lanes().held = held;
    }

    /// Takes all unreleased submissions: while released results cannot be written, these cannot be either.
    pub fn take_unreleased(&self) -> Vec<Submission> {
        let mut lanes = self.lanes();
        let Lanes { again, changes, rotations, uses, .. } = &mut *lanes;
        [again, changes, rotations, uses].into_iter().flat_map(FairLane::drain).collect()
    }

    /// Whether the queue is closed.
    pub fn is_closed(&self) -> bool {
        self.lanes().closed
    }

    /// Stops admitting operations. Operations in flight can still be submitted.
    pub fn shut(&self) {
        self.is_shut.store(true, Ordering::SeqCst);
    }

    /// Whether the queue has stopped admitting operations.
    pub fn is_shut(&self) -> bool {
        self.is_shut.load(Ordering::SeqCst)
    }

    /// Closes the queue: new submissions are refused, queued ones are still taken.
    pub fn close(&self) {
        self.lanes().closed = true;
        self.shares.close();
        self.wake();
    }

    /// Closes the queue and abandons all queued submissions; their callers get an error.
    pub fn abandon(&self) {
        self.close();
        let mut guard = self.lanes();
        guard.released_cost = 0;
        let Lanes { released, again, changes, rotations, uses, .. } = &mut *guard;
        let given_up = (std::mem::take(released), [again, changes, rotations, uses].map(std::mem::take));
        // Dropped outside the lock: submissions release their places when dropped.
        drop(guard);
        drop(given_up);
    }

    /// The number of waiting submissions.
    pub fn len(&self) -> usize {
        let lanes = self.lanes();
        let Lanes { released, again, changes, rotations, uses, .. } = &*lanes;
        released.len() + again.len() + changes.len() + rotations.len() + uses.len()
    }
}

impl Lanes {
    /// Adds submissions to a batch up to its limits. Rotations wait while superseded submissions have not returned.
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
        // Unused parts go to the other lanes, except to rotations, which come after the submissions they would
        // supersede.
        for lane in [&mut self.again, &mut self.changes, &mut self.uses] {
            room = fill(room, room, lane, batch);
        }
    }

    /// Whether rotations may be taken now. While superseded submissions wait or have not returned, rotations are held
    /// back for at most [`HOLD`].
    fn may_rotate(&mut self, is_retry_waiting: bool) -> bool {
        let must_wait = !self.closed && !self.rotations.is_empty() && (is_retry_waiting || !self.again.is_empty());
        if must_wait && self.waiting_since.get_or_insert_with(Instant::now).elapsed() < HOLD {
            return false;
        }
        self.waiting_since = None;
        true
    }
}

/// Adds submissions of a lane to a batch, up to this part of it. Returns the room that is left.
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
    matches!(submission.command.as_deref(), Some(Command::Rotate(..)))
}

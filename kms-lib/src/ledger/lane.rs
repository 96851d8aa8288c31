//! Submissions of one kind that wait, in turns by principal: start-time fair queueing.
//!
//! Each submission gets a start on a clock that counts cost, not time: that of the submission which was taken last, or
//! the end of the one that its principal put in before, whichever is later. Its end is its cost later. The earliest
//! start is taken first. So a principal with much work, in however many submissions, gets no larger share of the ledger
//! than one with little, and what costs little waits for at most one submission of each other principal.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::submission::Submission;

/// Principals whose work is done are looked for when there are more than this, and twice as many as were left last
/// time.
const KEPT: usize = 256;
/// The number of the first submission. What comes back to the front gets smaller ones.
const FIRST: u64 = 1 << 63;

/// A lane.
pub(super) struct FairLane {
    /// By start, then by arrival.
    waiting: BTreeMap<(u64, u64), Submission>,
    /// Where each principal's next submission starts at the earliest.
    ends: HashMap<Arc<str>, u64>,
    /// With more than this, those that are of no importance any more are looked for.
    most_ends: usize,
    /// The start of what was taken last.
    now: u64,
    /// The number of the next arrival, and of the next return to the front.
    arrival: u64,
    front: u64,
}

impl Default for FairLane {
    fn default() -> Self {
        let (waiting, ends) = (BTreeMap::new(), HashMap::new());
        Self { waiting, ends, most_ends: KEPT, now: 0, arrival: FIRST, front: FIRST }
    }
}

impl FairLane {
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Puts a submission behind those of its principal.
    pub fn push(&mut self, submission: Submission) {
        let cost = submission.cost as u64;
        let start = match self.ends.get_mut(submission.principal()) {
            Some(end) => {
                let start = self.now.max(*end);
                *end = start + cost;
                start
            }
            None => {
                self.forget();
                self.ends.insert(Arc::clone(submission.principal()), self.now + cost);
                self.now
            }
        };
        self.waiting.insert((start, self.arrival), submission);
        self.arrival += 1;
    }

    /// Puts a submission ahead of all that wait.
    pub fn push_front(&mut self, submission: Submission) {
        self.front -= 1;
        self.waiting.insert((self.now, self.front), submission);
    }

    /// Takes the submission whose turn it is.
    pub fn pop(&mut self) -> Option<Submission> {
        let ((start, _), submission) = self.waiting.pop_first()?;
        self.now = start;
        if self.waiting.is_empty() {
            // Who comes next competes with nobody who was there before.
            self.ends.clear();
        }
        Some(submission)
    }

    /// How many principals are remembered.
    #[cfg(test)]
    pub fn ends_len(&self) -> usize {
        self.ends.len()
    }

    /// Takes everything.
    pub fn drain(&mut self) -> impl Iterator<Item = Submission> + use<> {
        self.ends.clear();
        std::mem::take(&mut self.waiting).into_values()
    }

    /// Forgets principals that would start now anyway, when there are many.
    fn forget(&mut self) {
        if self.ends.len() >= self.most_ends {
            self.ends.retain(|_, end| *end > self.now);
            self.most_ends = KEPT.max(2 * self.ends.len());
        }
    }
}

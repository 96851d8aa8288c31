//! Waiting submissions of one kind, taken in turns by principal: start-time fair queueing.
//!
//! Each submission gets a start on a virtual clock that counts cost, not time: the start of the submission taken last,
//! or the end of its principal's previous submission, whichever is later. Its end is its start plus its cost. The
//! submission with the earliest start is taken first. A principal with much work, in any number of submissions,
//! therefore gets no larger share of the ledger than one with little, and a cheap submission waits for at most one
//! submission of each other principal.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::submission::Submission;

/// Idle principals are removed when there are more than this, and more than twice as many as remained last time.
const KEPT: usize = 256;
/// The number of the first submission. Submissions put at the front get smaller numbers.
const FIRST: u64 = 1 << 63;

/// A lane of the queue with fair turns by principal.
pub(super) struct FairLane {
    /// The waiting submissions, by start, then by arrival.
    waiting: BTreeMap<(u64, u64), Submission>,
    /// The earliest start of each principal's next submission.
    ends: HashMap<Arc<str>, u64>,
    /// The number of principals above which idle ones are removed.
    most_ends: usize,
    /// The start of the submission that was taken last.
    now: u64,
    /// The number of the next submission that arrives at the back.
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

    /// Adds a submission after the others of its principal.
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

    /// Adds a submission before all waiting ones.
    pub fn push_front(&mut self, submission: Submission) {
        self.front -= 1;
        self.waiting.insert((self.now, self.front), submission);
    }

    /// Takes the submission whose turn it is.
    pub fn pop(&mut self) -> Option<Submission> {
        let ((start, _), submission) = self.waiting.pop_first()?;
        self.now = start;
        if self.waiting.is_empty() {
            // The lane is empty, so earlier use no longer counts.
            self.ends.clear();
        }
        Some(submission)
    }

    /// The number of remembered principals.
    #[cfg(test)]
    pub fn ends_len(&self) -> usize {
        self.ends.len()
    }

    /// Takes all submissions, in their order.
    pub fn drain(&mut self) -> impl Iterator<Item = Submission> + use<> {
        self.ends.clear();
        std::mem::take(&mut self.waiting).into_values()
    }

    /// Removes principals whose next submission could start now, when there are many.
    fn forget(&mut self) {
        if self.ends.len() >= self.most_ends {
            self.ends.retain(|_, end| *end > self.now);
            self.most_ends = KEPT.max(2 * self.ends.len());
        }
    }
}

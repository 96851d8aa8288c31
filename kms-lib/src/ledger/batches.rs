//! Committing what was taken from the queue, and answering it. A failure that may be due to one submission does not
//! become that of the others.

use tokio::time::sleep;

use super::disk_space::Space;
use super::submission::{Outcome, Submission};
use super::writer::{RETRY, Writer};
use crate::lifecycle::Command;
use crate::types::error::{Error, ErrorCode};

impl Writer {
    /// Commits released results, together with the rest if that succeeds at once; retries until it does.
    pub(super) async fn commit_released(&mut self, mut released: Vec<Submission>, rest: &mut Vec<Submission>) {
        released.append(rest);
        // Those that were not released, once one of them may be why nothing can be written.
        let mut apart = Vec::new();
        loop {
            match self.try_commit(&released).await {
                Ok(plan) => {
                    self.answer(released, plan.outcomes);
                    return self.commit(apart).await;
                }
                // What was promised is written before anything else, from the reserve if need be.
                Err(error) if error.code() == ErrorCode::StoreFull && self.space.ran_out() => {}
                Err(error) => {
                    let (keep, failed): (Vec<_>, Vec<_>) =
                        released.into_iter().partition(|submission| submission.released_at.is_some());
                    released = keep;
                    if self.is_at_fault && may_be_one_culprit(error.code()) && !failed.is_empty() {
                        apart = failed;
                        continue;
                    }
                    // What is not written yet is not lost; it is tried again many times a second.
                    self.outage.note(&error, 0);
                    // What was not released fails now; nothing new is released while the queue is closed to it.
                    self.fail(failed, &error);
                    self.fail(std::mem::take(&mut apart), &error);
                    if self.stopped.is_some() || self.queue.is_closed() {
                        self.lost.get_or_insert((0, error.clone())).0 += released.len();
                        return self.fail(released, &error);
                    }
                    self.queue.hold_releases(true);
                    // Who comes meanwhile must not wait for as long as this takes.
                    self.fail(self.queue.take_unreleased(), &error);
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Commits a batch; halves it as long as it fails for a reason that only one of its submissions may have.
    pub(super) async fn commit(&mut self, batch: Vec<Submission>) {
        let mut waiting = vec![batch];
        while let Some(mut batch) = waiting.pop() {
            if self.space.is_full() {
                let (urgent, others) = batch.into_iter().partition(takes_away);
                self.fail(others, &Space::error());
                batch = urgent;
            }
            if batch.is_empty() {
                continue;
            }
            match self.try_commit(&batch).await {
                Ok(plan) => self.answer(batch, plan.outcomes),
                Err(error) if error.code() == ErrorCode::StoreFull && self.has_room_left(&batch) => waiting.push(batch),
                Err(error) if batch.len() > 1 && self.is_at_fault && may_be_one_culprit(error.code()) => {
                    let second = batch.split_off(batch.len() / 2);
                    waiting.push(second);
                    waiting.push(batch);
                }
                Err(error) => self.fail(batch, &error),
            }
        }
    }

    /// Whether it is worth trying again to write something of this batch, although the store is full: the room of the
    /// reserve is for what takes rights or keys away.
    fn has_room_left(&self, batch: &[Submission]) -> bool {
        let released = self.space.ran_out();
        let urgent = batch.iter().filter(|submission| takes_away(submission)).count();
        released || (0 < urgent && urgent < batch.len() && self.space.is_full())
    }

    fn answer(&self, batch: Vec<Submission>, outcomes: Vec<Outcome>) {
        // On a disk that is getting full, what is promised might find no room.
        self.queue.hold_releases(self.space.is_low());
        let mut changes = 0;
        for (submission, outcome) in batch.into_iter().zip(outcomes) {
            changes += usize::from(submission.command.is_some());
            let outcome = match outcome {
                Outcome::Redo(_) => Outcome::Redo(Some(self.queue.open_retry())),
                other => other,
            };
            // The place is given back first: the caller may come again as soon as it has its answer.
            let Submission { reply, _admission: admission, .. } = submission;
            drop(admission);
            // The caller may have dropped its future; ignore the send error.
            let _ = reply.send(outcome);
        }
        self.queue.changed(changes);
    }

    fn fail(&self, batch: Vec<Submission>, error: &Error) {
        if is_outage(error.code()) {
            self.outage.note(error, batch.len());
        }
        let outcomes = batch.iter().map(|_| Outcome::Failed(error.clone())).collect();
        let held = self.queue.holds_releases();
        self.answer(batch, outcomes);
        self.queue.hold_releases(held);
    }
}

/// Whether this is a change that takes rights or keys away: it is still written when the store is full.
fn takes_away(submission: &Submission) -> bool {
    submission.command.as_ref().is_some_and(Command::takes_away)
}

/// Whether a failure to write a batch may be due to one of its submissions: then the others must not fail with it. All
/// but what says that the store, or the ledger, cannot be used at all. A statement that is too large for a server is
/// `InvalidConfiguration`.
fn may_be_one_culprit(code: ErrorCode) -> bool {
    !matches!(
        code,
        ErrorCode::StoreUnavailable
            | ErrorCode::StoreContended
            | ErrorCode::StoreFull
            | ErrorCode::StoreReadOnly
            | ErrorCode::ClockSkew
            | ErrorCode::IntegrityFailure
            | ErrorCode::OutcomeUnknown
            | ErrorCode::Closed
    )
}

/// Whether a failure says that the store does not answer.
fn is_outage(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::StoreUnavailable | ErrorCode::OutcomeUnknown)
}

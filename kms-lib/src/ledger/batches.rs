//! Committing and answering the submissions of a batch. A failure that one submission may have caused does not fail the
//! others.

use tokio::time::sleep;

use super::disk_space::Space;
use super::failure::Failure;
use super::submission::{Admission, Outcome, Submission};
use super::writer::{RETRY, Writer};
use crate::lifecycle::Command;
use crate::types::error::{Error, ErrorCode};

impl Writer {
    /// Commits released results, together with the rest if that succeeds at once; retries the released ones until they
    /// are written.
    pub(super) async fn commit_released(&mut self, mut released: Vec<Submission>, rest: &mut Vec<Submission>) {
        released.append(rest);
        // Submissions that were not released, set apart once one of them may be the cause of the failure.
        let mut apart = Vec::new();
        let mut has_made_room = false;
        loop {
            match self.try_commit(&released).await {
                Ok(plan) => {
                    self.answer_committed(released, plan.outcomes);
                    return self.commit(apart).await;
                }
                // Released results are written first, from the disk reserve if necessary. Other submissions may not use
                // the reserve.
                Err(Failure::StoreFull(_))
                    if self.make_room().await || !std::mem::replace(&mut has_made_room, true) =>
                {
                    let (keep, others): (Vec<_>, Vec<_>) = released
                        .into_iter()
                        .partition(|submission| submission.released_at.is_some() || takes_away(submission));
                    released = keep;
                    self.fail(others, &Space::error());
                }
                Err(failure) => {
                    let (keep, failed): (Vec<_>, Vec<_>) =
                        released.into_iter().partition(|submission| submission.released_at.is_some());
                    released = keep;
                    if matches!(failure, Failure::OneSubmission(_)) && !failed.is_empty() {
                        apart = failed;
                        continue;
                    }
                    let error = failure.error();
                    // Released results are not lost: they are retried many times a second.
                    self.outage.note(error, 0);
                    // Done first, because callers that get the failure may retry at once.
                    self.queue.hold_releases(true);
                    // Submissions that were not released fail now; nothing new is released while the queue is closed to
                    // it.
                    self.fail(failed, error);
                    self.fail(std::mem::take(&mut apart), error);
                    if self.log.stopped.is_some() || self.queue.is_closed() {
                        self.lost.get_or_insert((0, error.clone())).0 += released.len();
                        return self.fail(released, error);
                    }
                    // Callers that submit in the meantime must not wait for as long as this takes.
                    self.fail(self.queue.take_unreleased(), error);
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Commits a batch; halves it as long as it fails for a reason that may lie in a single submission.
    pub(super) async fn commit(&mut self, batch: Vec<Submission>) {
        let mut waiting = vec![batch];
        let mut has_made_room = false;
        while let Some(mut batch) = waiting.pop() {
            if self.deps.space.is_full() {
                batch = self.keep_urgent(batch);
            } else {
                self.rations.clear();
            }
            if batch.is_empty() {
                continue;
            }
            match self.try_commit(&batch).await {
                Ok(plan) => self.answer_committed(batch, plan.outcomes),
                Err(Failure::StoreFull(_))
                    if self.has_room_left(&batch).await || !std::mem::replace(&mut has_made_room, true) =>
                {
                    waiting.push(batch);
                }
                Err(Failure::OneSubmission(_)) if batch.len() > 1 => {
                    let second = batch.split_off(batch.len() / 2);
                    waiting.push(second);
                    waiting.push(batch);
                }
                Err(failure) => self.fail(batch, failure.error()),
            }
        }
    }

    /// Whether part of this batch should be retried although the store is full: the disk reserve is for changes that
    /// revoke permissions or keys.
    async fn has_room_left(&mut self, batch: &[Submission]) -> bool {
        let released = self.make_room().await;
        let urgent = batch.iter().filter(|submission| takes_away(submission)).count();
        released || (0 < urgent && urgent < batch.len() && self.deps.space.is_full())
    }

    /// The submissions of a batch that are written on a full disk: those that revoke permissions or keys, unless their
    /// principal has used too much of the disk reserve. The rest fails.
    fn keep_urgent(&mut self, batch: Vec<Submission>) -> Vec<Submission> {
        // Released results may have used the other half.
        let reserve = self.deps.space.reserve() / 2;
        let (urgent, others) = batch.into_iter().partition(|submission| {
            takes_away(submission) && self.rations.take(submission.principal(), submission.cost, reserve)
        });
        self.fail(others, &Space::error());
        urgent
    }

    /// Handles a full store: releases the disk reserve, and returns whether that made room. The contents of the
    /// engine's own log are moved into the database, so that the log need not grow.
    async fn make_room(&mut self) -> bool {
        let released = self.deps.space.ran_out();
        self.connection.empty_log().await;
        released
    }

    /// Answers the submissions of a committed batch. Only a commit allows results to be released before their records
    /// are written again: after a failure, and once the ledger has stopped, the records might never be written.
    fn answer_committed(&self, batch: Vec<Submission>, outcomes: Vec<Outcome>) {
        // On a disk that is almost full, there might be no room for the records of released results.
        self.queue.set_releasable(self.deps.space.releasable());
        self.answer(batch, outcomes);
    }

    fn answer(&self, batch: Vec<Submission>, outcomes: Vec<Outcome>) {
        let (mut changes, mut released_cost) = (0, 0);
        let mut admissions = Vec::with_capacity(batch.len());
        let mut answers = Vec::with_capacity(batch.len());
        for (submission, outcome) in batch.into_iter().zip(outcomes) {
            changes += usize::from(submission.command.is_some());
            released_cost += submission.released_at.map_or(0, |_| submission.cost);
            let outcome = match outcome {
                Outcome::Redo(_) => Outcome::Redo(Some(self.queue.open_retry())),
                other => other,
            };
            let Submission { reply, admission, .. } = submission;
            admissions.push(admission);
            answers.extend(reply.map(|reply| (reply, outcome)));
        }
        // The places are released first: a caller may submit again as soon as it has its answer.
        Admission::end_all(admissions);
        for (reply, outcome) in answers {
            // The caller may have dropped its future; ignore the send error.
            let _ = reply.send(outcome);
        }
        self.queue.ended(changes, released_cost);
    }

    fn fail(&self, batch: Vec<Submission>, error: &Error) {
        if is_outage(error.code()) {
            self.outage.note(error, batch.len());
        }
        let outcomes = batch.iter().map(|_| Outcome::Failed(error.clone())).collect();
        self.answer(batch, outcomes);
    }
}

/// Whether this is a change that revokes permissions or keys: it is still written when the store is full.
fn takes_away(submission: &Submission) -> bool {
    submission.command.as_deref().is_some_and(Command::takes_away)
}

/// Whether a failure means that the store does not respond.
fn is_outage(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::StoreUnavailable | ErrorCode::OutcomeUnknown)
}

//! Committing and answering the submissions of a batch. A failure that one submission may have caused does not fail the
//! others.

use tokio::time::sleep;

use super::disk_space::Space;
use super::submission::{Outcome, Submission};
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
                Err(error)
                    if error.code() == ErrorCode::StoreFull
                        && (self.make_room().await || !std::mem::replace(&mut has_made_room, true)) =>
                {
                    let (keep, others): (Vec<_>, Vec<_>) = released
                        .into_iter()
                        .partition(|submission| submission.released_at.is_some() || takes_away(submission));
                    released = keep;
                    self.fail(others, &Space::error());
                }
                Err(error) => {
                    let (keep, failed): (Vec<_>, Vec<_>) =
                        released.into_iter().partition(|submission| submission.released_at.is_some());
                    released = keep;
                    if self.is_at_fault && may_be_one_culprit(error.code()) && !failed.is_empty() {
                        apart = failed;
                        continue;
                    }
                    // Released results are not lost: they are retried many times a second.
                    self.outage.note(&error, 0);
                    // Done first, because callers that get the failure may retry at once.
                    self.queue.hold_releases(true);
                    // What was not released fails now; nothing new is released while the queue is closed to it.
                    self.fail(failed, &error);
                    self.fail(std::mem::take(&mut apart), &error);
                    if self.stopped.is_some() || self.queue.is_closed() {
                        self.lost.get_or_insert((0, error.clone())).0 += released.len();
                        return self.fail(released, &error);
                    }
                    // Who comes meanwhile must not wait for as long as this takes.
                    self.fail(self.queue.take_unreleased(), &error);
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
                Err(error)
                    if error.code() == ErrorCode::StoreFull
                        && (self.has_room_left(&batch).await || !std::mem::replace(&mut has_made_room, true)) =>
                {
                    waiting.push(batch);
                }
                Err(error) if batch.len() > 1 && self.is_at_fault && may_be_one_culprit(error.code()) => {
                    let second = batch.split_off(batch.len() / 2);
                    waiting.push(second);
                    waiting.push(batch);
                }
                Err(error) => self.fail(batch, &error),
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
        self.empty_log().await;
        released
    }

    /// Moves the contents of the engine's own log into the database. On a full disk this is done after every commit:
    /// the log would use up the disk reserve before the engine moves them automatically.
    pub(super) async fn empty_log(&mut self) {
        if let Some(connection) = &mut self.connection
            && let Err(error) = connection.checkpoint().await
        {
            tracing::debug!(%error, "the store's write-ahead log cannot be moved into the database");
        }
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
        for (submission, outcome) in batch.into_iter().zip(outcomes) {
            changes += usize::from(submission.command.is_some());
            released_cost += submission.released_at.map_or(0, |_| submission.cost);
            let outcome = match outcome {
                Outcome::Redo(_) => Outcome::Redo(Some(self.queue.open_retry())),
                other => other,
            };
            // The place is released first: the caller may submit again as soon as it has its answer.
            let Submission { reply, admission, .. } = submission;
            drop(admission);
            if let Some(reply) = reply {
                // The caller may have dropped its future; ignore the send error.
                let _ = reply.send(outcome);
            }
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

/// Whether one submission may have caused the failure to write a batch: then the others must not fail with it. Excluded
/// are the codes for a store or ledger that cannot be used at all. A statement that is too large for a server is
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

/// Whether a failure means that the store does not respond.
fn is_outage(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::StoreUnavailable | ErrorCode::OutcomeUnknown)
}

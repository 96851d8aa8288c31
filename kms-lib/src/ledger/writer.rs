//! The one task that writes: takes a batch, locks the head, walks, writes, signs, commits, answers.
//!
//! It is never aborted. Whoever waits for an answer may go away; what is being committed is committed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::queue::Queue;
use super::signer::{HeadKeys, Signer};
use super::space::Space;
use super::submission::{Outcome, Submission};
use super::walk::{Place, Plan, Replacement, walk};
use crate::catalog::{Catalog, MaterialCache, Trust, change_row};
use crate::keys::Command;
use crate::storage::tables::secrets::{self, ServiceKeyRow};
use crate::storage::tables::{audit, entities, head, idempotency, usage};
use crate::storage::{Connection, Store};
use crate::types::audit::{Head, StoredCheckpoint};
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::key::VersionState;
use crate::types::limits::ENCRYPTIONS_MAX;
use crate::types::time::{Clock, Timestamp};

/// A clock further behind the log's last record than this commits nothing.
const CLOCK_SKEW: Duration = Duration::from_secs(30);
/// A signed state of the log is kept for every so many records.
const CHECKPOINT_EVERY: u64 = 8_192;
/// How long callers wait while it is unclear whether their commit took place.
const SETTLE: Duration = Duration::from_secs(10);
/// How often a batch of released results is tried again when the store cannot be written.
const RETRY: Duration = Duration::from_millis(100);
/// After a commit on a store that others write too, the time they have to get the lock, where it has no queue.
const YIELD: Duration = Duration::from_micros(1_500);
/// How long a batch is tried again when other nodes come first.
const CONTENTION: Duration = Duration::from_secs(10);
/// The longest pause before such a try; they begin with a fraction of it.
const CONTENTION_PAUSE: Duration = Duration::from_millis(64);

pub(super) struct Writer {
    pub store: Arc<dyn Store>,
    pub space: Arc<Space>,
    pub catalog: Arc<Catalog>,
    pub materials: Arc<MaterialCache>,
    pub queue: Arc<Queue>,
    pub signer: Arc<Signer>,
    pub default_grace_days: Option<u32>,
    pub clock: Clock,
    /// The end of the log as this process last saw it.
    pub known: Head,
    pub connection: Option<Box<dyn Connection>>,
    pub exhausted: HashSet<(KeyId, u32)>,
    /// Set once the log contradicts what this process has committed: nothing is written any more.
    pub stopped: Option<Error>,
    /// Another process has replaced the key that signs the log: its successor must be read first.
    pub keys_behind: bool,
    /// When another process last moved the head.
    pub contended: Option<Instant>,
}

impl Writer {
    /// Works until the queue is closed and empty.
    pub async fn run(mut self) {
        // Should this task end before its time, nobody must wait for it for ever.
        let _end = End(Arc::clone(&self.queue));
        let mut last = 0;
        while let Some(batch) = self.queue.take(last).await {
            last = batch.len();
            // Released results must reach the log: their callers are gone and cannot be told otherwise.
            let (released, mut rest): (Vec<_>, Vec<_>) = batch.into_iter().partition(|s| s.released_at.is_some());
            if released.is_empty() {
                self.commit(rest).await;
            } else {
                self.commit_released(released, &mut rest).await;
            }
            if self.store.makes_way() && self.contended.is_some_and(|last| last.elapsed() < Duration::from_secs(1)) {
                sleep(YIELD).await;
            }
        }
        if let Some(connection) = self.connection.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "the writing connection did not close cleanly");
        }
    }

    /// Commits released results, together with the rest if that succeeds at once; retries until it does.
    async fn commit_released(&mut self, mut released: Vec<Submission>, rest: &mut Vec<Submission>) {
        released.append(rest);
        loop {
            match self.try_commit(&mut released).await {
                Ok(plan) => return self.answer(released, plan.outcomes),
                // What was promised is written before anything else, from the reserve if need be.
                Err(error) if error.code() == ErrorCode::StoreFull && self.space.ran_out() => {}
                Err(error) => {
                    tracing::error!(%error, "results that were released cannot be written to the log yet");
                    // What was not released fails now; nothing new is released while the queue is closed to it.
                    let (keep, failed): (Vec<_>, Vec<_>) =
                        released.into_iter().partition(|submission| submission.released_at.is_some());
                    self.fail(failed, &error);
                    released = keep;
                    if self.stopped.is_some() || self.queue.is_closed() {
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
    async fn commit(&mut self, batch: Vec<Submission>) {
        let mut waiting = vec![batch];
        while let Some(mut batch) = waiting.pop() {
            if self.space.is_full() {
                let (urgent, others) = batch.into_iter().partition(takes_away);
                self.fail(others, &Space::error());
                batch = urgent;
                if batch.is_empty() {
                    continue;
                }
            }
            match self.try_commit(&mut batch).await {
                Ok(plan) => self.answer(batch, plan.outcomes),
                Err(error) if error.code() == ErrorCode::StoreFull && self.has_room_left(&batch) => waiting.push(batch),
                Err(error) if batch.len() > 1 && may_be_one_culprit(error.code()) => {
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
                Outcome::Redo(_) => Outcome::Redo(Some(self.queue.owe())),
                other => other,
            };
            // Who went away meanwhile does not want its answer.
            let _ = submission.reply.send(outcome);
        }
        self.queue.changed(changes);
    }

    fn fail(&self, batch: Vec<Submission>, error: &Error) {
        let outcomes = batch.iter().map(|_| Outcome::Failed(error.clone())).collect();
        let held = self.queue.holds_releases();
        self.answer(batch, outcomes);
        self.queue.hold_releases(held);
    }

    /// A transaction from the lock on the head to the commit; tried again when other nodes came first.
    async fn try_commit(&mut self, batch: &mut [Submission]) -> Result<Plan> {
        let begun = Instant::now();
        let mut pause = CONTENTION_PAUSE / 64;
        loop {
            match self.commit_once(batch).await {
                Err(error) if std::mem::take(&mut self.keys_behind) => {
                    // Not under the lock: the root key that unwraps may be far away.
                    tracing::info!(%error, "reading the log's new signing key");
                    self.catch_up_keys().await?;
                }
                Err(error) if error.code() == ErrorCode::StoreContended && begun.elapsed() < CONTENTION => {
                    tracing::debug!(%error, "another node came first");
                    // Those who were turned down together must not come back together.
                    sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                    pause = CONTENTION_PAUSE.min(pause * 2);
                }
                done => return done,
            }
        }
    }

    async fn catch_up_keys(&mut self) -> Result<()> {
        let mut connection = self.store.reader().await?;
        let rows = secrets::service_keys(connection.as_mut()).await;
        connection.close().await?;
        let caught_up = self.signer.catch_up(&rows?).await;
        match caught_up {
            Err(error) if error.code() == ErrorCode::IntegrityFailure => {
                Err(self.stop("the keys that sign the log were altered"))
            }
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    async fn commit_once(&mut self, batch: &mut [Submission]) -> Result<Plan> {
        if let Some(error) = &self.stopped {
            return Err(error.clone());
        }
        let mut connection = self.begin().await?;
        let written = self.write(connection.as_mut(), batch).await;
        let mut plan = match written {
            Ok(plan) => plan,
            Err(error) => {
                // A connection that cannot even roll back is not used again.
                if connection.rollback().await.is_ok() {
                    self.connection = Some(connection);
                }
                return Err(error);
            }
        };
        // The commit point. Everything before can be undone, everything after has happened.
        if let Err(error) = connection.commit().await {
            if error.code() == ErrorCode::StoreContended {
                // The engine's own word that it did not.
                if connection.rollback().await.is_ok() {
                    self.connection = Some(connection);
                }
                return Err(error);
            }
            tracing::warn!(%error, "a commit failed; finding out whether it took place");
            let rolled_back = connection.rollback().await.is_ok() && connection.dialect().rollback_is_proof;
            drop(connection);
            if !self.settle(&plan, rolled_back).await? {
                return Err(error);
            }
        } else {
            self.connection = Some(connection);
        }
        self.known = plan.head.clone();
        if let Some(keys) = plan.keys.take() {
            self.signer.install(Arc::new(keys.settled()));
        }
        if !plan.changes.is_empty() {
            self.catalog.apply(&plan.changes, plan.head.revision);
            // Before the change is answered, and with it releases are allowed again.
            self.queue.set_revision(plan.head.revision);
            self.forget(&plan.changes).await;
        }
        plan.changes.clear();
        Ok(plan)
    }

    /// A connection on which a transaction has begun. One that was kept may have been lost meanwhile: then nothing was
    /// done on it, and a new one is as good.
    async fn begin(&mut self) -> Result<Box<dyn Connection>> {
        if let Some(mut kept) = self.connection.take() {
            match kept.begin_write().await {
                Ok(()) => return Ok(kept),
                Err(error) => tracing::debug!(%error, "connecting to the store anew"),
            }
        }
        let mut connection = self.store.writer().await?;
        connection.begin_write().await?;
        Ok(connection)
    }

    async fn write(&mut self, connection: &mut dyn Connection, batch: &mut [Submission]) -> Result<Plan> {
        let (head, database_now) = self.locked_head(connection).await?;
        let now = self.clock.now();
        if let Some(theirs) = database_now.filter(|theirs| theirs.distance(now) > CLOCK_SKEW && !self.clock.is_apart())
        {
            return Err(Error::new(
                ErrorCode::ClockSkew,
                format!("this machine's clock says {now}, but the database's {theirs}"),
            ));
        }
        if head.timestamp > now && head.timestamp.distance(now) > CLOCK_SKEW {
            return Err(Error::new(
                ErrorCode::ClockSkew,
                format!("this machine's clock says {now}, but the log's last record is of {}", head.timestamp),
            ));
        }
        loop {
            let mut plan = walk(
                batch,
                &Place {
                    image: &self.catalog.image(),
                    head: &head,
                    seals: self.catalog.seals(),
                    now,
                    surely: database_now.filter(|_| !self.clock.is_apart()).map_or(now, |theirs| theirs.min(now)),
                    default_grace_days: self.default_grace_days,
                    signing_number: self.signer.keys().public().newest().number,
                    exhausted: &self.exhausted,
                },
            )?;
            if plan.rows.is_empty() {
                return Ok(plan);
            }
            if let Some(exhausted) = self.write_entities(connection, &plan, now).await? {
                // Its encryptions are refused, and the batch is walked again without them.
                self.exhausted.insert(exhausted);
                self.queue.exhaust(exhausted.0, exhausted.1);
                connection.rollback().await?;
                connection.begin_write().await?;
                if self.locked_head(connection).await?.0 != head {
                    return Err(Error::new(ErrorCode::StoreContended, "another process wrote first"));
                }
                continue;
            }
            self.write_log(connection, &mut plan, &head).await?;
            return Ok(plan);
        }
    }

    /// Writes changed rows and counters. Answers the version that would encrypt more than it may, if there is one.
    async fn write_entities(
        &self,
        connection: &mut dyn Connection,
        plan: &Plan,
        now: Timestamp,
    ) -> Result<Option<(KeyId, u32)>> {
        for (&(key, version), &encryptions) in &plan.uses {
            // Those of a version known to be exhausted were released before that was known.
            let known = self.exhausted.contains(&(key, version));
            let limit = if known { i64::MAX.unsigned_abs() } else { ENCRYPTIONS_MAX };
            if !usage::count_version(connection, key, version, encryptions, now, limit).await? {
                return Ok(Some((key, version)));
            }
        }
        for change in &plan.changes {
            let seal = self.catalog.seals().seal(&change_row(change)?);
            entities::write(connection, change.clone(), seal).await?;
        }
        Ok(None)
    }

    async fn write_log(&self, connection: &mut dyn Connection, plan: &mut Plan, before: &Head) -> Result<()> {
        audit::insert(connection, std::mem::take(&mut plan.rows)).await?;
        let counts = plan.counts.iter().map(|(&(hour, action, status), &count)| (hour, action, status, count));
        usage::count_up(connection, counts.collect()).await?;
        if !plan.kept_requests.is_empty() {
            idempotency::insert(connection, &plan.kept_requests, plan.head.timestamp).await?;
        }
        for (name, value) in &plan.remember {
            usage::set_meta(connection, name, value).await?;
        }
        let mut keys = self.signer.keys();
        if let Some(replacement) = &plan.signing_key {
            let succeeded = keys.succeeded_by(&replacement.new, replacement.state.seq)?;
            keys = Arc::new(succeeded);
            replace_signing_key(connection, replacement, &keys).await?;
            plan.keys = Some(Arc::clone(&keys));
        }
        keys.sign(&mut plan.head, plan.standing)?;
        let now = &plan.head;
        let is_kept = plan.signing_key.as_ref().is_some_and(|replacement| replacement.state.seq == now.seq);
        if !is_kept && now.seq / CHECKPOINT_EVERY > before.seq / CHECKPOINT_EVERY {
            let checkpoint = StoredCheckpoint {
                size: now.seq,
                frontier: now.frontier.clone(),
                hash: now.hash,
                note: now.checkpoint.clone(),
            };
            audit::insert_checkpoint(connection, &checkpoint).await?;
        }
        head::update(connection, now).await
    }

    /// Reads the head under its lock, holds it against what this process knows, and brings the catalog up to it.
    async fn locked_head(&mut self, connection: &mut dyn Connection) -> Result<(Head, Option<Timestamp>)> {
        let (head, database_now) = match head::lock(connection).await? {
            Some(locked) => locked,
            None => return Err(self.stop("the head of the log is gone")),
        };
        if head.log_id != self.known.log_id || head.seq < self.known.seq {
            return Err(self.stop("the log is another one, or an older state of it than this process has seen"));
        }
        if head.seq == self.known.seq {
            if head != self.known {
                return Err(self.stop("the head of the log was changed without a record"));
            }
            return Ok((head, database_now));
        }
        if self.known.seq > 0 && audit::hash_of(connection, self.known.seq).await? != Some(self.known.hash) {
            return Err(self.stop("the log no longer holds the record that this process wrote or saw last"));
        }
        if head.revision >= self.known.revision
            && self.signer.check(&head).is_err()
            && secrets::newest_signing_key(connection).await? != Some(self.signer.keys().public().newest().number)
        {
            self.keys_behind = true;
            return Err(Error::new(ErrorCode::Conflict, "another process has replaced the key that signs the log"));
        }
        if head.revision < self.known.revision || self.signer.check(&head).is_err() {
            return Err(self.stop("the head of the log does not carry the log's signature"));
        }
        self.contended = Some(Instant::now());
        if head.revision > self.catalog.image().revision() {
            self.catalog.refresh(connection).await?;
            self.materials.drop_unusable(&self.catalog).await;
        }
        if self.catalog.image().trust() == Trust::Doubtful {
            return Err(self.stop("rows of the store were altered or put back to an older state"));
        }
        self.known = head.clone();
        Ok((head, database_now))
    }

    fn stop(&mut self, why: &str) -> Error {
        let error = Error::new(ErrorCode::IntegrityFailure, format!("{why}: nothing more is written"));
        tracing::error!(%error, "the ledger stops");
        self.queue.counters.stop();
        self.stopped = Some(error.clone());
        error
    }

    /// Finds out, on a new connection, whether a commit took place that failed to say so.
    async fn settle(&mut self, plan: &Plan, rolled_back: bool) -> Result<bool> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let looked = timeout(SETTLE, self.look_for(plan)).await;
            let looked =
                looked.unwrap_or_else(|_| Err(Error::new(ErrorCode::StoreUnavailable, "the store does not answer")));
            match looked {
                Ok(found) => return Ok(found),
                Err(error) if Instant::now() < deadline => {
                    tracing::warn!(%error, "it is still unclear whether a commit took place");
                    sleep(RETRY).await;
                }
                // The engine said that it rolled back: then it did not commit, whatever else is wrong.
                Err(error) if rolled_back => return Err(error),
                Err(error) => {
                    return Err(Error::new(
                        ErrorCode::OutcomeUnknown,
                        format!("the store was lost while committing, and whether it did is unknown: {error}"),
                    ));
                }
            }
        }
    }

    async fn look_for(&mut self, plan: &Plan) -> Result<bool> {
        let mut connection = self.store.writer().await?;
        connection.begin_write().await?;
        // What was cut off may still be under way on the server: under the lock it is over.
        let locked = head::lock(connection.as_mut()).await;
        let found = match locked {
            Ok(_) => audit::hash_of(connection.as_mut(), plan.head.seq).await,
            Err(error) => Err(error),
        };
        connection.rollback().await?;
        self.connection = Some(connection);
        Ok(found? == Some(plan.head.hash))
    }

    /// Drops the material of versions that may no longer be used.
    async fn forget(&self, changes: &[Change]) {
        for change in changes {
            if let Change::UpdateVersion(version) | Change::EraseVersion(version) = change
                && matches!(version.state, VersionState::Revoked | VersionState::Destroyed)
            {
                self.materials.forget(version.key_id, version.version).await;
            }
        }
        if !changes.is_empty() {
            self.materials.sweep().await;
        }
    }
}

/// Stores the new key, and the state that both keys sign.
async fn replace_signing_key(
    connection: &mut dyn Connection,
    replacement: &Replacement,
    keys: &HeadKeys,
) -> Result<()> {
    let Replacement { new, state, rows } = replacement;
    let row = ServiceKeyRow {
        kind: secrets::SIGNING.into(),
        number: new.number,
        public_key: Some(new.key.public_key()),
        wrapped: new.wrapped.clone(),
        first_seq: state.seq,
    };
    secrets::replace_signing_key(connection, &row).await?;
    let checkpoint = StoredCheckpoint {
        size: state.seq,
        frontier: state.frontier.clone(),
        hash: state.hash,
        note: keys.note(state.seq, &state.frontier, state.revision, *rows)?,
    };
    audit::insert_checkpoint(connection, &checkpoint).await
}

/// Gives up what is left in the queue when the task ends.
struct End(Arc<Queue>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// Whether this is a change that takes rights or keys away: it is still written when the store is full.
fn takes_away(submission: &Submission) -> bool {
    submission.command.as_ref().is_some_and(Command::takes_away)
}

/// Whether the failure may be due to one submission: then the others must not fail with it.
fn may_be_one_culprit(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::Conflict | ErrorCode::StoreCorrupt | ErrorCode::Internal | ErrorCode::InvalidArgument)
}

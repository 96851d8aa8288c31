//! What a batch comes to, written in its transaction.

use std::sync::Arc;

use super::kept::BATCH_ANSWER_BYTES;
use super::locked::Base;
use super::signer::HeadKeys;
use super::submission::Submission;
use super::walk::{Place, Plan, Replacement, walk};
use super::wrappings::{self, retirable};
use super::writer::Writer;
use crate::catalog::change_row;
use crate::envelope::Seals;
use crate::envelope::row::{self, StoredWrapping};
use crate::storage::tables::entities::RowSeals;
use crate::storage::tables::head::Locked;
use crate::storage::tables::{audit, entities, head, idempotency, usage};
use crate::storage::{Connection, corrupt};
use crate::types::audit::{Head, StoredCheckpoint};
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::limits::ENCRYPTIONS_MAX;
use crate::types::root_key::Wrapped;

/// A signed state of the log is kept for every so many records.
pub const CHECKPOINT_EVERY: u64 = 8_192;

/// A version of a key.
type Version = (KeyId, u32);

impl Writer {
    /// Walks the batch from the locked head on, and writes what it comes to.
    pub(super) async fn write(
        &mut self,
        connection: &mut dyn Connection,
        locked: Locked,
        batch: &[Submission],
    ) -> Result<Plan> {
        let known = self.known.seq;
        let base = self.base(connection, locked, batch).await?;
        self.check_seen(connection, &base.head, known).await?;
        let retirable = retirable(connection, batch, &self.catalog).await?;
        loop {
            let mut plan = walk(
                batch,
                &Place {
                    image: &self.catalog.image(),
                    head: &base.head,
                    seals: self.catalog.seals(),
                    now: base.now,
                    surely: base.database_now.map_or(base.now, |theirs| theirs.min(base.now)),
                    default_grace_days: self.default_grace_days,
                    exhausted: &self.exhausted,
                    retirable: &retirable,
                },
            )?;
            if plan.rows.is_empty() {
                return Ok(plan);
            }
            self.write_changes(connection, &mut plan).await?;
            let Some(exhausted) = self.write_log(connection, &mut plan, &base).await? else { return Ok(plan) };
            // No limit refuses a use that encrypts nothing, or one of a version that is known to be exhausted.
            let encryptions = plan.uses.get(&exhausted).copied().unwrap_or_default();
            if encryptions == 0 || self.exhausted.contains(&exhausted) {
                return Err(corrupt("the row of a version of a key is missing: it was deleted"));
            }
            // Its encryptions are refused, and the batch is walked again without them.
            self.exhausted.insert(exhausted);
            self.queue.exhaust(exhausted.0, exhausted.1);
            connection.rollback().await?;
            let locked = head::begin_locked(connection).await?;
            if self.base(connection, locked, batch).await?.head != base.head {
                return Err(Error::new(ErrorCode::StoreContended, "another process wrote first"));
            }
        }
    }

    /// Stops if the head does not continue what others in this process had seen, beyond what the ledger knew, before
    /// the head was locked.
    async fn check_seen(&mut self, connection: &mut dyn Connection, head: &Head, known: u64) -> Result<()> {
        let (size, hash) = self.seen_before;
        if size > known && (head.seq < size || audit::hash_of(connection, size).await? != Some(hash)) {
            return Err(self.stop("the log does not continue what this process has seen: it was rolled back"));
        }
        self.seen.note(head);
        Ok(())
    }

    /// Writes what few batches have: changed rows, what is remembered, a new signing key.
    async fn write_changes(&self, connection: &mut dyn Connection, plan: &mut Plan) -> Result<()> {
        for change in &plan.changes {
            let seals = self.row_seals(change)?;
            entities::write(connection, change.clone(), seals).await?;
        }
        self.keep_requests(connection, plan).await?;
        wrappings::write(connection, std::mem::take(&mut plan.wrappings), self.catalog.seals()).await?;
        for (name, value) in &plan.remember {
            usage::set_meta(connection, name, value).await?;
        }
        if let Some(replacement) = &plan.signing_key {
            let keys = self.signer.keys().succeeded_by(&replacement.new, replacement.state.seq)?;
            keep_replacement(connection, replacement, &keys).await?;
            plan.keys = Some(Arc::new(keys));
        }
        Ok(())
    }

    fn row_seals(&self, change: &Change) -> Result<RowSeals> {
        let seals = self.catalog.seals();
        let wrappings = match change {
            Change::InsertVersion(version, material) => {
                wrapping_seals(seals, *version.id.as_bytes(), &version.fingerprint, &material.wrapped)
            }
            Change::InsertServiceKey(key, wrapped) => {
                wrapping_seals(seals, *key.id.as_bytes(), &key.fingerprint, wrapped)
            }
            _ => Vec::new(),
        };
        Ok(RowSeals { row: seals.seal(&change_row(change)?), wrappings })
    }

    /// Keeps requests with their answers; without those while the disk is full, whose reserve is for the changes.
    async fn keep_requests(&self, connection: &mut dyn Connection, plan: &mut Plan) -> Result<()> {
        if plan.kept_requests.is_empty() {
            return Ok(());
        }
        let now = plan.head.timestamp;
        idempotency::drop_expired(connection, now).await?;
        let mut room = if self.space.is_full() { 0 } else { BATCH_ANSWER_BYTES };
        for request in std::mem::take(&mut plan.kept_requests) {
            let row = request.row(connection, self.catalog.seals(), room).await?;
            room = room.saturating_sub(row.answer.as_ref().map_or(0, String::len));
            idempotency::insert(connection, row, now).await?;
        }
        Ok(())
    }

    /// Writes what every batch has: uses of versions, records, counters, the signed head. Answers the version that
    /// would encrypt more than it may, if there is one: then nothing of this may be committed.
    async fn write_log(
        &self,
        connection: &mut dyn Connection,
        plan: &mut Plan,
        base: &Base,
    ) -> Result<Option<Version>> {
        plan.keys.clone().unwrap_or_else(|| self.signer.keys()).sign(&mut plan.head, plan.standing)?;
        let used: Vec<Version> = plan.uses.keys().copied().collect();
        // The large ones first: what follows can go to the engine together.
        let mut statements = audit::insert(std::mem::take(&mut plan.rows));
        let inserts = statements.len();
        for (&(key, version), &encryptions) in &plan.uses {
            // Those of a version known to be exhausted were released before that was known.
            let known = self.exhausted.contains(&(key, version));
            let limit = if known { i64::MAX.unsigned_abs() } else { ENCRYPTIONS_MAX };
            statements.push(usage::count_version(key, version, encryptions, base.now, limit));
        }
        let counts = plan.counts.iter().map(|(&(hour, action, status), &count)| (hour, action, status, count));
        statements.extend(usage::count_up(connection.dialect(), counts));
        let head = &plan.head;
        let is_kept = plan.signing_key.as_ref().is_some_and(|replacement| replacement.state.seq == head.seq);
        if !is_kept && head.seq / CHECKPOINT_EVERY > base.head.seq / CHECKPOINT_EVERY {
            let checkpoint = StoredCheckpoint {
                size: head.seq,
                frontier: head.frontier.clone(),
                hash: head.hash,
                note: head.checkpoint.clone(),
            };
            statements.push(audit::insert_checkpoint(&checkpoint));
        }
        statements.push(head::update(head));
        let changed = connection.execute_all(statements).await?;
        let refused = used.iter().zip(changed.iter().skip(inserts)).find(|&(_, &rows)| rows != 1);
        match (refused, changed.last()) {
            (Some((version, _)), _) => Ok(Some(*version)),
            (None, Some(1)) => Ok(None),
            _ => Err(corrupt("the head of the log is missing")),
        }
    }
}

/// The seals of new wrappings of one material, in their order.
pub fn wrapping_seals(seals: &Seals, subject: [u8; 16], fingerprint: &[u8; 32], wrapped: &[Wrapped]) -> Vec<[u8; 32]> {
    let seal = |wrapped| seals.seal(&row::wrapping(&StoredWrapping::new(subject, wrapped), fingerprint));
    wrapped.iter().map(seal).collect()
}

/// Keeps the state that the former and the new key sign.
async fn keep_replacement(connection: &mut dyn Connection, replacement: &Replacement, keys: &HeadKeys) -> Result<()> {
    let Replacement { state, rows, .. } = replacement;
    let checkpoint = StoredCheckpoint {
        size: state.seq,
        frontier: state.frontier.clone(),
        hash: state.hash,
        note: keys.note(state.seq, &state.frontier, state.revision, *rows)?,
    };
    connection.execute_all(vec![audit::insert_checkpoint(&checkpoint)]).await.map(drop)
}

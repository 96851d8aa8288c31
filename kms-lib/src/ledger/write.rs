//! Writing a planned batch in its transaction.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::connection::Begun;
use super::counting::Counting;
use super::failure::Failure;
use super::head_check::Base;
use super::idempotency::{BATCH_ANSWER_BYTES, kept_among};
use super::import_runs::{import_states, keep_import_states};
use super::plan::{Place, Plan, Replacement, plan_batch};
use super::signer::HeadKeys;
use super::sound::soundness;
use super::submission::Submission;
use super::wrappings::{self, retirable};
use super::writer::Writer;
use crate::catalog::change_row;
use crate::envelope::Seals;
use crate::envelope::row::{self, StoredWrapping};
use crate::lifecycle::{Command, ResealedRow};
use crate::storage::tables::entities::RowSeals;
use crate::storage::tables::{audit, entities, head, idempotency, legacy, usage};
use crate::storage::{Connection, corrupt};
use crate::types::audit::StoredCheckpoint;
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::root_key::Wrapped;

/// A checkpoint of the log is stored for every 8,192 records.
pub const CHECKPOINT_EVERY: u64 = 8_192;

/// The counters of the head are added to their tables for every 1,024 records, and whenever they do not fit.
const TALLIES_EVERY: u64 = 1_024;

/// A key and the number of one of its versions.
type Version = (KeyId, u32);

impl Writer {
    /// Checks the locked head, plans the batch from it on, and writes the plan.
    pub(super) async fn write(
        &mut self,
        begun: &mut Begun,
        batch: &[Submission],
    ) -> std::result::Result<Plan, Failure> {
        let base = self.first_base(begun, batch).await?;
        self.write_from(&base, begun.connection.as_mut(), batch).await.map_err(Failure::of_batch)
    }

    async fn write_from(
        &mut self,
        base: &Base,
        connection: &mut dyn Connection,
        batch: &[Submission],
    ) -> std::result::Result<Plan, Failure> {
        let retirable = retirable(connection, batch, &self.deps.catalog).await?;
        let imported = imported_sizes(connection, batch).await?;
        let soundness = soundness(connection, batch, &self.deps.catalog, &base.head).await?;
        // No other process replaces their key while the head is locked.
        let seals = self.deps.catalog.seals();
        let import_states = import_states(connection, batch, &seals).await?;
        let kept = kept_among(connection, batch, base.now.max(base.head.timestamp)).await?;
        let mut uncountable = HashSet::new();
        // Each round excludes at least one of the versions that the batch uses, so the loop ends.
        loop {
            let mut plan = plan_batch(
                batch,
                &Place {
                    snapshot: &self.deps.catalog.snapshot(),
                    head: &base.head,
                    seals: &seals,
                    now: base.now,
                    surely: base.database_now.map_or(base.now, |theirs| theirs.min(base.now)),
                    default_grace_days: self.deps.default_grace_days,
                    versions_max: self.deps.versions_max,
                    exhausted: &self.exhausted,
                    uncountable: &uncountable,
                    kept: &kept,
                    retirable: &retirable,
                    imported: &imported,
                    import_states: &import_states,
                    soundness,
                },
            )?;
            if plan.rows.is_empty() {
                return Ok(plan);
            }
            self.write_changes(connection, &mut plan).await?;
            let uncounted = self.write_log(connection, &mut plan, base).await?;
            if uncounted.is_empty() {
                return Ok(plan);
            }
            for version in uncounted {
                let encryptions = plan.uses.get(&version).copied().unwrap_or_default();
                self.set_apart(connection, version, encryptions, &mut uncountable).await?;
            }
            connection.rollback().await?;
            let locked = head::begin_locked(connection).await?;
            if self.base(connection, locked, batch).await?.head != base.head {
                return Err(Error::new(ErrorCode::StoreContended, "another process wrote first").into());
            }
        }
    }

    /// Notes why a version's use could not be counted, so that the batch can be planned again without it. A version
    /// that exists and was to encrypt has reached its limit; any other one was deleted or altered.
    async fn set_apart(
        &mut self,
        connection: &mut dyn Connection,
        version: Version,
        encryptions: u64,
        uncountable: &mut HashSet<Version>,
    ) -> Result<()> {
        let is_there = entities::is_counted(connection, version.0, version.1).await?;
        if is_there && encryptions > 0 && self.exhausted.insert(version) {
            self.queue.exhaust(version.0, version.1);
            return Ok(());
        }
        let (key, number) = version;
        tracing::error!(%key, number, "the uses of a version cannot be counted: its row is missing or altered");
        if uncountable.insert(version) {
            Ok(())
        } else {
            Err(corrupt("an uncounted use of a version cannot be refused"))
        }
    }

    /// Writes the parts that few batches have: changed rows, idempotency records, small values, a new signing key.
    async fn write_changes(&self, connection: &mut dyn Connection, plan: &mut Plan) -> Result<()> {
        let seals = plan.seals.clone().unwrap_or_else(|| self.deps.catalog.seals());
        for change in &plan.changes {
            entities::write(connection, change.clone(), row_seals(change, &seals)?).await?;
        }
        self.keep_requests(connection, plan, &seals).await?;
        wrappings::write(connection, std::mem::take(&mut plan.wrappings), &seals).await?;
        let resealed = std::mem::take(&mut plan.resealed);
        let reseal = |row: &ResealedRow| entities::reseal(row.table, &row.id, &row.former, &row.seal);
        if !resealed.is_empty() {
            connection.execute_all(resealed.iter().map(reseal).collect()).await?;
        }
        for (page, seq) in std::mem::take(&mut plan.imported) {
            let mut statements = legacy::insert(&page.run.source, page.sealed, &page.bodies);
            statements.extend(legacy::set_seq(&page.run.source, seq));
            connection.execute_all(statements).await?;
        }
        keep_import_states(connection, &plan.import_states, &seals).await?;
        for (name, value) in &plan.remember {
            usage::set_meta(connection, name, value).await?;
        }
        if let Some(replacement) = &plan.signing_key {
            let keys = self.deps.signer.keys().succeeded_by(&replacement.new, replacement.state.seq)?;
            keep_replacement(connection, replacement, &keys).await?;
            plan.keys = Some(Arc::new(keys));
        }
        Ok(())
    }

    /// Stores idempotency records with their answers; without answers while the disk is full, since the disk reserve is
    /// for changes.
    async fn keep_requests(&self, connection: &mut dyn Connection, plan: &mut Plan, seals: &Seals) -> Result<()> {
        if plan.kept_requests.is_empty() {
            return Ok(());
        }
        let now = plan.head.timestamp;
        idempotency::drop_expired(connection, now, plan.kept_requests.len()).await?;
        let mut room = if self.deps.space.is_full() { 0 } else { BATCH_ANSWER_BYTES };
        for request in std::mem::take(&mut plan.kept_requests) {
            let row = request.row(connection, seals, room).await?;
            room = room.saturating_sub(row.answer.as_ref().map_or(0, String::len));
            idempotency::insert(connection, row, now).await?;
        }
        Ok(())
    }

    /// Writes the parts that every batch has: uses of versions, records, counters, the signed head. Returns the
    /// versions whose use could not be counted, for any reason: if there are any, nothing of this may be committed.
    async fn write_log(&self, connection: &mut dyn Connection, plan: &mut Plan, base: &Base) -> Result<Vec<Version>> {
        // On a full disk, what can wait leaves the disk reserve to revocations.
        let is_full = self.deps.space.is_full();
        let passes = |every| plan.head.seq / every > base.head.seq / every;
        let counting =
            Counting { exhausted: &self.exhausted, now: base.now, empties: passes(TALLIES_EVERY) && !is_full };
        let is_kept = plan.signing_key.as_ref().is_some_and(|replacement| replacement.state.seq == plan.head.seq);
        let keeps = !is_kept && passes(CHECKPOINT_EVERY);
        let indexed = base.head.indexed;
        if !is_full {
            let dialect = connection.dialect();
            plan.head.indexed = audit::indexed_after(dialect, indexed, base.head.seq, plan.head.seq);
        }
        let counted = match counting.count(connection, plan).await? {
            Ok(counted) => counted,
            Err(uncounted) => return Ok(uncounted),
        };
        plan.keys.clone().unwrap_or_else(|| self.deps.signer.keys()).sign(&mut plan.head, plan.standing)?;
        // The large statements come first, so that the rest can be sent to the engine together.
        let mut statements = audit::insert(std::mem::take(&mut plan.rows));
        let inserts = statements.len();
        statements.extend(counted.statements);
        let head = &plan.head;
        if keeps {
            let checkpoint = StoredCheckpoint {
                size: head.seq,
                frontier: head.frontier.clone(),
                hash: head.hash,
                note: head.checkpoint.clone(),
            };
            statements.push(audit::insert_checkpoint(&checkpoint));
        }
        if head.indexed > indexed {
            statements.extend(audit::index(connection.dialect(), indexed, head.indexed));
        }
        statements.push(head::update(head, &counted.in_head));
        let changed = connection.execute_all(statements).await?;
        let mut uncounted = Vec::new();
        if changed.last() != Some(&1) {
            for (key, version) in counted.in_head {
                if !entities::is_counted(connection, key, version).await? {
                    uncounted.push((key, version));
                }
            }
            if uncounted.is_empty() {
                return Err(head::missing());
            }
        }
        let in_rows = counted.in_rows.into_iter().zip(changed.iter().skip(inserts));
        uncounted.extend(in_rows.filter(|(_, rows)| **rows != 1).map(|(version, _)| version));
        Ok(uncounted)
    }
}

/// The number of rows, by source, of the imported logs that the batch appends to. Read under the lock on the head.
async fn imported_sizes(connection: &mut dyn Connection, batch: &[Submission]) -> Result<HashMap<String, u64>> {
    let mut sizes = HashMap::new();
    for submission in batch {
        if let Some(Command::ImportRows(page)) = submission.command.as_deref() {
            let size = legacy::size(connection, &page.run.source).await?;
            sizes.insert(page.run.source.clone(), size);
        }
    }
    Ok(sizes)
}

/// The seals of a row after a change, and of the wrappings that are written with it.
fn row_seals(change: &Change, seals: &Seals) -> Result<RowSeals> {
    let wrappings = match change {
        Change::InsertVersion(version, material) => {
            wrapping_seals(seals, *version.id.as_bytes(), &version.fingerprint, &material.wrapped)
        }
        Change::InsertServiceKey(key, wrapped) => wrapping_seals(seals, *key.id.as_bytes(), &key.fingerprint, wrapped),
        _ => Vec::new(),
    };
    Ok(RowSeals { row: seals.seal(&change_row(change)?), wrappings })
}

/// The seals of new wrappings of one material, in their order.
pub fn wrapping_seals(seals: &Seals, subject: [u8; 16], fingerprint: &[u8; 32], wrapped: &[Wrapped]) -> Vec<[u8; 32]> {
    let seal = |wrapped| seals.seal(&row::wrapping(&StoredWrapping::new(subject, wrapped), fingerprint));
    wrapped.iter().map(seal).collect()
}

/// Stores the checkpoint that both the former and the new key sign.
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

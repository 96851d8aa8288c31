//! Comparing imported logs with the records that sealed them.
//!
//! Each record of an import has the root of the tree over all rows so far (RFC 6962), so every verification rereads and
//! rehashes all rows; their number does not grow. The verified records tell which logs exist; for records that were
//! verified earlier, the stored result of that verification does (`kept`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Verifier;
use crate::audit::legacy::{LegacyLog, SealedLog, StoredRow, findings, leaf, sealed_log};
use crate::audit::tree::Frontier;
use crate::audit::verify::{Fault, Finding};
use crate::storage::Connection;
use crate::storage::tables::{audit, legacy};
use crate::types::audit::{AuditRecord, hex};
use crate::types::error::{ErrorCode, Result};
use crate::workers::Length;

/// The number of rows that are read at once.
const PAGE: usize = 1_000;
/// The maximum number of "legacy" rows that are listed.
const LISTED: usize = 10_000;
/// The table of the rows.
const ROWS: &str = "legacy_rows";
/// The table that names the last record of each log.
const LOGS: &str = "legacy_logs";

/// The imported logs, and the verified records about them.
pub(super) struct Imported<'a> {
    /// The verifier that reads and hashes the rows.
    pub verifier: &'a Verifier<'a>,
    /// Records up to this one were verified earlier.
    pub from: u64,
    /// Records up to this one are verified.
    pub size: u64,
    /// The seals in the records in between, in order.
    pub sealed: &'a [SealedLog],
}

/// A page of rows, hashed.
struct Page {
    leaves: Vec<[u8; 32]>,
    /// The ids of the rows that the original service accepted as "legacy".
    legacy: Vec<String>,
}

/// The result of the check.
#[derive(Default)]
pub(super) struct Checked {
    /// The faults of the rows.
    pub faults: Vec<Fault>,
    /// The logs as they were imported.
    pub logs: Vec<LegacyLog>,
    /// The ids of "legacy" rows.
    pub legacy: Vec<String>,
}

impl Imported<'_> {
    /// Checks all imported logs.
    pub async fn check(&self) -> Result<Checked> {
        let mut connection = self.verifier.store.long_reader().await?;
        connection.begin_read().await?;
        let checked = self.check_all(connection.as_mut()).await;
        connection.rollback().await?;
        match checked {
            // A column has a type that this service never writes.
            Err(error) if error.code() == ErrorCode::StoreCorrupt => {
                let finding = Finding::SurplusRows { table: LOGS.to_owned(), count: 1 };
                Ok(Checked { faults: vec![Fault { seq: 0, finding }], ..Checked::default() })
            }
            checked => checked,
        }
    }

    async fn check_all(&self, connection: &mut dyn Connection) -> Result<Checked> {
        let pointers: BTreeMap<String, u64> = legacy::logs(connection).await?.into_iter().collect();
        let mut counts: BTreeMap<String, u64> = legacy::counts(connection).await?.into_iter().collect();
        let known = self.known();
        let mut sources: BTreeSet<String> = pointers.keys().cloned().collect();
        sources.extend(known.iter().map(|sealed| sealed.source.clone()));
        let mut checked = Checked::default();
        for source in sources {
            let known = known.iter().find(|known| known.source == source);
            let pointer = pointers.get(&source).copied();
            let newest = self.newest(connection, &source, known, pointer, &mut checked.faults).await?;
            let Some(newest) = newest else { continue };
            let count = counts.remove(&source).unwrap_or_default();
            if self.check_rows(connection, &newest, &mut checked).await? && count > newest.size {
                checked.faults.push(surplus(count - newest.size));
            }
            checked.logs.push(describe(connection, &newest).await?);
        }
        checked.faults.extend(counts.into_values().map(surplus));
        Ok(checked)
    }

    /// The last known record that sealed each log, among those verified now and earlier.
    pub fn known(&self) -> Vec<SealedLog> {
        let kept = self.verifier.kept.into_iter().flat_map(|kept| &kept.imported);
        let mut known: BTreeMap<&str, &SealedLog> = BTreeMap::new();
        for sealed in kept.chain(self.sealed) {
            let newest = known.entry(&sealed.source).or_insert(sealed);
            if sealed.seq > newest.seq {
                *newest = sealed;
            }
        }
        known.into_values().cloned().collect()
    }

    /// Whether the last record about a log may be unknown here: it comes after the verified records, or is among those
    /// that another verification covered.
    fn may_be_unknown(&self, seq: u64) -> bool {
        let covered = self.verifier.kept.map_or(0, |kept| kept.size);
        seq > self.size || (seq <= self.from && seq > covered)
    }

    /// The last record that seals a log. An unknown one is used as stored: another verification covered it, or the next
    /// one will.
    async fn newest(
        &self,
        connection: &mut dyn Connection,
        source: &str,
        known: Option<&SealedLog>,
        pointer: Option<u64>,
        faults: &mut Vec<Fault>,
    ) -> Result<Option<SealedLog>> {
        let known_seq = known.map_or(0, |known| known.seq);
        let id = source.to_owned();
        let Some(pointer) = pointer else {
            faults.push(Fault { seq: known_seq, finding: Finding::RowMissing { table: LOGS.to_owned(), id } });
            return Ok(known.cloned());
        };
        if known_seq == pointer && known.is_some() {
            return Ok(known.cloned());
        }
        if pointer > known_seq && self.may_be_unknown(pointer) {
            let stored = record(connection, pointer).await?.as_ref().and_then(sealed_log);
            if let Some(stored) = stored.filter(|stored| stored.source == source) {
                return Ok(Some(stored));
            }
        }
        faults.push(Fault { seq: known_seq, finding: Finding::RowMismatch { table: LOGS.to_owned(), id } });
        Ok(known.cloned())
    }

    /// Compares the rows with each record up to the newest, and lists "legacy" rows. Returns whether the rows are those
    /// that were sealed.
    async fn check_rows(
        &self,
        connection: &mut dyn Connection,
        newest: &SealedLog,
        checked: &mut Checked,
    ) -> Result<bool> {
        // Rows that were verified earlier must still be there, whatever was sealed since.
        let kept = self.verifier.kept.into_iter().flat_map(|kept| &kept.imported);
        let earlier = self.sealed.iter().chain(kept);
        let earlier = earlier.filter(|state| state.source == newest.source && state.seq < newest.seq);
        let mut states: Vec<&SealedLog> = earlier.chain([newest]).collect();
        states.sort_by_key(|state| state.seq);
        states.dedup_by_key(|state| state.seq);
        let mut states = VecDeque::from(states);
        let (mut tree, mut held) = (Frontier::new(), 0);
        while let Some(state) = states.front() {
            if state.size == tree.size() {
                if state.root != hex(&tree.root()) {
                    break;
                }
                held = state.size;
                states.pop_front();
                continue;
            }
            let limit = PAGE.min(usize::try_from(state.size.saturating_sub(tree.size())).unwrap_or(PAGE));
            let page = self.read(connection, &newest.source, tree.size(), limit).await?;
            if page.leaves.is_empty() {
                break;
            }
            page.leaves.into_iter().for_each(|leaf| tree.push(leaf));
            let room = LISTED.saturating_sub(checked.legacy.len());
            checked.legacy.extend(page.legacy.into_iter().take(room));
        }
        let Some(state) = states.front() else { return Ok(true) };
        let finding =
            Finding::ImportedRows { source: newest.source.clone(), first: held + 1, last: state.size.max(held + 1) };
        checked.faults.push(Fault { seq: state.seq, finding });
        Ok(false)
    }

    /// Reads the next rows, as long as they are consecutive and readable.
    async fn read(&self, connection: &mut dyn Connection, source: &str, after: u64, limit: usize) -> Result<Page> {
        let rows = match legacy::page(connection, source, after, limit).await {
            Err(error) if error.code() == ErrorCode::StoreCorrupt => Vec::new(),
            page => page?.rows,
        };
        let hash = move || {
            let mut page = Page { leaves: Vec::new(), legacy: Vec::new() };
            for (expected, (position, body)) in (after + 1..).zip(rows) {
                if position != expected {
                    break;
                }
                page.leaves.push(leaf(&body));
                // Only rows of format 1 have this text; within strings, quotes are escaped.
                if !body.contains(",\"format\":1,") {
                    page.legacy.extend(StoredRow::read(&body).map(|stored| stored.row.id));
                }
            }
            Ok(page)
        };
        self.verifier.workers.run("verification", Length::Long, hash).await
    }
}

fn surplus(count: u64) -> Fault {
    Fault { seq: 0, finding: Finding::SurplusRows { table: ROWS.to_owned(), count } }
}

async fn record(connection: &mut dyn Connection, seq: u64) -> Result<Option<AuditRecord>> {
    let mut record = None;
    audit::range(connection, seq, seq, &mut |found| {
        record = Some(found);
        Ok(())
    })
    .await?;
    Ok(record)
}

/// A log as it is sealed, with the findings of the last complete run.
async fn describe(connection: &mut dyn Connection, newest: &SealedLog) -> Result<LegacyLog> {
    let found = match newest.findings_at {
        Some(seq) => record(connection, seq).await?.as_ref().and_then(findings),
        None => None,
    };
    let mut log = found.unwrap_or_default();
    log.source = newest.source.clone();
    log.rows = newest.size;
    log.root = newest.root.clone();
    log.complete = newest.findings_at == Some(newest.seq);
    Ok(log)
}

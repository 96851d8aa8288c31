//! Checking records against each other: hashes, links, numbering, time, and the Merkle tree.
//!
//! Most of the work is hashing, which needs no state, so chunks of records are digested on all cores and then stitched
//! together in order.

use std::fmt;

use serde::Serialize;

use super::legacy::{SealedLog, sealed_log};
use super::record::{Body, FORMAT, record_hash, record_id};
use super::signing_keys::Link;
use super::tree::Frontier;
use crate::types::audit::{Action, AuditRecord, Status};
use crate::types::ids::{KeyId, LogId};
use crate::types::time::Timestamp;

/// The number of records in a full chunk. Chunks begin at multiples of it.
pub const CHUNK: u64 = 4_096;
/// The tree level of a full chunk's subtree.
const CHUNK_LEVEL: u32 = CHUNK.trailing_zeros();

/// A fault that a verification can find.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
#[non_exhaustive]
pub enum Finding {
    /// A sequence number is missing: records were removed or renumbered.
    Gap {
        /// The number found instead.
        found: u64,
    },
    /// A sequence number occurs twice or out of order.
    OutOfOrder {
        /// The sequence number that was found.
        found: u64,
    },
    /// A record has a format that this version does not know.
    UnknownFormat {
        /// The format of the record.
        format: u8,
    },
    /// A record cannot be read: a column has a type or length that was never written.
    Unreadable,
    /// The record of an export does not name the hash of the one before it. In a store, where that hash is not stored
    /// twice, a record whose predecessor was replaced has a `HashMismatch`.
    BrokenLink,
    /// The record's fields and the hash of the record before it do not yield its hash: it was altered, or the record
    /// before it was replaced.
    HashMismatch,
    /// The record is older than the one before it.
    TimeBackwards,
    /// Records at the end are missing: the signed head covers more.
    TailMissing {
        /// The number of records that the head covers.
        expected: u64,
    },
    /// Records exist after the signed head.
    BeyondHead,
    /// The head or a stored checkpoint does not have the log's signature.
    BadSignature {
        /// The size of the checkpoint that should be signed.
        size: u64,
    },
    /// The records are consistent with each other, but not with a checkpoint: they were rewritten.
    RootMismatch {
        /// The size of the checkpoint. The fault is between the reported number and this one.
        size: u64,
    },
    /// The time of the head, before which later records may not be dated, is not that of its last record.
    HeadTime,
    /// A row is not as the record of its last change left it.
    RowMismatch {
        /// The table that contains the row.
        table: String,
        /// The row's identifier.
        id: String,
    },
    /// A row is gone although no record removed it.
    RowMissing {
        /// The table that contained the row.
        table: String,
        /// The row's identifier.
        id: String,
    },
    /// A row exists although no record created it.
    RowWithoutRecord {
        /// The table that contains the row.
        table: String,
        /// The row's identifier.
        id: String,
    },
    /// The record names another signing key of the log than the stored one; or a stored one has no record; or the
    /// checkpoint that both keys must have signed is missing.
    SigningKey,
    /// The stored material of a version is not the original one.
    MaterialMismatch {
        /// The version's identifier.
        id: String,
    },
    /// Records have numbers below 1, which no list and no verification would reach.
    BelowFirst {
        /// The smallest sequence number.
        found: i64,
    },
    /// A stored checkpoint was not written by the ledger: it covers more records than the log has or lacks the log's
    /// signature, or there are more checkpoints than the ledger stores.
    SurplusCheckpoint {
        /// The number of records that the checkpoint claims to cover.
        size: u64,
    },
    /// Rows of an imported log are not those that were sealed.
    ImportedRows {
        /// The name under which the log was imported.
        source: String,
        /// The first row of the range in which a row was altered, deleted or inserted.
        first: u64,
        /// The last row of that range.
        last: u64,
    },
    /// Rows that cannot be read, or that no query returns.
    SurplusRows {
        /// The table that contains the rows.
        table: String,
        /// The number of rows.
        count: u64,
    },
    /// The schema of the database was altered, so that statements may not do what they say.
    SchemaAltered {
        /// The object, by its kind and name.
        object: String,
        /// The difference from the expected schema.
        what: String,
    },
    /// An index lacks rows of its table: lists that use it would miss them.
    IndexIncomplete {
        /// The name of the index in the database.
        index: String,
    },
    /// The database's own check found damage, or the counters in the head of the log cannot be read.
    Damaged {
        /// The database's own message, or what cannot be read.
        what: String,
    },
    /// The log is an older state than was seen before, or continues one.
    RolledBack {
        /// The number of records that the log has now.
        size: u64,
        /// The number of records seen earlier, by this process or by the writer of the high-water file.
        seen: u64,
    },
}

/// A fault and its place in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Fault {
    /// The first sequence number with the fault; 0 if the fault does not concern a record or its effect.
    pub seq: u64,
    /// The kind of the fault, with its values.
    #[serde(flatten)]
    pub finding: Finding,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seq, finding } = self;
        match finding {
            Finding::Gap { found } => write!(f, "record {seq} is missing; the next one is {found}"),
            Finding::OutOfOrder { found } => write!(f, "record {found} is in the place of record {seq}"),
            Finding::UnknownFormat { format } => write!(f, "record {seq} has the unknown format {format}"),
            Finding::Unreadable => write!(f, "record {seq} cannot be read"),
            Finding::BrokenLink => write!(f, "record {seq} does not name the hash of the record before it"),
            Finding::HashMismatch => write!(
                f,
                "record {seq} was altered, or the one before it was replaced: its fields do not match its hash"
            ),
            Finding::TimeBackwards => write!(f, "record {seq} is older than the record before it"),
            Finding::TailMissing { expected } => {
                write!(f, "the records from {seq} on are missing; the signed head counts {expected}")
            }
            Finding::BeyondHead => write!(f, "record {seq} is after the end of the signed head"),
            Finding::BadSignature { size } => {
                write!(f, "the checkpoint of {size} records does not have the log's signature")
            }
            Finding::RootMismatch { size } => write!(
                f,
                "the records from {seq} to {size} are consistent with each other, but not with the signed state: \
                 they were rewritten"
            ),
            Finding::HeadTime => write!(f, "the time of the log's head is not that of its last record, {seq}"),
            Finding::RowMismatch { table, id } => {
                write!(f, "row {id} of {table} is not as record {seq} left it")
            }
            Finding::RowMissing { table, id } => {
                write!(f, "row {id} of {table} is missing; record {seq} is the last about it")
            }
            Finding::RowWithoutRecord { table, id } => {
                write!(f, "row {id} of {table} was not created by any record, although it names record {seq}")
            }
            Finding::SigningKey => {
                write!(
                    f,
                    "the log's signing key from record {seq} on is not the one that the records and checkpoints name"
                )
            }
            Finding::MaterialMismatch { id } => write!(f, "version {id} does not have the material of record {seq}"),
            Finding::BelowFirst { found } => write!(f, "records have numbers below 1; the first is {found}"),
            Finding::SurplusCheckpoint { size } => {
                write!(f, "the stored checkpoint of {size} records was not written by this service")
            }
            Finding::ImportedRows { source, first, last } => write!(
                f,
                "rows {first} to {last} of the log imported from {source} are not those that record {seq} sealed: one \
                 or more were altered, deleted or inserted"
            ),
            Finding::SurplusRows { table, count } => {
                write!(f, "{count} rows of {table} cannot be read or were not written by this service")
            }
            Finding::SchemaAltered { object, what } => write!(f, "the schema was altered: {object} {what}"),
            Finding::IndexIncomplete { index } => {
                write!(f, "the index {index} lacks record {seq}; rebuild it after finding out why")
            }
            Finding::Damaged { what } => write!(f, "the database is damaged: {what}"),
            Finding::RolledBack { size, seen } => write!(
                f,
                "the log was rolled back: {seen} records were seen earlier, and the log of {size} records does not \
                 continue them"
            ),
        }
    }
}

/// The state of the log before a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The hash of the last record; zeros if there is none.
    pub hash: [u8; 32],
    /// The time of the last record.
    pub timestamp: Timestamp,
    /// The Merkle tree of the records so far.
    pub frontier: Frontier,
}

impl Start {
    /// The state before the first record.
    pub fn genesis() -> Self {
        Self { hash: [0; 32], timestamp: Timestamp::from_micros(0), frontier: Frontier::new() }
    }
}

/// A row that a record changed, with the SHA-256 of the row after the change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedRow {
    /// The sequence number of the record.
    pub seq: u64,
    /// The table that contains the row.
    pub table: String,
    /// The row's identifier.
    pub id: String,
    /// The SHA-256 of the row, in hexadecimal; empty if the row was removed.
    pub digest: String,
    /// The key that the record is about.
    pub key: Option<KeyId>,
    /// The name that the record gave the key, for a record of its creation or import.
    pub key_name: Option<String>,
}

/// A chunk of records, checked as far as possible without the records before it.
#[derive(Clone, Debug, Default)]
pub struct Digest {
    first: Option<First>,
    last: Option<(u64, [u8; 32], Timestamp)>,
    leaves: Vec<[u8; 32]>,
    subtree: Option<[u8; 32]>,
    fault: Option<Fault>,
    /// The rows changed by the good records of the chunk.
    pub changed: Vec<ChangedRow>,
    /// The statements of the good records about signing keys.
    pub links: Vec<Link>,
    /// The states of imported logs that the good records seal.
    pub imported: Vec<SealedLog>,
    /// The good records at which time was acknowledged to go back.
    pub set_backs: Vec<u64>,
}

impl Digest {
    /// Notes a fault found when reading after the last record, unless an earlier one is known.
    pub fn fail(&mut self, first: u64, fault: Fault) {
        if self.first.is_none() {
            self.first = Some(First { seq: first, prev: [0; 32], latest: Timestamp::from_micros(0) });
        }
        self.subtree = None;
        self.fault.get_or_insert(fault);
    }
}

#[derive(Clone, Copy, Debug)]
struct First {
    seq: u64,
    prev: [u8; 32],
    /// The latest time that the previous record may have.
    latest: Timestamp,
}

/// Digests a chunk: recomputes every hash from the stored fields, and checks numbering, links and time within it. After
/// the first fault, the rest is not checked.
pub fn digest(log: LogId, rows: &[AuditRecord]) -> Digest {
    let mut digest = Digest { leaves: Vec::with_capacity(rows.len()), ..Digest::default() };
    let mut buffer = String::new();
    for row in rows {
        if digest.first.is_none() {
            digest.first = Some(First { seq: row.seq, prev: row.prev_hash, latest: latest_before(row) });
        }
        if let Some(finding) = check(log, row, digest.last, &mut buffer) {
            let expected = digest.last.map_or(row.seq, |(seq, ..)| seq + 1);
            digest.fault = Some(Fault { seq: expected, finding });
            break;
        }
        digest.last = Some((row.seq, row.hash, row.timestamp));
        digest.leaves.push(row.hash);
        changed_rows(row, &mut digest.changed);
        digest.links.extend(link(row));
        digest.imported.extend(sealed_log(row));
        digest.set_backs.extend((row.action == Action::ClockAcknowledge.as_str()).then_some(row.seq));
    }
    let aligned = digest.first.is_some_and(|first| first.seq % CHUNK == 1);
    if aligned && digest.leaves.len() as u64 == CHUNK {
        let mut tree = Frontier::new();
        digest.leaves.iter().for_each(|leaf| tree.push(*leaf));
        digest.subtree = Some(tree.root());
    }
    digest
}

fn check(
    log: LogId,
    row: &AuditRecord,
    before: Option<(u64, [u8; 32], Timestamp)>,
    buffer: &mut String,
) -> Option<Finding> {
    if row.seq == 0 {
        return Some(Finding::OutOfOrder { found: 0 });
    }
    if let Some((seq, ..)) = before {
        if row.seq > seq + 1 {
            return Some(Finding::Gap { found: row.seq });
        }
        if row.seq <= seq {
            return Some(Finding::OutOfOrder { found: row.seq });
        }
    }
    if row.format != FORMAT {
        return Some(Finding::UnknownFormat { format: row.format });
    }
    // The record's own fields are checked before its predecessor, so that findings do not depend on the borders of
    // chunks.
    let body = Body::from(row).digest_with(buffer);
    let hash = record_hash(log, row.seq, row.timestamp, &row.prev_hash, &body);
    if hash != row.hash || record_id(&hash) != row.id {
        return Some(Finding::HashMismatch);
    }
    let (_, hash, timestamp) = before?;
    if row.prev_hash != hash {
        return Some(Finding::BrokenLink);
    }
    (latest_before(row) < timestamp).then_some(Finding::TimeBackwards)
}

/// The latest time that the previous record may have. Time may go back only where the record says so.
fn latest_before(row: &AuditRecord) -> Timestamp {
    if row.action == Action::ClockAcknowledge.as_str() { Timestamp::from_micros(i64::MAX) } else { row.timestamp }
}

/// Collects the rows that a successful change names in its details. The record's hash covers the details.
fn changed_rows(row: &AuditRecord, changed: &mut Vec<ChangedRow>) {
    let Some(details) = row.details.as_deref().filter(|details| details.contains("\"rows\":[[")) else { return };
    if row.status != Status::Success.as_str() {
        return;
    }
    #[derive(serde::Deserialize)]
    struct Details {
        #[serde(default)]
        rows: Vec<(String, String, String)>,
        #[serde(default)]
        name: Option<String>,
    }
    if let Ok(Details { rows, name }) = serde_json::from_str::<Details>(details) {
        let is_named = [Action::KeyCreate, Action::KeyImport].iter().any(|action| row.action == action.as_str());
        let name = name.filter(|_| is_named);
        changed.extend(rows.into_iter().map(|(table, id, digest)| ChangedRow {
            seq: row.seq,
            key: row.key_id,
            key_name: name.clone().filter(|_| table == "keys"),
            table,
            id,
            digest,
        }));
    }
}

/// Returns a record's statement about the log's signing key, if it has one.
fn link(row: &AuditRecord) -> Option<Link> {
    let names_key = row.action == Action::SigningKeyReplace.as_str() || row.action == Action::StoreCreate.as_str();
    if !names_key || row.status != Status::Success.as_str() {
        return None;
    }
    #[derive(Default, serde::Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Details {
        verifier_key: String,
        previous_key: Option<String>,
    }
    // Unreadable details name no key, so the expected link is missing.
    let details: Details = serde_json::from_str(row.details.as_deref().unwrap_or_default()).unwrap_or_default();
    Some(Link { seq: row.seq, key: details.verifier_key, previous: details.previous_key })
}

/// The log up to some record: the number of records, the root and the last hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The number of records.
    pub size: u64,
    /// The root of the Merkle tree over the records.
    pub root: [u8; 32],
    /// The hash of the last record.
    pub hash: [u8; 32],
}

/// The result of attaching a chunk.
pub struct Stitched {
    /// The state of the log after the chunk's good records.
    pub state: Start,
    /// The requested states that come before the fault, if there is one.
    pub states: Vec<State>,
    /// The first fault in the chunk, if there is one.
    pub fault: Option<Fault>,
}

/// Attaches a digested chunk to the log before it. `roots_at` are sizes within the chunk whose state is requested.
pub fn stitch(start: Start, digest: &Digest, roots_at: &[u64]) -> Stitched {
    match place(&start, digest) {
        Some(fault) => Stitched { state: start, states: Vec::new(), fault: Some(fault) },
        None => push(start, digest, roots_at),
    }
}

/// Returns the fault of a chunk's first record with respect to the log before it.
fn place(state: &Start, digest: &Digest) -> Option<Fault> {
    let expected = state.frontier.size() + 1;
    let first = digest.first?;
    if first.seq != expected {
        let found = first.seq;
        let finding = if found > expected { Finding::Gap { found } } else { Finding::OutOfOrder { found } };
        return Some(Fault { seq: expected, finding });
    }
    // The record's own fields come first: an altered record is the fault, and not the link to it.
    if let Some(fault) = &digest.fault
        && fault.seq == expected
    {
        return Some(fault.clone());
    }
    if first.prev != state.hash {
        return Some(Fault { seq: expected, finding: Finding::BrokenLink });
    }
    (first.latest < state.timestamp).then_some(Fault { seq: expected, finding: Finding::TimeBackwards })
}

fn push(mut state: Start, digest: &Digest, roots_at: &[u64]) -> Stitched {
    let mut states = Vec::new();
    match digest.subtree {
        Some(root) if roots_at.is_empty() && state.frontier.push_subtree(CHUNK_LEVEL, root).is_ok() => {}
        _ => {
            for leaf in &digest.leaves {
                state.frontier.push(*leaf);
                if roots_at.contains(&state.frontier.size()) {
                    states.push(State { size: state.frontier.size(), root: state.frontier.root(), hash: *leaf });
                }
            }
        }
    }
    if let Some((_, hash, timestamp)) = digest.last {
        state.hash = hash;
        state.timestamp = timestamp;
    }
    Stitched { state, states, fault: digest.fault.clone() }
}

#[cfg(test)]
mod tests;

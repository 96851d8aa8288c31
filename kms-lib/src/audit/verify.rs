//! Checking records against each other: hashes, links, numbering, time, and the tree over them.
//!
//! Hashing is most of the work and needs no state, so chunks of records are digested on all cores and then stitched
//! together in order.

use std::fmt;

use serde::Serialize;

use super::legacy::{SealedLog, sealed_log};
use super::record::{Body, FORMAT, record_hash};
use super::signing_keys::Link;
use super::tree::Frontier;
use crate::types::audit::{Action, AuditRecord, Status};
use crate::types::ids::{KeyId, LogId};
use crate::types::time::Timestamp;

/// Records of a full chunk; chunks begin at multiples of it.
pub const CHUNK: u64 = 4_096;
/// The level of a full chunk's subtree.
const CHUNK_LEVEL: u32 = CHUNK.trailing_zeros();

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
#[non_exhaustive]
pub enum Finding {
    /// A sequence number is missing: records were removed or renumbered.
    Gap {
        /// The number found instead.
        found: u64,
    },
    /// A sequence number comes twice or out of order.
    OutOfOrder {
        /// The number found.
        found: u64,
    },
    /// A record has a format this version does not know.
    UnknownFormat {
        /// Its format.
        format: u8,
    },
    /// A record cannot be read: a column has a type or length that was never written.
    Unreadable,
    /// The record does not name the hash of the one before it.
    BrokenLink,
    /// The record's fields do not give its hash: it was altered.
    HashMismatch,
    /// The record is older than the one before it.
    TimeBackwards,
    /// Records at the end are missing: the signed head counts more.
    TailMissing {
        /// How many the head counts.
        expected: u64,
    },
    /// There are records behind the signed head.
    BeyondHead,
    /// The head or a kept checkpoint does not carry the log's signature.
    BadSignature {
        /// The size of the state that should be signed.
        size: u64,
    },
    /// The records are consistent with each other, but not with a signed state: they were rewritten.
    RootMismatch {
        /// The size of the signed state. What is wrong lies between the reported number and this one.
        size: u64,
    },
    /// The head says another time than its last record: the time that later records may not fall behind.
    HeadTime,
    /// A row is not as the record of its last change left it.
    RowMismatch {
        /// The table that the row belongs to.
        table: String,
        /// Its id.
        id: String,
    },
    /// A row is gone although no record removed it.
    RowMissing {
        /// The table that the row belongs to.
        table: String,
        /// Its id.
        id: String,
    },
    /// A row is there although no record made it.
    RowWithoutRecord {
        /// The table that the row belongs to.
        table: String,
        /// Its id.
        id: String,
    },
    /// The record names another signing key of the log than the one that is stored, or a stored one without a record;
    /// or the state that both keys must have signed is missing.
    SigningKey,
    /// A version's stored material is not the one it was made with.
    MaterialMismatch {
        /// The version's id.
        id: String,
    },
    /// There are records with numbers below 1, which no list and no verification would come to.
    BelowFirst {
        /// The smallest number.
        found: i64,
    },
    /// A checkpoint is kept that the ledger did not store: of more records than the log has, without the log's
    /// signature, or more of them than the ledger stores.
    SurplusCheckpoint {
        /// The size of the log that the checkpoint says it covers, in records.
        size: u64,
    },
    /// Rows of an imported log are not those that were sealed.
    ImportedRows {
        /// The name under which the log was imported.
        source: String,
        /// The first of the rows among which there is one that was altered, deleted or inserted.
        first: u64,
        /// The last of them.
        last: u64,
    },
    /// Rows that cannot be read, or that no statement looks at.
    SurplusRows {
        /// The table that has the rows.
        table: String,
        /// How many there are.
        count: u64,
    },
    /// The schema of the database was altered, so that statements may do something else than they say.
    SchemaAltered {
        /// The object, by its kind and name.
        object: String,
        /// How it differs.
        what: String,
    },
    /// An index lacks rows of its table: lists that use it would miss them.
    IndexIncomplete {
        /// The name of the index in the database.
        index: String,
    },
    /// The database's own check found damage.
    Damaged {
        /// What it says.
        what: String,
    },
    /// The log is an older state, or the continuation of one, than was seen before.
    RolledBack {
        /// Records that the log has now.
        size: u64,
        /// Records that were seen: by this process, or by whoever wrote the high-water file.
        seen: u64,
    },
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Fault {
    /// The first sequence number that is not as it should be; 0 if the fault is not one of a record or its effect.
    pub seq: u64,
    /// What is wrong with it.
    #[serde(flatten)]
    pub finding: Finding,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seq, finding } = self;
        match finding {
            Finding::Gap { found } => write!(f, "record {seq} is missing; the next one is {found}"),
            Finding::OutOfOrder { found } => write!(f, "record {found} stands where {seq} belongs"),
            Finding::UnknownFormat { format } => write!(f, "record {seq} has the unknown format {format}"),
            Finding::Unreadable => write!(f, "record {seq} cannot be read"),
            Finding::BrokenLink => write!(f, "record {seq} does not name the hash of the record before it"),
            Finding::HashMismatch => write!(f, "record {seq} was altered: its fields do not give its hash"),
            Finding::TimeBackwards => write!(f, "record {seq} is older than the record before it"),
            Finding::TailMissing { expected } => {
                write!(f, "the records from {seq} on are missing; the signed head counts {expected}")
            }
            Finding::BeyondHead => write!(f, "record {seq} stands behind the signed head"),
            Finding::BadSignature { size } => {
                write!(f, "the state of {size} records does not carry the log's signature")
            }
            Finding::RootMismatch { size } => write!(
                f,
                "the records from {seq} to {size} are consistent with each other, but not with the signed state: \
                 they were rewritten"
            ),
            Finding::HeadTime => write!(f, "the head of the log does not have the time of record {seq}, its last"),
            Finding::RowMismatch { table, id } => {
                write!(f, "row {id} of {table} is not as record {seq} left it")
            }
            Finding::RowMissing { table, id } => {
                write!(f, "row {id} of {table} is gone; record {seq} is the last about it")
            }
            Finding::RowWithoutRecord { table, id } => {
                write!(f, "row {id} of {table} was not made by any record; it says record {seq}")
            }
            Finding::SigningKey => {
                write!(f, "the log's signing key from record {seq} on is not the one that the records and states name")
            }
            Finding::MaterialMismatch { id } => write!(f, "version {id} does not have the material of record {seq}"),
            Finding::BelowFirst { found } => write!(f, "there are records below number 1; the first is {found}"),
            Finding::SurplusCheckpoint { size } => {
                write!(f, "the kept checkpoint of {size} records is not one that this service stored")
            }
            Finding::ImportedRows { source, first, last } => write!(
                f,
                "rows {first} to {last} of the log imported from {source} are not those that record {seq} sealed: one or \
                 more were altered, deleted or inserted"
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
    /// Hash of the last record; zeros if there is none.
    pub hash: [u8; 32],
    /// Its time.
    pub timestamp: Timestamp,
    /// The tree so far.
    pub frontier: Frontier,
}

impl Start {
    /// Before the first record.
    pub fn genesis() -> Self {
        Self { hash: [0; 32], timestamp: Timestamp::from_micros(0), frontier: Frontier::new() }
    }
}

/// A row that a record says it changed, with the SHA-256 of the row afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedRow {
    /// The record.
    pub seq: u64,
    /// The table.
    pub table: String,
    /// The row's id.
    pub id: String,
    /// The row's hash, in hex.
    pub digest: String,
    /// The key that the record is about.
    pub key: Option<KeyId>,
    /// The name that the record gave the key, for a record of its creation or import.
    pub key_name: Option<String>,
}

/// A chunk of records, checked as far as that is possible without what comes before it.
#[derive(Clone, Debug, Default)]
pub struct Digest {
    first: Option<First>,
    last: Option<(u64, [u8; 32], Timestamp)>,
    leaves: Vec<[u8; 32]>,
    subtree: Option<[u8; 32]>,
    fault: Option<Fault>,
    /// Rows changed by the good records of the chunk.
    pub changed: Vec<ChangedRow>,
    /// What the good records of the chunk say about the signing keys.
    pub links: Vec<Link>,
    /// What they seal of imported logs.
    pub imported: Vec<SealedLog>,
}

impl Digest {
    /// Notes a fault that reading found behind the last record, unless an earlier one is known.
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
    /// The latest time that the record before it may have.
    latest: Timestamp,
}

/// Digests a chunk: recomputes every hash from the stored fields, and checks numbering, links and time within it.
/// After the first fault the rest is not looked at.
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
    // Its own fields first, then what is before it: so a finding does not depend on where a chunk begins.
    let body = Body::from(row).digest_with(buffer);
    if record_hash(log, row.seq, row.timestamp, &row.prev_hash, &body) != row.hash {
        return Some(Finding::HashMismatch);
    }
    let (_, hash, timestamp) = before?;
    if row.prev_hash != hash {
        return Some(Finding::BrokenLink);
    }
    (latest_before(row) < timestamp).then_some(Finding::TimeBackwards)
}

/// The latest time that the record before this one may have: time runs backwards only where the record says so.
fn latest_before(row: &AuditRecord) -> Timestamp {
    if row.action == Action::ClockAcknowledge.as_str() { Timestamp::from_micros(i64::MAX) } else { row.timestamp }
}

/// Collects the rows a successful change names in its details. The details are covered by the record's hash.
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

/// What a record says about the log's signing key, if it is about that.
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
    // One that cannot be read names no key, and is then not the one that should be there.
    let details: Details = serde_json::from_str(row.details.as_deref().unwrap_or_default()).unwrap_or_default();
    Some(Link { seq: row.seq, key: details.verifier_key, previous: details.previous_key })
}

/// The log up to some record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// How many records.
    pub size: u64,
    /// The root of the tree over them.
    pub root: [u8; 32],
    /// The hash of the last.
    pub hash: [u8; 32],
}

/// A chunk in its place.
pub struct Stitched {
    /// The state behind its good records.
    pub state: Start,
    /// The states that were wanted: those before the fault, if there is one.
    pub states: Vec<State>,
    /// The first fault.
    pub fault: Option<Fault>,
}

/// Puts a digested chunk behind what comes before it. `roots_at` are sizes within the chunk whose root is wanted.
pub fn stitch(start: Start, digest: &Digest, roots_at: &[u64]) -> Stitched {
    match place(&start, digest) {
        Some(fault) => Stitched { state: start, states: Vec::new(), fault: Some(fault) },
        None => push(start, digest, roots_at),
    }
}

/// What is wrong with the first record of a chunk, seen from what comes before it.
fn place(state: &Start, digest: &Digest) -> Option<Fault> {
    let expected = state.frontier.size() + 1;
    let first = digest.first?;
    if first.seq != expected {
        let found = first.seq;
        let finding = if found > expected { Finding::Gap { found } } else { Finding::OutOfOrder { found } };
        return Some(Fault { seq: expected, finding });
    }
    // Its own fields first: a record that was altered is the fault, not the link to it.
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

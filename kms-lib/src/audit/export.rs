//! Verifying an export of the log against a pinned public key, without the store and without a root key.
//!
//! An export is JSON lines: records as [`AuditRecord`] serializes, oldest first, and between them checkpoints as
//! `{"checkpoint": "<C2SP note>"}`, each after the last record that it covers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::checkpoint::{self, Checkpoint};
use super::signing_keys::{Link, SigningKey, SigningKeys};
use super::verify::{CHUNK, Fault, Finding, Start, digest, stitch};
use crate::crypto::provider::Provider;
use crate::crypto::{CryptoProvider, provider};
use crate::types::audit::AuditRecord;
use crate::types::error::{Error, Result};
use crate::types::ids::{KeyId, LogId, RecordId};
use crate::types::time::Timestamp;

/// The maximum length of a line in bytes: the longest record, escaped, with a margin.
const LINE_BYTES: usize = 4 * 1024 * 1024;

/// The approximate maximum of bytes in lines that wait to be checked together.
const WAITING_BYTES: usize = 16 * 1024 * 1024;

/// The result of verifying an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ExportReport {
    /// Whether every record is covered by a checkpoint that is signed by the pinned key, or by a key linked to it.
    pub ok: bool,
    /// The number of records in the export.
    pub size: u64,
    /// The number of records that such a checkpoint covers.
    pub signed: u64,
    /// The first fault of the records or checkpoints.
    pub faults: Vec<Fault>,
}

/// Verifies an export line by line, in constant memory.
pub struct ExportVerifier {
    log: LogId,
    origin: String,
    pinned: [u8; 32],
    provider: Arc<dyn Provider>,
    state: Start,
    waiting: Vec<AuditRecord>,
    /// The number of bytes in waiting lines.
    waiting_bytes: usize,
    links: Vec<Link>,
    /// The size of the largest checkpoint that each key signed, by the number of the key.
    signed: BTreeMap<u32, u64>,
    /// Keys, by number, whose first checkpoint was also signed by their predecessor.
    bridged: BTreeSet<u32>,
    fault: Option<Fault>,
}

impl ExportVerifier {
    /// Creates a verifier that trusts this public key of the log, in the form that `audit public-key` prints. Any key
    /// of the log can be used: its predecessors and successors are verified from it.
    pub fn new(pinned_key: &str) -> Result<Self> {
        let (origin, pinned) = checkpoint::parse_verifier_key(pinned_key)?;
        let id = origin.strip_prefix("mini-kms/log/").and_then(|id| id.parse::<LogId>().ok());
        let log = id.ok_or_else(|| Error::invalid("the pinned key is not that of a log of Mini KMS"))?;
        Ok(Self {
            log,
            origin,
            pinned,
            provider: provider(CryptoProvider::default())?,
            state: Start::genesis(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            links: Vec::new(),
            signed: BTreeMap::new(),
            bridged: BTreeSet::new(),
            fault: None,
        })
    }

    /// Takes the next line of the export. After the first fault, further lines are ignored.
    pub fn push_line(&mut self, line: &str) {
        if self.fault.is_some() || line.is_empty() {
            return;
        }
        let next = self.state.frontier.size() + self.waiting.len() as u64 + 1;
        match parse(line) {
            Some(Line::Record(record)) => {
                self.waiting.push(*record);
                self.waiting_bytes += line.len();
                if self.waiting.len() as u64 == CHUNK || self.waiting_bytes > WAITING_BYTES {
                    self.settle(None);
                }
            }
            Some(Line::Checkpoint(note)) => self.settle(Some(note)),
            None => self.fail(next, Finding::Unreadable),
        }
    }

    /// Returns the result after the end of the export.
    pub fn finish(mut self) -> ExportReport {
        self.settle(None);
        let size = self.state.frontier.size();
        let signed = match (&self.fault, self.follow()) {
            (Some(_), _) => 0,
            (None, Ok(signed)) => signed,
            (None, Err(fault)) => {
                self.fault = Some(fault);
                0
            }
        };
        if self.fault.is_none() && signed < size {
            self.fail(signed + 1, Finding::BadSignature { size });
        }
        if self.fault.is_none() && size == 0 {
            self.fail(1, Finding::TailMissing { expected: 1 });
        }
        ExportReport { ok: self.fault.is_none(), size, signed, faults: self.fault.into_iter().collect() }
    }

    fn fail(&mut self, seq: u64, finding: Finding) {
        self.fault.get_or_insert(Fault { seq, finding });
    }

    /// Checks the waiting records, and notes the checkpoint after them.
    fn settle(&mut self, note: Option<String>) {
        let rows = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let size = self.state.frontier.size() + rows.len() as u64;
        let digested = digest(self.log, &rows);
        self.links.extend(digested.links.iter().cloned());
        let stitched = stitch(std::mem::replace(&mut self.state, Start::genesis()), &digested, &[]);
        self.state = stitched.state;
        if let Some(fault) = stitched.fault {
            self.fault.get_or_insert(fault);
            return;
        }
        let Some(note) = note else { return };
        let claimed = checkpoint::claimed(&note).map(|claimed| claimed.size);
        match claimed {
            Some(claimed) if claimed == size => {
                if let Err(fault) = self.check_state(size, &note) {
                    self.fault.get_or_insert(fault);
                }
            }
            // Records are missing before it, or it is in the wrong place.
            Some(claimed) if claimed > size => self.fail(size + 1, Finding::TailMissing { expected: claimed }),
            Some(claimed) => self.fail(claimed, Finding::SurplusCheckpoint { size: claimed }),
            None => self.fail(size, Finding::BadSignature { size }),
        }
    }

    /// Checks a checkpoint against the records before it.
    fn check_state(&mut self, size: u64, note: &str) -> std::result::Result<(), Fault> {
        let keys = self.keys()?;
        let opened = self.open(&keys, note).ok_or(Fault { seq: size, finding: Finding::BadSignature { size } })?;
        if opened.root != self.state.frontier.root() {
            let good = self.signed.values().max().copied().unwrap_or_default();
            return Err(Fault { seq: good + 1, finding: Finding::RootMismatch { size } });
        }
        let key = keys.at(size);
        self.signed.insert(key.number, size);
        if key.number > 1 && size == key.first_seq {
            // `open` has verified both signatures.
            self.bridged.insert(key.number);
        }
        Ok(())
    }

    /// Follows the keys from the pinned one, and returns the number of records that a trusted checkpoint covers. Trust
    /// extends backwards because a checkpoint covers the records that name earlier keys, and forwards because two keys
    /// sign one checkpoint.
    fn follow(&self) -> std::result::Result<u64, Fault> {
        let keys = self.keys()?;
        let wrong = |seq: u64| Fault { seq, finding: Finding::SigningKey };
        let pinned = keys.find(&self.pinned).ok_or_else(|| wrong(1))?;
        let mut signed = self.signed.get(&pinned.number).copied().unwrap_or_default();
        for key in keys.all().iter().filter(|key| key.number > pinned.number) {
            if self.bridged.contains(&key.number) {
                signed = self.signed.get(&key.number).copied().unwrap_or(signed);
            } else if self.signed.range(key.number..).next().is_some() {
                return Err(wrong(key.first_seq));
            } else {
                break;
            }
        }
        Ok(signed)
    }

    /// The log's signing keys, as the records name them.
    fn keys(&self) -> std::result::Result<SigningKeys, Fault> {
        let mut all = Vec::new();
        let mut previous: Option<&str> = None;
        for (link, number) in self.links.iter().zip(1..) {
            let wrong = || Fault { seq: link.seq, finding: Finding::SigningKey };
            let (name, public_key) = checkpoint::parse_verifier_key(&link.key).map_err(|_| wrong())?;
            if name != self.origin || link.previous.as_deref() != previous {
                return Err(wrong());
            }
            all.push(SigningKey { number, first_seq: link.seq, public_key });
            previous = Some(&link.key);
        }
        let first = Fault { seq: 1, finding: Finding::SigningKey };
        SigningKeys::new(self.origin.clone(), all).map_err(|_| first)
    }

    fn open(&self, keys: &SigningKeys, note: &str) -> Option<Checkpoint> {
        let verify =
            |key: &[u8; 32], message: &[u8], signature: &[u8]| self.provider.ed25519_verify(key, message, signature);
        keys.open(note, &verify).ok()
    }
}

/// A line of an export.
enum Line {
    Record(Box<AuditRecord>),
    Checkpoint(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoteLine {
    checkpoint: String,
}

/// A record as [`AuditRecord`] serializes. Unknown fields are refused, since no hash covers them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RecordLine<'a> {
    seq: u64,
    id: RecordId,
    timestamp: Timestamp,
    actor: String,
    role: String,
    action: String,
    status: String,
    request_id: Option<String>,
    key_id: Option<KeyId>,
    key_version: Option<u32>,
    #[serde(borrow)]
    details: Option<&'a RawValue>,
    prev_hash: String,
    hash: String,
    format: u8,
}

fn parse(line: &str) -> Option<Line> {
    if line.len() > LINE_BYTES {
        return None;
    }
    if let Ok(NoteLine { checkpoint }) = serde_json::from_str(line) {
        return Some(Line::Checkpoint(checkpoint));
    }
    let row: RecordLine<'_> = serde_json::from_str(line).ok()?;
    Some(Line::Record(Box::new(AuditRecord {
        seq: row.seq,
        id: row.id,
        timestamp: row.timestamp,
        actor: row.actor,
        role: row.role,
        action: row.action,
        status: row.status,
        request_id: row.request_id,
        key_id: row.key_id,
        key_version: row.key_version,
        details: row.details.map(|details| details.get().to_owned()),
        prev_hash: hash(&row.prev_hash)?,
        hash: hash(&row.hash)?,
        format: row.format,
    })))
}

/// Parses a hash in lower-case hexadecimal.
fn hash(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    bytes.filter(|_| rest.is_empty())?.try_into().ok()
}

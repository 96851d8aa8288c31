//! The hash of a row: SHA-256 over the hash that it links to and the JSON of its fields.
//!
//! The fields are known, but not always in the form that was hashed: format 0 hashed milliseconds, which a DATETIME
//! column does not hold, and the details in an order of names that the type JSON of MySQL does not keep. So several
//! texts are tried. A text that gives the hash is the one that was hashed; no other can be found (SHA-256).
//!
//! A row that was altered has no such text, and all are tried in vain. So the search is bounded: by [`ROW_SEARCH`] for
//! each row, and by [`RUN_SEARCH`] for all rows of a run that are altered. The texts that every row of the service had,
//! but for lost milliseconds and a lost order of names, are always tried.

use sha2::{Digest, Sha256};

use super::collation::sort_names;
use super::ecma_json::{Object, Value};
use super::row::{LegacyRow, time};
use crate::audit::canonical::write_string;

/// Details of more names are tried in their order only.
const PERMUTED_NAMES: usize = 3;

/// Most values in the details of a row that are read as JSON: in memory a value takes many times its text. The service
/// wrote some ten.
const VALUES: usize = 200_000;
/// Bytes that are hashed in search of the text of one row, at most: all 6,018 texts of a row of 2.7 KB.
const ROW_SEARCH: u64 = 16 * 1024 * 1024;
/// Bytes that are hashed in search of texts in vain in a whole run: some 30,000 altered rows of usual length.
const RUN_SEARCH: u64 = 32 * 1024 * 1024 * 1024;

/// The search for the texts of rows, with what may still be spent on it.
#[derive(Debug)]
pub(crate) struct Search {
    left: u64,
    is_cut: bool,
}

impl Default for Search {
    fn default() -> Self {
        Self { left: RUN_SEARCH, is_cut: false }
    }
}

impl Search {
    /// The format under which the hash of a row reproduces; none if it does under neither.
    pub fn reproduce(&mut self, row: &LegacyRow) -> Option<u8> {
        self.is_cut = false;
        let expected = digest_of(&row.hash)?;
        if row.details.as_deref().is_some_and(|details| values_in(details) > VALUES) {
            self.is_cut = true;
            return None;
        }
        let details = match row.details.as_deref().map(Value::parse) {
            None | Some(Ok(Value::Null)) => None,
            Some(Ok(details)) => Some(details),
            Some(Err(_)) => return None,
        };
        if is_format_1(row, details.as_ref(), &expected) {
            return Some(1);
        }
        (is_format_0(row, details.as_ref(), &expected) || self.find_format_0(row, details, &expected)).then_some(0)
    }

    /// Whether texts of the last row were left out.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Format 0 with milliseconds and an order of names that the row does not have any more.
    fn find_format_0(&mut self, row: &LegacyRow, details: Option<Value>, expected: &[u8; 32]) -> bool {
        let room = self.left.min(ROW_SEARCH);
        let mut left = room;
        let orders = match details {
            None => vec![None],
            Some(details) => orders(&details).into_iter().map(Some).collect(),
        };
        for details in &orders {
            let text = Text::new(row, details.as_deref(), None);
            for timestamp in timestamps(&row.timestamp) {
                let Some(rest) = left.checked_sub(text.cost()) else {
                    self.is_cut = true;
                    self.left -= room - left;
                    return false;
                };
                left = rest;
                if text.hash(&timestamp) == *expected {
                    return true;
                }
            }
        }
        self.left -= room - left;
        false
    }
}

/// The format under which the hash of a single row reproduces.
#[cfg(test)]
pub(crate) fn reproduce(row: &LegacyRow) -> Option<u8> {
    Search::default().reproduce(row)
}

/// At most so many values are in a JSON text.
fn values_in(json: &str) -> usize {
    json.bytes().filter(|byte| matches!(byte, b',' | b':' | b'[' | b'{')).count()
}

/// A hash as the service wrote it: 64 lower-case hexadecimal digits.
pub(super) fn digest_of(hash: &str) -> Option<[u8; 32]> {
    let digits = hash.as_bytes();
    let is_hash = digits.len() == 64 && digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    is_hash.then_some(digest)
}

/// Format 1: every field, absent ones as `null`; the time cut to seconds; names sorted.
fn is_format_1(row: &LegacyRow, details: Option<&Value>, expected: &[u8; 32]) -> bool {
    let Some(timestamp) = whole_seconds(&row.timestamp) else { return false };
    let details = details.map_or_else(|| "null".into(), |details| sort_names(details.clone()).stringify());
    Text::new(row, Some(&details), Some("null")).hash(&format!("{timestamp}.000Z")) == *expected
}

/// Format 0: absent fields left out, the time as it was, names in their order. As the row is now.
fn is_format_0(row: &LegacyRow, details: Option<&Value>, expected: &[u8; 32]) -> bool {
    let details = details.map(Value::stringify);
    let text = Text::new(row, details.as_deref(), None);
    present_timestamps(&row.timestamp).any(|timestamp| text.hash(&timestamp) == *expected)
}

/// The texts that a time may have had whose milliseconds are not lost: as it is, and cut to seconds.
fn present_timestamps(timestamp: &str) -> impl Iterator<Item = String> {
    let seconds = whole_seconds(timestamp);
    let in_mysql = seconds.as_ref().map(|seconds| seconds.replace('T', " "));
    let cut = seconds.as_ref().map(|seconds| format!("{seconds}.000Z"));
    let whole = seconds.zip(millis(timestamp)).map(|(seconds, millis)| format!("{seconds}.{millis:03}Z"));
    [Some(timestamp.to_owned()), in_mysql, cut, whole].into_iter().flatten()
}

/// All texts that a time may have had: those, and with any milliseconds if it has none.
fn timestamps(timestamp: &str) -> impl Iterator<Item = String> {
    let lost = whole_seconds(timestamp).filter(|_| millis(timestamp).is_none());
    let lost = lost.into_iter().flat_map(|seconds| (1..=999).map(move |millis| format!("{seconds}.{millis:03}Z")));
    present_timestamps(timestamp).chain(lost)
}

/// The milliseconds of a time that has some.
fn millis(timestamp: &str) -> Option<i64> {
    let time = time(timestamp).filter(|_| timestamp.contains('.'))?;
    Some(time.micros().rem_euclid(1_000_000) / 1_000)
}

/// `YYYY-MM-DDTHH:MM:SS` in UTC.
fn whole_seconds(timestamp: &str) -> Option<String> {
    let text = time(timestamp)?.to_string();
    text.get(..19).map(str::to_owned)
}

/// The details printed with their names in the order they have, then, if they are few, in every other one.
fn orders(details: &Value) -> Vec<String> {
    let members: Vec<(Vec<u16>, Value)> = match details {
        Value::Object(members) => members.iter().map(|(name, value)| (name.to_vec(), value.clone())).collect(),
        _ => Vec::new(),
    };
    if members.len() < 2 || members.len() > PERMUTED_NAMES {
        return vec![details.stringify()];
    }
    let mut printed = Vec::new();
    permute(members, &mut Object::new(), &mut printed);
    printed
}

fn permute(rest: Vec<(Vec<u16>, Value)>, begun: &mut Object, printed: &mut Vec<String>) {
    if rest.is_empty() {
        printed.push(Value::Object(begun.clone()).stringify());
    }
    for at in 0..rest.len() {
        let mut rest = rest.clone();
        let (name, value) = rest.remove(at);
        let mut begun = begun.clone();
        begun.set_utf16(name, value);
        permute(rest, &mut begun, printed);
    }
}

/// What is hashed of a row, but for its time.
struct Text {
    /// The hash up to the time.
    before: Sha256,
    /// The JSON behind the time.
    after: String,
}

impl Text {
    /// The text of a row with these details; `absent` stands for absent fields, which are left out without it.
    fn new(row: &LegacyRow, details: Option<&str>, absent: Option<&str>) -> Self {
        let mut before = Sha256::new();
        before.update(row.prev_hash.as_bytes());
        before.update(format!("{{\"id\":{},\"timestamp\":", quoted(&row.id)).as_bytes());
        let version = row.key_version.map(|version| version.to_string());
        let mut after = String::new();
        for (name, value) in [
            ("actor", Some(quoted(&row.actor))),
            ("role", Some(quoted(&row.role))),
            ("action", Some(quoted(&row.action))),
            ("requestId", Some(quoted(&row.request_id))),
            ("details", details.map(str::to_owned)),
            ("keyId", row.key_id.as_deref().map(quoted)),
            ("keyVersion", version),
            ("status", Some(quoted(&row.status))),
        ] {
            if let Some(value) = value.as_deref().or(absent) {
                after.push_str(&format!(",\"{name}\":{value}"));
            }
        }
        after.push('}');
        Self { before, after }
    }

    /// Bytes that are hashed for one time.
    fn cost(&self) -> u64 {
        // The beginning is hashed once; a block may be begun in vain.
        self.after.len() as u64 + 128
    }

    /// The hash of the row if it had this time.
    fn hash(&self, timestamp: &str) -> [u8; 32] {
        let mut hash = self.before.clone();
        hash.update(quoted(timestamp).as_bytes());
        hash.update(self.after.as_bytes());
        hash.finalize().into()
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    write_string(&mut out, text);
    out
}

#[cfg(test)]
mod tests;

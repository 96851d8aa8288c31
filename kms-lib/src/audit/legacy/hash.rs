//! The hash of a row: SHA-256 over the hash that it links to and the JSON of its fields.
//!
//! The fields are known, but not always in the form that was hashed: format 0 hashed milliseconds, which a DATETIME
//! column does not store, and the details in an order of names that MySQL's JSON type does not keep. So several texts
//! are tried. A text that yields the hash is the one that was hashed, since SHA-256 is collision resistant.
//!
//! An altered row has no such text, and all attempts fail. So the search is bounded: by [`ROW_SEARCH`] for each row,
//! and by [`RUN_SEARCH`] for all altered rows of a run. Texts without lost milliseconds and without a lost order of
//! names are always tried.

use sha2::{Digest, Sha256};

use super::collation::sort_names;
use super::ecma_json::{Object, Value};
use super::mysql_json;
use super::row::{LegacyRow, time};
use crate::audit::canonical::quoted;

/// Details with more names than this are tried in their own order only.
const PERMUTED_NAMES: usize = 3;

/// The maximum number of JSON values in a row's details that are parsed, since a value takes many times the memory of
/// its text. The original service wrote about ten.
const VALUES: usize = 200_000;
/// The maximum number of bytes hashed in search of one row's text: enough for all 6,018 texts of a row of 2.7 KB.
const ROW_SEARCH: u64 = 16 * 1024 * 1024;
/// The maximum number of bytes hashed in failed searches of a whole run: some 30,000 altered rows of usual length.
const RUN_SEARCH: u64 = 32 * 1024 * 1024 * 1024;

/// The reasons why a row may be unaltered although its hash is not reproduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// The search for its text was cut short.
    Unsearched,
    /// A database lost the order of its names, of which there are more than are tried in every order.
    OrderLost,
}

/// The search for the hashed texts of rows, with its remaining budget.
#[derive(Debug)]
pub(crate) struct Search {
    left: u64,
    doubt: Option<Doubt>,
}

impl Default for Search {
    fn default() -> Self {
        Self { left: RUN_SEARCH, doubt: None }
    }
}

impl Search {
    /// Returns the format under which the hash of a row reproduces; none if it reproduces under neither.
    pub fn reproduce(&mut self, row: &LegacyRow) -> Option<u8> {
        self.doubt = None;
        let expected = digest_of(&row.hash)?;
        if row.details.as_deref().is_some_and(|details| values_in(details) > VALUES) {
            self.doubt = Some(Doubt::Unsearched);
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
        if is_format_0(row, details.as_ref(), &expected) {
            return Some(0);
        }
        let is_order_lost = row.details.as_deref().zip(details.as_ref()).is_some_and(|(text, details)| {
            has_more_orders(details, PERMUTED_NAMES) && mysql_json::is_its_form(text, details)
        });
        if self.find_format_0(row, details, &expected) {
            return Some(0);
        }
        if is_order_lost {
            self.doubt.get_or_insert(Doubt::OrderLost);
        }
        None
    }

    /// Why the last row may be unaltered, if it did not reproduce.
    pub fn doubt(&self) -> Option<Doubt> {
        self.doubt
    }

    /// Tries format 0 with milliseconds and an order of names that the row has lost.
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
                    self.doubt = Some(Doubt::Unsearched);
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

/// An upper bound of the number of values in a JSON text.
fn values_in(json: &str) -> usize {
    json.bytes().filter(|byte| matches!(byte, b',' | b':' | b'[' | b'{')).count()
}

/// Parses a hash as that service wrote it: 64 lower-case hexadecimal digits.
pub(super) fn digest_of(hash: &str) -> Option<[u8; 32]> {
    let digits = hash.as_bytes();
    let is_hash = digits.len() == 64 && digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    is_hash.then_some(digest)
}

/// Tries format 1: every field, absent ones as `null`; the time truncated to seconds; names sorted.
fn is_format_1(row: &LegacyRow, details: Option<&Value>, expected: &[u8; 32]) -> bool {
    let Some(timestamp) = whole_seconds(&row.timestamp) else { return false };
    let details = details.map_or_else(|| "null".into(), |details| sort_names(details.clone()).stringify());
    Text::new(row, Some(&details), Some("null")).hash(&format!("{timestamp}.000Z")) == *expected
}

/// Tries format 0 with the row as it is: absent fields left out, the time unchanged, names in their order.
fn is_format_0(row: &LegacyRow, details: Option<&Value>, expected: &[u8; 32]) -> bool {
    let details = details.map(Value::stringify);
    let text = Text::new(row, details.as_deref(), None);
    present_timestamps(&row.timestamp).any(|timestamp| text.hash(&timestamp) == *expected)
}

/// The possible texts of a time whose milliseconds are not lost: as it is, and truncated to seconds.
fn present_timestamps(timestamp: &str) -> impl Iterator<Item = String> {
    let seconds = whole_seconds(timestamp);
    let in_mysql = seconds.as_ref().map(|seconds| seconds.replace('T', " "));
    let cut = seconds.as_ref().map(|seconds| format!("{seconds}.000Z"));
    let whole = seconds.zip(millis(timestamp)).map(|(seconds, millis)| format!("{seconds}.{millis:03}Z"));
    [Some(timestamp.to_owned()), in_mysql, cut, whole].into_iter().flatten()
}

/// All possible texts of a time: those, and every value of the milliseconds if the time has none.
fn timestamps(timestamp: &str) -> impl Iterator<Item = String> {
    let lost = whole_seconds(timestamp).filter(|_| millis(timestamp).is_none());
    let lost = lost.into_iter().flat_map(|seconds| (1..=999).map(move |millis| format!("{seconds}.{millis:03}Z")));
    present_timestamps(timestamp).chain(lost)
}

/// The milliseconds of a time, if it has any.
fn millis(timestamp: &str) -> Option<i64> {
    let time = time(timestamp).filter(|_| timestamp.contains('.'))?;
    Some(time.micros().rem_euclid(1_000_000) / 1_000)
}

/// The time as `YYYY-MM-DDTHH:MM:SS` in UTC.
fn whole_seconds(timestamp: &str) -> Option<String> {
    let text = time(timestamp)?.to_string();
    text.get(..19).map(str::to_owned)
}

/// The details printed with their names in the stored order and, if there are few names, in every other order.
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

/// Whether details have orders of names that [`orders`] does not try: an object with more names than these, or one
/// within another value, which is tried in its own order only.
fn has_more_orders(details: &Value, tried: usize) -> bool {
    match details {
        Value::Object(members) => {
            members.iter().count() > tried || members.iter().any(|(_, value)| has_more_orders(value, 1))
        }
        Value::Array(values) => values.iter().any(|value| has_more_orders(value, 1)),
        _ => false,
    }
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

/// The hashed text of a row, except for its time.
struct Text {
    /// The state of the hash before the time.
    before: Sha256,
    /// The JSON after the time.
    after: String,
}

impl Text {
    /// The text of a row with these details. `absent` replaces absent fields; without it they are left out.
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

    /// The number of bytes that are hashed for one time.
    fn cost(&self) -> u64 {
        // The beginning is hashed only once; padding may add a block.
        self.after.len() as u64 + 128
    }

    /// The hash of the row with this time.
    fn hash(&self, timestamp: &str) -> [u8; 32] {
        let mut hash = self.before.clone();
        hash.update(quoted(timestamp).as_bytes());
        hash.update(self.after.as_bytes());
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests;

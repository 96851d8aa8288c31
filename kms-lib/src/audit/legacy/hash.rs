//! The hash of a row: SHA-256 over the hash that it links to and the JSON of its fields.
//!
//! The fields are known, but not always in the form that was hashed: format 0 hashed milliseconds, which a DATETIME
//! column does not hold, and the details in an order of names that the type JSON of MySQL does not keep. So several
//! texts are tried. A text that gives the hash is the one that was hashed; no other can be found (SHA-256).

use sha2::{Digest, Sha256};

use super::collation::sort_names;
use super::ecma_json::{Object, Value};
use super::row::{LegacyRow, time};
use crate::audit::canonical::write_string;

/// Details of more names are tried in their order only.
const PERMUTED_NAMES: usize = 3;

/// The format under which the hash of a row reproduces; none if it does under neither.
pub(crate) fn reproduce(row: &LegacyRow) -> Option<u8> {
    let expected = digest_of(&row.hash)?;
    let details = match row.details.as_deref().map(Value::parse) {
        None | Some(Ok(Value::Null)) => None,
        Some(Ok(details)) => Some(details),
        Some(Err(_)) => return None,
    };
    if is_format_1(row, details.as_ref(), &expected) {
        return Some(1);
    }
    is_format_0(row, details, &expected).then_some(0)
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

/// Format 0: absent fields left out, the time as it was, names in their order.
fn is_format_0(row: &LegacyRow, details: Option<Value>, expected: &[u8; 32]) -> bool {
    let orders = match details {
        None => vec![None],
        Some(details) => orders(&details).into_iter().map(Some).collect(),
    };
    orders.iter().any(|details| {
        let text = Text::new(row, details.as_deref(), None);
        timestamps(&row.timestamp).any(|timestamp| text.hash(&timestamp) == *expected)
    })
}

/// The texts that a time may have had: as it is, cut to seconds, and with its milliseconds, or any if it has none.
fn timestamps(timestamp: &str) -> impl Iterator<Item = String> {
    let seconds = whole_seconds(timestamp);
    let millis = time(timestamp).map(|time| time.micros().rem_euclid(1_000_000) / 1_000);
    let millis = millis.filter(|_| timestamp.contains('.'));
    let in_mysql = seconds.as_ref().map(|seconds| seconds.replace('T', " "));
    let in_iso = seconds.into_iter().flat_map(move |seconds| {
        let possible = millis.map_or(0..=999, |millis| millis..=millis);
        // Cut to seconds comes first, and is not left out if the milliseconds are known.
        [0].into_iter().chain(possible).map(move |millis| format!("{seconds}.{millis:03}Z"))
    });
    let verbatim = timestamp.to_owned();
    [Some(verbatim), in_mysql].into_iter().flatten().chain(in_iso)
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

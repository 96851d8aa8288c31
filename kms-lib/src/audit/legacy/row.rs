//! Rows of imported logs: as their source holds them, and as this service stores them.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::audit::canonical::quoted;
use crate::types::time::Timestamp;

/// A row of the log of Mini KMS on Node, with every field as its source held it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LegacyRow {
    /// The row's identifier.
    pub id: String,
    /// The time as text: RFC 3339, or `YYYY-MM-DD HH:MM:SS` in UTC.
    pub timestamp: String,
    /// The principal that acted.
    pub actor: String,
    /// The role of the actor.
    pub role: String,
    /// The action that was performed.
    pub action: String,
    /// The identifier of the request.
    pub request_id: String,
    /// The details as JSON text.
    #[serde(serialize_with = "as_json")]
    pub details: Option<String>,
    /// The key's id, in rows that name it outside the details.
    pub key_id: Option<String>,
    /// The number of the version, in rows that name it outside the details.
    pub key_version: Option<i64>,
    /// The hash of the row that this one links to, or `GENESIS`.
    pub prev_hash: String,
    /// The hash of this row.
    pub hash: String,
    /// `SUCCESS` or `FAILURE`.
    pub status: String,
}

/// Serializes details as JSON within JSON, on one line. Text that is not JSON is serialized as a string.
fn as_json<S: Serializer>(details: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    let is_json = |details: &&str| serde_json::from_str::<&RawValue>(details).is_ok();
    let json = details.as_deref().filter(is_json).map(without_white_space);
    match json.and_then(|json| RawValue::from_string(json).ok()) {
        Some(raw) => raw.serialize(serializer),
        None => details.serialize(serializer),
    }
}

/// Removes white space outside strings from JSON.
fn without_white_space(json: &str) -> String {
    let (mut in_string, mut is_escaped) = (false, false);
    let keep = |character: &char| {
        let was_in_string = in_string;
        if *character == '"' && !is_escaped {
            in_string = !in_string;
        }
        is_escaped = in_string && *character == '\\' && !is_escaped;
        was_in_string || !matches!(character, ' ' | '\t' | '\n' | '\r')
    };
    json.chars().filter(keep).collect()
}

/// Parses the time of a row. MySQL prints it without a zone; the service stored it in UTC.
pub(super) fn time(timestamp: &str) -> Option<Timestamp> {
    match timestamp.split_once(' ') {
        Some((date, time)) => format!("{date}T{time}Z").parse().ok(),
        None => timestamp.parse().ok(),
    }
}

/// A row with the format under which its hash reproduced, as it is stored and sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredRow {
    /// The row as its source held it.
    pub row: LegacyRow,
    /// The format, 0 or 1; none if the hash did not reproduce.
    pub format: Option<u8>,
}

impl StoredRow {
    /// The stored form: canonical JSON (RFC 8785) of all fields and the format, the details as text.
    pub fn body(&self) -> String {
        let Self { row, format } = self;
        let optional = |text: &Option<String>| text.as_deref().map_or_else(|| "null".into(), quoted);
        let number = |number: Option<i64>| number.map_or_else(|| "null".into(), |number| number.to_string());
        format!(
            "{{\"action\":{},\"actor\":{},\"details\":{},\"format\":{},\"hash\":{},\"id\":{},\"keyId\":{},\
             \"keyVersion\":{},\"prevHash\":{},\"requestId\":{},\"role\":{},\"status\":{},\"timestamp\":{}}}",
            quoted(&row.action),
            quoted(&row.actor),
            optional(&row.details),
            number(format.map(i64::from)),
            quoted(&row.hash),
            quoted(&row.id),
            optional(&row.key_id),
            number(row.key_version),
            quoted(&row.prev_hash),
            quoted(&row.request_id),
            quoted(&row.role),
            quoted(&row.status),
            quoted(&row.timestamp),
        )
    }

    /// Parses the stored form; none if the text is not exactly that form.
    pub fn read(body: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Format {
            format: Option<u8>,
        }
        let row = serde_json::from_str(body).ok()?;
        let Format { format } = serde_json::from_str(body).ok()?;
        Some(Self { row, format }).filter(|read| read.body() == body)
    }
}

/// The leaf of a stored row in the Merkle tree of its log (RFC 6962, 2.1).
pub(crate) fn leaf(body: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([0]);
    hash.update(body.as_bytes());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn details_are_shown_as_json_on_one_line() {
        for (text, shown) in [
            ("{\n \"a b\\\\\" : [ 1.0,\t\"\\\" \", 1e400 ]\r\n}", r#"{"a b\\":[1.0,"\" ",1e400]}"#),
            (" null ", "null"),
            ("{ 1", r#""{ 1""#),
            ("1 2", r#""1 2""#),
        ] {
            let mut out = Vec::new();
            as_json(&Some(text.to_owned()), &mut serde_json::Serializer::new(&mut out)).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), shown);
        }
    }
}

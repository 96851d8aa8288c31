//! Validation of the attributes that a caller sets on a key.

use serde_json::Value;

use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::key::{KeyPurpose, KeyType};
use crate::types::limits::{METADATA_BYTES, NAME_CHARS, PERIOD_DAYS};
use crate::types::text::is_deceptive;

/// Deepest nesting of metadata.
const METADATA_DEPTH: usize = 32;
/// Prefix of the names that serde_json reserves for itself.
const RESERVED_NAMES: &str = "$serde_json::private::";

/// Checks a key's name: 1 to 128 printable characters, no leading or trailing blanks, not `*`, which represents all
/// keys, and not the form of a UUID, so that a text is either an id or a name.
pub fn check_name(name: &str) -> Result<()> {
    let refuse = |why: &str| Err(Error::new(ErrorCode::InvalidName, format!("the name of a key {why}")));
    if name.is_empty() {
        return refuse("must not be empty");
    }
    // Bytes first, so that the characters of a very long text are not counted.
    if name.len() > NAME_CHARS * 4 || name.chars().count() > NAME_CHARS {
        return refuse(&format!("has at most {NAME_CHARS} characters"));
    }
    if name.trim() != name {
        return refuse("must not begin or end with a blank");
    }
    if name.chars().any(is_deceptive) {
        return refuse("must not contain control, invisible or bidirectional characters");
    }
    if name == "*" {
        return refuse("must not be *, which represents all keys");
    }
    if name.to_ascii_lowercase().parse::<KeyId>().is_ok() {
        return refuse("must not look like a UUID");
    }
    Ok(())
}

/// Refuses the purpose `SIGNING` for AES, which cannot sign.
pub fn check_type_and_purpose(key_type: KeyType, purpose: KeyPurpose) -> Result<()> {
    if key_type == KeyType::Aes256Gcm && purpose == KeyPurpose::Signing {
        return Err(Error::new(ErrorCode::WrongPurpose, "an AES256_GCM key cannot have the purpose SIGNING"));
    }
    Ok(())
}

/// Checks a rotation or grace period: from `least` days to 36,500 days (100 years).
pub fn check_period(what: &str, days: Option<u32>, least: u32) -> Result<()> {
    match days {
        Some(days) if !(least..=PERIOD_DAYS).contains(&days) => {
            Err(Error::invalid(format!("the {what} is {days} days; {least} to {PERIOD_DAYS} are allowed")))
        }
        _ => Ok(()),
    }
}

/// Checks metadata, which is a JSON object of at most 16 KiB, and returns its stored form: canonical JSON (RFC 8785).
pub fn check_metadata(metadata: Option<&Value>) -> Result<Option<String>> {
    let Some(value) = metadata else { return Ok(None) };
    if !value.is_object() {
        return Err(Error::invalid("metadata must be a JSON object"));
    }
    check_shape(value, 0)?;
    if !is_exact_throughout(value) {
        return Err(Error::invalid(
            "a number in the metadata is beyond 2^53 - 1 and would be rounded; send it as a string",
        ));
    }
    let text = crate::audit::canonical::canonical(value)?;
    if text.len() > METADATA_BYTES {
        return Err(Error::invalid(format!("the metadata has {} bytes; the limit is {METADATA_BYTES}", text.len())));
    }
    if text.contains("\\u0000") && contains_nul(value) {
        return Err(Error::invalid("metadata contains U+0000"));
    }
    Ok(Some(text))
}

/// Refuses values that would not be read back unchanged: those nested deeper than some parsers allow, and those with
/// the names by which serde_json marks numbers and raw values.
fn check_shape(value: &Value, depth: usize) -> Result<()> {
    if depth > METADATA_DEPTH {
        return Err(Error::invalid(format!("the metadata is nested deeper than {METADATA_DEPTH} levels")));
    }
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| check_shape(item, depth + 1)),
        Value::Object(members) => members.iter().try_for_each(|(name, value)| {
            if name.starts_with(RESERVED_NAMES) {
                return Err(Error::invalid(format!("metadata must not have names that begin with {RESERVED_NAMES}")));
            }
            check_shape(value, depth + 1)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

/// Whether all numbers in the value are represented exactly, without rounding.
fn is_exact_throughout(value: &Value) -> bool {
    match value {
        Value::Number(number) => crate::audit::canonical::is_exact(number),
        Value::Array(items) => items.iter().all(is_exact_throughout),
        Value::Object(members) => members.values().all(is_exact_throughout),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

fn contains_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(contains_nul),
        Value::Object(members) => members.iter().any(|(name, value)| name.contains('\0') || contains_nul(value)),
        _ => false,
    }
}

//! Whether what a caller gives for a key may be stored.

use serde_json::Value;

use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::key::{KeyPurpose, KeyType};
use crate::types::limits::{METADATA_BYTES, NAME_CHARS, PERIOD_DAYS};
use crate::types::text::is_deceptive;

/// Deepest nesting of metadata.
const METADATA_DEPTH: usize = 32;
/// How the names begin that serde_json keeps for itself.
const RESERVED_NAMES: &str = "$serde_json::private::";

/// A name has 1 to 128 printable characters, no outer blanks, and not the shape of a UUID: a text that names a key
/// is either its id or its name, never both. Nor is it `*`, which stands for all keys.
pub fn check_name(name: &str) -> Result<()> {
    let refuse = |why: &str| Err(Error::new(ErrorCode::InvalidName, format!("the name of a key {why}")));
    if name.is_empty() {
        return refuse("must not be empty");
    }
    // Bytes first: counting the characters of an arbitrarily long text is work for nothing.
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
        return refuse("must not be *, which stands for all keys");
    }
    if name.to_ascii_lowercase().parse::<KeyId>().is_ok() {
        return refuse("must not look like a UUID");
    }
    Ok(())
}

/// AES cannot sign.
pub fn check_type_and_purpose(key_type: KeyType, purpose: KeyPurpose) -> Result<()> {
    if key_type == KeyType::Aes256Gcm && purpose == KeyPurpose::Signing {
        return Err(Error::new(ErrorCode::WrongPurpose, "an AES256_GCM key cannot have the purpose SIGNING"));
    }
    Ok(())
}

/// A rotation or grace period lies between `least` days and a hundred years.
pub fn check_period(what: &str, days: Option<u32>, least: u32) -> Result<()> {
    match days {
        Some(days) if !(least..=PERIOD_DAYS).contains(&days) => {
            Err(Error::invalid(format!("the {what} lies between {least} and {PERIOD_DAYS} days")))
        }
        _ => Ok(()),
    }
}

/// Metadata is a JSON object of at most 16 KiB; the stored form is canonical.
pub fn check_metadata(metadata: Option<&Value>) -> Result<Option<String>> {
    let Some(value) = metadata else { return Ok(None) };
    if !value.is_object() {
        return Err(Error::invalid("metadata must be a JSON object"));
    }
    check_shape(value, 0)?;
    if !is_exact_throughout(value) {
        return Err(Error::invalid(
            "a number in the metadata is beyond 2^53 - 1 and would be rounded; send it as text",
        ));
    }
    let text = crate::audit::canonical::canonical(value)?;
    if text.len() > METADATA_BYTES {
        return Err(Error::invalid(format!("metadata has at most {METADATA_BYTES} bytes")));
    }
    if text.contains("\\u0000") && contains_nul(value) {
        return Err(Error::invalid("metadata contains U+0000"));
    }
    Ok(Some(text))
}

/// What is stored must be read again as what it was: not nested deeper than every reader follows, and without the names
/// by which serde_json marks values that it makes out of text.
fn check_shape(value: &Value, depth: usize) -> Result<()> {
    if depth > METADATA_DEPTH {
        return Err(Error::invalid(format!("metadata is nested at most {METADATA_DEPTH} deep")));
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

/// Whether no number of the value is so large that it was, or would be, rounded to another one.
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

//! Mapping rows of Mini KMS on Node to this service's types. Values that cannot be mapped exactly become an error or a
//! finding, never a guess.

use serde_json::Value;

use super::source::{KEY_BYTES, SourceKey, SourceVersion, VERSION_BYTES, source_time};
use crate::lifecycle::{ImportRun, ImportedKey, ImportedVersion, check_metadata, check_name, check_period};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::{KeyId, VersionId};
use crate::types::key::{KeyPurpose, KeyState, KeyType, VersionState};
use crate::types::limits::{METADATA_BYTES, NAME_CHARS, PERIOD_DAYS};
use crate::types::text::is_deceptive;

/// The highest version number that is imported.
const VERSION_MAX: i64 = 100_000;
/// The member that holds metadata that this service does not accept, as text.
const METADATA_AS_TEXT: &str = "importedMetadata";
/// The maximum length in bytes of metadata kept as text. In JSON, an escaped byte takes up to six (`\u0001`), so this
/// is less than the limit for metadata.
const METADATA_TEXT: usize = METADATA_BYTES / 8;

/// A key without its versions, and remarks on settings that were changed or left out.
pub fn key_of(row: &SourceKey, run: &ImportRun) -> Result<(ImportedKey, Vec<String>)> {
    let mut changed = Vec::new();
    if row.metadata_bytes > KEY_BYTES {
        changed.push(format!("the metadata of {} bytes is left out", row.metadata_bytes));
    }
    let key = ImportedKey {
        run: run.clone(),
        id: key_id(&row.id)?,
        name: row.name.clone(),
        key_type: KeyType::parse(&row.key_type).map_err(|_| unknown("type", &row.key_type))?,
        purpose: KeyPurpose::parse(&row.purpose).map_err(|_| unknown("purpose", &row.purpose))?,
        state: match row.state.as_str() {
            "ENABLED" => KeyState::Enabled,
            "DISABLED" => KeyState::Disabled,
            "REVOKED" => KeyState::Revoked,
            other => return Err(unknown("state", other)),
        },
        rotation_period_days: period("rotation period", row.rotation_period_days, 1, &mut changed),
        grace_period_days: period("grace period", row.grace_period_days, 0, &mut changed),
        metadata: metadata(row.metadata.as_deref(), &mut changed)?,
        created_at: source_time(&row.created_at)?,
        current_version: number(row.current_version)?,
        versions: Vec::new(),
    };
    Ok((key, changed))
}

/// The id of a key. It must be in the canonical form, to which the original's ciphertexts are bound.
fn key_id(text: &str) -> Result<KeyId> {
    let id = text.parse::<KeyId>().ok().filter(|id| id.to_string() == text);
    id.ok_or_else(|| Error::invalid("the key's id is not a lower-case UUID"))
}

/// A version without its material.
pub fn version_of(row: &SourceVersion) -> Result<ImportedVersion> {
    if row.material_bytes > VERSION_BYTES {
        let text = format!("the wrapped material has {} bytes; at most {VERSION_BYTES} are read", row.material_bytes);
        return Err(Error::new(ErrorCode::LimitExceeded, text));
    }
    let time = |text: &Option<String>| text.as_deref().map(source_time).transpose();
    Ok(ImportedVersion {
        id: row.id.parse::<VersionId>().map_err(|_| Error::invalid("the version's id is not a UUID"))?,
        version: number(row.version)?,
        state: match row.state.as_str() {
            "ENABLED" => VersionState::Enabled,
            "DISABLED" => VersionState::Disabled,
            "REVOKED" => VersionState::Revoked,
            other => return Err(unknown("version's state", other)),
        },
        not_before: time(&row.not_before)?,
        not_after: time(&row.not_after)?,
        grace_period_days: row.grace_period_days.and_then(|days| u32::try_from(days).ok()),
        created_at: source_time(&row.created_at)?,
        new: None,
    })
}

/// The name of a new key, and the reason if it differs from the source's: a name must not be taken, look like an id, or
/// be confusable with another name.
pub fn name_of(row: &SourceKey, is_taken: impl Fn(&str) -> bool) -> (String, Option<String>) {
    let why = match check_name(&row.name) {
        Ok(()) if !is_taken(&row.name) => return (row.name.clone(), None),
        Ok(()) => "a key with this name exists or existed here".to_owned(),
        Err(error) => error.message().to_owned(),
    };
    let id = row.id.to_ascii_lowercase();
    let short = id.split('-').next().unwrap_or_default();
    for suffix in [format!("-imported-{short}"), format!("-imported-{}", id.replace('-', ""))] {
        let room = NAME_CHARS.saturating_sub(suffix.len());
        let kept: String = row.name.trim().chars().filter(|c| !is_deceptive(*c)).take(room).collect();
        let name = format!("{}{suffix}", kept.trim());
        let name = name.strip_prefix('-').unwrap_or(&name).to_owned();
        if !is_taken(&name) {
            return (name, Some(why));
        }
    }
    (format!("imported-{id}"), Some(why))
}

fn number(number: i64) -> Result<u32> {
    match u32::try_from(number) {
        Ok(small) if (1..=VERSION_MAX).contains(&number) => Ok(small),
        _ => Err(Error::invalid(format!("the version number {number} is not between 1 and {VERSION_MAX}"))),
    }
}

/// A period; one that this service does not accept is left out.
fn period(what: &str, days: Option<i64>, least: u32, changed: &mut Vec<String>) -> Option<u32> {
    let days = days?;
    // At the source, too, a rotation period of zero days means none.
    if days == 0 && least > 0 {
        return None;
    }
    let taken = u32::try_from(days).ok().filter(|days| check_period(what, Some(*days), least).is_ok());
    if taken.is_none() {
        changed.push(format!("the {what} of {days} days is left out; it must be from {least} to {PERIOD_DAYS} days"));
    }
    taken
}

/// Metadata unchanged, or as text if this service does not accept it.
fn metadata(text: Option<&str>, changed: &mut Vec<String>) -> Result<Option<String>> {
    let Some(text) = text.filter(|text| text.trim() != "null") else { return Ok(None) };
    let read = serde_json::from_str::<Value>(text).map_err(|_| Error::invalid("the metadata is not JSON"));
    match read.and_then(|value| check_metadata(Some(&value))) {
        Ok(metadata) => Ok(metadata),
        Err(error) if text.len() <= METADATA_TEXT && !text.contains('\0') => {
            changed.push(format!("the metadata was imported as text in {METADATA_AS_TEXT}: {}", error.message()));
            check_metadata(Some(&serde_json::json!({ METADATA_AS_TEXT: text })))
        }
        Err(error) => {
            changed.push(format!("the metadata is left out: {}", error.message()));
            Ok(None)
        }
    }
}

fn unknown(what: &str, found: &str) -> Error {
    Error::invalid(format!("the {what} {found:?} is not known"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn row(name: &str) -> SourceKey {
        SourceKey {
            id: "0a1b2c3d-0000-4000-8000-000000000001".into(),
            name: name.into(),
            key_type: "AES256_GCM".into(),
            purpose: "SIGNING".into(),
            state: "ENABLED".into(),
            rotation_period_days: Some(0),
            grace_period_days: Some(0),
            created_at: "2026-11-23 18:26:46".into(),
            metadata: Some("[1]".into()),
            metadata_bytes: 3,
            current_version: 1,
        }
    }

    #[test]
    fn names_that_are_not_ours_to_use_are_changed_and_stay_valid() {
        let long = "x".repeat(200);
        for name in ["", " a ", "*", "a\u{202e}b", "0A1B2C3D-0000-4000-8000-00000000000F", long.as_str(), "taken"] {
            let (changed, why) = name_of(&row(name), |name| name == "taken");
            assert!(why.is_some() && check_name(&changed).is_ok(), "{name:?}: {changed:?}");
            assert!(changed.ends_with("imported-0a1b2c3d"), "{changed}");
            let (other, _) = name_of(&row(name), |taken| taken == "taken" || taken == changed);
            assert!(other != changed && check_name(&other).is_ok(), "{other}");
        }
        assert_eq!(name_of(&row("orders"), |_| false), ("orders".to_owned(), None));
    }

    #[test]
    fn what_is_not_known_is_an_error_or_a_finding() {
        let run = ImportRun { source: "s".into(), id: crate::types::ids::ImportRunId::random() };
        let (key, changed) = key_of(&row("a"), &run).unwrap();
        assert_eq!((key.rotation_period_days, key.grace_period_days), (None, Some(0)));
        assert_eq!(key.metadata.as_deref(), Some(r#"{"importedMetadata":"[1]"}"#));
        assert!(changed.len() == 1 && changed[0].contains("importedMetadata"), "{changed:?}");
        for broken in [
            SourceKey { id: "x".into(), ..row("a") },
            SourceKey { state: "PAUSED".into(), ..row("a") },
            SourceKey { key_type: "RSA_4096".into(), ..row("a") },
            SourceKey { created_at: "0000-00-00 00:00:00".into(), ..row("a") },
            SourceKey { current_version: 0, ..row("a") },
            SourceKey { current_version: i64::from(u32::MAX) + 2, ..row("a") },
        ] {
            assert!(key_of(&broken, &run).is_err(), "{broken:?}");
        }
        let far = SourceKey { grace_period_days: Some(-1), rotation_period_days: Some(1_000_000), ..row("a") };
        assert_eq!(key_of(&far, &run).unwrap().1.len(), 3);
    }
}

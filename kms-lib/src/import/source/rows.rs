//! Unmodified rows of Mini KMS on Node. They are untrusted: each value is checked where it is used.

use std::collections::HashSet;

use sha2::{Digest, Sha256};

use crate::audit::legacy::LegacyRow;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::time::Timestamp;

/// The maximum length in bytes of a key's metadata; longer metadata is left out.
pub const KEY_BYTES: u64 = 128 * 1024;
/// The maximum length in bytes of wrapped material that is read.
pub const VERSION_BYTES: u64 = 64 * 1024;
/// The maximum length in bytes of a grant's permissions and conditions together.
pub const GRANT_BYTES: u64 = 64 * 1024;
/// The maximum length in bytes of a record that is read.
pub const RECORD_BYTES: u64 = 4 * 1024 * 1024;

/// The tables of a source that may have duplicate rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Keys, by id.
    Keys,
    /// Versions, by key and number.
    Versions,
    /// Grants, by id.
    Grants,
}

impl Table {
    /// Its name in the source.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Versions => "key_versions",
            Self::Grants => "grants",
        }
    }
}

/// The maximum number of repeated ids or versions in a table; each takes about 40 bytes of memory.
pub const REPEATED_MAX: usize = 1_000_000;

/// The ids that several rows of a table have, or the versions of keys: it is unknown which row is valid.
///
/// Only hashes are held, so the memory does not depend on the length of the ids.
#[derive(Debug, Default)]
pub struct Repeated(HashSet<[u8; 16]>);

impl Repeated {
    /// Adds an id in any case, with the version of a key or 0. `LimitExceeded` beyond [`REPEATED_MAX`].
    pub fn add(&mut self, table: Table, id: &str, version: i64) -> Result<()> {
        self.0.insert(place(id, version));
        if self.0.len() > REPEATED_MAX {
            let text = format!(
                "more than {REPEATED_MAX} ids in {} occur in several rows of the source; correct it there",
                table.name()
            );
            return Err(Error::new(ErrorCode::LimitExceeded, text));
        }
        Ok(())
    }

    /// Whether several rows have this id, in any case.
    pub fn has(&self, id: &str) -> bool {
        self.has_version(id, 0)
    }

    /// Whether several rows have this version of a key.
    pub fn has_version(&self, key: &str, version: i64) -> bool {
        self.0.contains(&place(key, version))
    }
}

fn place(id: &str, version: i64) -> [u8; 16] {
    let hash: [u8; 32] =
        Sha256::new().chain_update(version.to_be_bytes()).chain_update(id.to_lowercase()).finalize().into();
    std::array::from_fn(|at| hash[at])
}

/// The longest id that is read, in characters. A page begins behind the last id of the one before.
pub const ID_CHARS: usize = 254;
/// The longest name of a key that is read, in characters; longer texts are cut, here as in the others.
pub const NAME_CHARS: usize = 512;
/// The longest principal.
pub const PRINCIPAL_CHARS: usize = 1024;
/// The longest public key.
pub const PEM_CHARS: usize = 8192;
/// The longest type, purpose, state, role and time.
pub const WORD_CHARS: usize = 64;

/// The numbers of rows in the tables of the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceCounts {
    /// Rows of `keys`.
    pub keys: u64,
    /// Rows of `key_versions`.
    pub versions: u64,
    /// Rows of `grants`.
    pub grants: u64,
    /// Rows of `audit_logs`.
    pub records: u64,
}

/// A row of `keys`.
#[derive(Clone, Debug)]
pub struct SourceKey {
    /// The key's identifier, a UUID.
    pub id: String,
    /// The key's name, unique at the source regardless of case.
    pub name: String,
    /// `AES256_GCM` or `RSA_2048`.
    pub key_type: String,
    /// `ENCRYPTION` or `SIGNING`, which the original does not enforce.
    pub purpose: String,
    /// `ENABLED`, `DISABLED` or `REVOKED`.
    pub state: String,
    /// Days between rotations.
    pub rotation_period_days: Option<i64>,
    /// The number of days that a former version stays usable.
    pub grace_period_days: Option<i64>,
    /// When the key was made, in UTC.
    pub created_at: String,
    /// The metadata as JSON text; none if it is longer than [`KEY_BYTES`].
    pub metadata: Option<String>,
    /// The length of the metadata in bytes.
    pub metadata_bytes: u64,
    /// The number of the current version.
    pub current_version: i64,
}

/// A row of `key_versions`. Its `Debug` hides the wrapped material.
#[derive(Clone)]
pub struct SourceVersion {
    /// The version's identifier, a UUID.
    pub id: String,
    /// The version number, counted from 1.
    pub version: i64,
    /// `ENABLED`, `DISABLED` or `REVOKED`.
    pub state: String,
    /// When the version was made, in UTC.
    pub created_at: String,
    /// The start of the version's window, in UTC.
    pub not_before: Option<String>,
    /// The end of the version's window, in UTC.
    pub not_after: Option<String>,
    /// The wrapped material as JSON text; empty if it is longer than [`VERSION_BYTES`].
    pub wrapped_material: String,
    /// The length of the wrapped material in bytes.
    pub material_bytes: u64,
    /// The SubjectPublicKeyInfo in PEM, for RSA keys.
    pub public_key_pem: Option<String>,
    /// The grace period, in days, that determined the window.
    pub grace_period_days: Option<i64>,
}

impl std::fmt::Debug for SourceVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceVersion").field("id", &self.id).field("version", &self.version).finish_non_exhaustive()
    }
}

/// A row of `grants`.
#[derive(Clone, Debug)]
pub struct SourceGrant {
    /// The grant's identifier, a UUID.
    pub id: String,
    /// The principal that receives the permissions.
    pub principal: String,
    /// `admin`, `auditor` or `app`.
    pub role: String,
    /// The id of a key, or `*`.
    pub key_id: String,
    /// JSON text: an array of permissions. Empty if the row is longer than [`GRANT_BYTES`].
    pub allowed_ops: String,
    /// The conditions as JSON text; none also if the row is longer than [`GRANT_BYTES`].
    pub conditions: Option<String>,
    /// The length of permissions and conditions together, in bytes.
    pub bytes: u64,
    /// When the grant was made, in UTC.
    pub created_at: String,
}

/// A row of `audit_logs`, or a record of an older version's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// The row as it is checked and stored. Of a row longer than [`RECORD_BYTES`], only the id is read.
    pub row: LegacyRow,
    /// The total length of all texts in bytes.
    pub bytes: u64,
}

/// The total length of a row's texts, in bytes.
pub fn length_of(row: &LegacyRow) -> u64 {
    let optional = [&row.details, &row.key_id].into_iter().flatten();
    let texts = [
        &row.id,
        &row.timestamp,
        &row.actor,
        &row.role,
        &row.action,
        &row.request_id,
        &row.prev_hash,
        &row.hash,
        &row.status,
    ];
    texts.into_iter().chain(optional).map(|text| text.len() as u64).sum()
}

/// A time of the source, which is in UTC and has no zone: `2026-11-23 18:26:46`.
pub fn source_time(text: &str) -> Result<Timestamp> {
    let whole = if text.ends_with('Z') { text.to_owned() } else { format!("{text}Z") };
    whole.parse().map_err(|_| Error::invalid(format!("{text:?} is not a time between 1970 and 9999")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn repeated_ids_are_found_in_any_case_and_their_number_is_bounded() {
        let mut repeated = Repeated::default();
        repeated.add(Table::Versions, "aB", 2).unwrap();
        assert!(repeated.has_version("Ab", 2) && !repeated.has_version("ab", 1) && !repeated.has("ab"));
        for n in 1..REPEATED_MAX as i64 {
            repeated.add(Table::Versions, "", n).unwrap();
        }
        let error = repeated.add(Table::Versions, "one more", 0).unwrap_err();
        assert_eq!(error.code(), ErrorCode::LimitExceeded);
        assert!(error.message().contains("key_versions"), "{error}");
    }
}

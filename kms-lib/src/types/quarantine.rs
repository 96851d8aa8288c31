//! Quarantined rows: rows that do not match the log and are therefore not used.

use super::credential::Credential;
use super::grant::Grant;
use super::ids::{KeyId, QuarantineId};
use super::key::{Key, KeyVersion};
use super::named::named;
use super::time::Timestamp;

named!(
    /// A table whose rows are covered by the row commitment.
    EntityTable {
        /// The table of keys.
        Keys = "keys",
        /// The table of versions of keys.
        KeyVersions = "key_versions",
        /// The table of grants.
        Grants = "grants",
        /// The table of credentials.
        Credentials = "credentials",
    }
);

/// A row of one of these tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntityRow {
    /// A row of `keys`.
    Key(Key),
    /// A row of `key_versions`.
    Version(KeyVersion),
    /// A row of `grants`.
    Grant(Grant),
    /// A row of `credentials`.
    Credential(Credential),
}

/// A quarantined row. One row of `quarantine`; entries of released rows are kept.
///
/// The row commitment in the head covers these entries and excludes the rows that they name, so all processes use the
/// same set of rows, also after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// The entry's identifier.
    pub id: QuarantineId,
    /// The table of the row.
    pub table: EntityTable,
    /// The row's own identifier.
    pub row: [u8; 16],
    /// The key that the row belongs to, for rows of `keys` and `key_versions`: the whole key is unusable.
    pub key: Option<KeyId>,
    /// The name of the key from the record of its creation, for a row of `keys`: it stays taken.
    pub key_name: Option<String>,
    /// Time at which the row was quarantined.
    pub created_at: Timestamp,
    /// Time at which the row was released.
    pub released_at: Option<Timestamp>,
    /// The sequence number of the record of the entry's last change.
    pub revision: u64,
}

impl Quarantined {
    /// Whether the row is still in quarantine.
    pub fn is_active(&self) -> bool {
        self.released_at.is_none()
    }
}

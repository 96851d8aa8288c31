//! Rows that are not used because they are not what the log says of them.

use super::credential::Credential;
use super::grant::Grant;
use super::ids::{KeyId, QuarantineId};
use super::key::{Key, KeyVersion};
use super::named::named;
use super::time::Timestamp;

named!(
    /// A table whose rows are covered by the row commitment.
    EntityTable {
        /// Keys.
        Keys = "keys",
        /// Versions of keys.
        KeyVersions = "key_versions",
        /// Grants.
        Grants = "grants",
        /// Credentials.
        Credentials = "credentials",
    }
);

/// A row of one of these tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntityRow {
    /// A key.
    Key(Key),
    /// A version of a key.
    Version(KeyVersion),
    /// A grant.
    Grant(Grant),
    /// A credential.
    Credential(Credential),
}

/// A quarantined row. One row of `quarantine`; released ones stay as tombstones.
///
/// The row commitment in the head covers these entries and leaves out the rows that they name, so every process and
/// every restart uses the same set of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Identifies the entry.
    pub id: QuarantineId,
    /// The table of the row.
    pub table: EntityTable,
    /// The row's own identifier.
    pub row: [u8; 16],
    /// The key that the row belongs to, for rows of `keys` and `key_versions`: the whole key is unusable.
    pub key: Option<KeyId>,
    /// The name of the key, for a row of `keys`, as the record of its creation says: it stays taken.
    pub key_name: Option<String>,
    /// When the row was quarantined.
    pub created_at: Timestamp,
    /// When the row was released.
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

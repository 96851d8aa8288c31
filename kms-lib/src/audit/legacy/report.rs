//! What is known of an old log.

use serde::{Deserialize, Serialize};

/// Rows that are listed of each finding.
pub(super) const LISTED_ROWS: usize = 100;
/// Forks that are listed.
pub(super) const LISTED_FORKS: usize = 100;
/// Rows that are listed of each fork.
pub(super) const LISTED_BRANCHES: usize = 3;

/// Rows that have something in common: how many there are, and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RowSample {
    /// How many there are.
    pub count: u64,
    /// The ids of the first 100.
    pub ids: Vec<String>,
}

impl RowSample {
    pub(crate) fn add(&mut self, id: &str) {
        self.count += 1;
        if self.ids.len() < LISTED_ROWS {
            self.ids.push(id.to_owned());
        }
    }
}

/// Several rows that link to one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LegacyFork {
    /// The hash that the rows link to, or `GENESIS`.
    pub prev_hash: String,
    /// How many rows link to it.
    pub rows: u64,
    /// The ids of the first three.
    pub ids: Vec<String>,
}

/// The places where a log forks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LegacyForks {
    /// How many there are.
    pub count: u64,
    /// Rows that link to a row to which an earlier one links.
    pub surplus_rows: u64,
    /// The first 100.
    pub listed: Vec<LegacyFork>,
}

/// What the service of that time answered about its log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LegacyVerdict {
    /// Whether each row links to the one before it in the order of their times. Altered rows do not count.
    pub ok: bool,
    /// The first row that does not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub broken_at: Option<String>,
}

/// The log of Mini KMS on Node as it was imported: what was found then, and what is sealed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct LegacyLog {
    /// The name under which the log was imported.
    pub source: String,
    /// Rows that are sealed.
    pub rows: u64,
    /// The root of the tree over them (RFC 6962), in lower-case hex.
    pub root: String,
    /// Whether the last run of the import went through. If not, what follows is what the run before it found.
    pub complete: bool,
    /// Rows whose hash reproduces under format 1, the last one of that service.
    pub current_format: u64,
    /// Rows whose hash reproduces under format 0, the older one.
    pub older_format: u64,
    /// Rows that the service of that time accepted as "legacy": those of format 0, and altered ones.
    pub legacy: RowSample,
    /// Rows whose hash does not reproduce: they were altered.
    pub altered: RowSample,
    /// Rows that link to a row that is not there: it was deleted or altered.
    pub unlinked: RowSample,
    /// Rows that have the hash of another row.
    pub repeated: RowSample,
    /// Rows whose links do not lead to a beginning: they were altered.
    pub circular: RowSample,
    /// Rows that are older than the row they link to.
    pub backwards: RowSample,
    /// Rows that were changed in the source after they had been imported. They are kept as they were.
    pub changed: RowSample,
    /// Rows that were deleted from the source after they had been imported. They are kept.
    pub gone: RowSample,
    /// Rows that no row links to: the ends of the log.
    pub heads: RowSample,
    /// Rows that are too long to be read (4 MiB). They did not come over.
    pub oversized: RowSample,
    /// Altered rows for which not every text was tried that the service may have hashed: there were too many such
    /// rows, or they are too long.
    pub unsearched: RowSample,
    /// Rows that the source counts and that were not read: several have the same id.
    pub unread: u64,
    /// Places where the log forks.
    pub forks: LegacyForks,
    /// What the service of that time said of its log.
    pub verdict: LegacyVerdict,
}

//! The findings on an imported log.

use serde::{Deserialize, Serialize};

/// The maximum number of rows listed for each finding.
pub(super) const LISTED_ROWS: usize = 100;
/// The maximum number of bytes of the ids listed for each finding, so that a record has room for them: 100 UUIDs take
/// less than half of it.
const LISTED_BYTES: usize = 8 * 1024;
/// The maximum number of forks listed.
pub(super) const LISTED_FORKS: usize = 100;
/// The maximum number of rows listed for each fork.
pub(super) const LISTED_BRANCHES: usize = 3;

/// The number of rows with a common finding, and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RowSample {
    /// The number of rows.
    pub count: u64,
    /// The ids of the first 100 rows, or of fewer if they are long.
    pub ids: Vec<String>,
}

impl RowSample {
    pub(crate) fn add(&mut self, id: &str) {
        self.count += 1;
        let bytes = self.ids.iter().map(String::len).sum::<usize>() + id.len();
        if self.ids.len() < LISTED_ROWS && bytes <= LISTED_BYTES {
            self.ids.push(id.to_owned());
        }
    }
}

/// A fork: several rows that link to the same row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LegacyFork {
    /// The hash that the rows link to, or `GENESIS`.
    pub prev_hash: String,
    /// The number of rows that link to it.
    pub rows: u64,
    /// The ids of the first three rows.
    pub ids: Vec<String>,
}

/// The forks of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LegacyForks {
    /// The number of forks.
    pub count: u64,
    /// The number of rows that link to a row to which an earlier row links.
    pub surplus_rows: u64,
    /// The first 100 forks.
    pub listed: Vec<LegacyFork>,
}

/// The verdict of Mini KMS on Node about its own log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LegacyVerdict {
    /// Whether each row links to the previous one in the order of their times. Altered rows do not count.
    pub ok: bool,
    /// The id of the first row that does not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub broken_at: Option<String>,
}

/// The imported log of Mini KMS on Node: the findings at the import, and the sealed state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct LegacyLog {
    /// The name under which the log was imported.
    pub source: String,
    /// The number of sealed rows.
    pub rows: u64,
    /// The Merkle root of the sealed rows (RFC 6962), in lower-case hexadecimal.
    pub root: String,
    /// Whether the last run of the import completed. If not, the following findings are those of the previous run.
    pub complete: bool,
    /// The number of rows whose hash reproduces under format 1, the last one of that service.
    pub current_format: u64,
    /// The number of rows whose hash reproduces under format 0, the older one.
    pub older_format: u64,
    /// Rows that the original service accepted as "legacy": those of format 0, and altered ones.
    pub legacy: RowSample,
    /// Rows whose hash does not reproduce. They were altered, except perhaps those that `unsearched` and `order_lost`
    /// list too.
    pub altered: RowSample,
    /// Rows that link to a missing row, which was deleted or altered.
    pub unlinked: RowSample,
    /// Rows that have the same hash as another row.
    pub repeated: RowSample,
    /// Rows whose links do not lead to a beginning, because they were altered.
    pub circular: RowSample,
    /// Rows that are older than the row they link to.
    pub backwards: RowSample,
    /// Rows that were changed in the source after their import. The imported rows are kept unchanged.
    pub changed: RowSample,
    /// Rows that were deleted from the source after their import. The imported rows are kept.
    pub gone: RowSample,
    /// Rows that no other row links to: the ends of the log.
    pub heads: RowSample,
    /// Rows that are too long to be read (more than 4 MiB). They were not imported.
    pub oversized: RowSample,
    /// Altered rows for which not every possible text was tried, because there were too many such rows or they are too
    /// long.
    pub unsearched: RowSample,
    /// Altered rows that may be unaltered rows of format 0: the type JSON of MySQL, which sorts names, held their
    /// details, and they have more names than are tried in every order. Their hash can be neither confirmed nor
    /// refuted.
    pub order_lost: RowSample,
    /// The number of rows that the source counts but that were not read, because several have the same id.
    pub unread: u64,
    /// The forks of the log.
    pub forks: LegacyForks,
    /// The verdict of the original service about its log.
    pub verdict: LegacyVerdict,
}

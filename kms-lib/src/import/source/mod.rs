//! The data of Mini KMS on Node: one snapshot, which is only read.

mod json;
mod mysql;
mod place;
mod rows;

pub use place::ImportSource;
pub use rows::{
    AuditRow, GRANT_BYTES, KEY_BYTES, RECORD_BYTES, Repeated, SourceCounts, SourceGrant, SourceKey, SourceVersion,
    Table, VERSION_BYTES, source_time,
};

use std::path::Path;

use crate::types::error::{Error, ErrorCode, Result};
use crate::workers::run_blocking;
use json::JsonFiles;
use mysql::Snapshot;
use place::Form;

/// A snapshot of a source. Rows are read in pages, so that memory is bounded regardless of the source's size.
///
/// A snapshot of a database lives in one transaction on one connection. If the connection is lost, every later call
/// fails with `StoreUnavailable`; the next run of the import continues.
pub enum Source {
    /// Tables of a MySQL or MariaDB database.
    Database(Snapshot),
    /// Files of an older version.
    Files(JsonFiles),
}

/// Calls the same function of either kind of source, which reads these tables.
macro_rules! either {
    ($source:expr, $tables:expr, $inner:ident => $call:expr) => {
        match $source {
            Source::Database($inner) => $call.await.map_err(|error| of_tables($tables, error)),
            Source::Files($inner) => {
                // All rows are in memory: without this, an import of many would keep other tasks from their turn.
                tokio::task::yield_now().await;
                $call
            }
        }
    };
}

impl Source {
    /// Begins the snapshot, and checks that the tables are those of Mini KMS on Node.
    pub async fn open(from: &ImportSource) -> Result<Self> {
        let source = match from.form() {
            Form::Database(url) => Snapshot::open(url).await.map(Self::Database),
            Form::Json(path) => read_files(path).await.map(Self::Files),
        };
        source.map_err(of_source)
    }

    /// Begins a new snapshot, which includes later changes.
    pub async fn renew(&mut self, from: &ImportSource) -> Result<()> {
        match (self, from.form()) {
            (Self::Database(snapshot), _) => snapshot.renew().await.map_err(of_source),
            (Self::Files(files), Form::Json(path)) => read_files(path).await.map(|new| *files = new),
            (Self::Files(_), Form::Database(_)) => Ok(()),
        }
    }

    /// The tables whose storage engine has no snapshots, each with the engine's name.
    pub async fn without_snapshot(&mut self) -> Result<Vec<(String, String)>> {
        either!(self, "information_schema", it => it.without_snapshot())
    }

    /// Whether the source has keys and grants; otherwise it is a log alone.
    pub fn has_keys(&self) -> bool {
        match self {
            Self::Database(_) => true,
            Self::Files(files) => files.has_keys(),
        }
    }

    /// The number of rows of each table.
    pub async fn counts(&mut self) -> Result<SourceCounts> {
        either!(self, "keys, key_versions, grants or audit_logs", it => it.counts())
    }

    /// All ids, compared in lower case, or versions that several rows of a table have.
    pub async fn repeated(&mut self, table: Table) -> Result<Repeated> {
        either!(self, table.name(), it => it.repeated(table))
    }

    /// At most `limit` keys after the one with this id, in the source's own order; none at the end.
    pub async fn keys(&mut self, after: Option<&str>, limit: usize) -> Result<Vec<SourceKey>> {
        either!(self, "keys", it => it.keys(after, limit))
    }

    /// At most `limit` versions of a key after this number, by number; none at the end.
    pub async fn versions(&mut self, key: &str, after: i64, limit: usize) -> Result<Vec<SourceVersion>> {
        either!(self, "key_versions", it => it.versions(key, after, limit))
    }

    /// The version of a key with this number.
    pub async fn version(&mut self, key: &str, number: i64) -> Result<Option<SourceVersion>> {
        let found = self.versions(key, number.saturating_sub(1), 1).await?;
        Ok(found.into_iter().find(|version| version.version == number))
    }

    /// At most `limit` grants after the one with this id, in the source's own order; none at the end.
    pub async fn grants(&mut self, after: Option<&str>, limit: usize) -> Result<Vec<SourceGrant>> {
        either!(self, "grants", it => it.grants(after, limit))
    }

    /// At most `limit` records after the one with this id, fewer if they are long, in the source's own order; none at
    /// the end.
    pub async fn audit_rows(&mut self, after: Option<&str>, limit: usize) -> Result<Vec<AuditRow>> {
        either!(self, "audit_logs", it => it.audit_rows(after, limit))
    }

    /// The records with these ids, in any order.
    pub async fn audit_rows_by_id(&mut self, ids: &[String]) -> Result<Vec<AuditRow>> {
        either!(self, "audit_logs", it => it.audit_rows_by_id(ids))
    }
}

/// Reads files on a thread for blocking work: they may be long.
async fn read_files(path: &Path) -> Result<JsonFiles> {
    let path = path.to_owned();
    run_blocking(move || JsonFiles::open(&path)).await
}

/// An error about the source's URL, connection or rows, which must not be taken for one of the store.
fn of_source(error: Error) -> Error {
    let text = error.message().replace("store_url", "source");
    let text = if text.contains("source") { text } else { format!("the source: {text}") };
    match error.code() {
        ErrorCode::StoreCorrupt => Error::new(ErrorCode::InvalidConfiguration, text),
        _ => error.with_message(text),
    }
}

/// An error while these tables were read.
fn of_tables(tables: &str, error: Error) -> Error {
    match error.code() {
        ErrorCode::StoreCorrupt => {
            let text = format!(
                "the source has a row that cannot be read, in {tables}: {} (counted from 0); correct it there",
                error.message()
            );
            Error::new(ErrorCode::InvalidConfiguration, text)
        }
        _ => of_source(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    /// Other tasks have their turn between two pages of files, which are in memory.
    #[tokio::test]
    async fn pages_of_files_leave_turns_to_other_tasks() {
        let mut files = Source::Files(JsonFiles::default());
        assert!(files.keys(None, 10).now_or_never().is_none());
        assert!(files.keys(None, 10).await.expect("a page").is_empty());
    }
}

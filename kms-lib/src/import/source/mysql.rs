//! The tables of Mini KMS on Node, in one read-only transaction.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use super::rows::{
    AuditRow, GRANT_BYTES, ID_CHARS, KEY_BYTES, NAME_CHARS, PEM_CHARS, PRINCIPAL_CHARS, RECORD_BYTES, REPEATED_MAX,
    Repeated, SourceCounts, SourceGrant, SourceKey, SourceVersion, Table, VERSION_BYTES, WORD_CHARS, length_of,
};
use crate::audit::legacy::LegacyRow;
use crate::storage::{Connection, Row, Url, Value, open_source};
use crate::types::error::{Error, ErrorCode, Result};

/// The tables with the columns that are read.
const TABLES: [(&str, &[&str]); 4] = [
    (
        "keys",
        &[
            "id",
            "name",
            "type",
            "purpose",
            "state",
            "rotation_period_days",
            "grace_period_days",
            "created_at",
            "metadata",
            "current_version",
        ],
    ),
    (
        "key_versions",
        &[
            "id",
            "key_id",
            "version",
            "state",
            "created_at",
            "not_before",
            "not_after",
            "wrapped_material",
            "public_key_pem",
            "grace_period_days",
        ],
    ),
    ("grants", &["id", "principal", "role", "key_id", "allowed_ops", "conditions", "created_at"]),
    (
        "audit_logs",
        &[
            "id",
            "timestamp",
            "actor",
            "role",
            "action",
            "request_id",
            "details",
            "key_id",
            "key_version",
            "prev_hash",
            "hash",
            "status",
        ],
    ),
];

/// Bytes of records that are read at once.
const PAGE_BYTES: u64 = 8 * 1024 * 1024;
/// The maximum size in bytes of the result of one statement. Only many rows with the same id exceed it.
const STATEMENT_BYTES: u64 = 64 * 1024 * 1024;

/// The statement for keys. All statements bound the length of each column: names and the like are truncated, so that
/// they match no known name, and longer texts are read as NULL.
fn key_sql() -> String {
    format!(
        "SELECT LEFT(id, 255), LEFT(name, {NAME_CHARS}), LEFT(type, {WORD_CHARS}), LEFT(purpose, {WORD_CHARS}), \
         LEFT(state, {WORD_CHARS}), \
         CAST(rotation_period_days AS SIGNED), CAST(grace_period_days AS SIGNED), CAST(created_at AS CHAR(64)), \
         IF(LENGTH(metadata) <= {KEY_BYTES}, metadata, NULL), CAST(COALESCE(LENGTH(metadata), 0) AS SIGNED), \
         CAST(current_version AS SIGNED) FROM \"keys\""
    )
}

fn version_sql() -> String {
    format!(
        "SELECT LEFT(id, 255), CAST(version AS SIGNED), LEFT(state, {WORD_CHARS}), CAST(created_at AS CHAR(64)), \
         CAST(not_before AS CHAR(64)), CAST(not_after AS CHAR(64)), \
         IF(LENGTH(wrapped_material) <= {VERSION_BYTES}, wrapped_material, ''), \
         CAST(COALESCE(LENGTH(wrapped_material), 0) AS SIGNED), LEFT(public_key_pem, {PEM_CHARS}), \
         CAST(grace_period_days AS SIGNED) FROM key_versions WHERE key_id = ? AND version > ? ORDER BY version LIMIT ?"
    )
}

fn grant_sql() -> String {
    let bytes = "(COALESCE(LENGTH(allowed_ops), 0) + COALESCE(LENGTH(conditions), 0))";
    format!(
        "SELECT LEFT(id, 255), LEFT(principal, {PRINCIPAL_CHARS}), LEFT(role, {WORD_CHARS}), LEFT(key_id, 255), \
         IF({bytes} <= {GRANT_BYTES}, allowed_ops, ''), IF({bytes} <= {GRANT_BYTES}, conditions, NULL), \
         CAST({bytes} AS SIGNED), CAST(created_at AS CHAR(64)) FROM grants"
    )
}

/// The length of a record's texts.
const RECORD_LENGTH: &str = "(LENGTH(id) + LENGTH(actor) + LENGTH(role) + LENGTH(action) + LENGTH(request_id) \
    + COALESCE(LENGTH(details), 0) + COALESCE(LENGTH(key_id), 0) + LENGTH(prev_hash) + LENGTH(hash) + LENGTH(status))";

fn record_sql() -> String {
    let text = |column: &str| format!("IF({RECORD_LENGTH} <= {RECORD_BYTES}, {column}, '')");
    let optional = |column: &str| format!("IF({RECORD_LENGTH} <= {RECORD_BYTES}, {column}, NULL)");
    format!(
        "SELECT LEFT(id, 255), CAST(timestamp AS CHAR(64)), {}, {}, {}, {}, {}, {}, CAST(key_version AS SIGNED), \
         {}, {}, {}, CAST({RECORD_LENGTH} AS SIGNED) FROM audit_logs",
        text("actor"),
        text("role"),
        text("action"),
        text("request_id"),
        optional("details"),
        optional("key_id"),
        text("prev_hash"),
        text("hash"),
        text("status"),
    )
}

/// A snapshot of the database.
pub struct Snapshot(Box<dyn Connection>);

impl Snapshot {
    /// Connects, checks the tables, and begins the transaction.
    pub async fn open(url: &Url) -> Result<Self> {
        url.check_files()?;
        let mut snapshot = Self(open_source(url).await?);
        snapshot.check_tables().await?;
        snapshot.0.begin_read().await?;
        Ok(snapshot)
    }

    /// Ends the transaction, and begins another one.
    pub async fn renew(&mut self) -> Result<()> {
        self.0.rollback().await?;
        self.check_tables().await?;
        self.0.begin_read().await
    }

    /// Tables of storage engines that do not isolate a reading transaction from other writers.
    pub async fn without_snapshot(&mut self) -> Result<Vec<(String, String)>> {
        let sql = "SELECT table_name, engine FROM information_schema.tables WHERE table_schema = DATABASE() \
                   AND table_name IN ('audit_logs', 'grants', 'key_versions', 'keys') AND engine <> 'InnoDB'";
        self.rows(sql.to_owned(), vec![], |row| Ok((text(row, 0)?, text(row, 1)?))).await
    }

    async fn check_tables(&mut self) -> Result<()> {
        for (table, columns) in TABLES {
            let mut found = BTreeSet::new();
            let sql = "SELECT column_name FROM information_schema.columns \
                       WHERE table_schema = DATABASE() AND table_name = ?";
            let add = &mut |row: &dyn Row| {
                found.insert(row.text(0)?.to_ascii_lowercase());
                Ok(())
            };
            self.0.query(sql.into(), vec![table.into()], add).await?;
            if found.is_empty() {
                return Err(foreign(format!("the table {table} is missing")));
            }
            if let Some(column) = columns.iter().find(|column| !found.contains(**column)) {
                return Err(foreign(format!("the table {table} has no column {column}")));
            }
            if let Some(column) = found.iter().find(|column| !columns.contains(&column.as_str())) {
                let text = format!(
                    "the source's table {table} has a column {column} that this version does not know: it comes from \
                     a newer version of Mini KMS on Node, and the content of the column would be lost"
                );
                return Err(Error::new(ErrorCode::SchemaTooNew, text));
            }
        }
        Ok(())
    }

    pub async fn counts(&mut self) -> Result<SourceCounts> {
        Ok(SourceCounts {
            keys: self.count("SELECT COUNT(*) FROM \"keys\"").await?,
            versions: self.count("SELECT COUNT(*) FROM key_versions").await?,
            grants: self.count("SELECT COUNT(*) FROM grants").await?,
            records: self.count("SELECT COUNT(*) FROM audit_logs").await?,
        })
    }

    pub async fn repeated(&mut self, table: Table) -> Result<Repeated> {
        let select = match table {
            Table::Keys => "SELECT LEFT(MIN(id), 255), 0 FROM \"keys\" GROUP BY LOWER(id)",
            Table::Grants => "SELECT LEFT(MIN(id), 255), 0 FROM grants GROUP BY LOWER(id)",
            Table::Versions => {
                "SELECT LEFT(MIN(key_id), 255), CAST(version AS SIGNED) FROM key_versions \
                 GROUP BY LOWER(key_id), version"
            }
        };
        let sql = format!("{select} HAVING COUNT(*) > 1 LIMIT {}", REPEATED_MAX + 1);
        let mut repeated = Repeated::default();
        let add = &mut |row: &dyn Row| repeated.add(table, row.text(0)?, row.int(1)?);
        self.0.query(sql.into(), vec![], add).await?;
        Ok(repeated)
    }

    async fn count(&mut self, sql: &'static str) -> Result<u64> {
        let mut count = 0;
        let read = &mut |row: &dyn Row| {
            count = row.unsigned(0)?;
            Ok(())
        };
        self.0.query(sql.into(), vec![], read).await?;
        Ok(count)
    }

    pub async fn keys(&mut self, after: Option<&str>, limit: usize) -> Result<Vec<SourceKey>> {
        let read = |row: &dyn Row| {
            Ok(SourceKey {
                id: text(row, 0)?,
                name: text(row, 1)?,
                key_type: text(row, 2)?,
                purpose: text(row, 3)?,
                state: text(row, 4)?,
                rotation_period_days: row.int_opt(5)?,
                grace_period_days: row.int_opt(6)?,
                created_at: text(row, 7)?,
                metadata: text_opt(row, 8)?,
                metadata_bytes: row.unsigned(9)?,
                current_version: row.int(10)?,
            })
        };
        let page = self.page(&key_sql(), after, limit, read).await?;
        check_ids(page, |key| &key.id)
    }

    pub async fn versions(&mut self, key: &str, after: i64, limit: usize) -> Result<Vec<SourceVersion>> {
        let read = |row: &dyn Row| {
            Ok(SourceVersion {
                id: text(row, 0)?,
                version: row.int(1)?,
                state: text(row, 2)?,
                created_at: text(row, 3)?,
                not_before: text_opt(row, 4)?,
                not_after: text_opt(row, 5)?,
                wrapped_material: text(row, 6)?,
                material_bytes: row.unsigned(7)?,
                public_key_pem: text_opt(row, 8)?,
                grace_period_days: row.int_opt(9)?,
            })
        };
        self.rows(version_sql(), vec![key.into(), after.into(), Value::from(limit as u64)], read).await
    }

    pub async fn grants(&mut self, after: Option<&str>, limit: usize) -> Result<Vec<SourceGrant>> {
        let read = |row: &dyn Row| {
            Ok(SourceGrant {
                id: text(row, 0)?,
                principal: text(row, 1)?,
                role: text(row, 2)?,
                key_id: text(row, 3)?,
                allowed_ops: text(row, 4)?,
                conditions: text_opt(row, 5)?,
                bytes: row.unsigned(6)?,
                created_at: text(row, 7)?,
            })
        };
        let page = self.page(&grant_sql(), after, limit, read).await?;
        check_ids(page, |grant| &grant.id)
    }

    pub async fn audit_rows(&mut self, after: Option<&str>, limit: usize) -> Result<Vec<AuditRow>> {
        // Limits the page to records that are short enough together.
        let lengths = format!("SELECT CAST({RECORD_LENGTH} AS SIGNED) FROM audit_logs");
        let lengths = self.page(&lengths, after, limit, |row| row.unsigned(0)).await?;
        let mut bytes = 0;
        let fits = lengths.iter().take_while(|length| {
            bytes += if **length <= RECORD_BYTES { **length } else { 0 };
            bytes <= PAGE_BYTES
        });
        let limit = fits.count().max(1);
        let page = self.page(&record_sql(), after, limit, record).await?;
        check_ids(page, |record| &record.row.id)
    }

    pub async fn audit_rows_by_id(&mut self, ids: &[String]) -> Result<Vec<AuditRow>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let marks = vec!["?"; ids.len()].join(", ");
        let values = ids.iter().map(|id| id.as_str().into()).collect();
        let bytes = AtomicU64::new(0);
        let record = |row: &dyn Row| {
            let record = record(row)?;
            match bytes.fetch_add(length_of(&record.row), Ordering::Relaxed) {
                0..=STATEMENT_BYTES => Ok(record),
                _ => Err(foreign("many records have the same id".to_owned())),
            }
        };
        self.rows(format!("{} WHERE id IN ({marks})", record_sql()), values, record).await
    }

    /// Reads a page in the order of the primary key.
    async fn page<T: Send>(
        &mut self,
        select: &str,
        after: Option<&str>,
        limit: usize,
        read: impl Fn(&dyn Row) -> Result<T> + Send + Sync,
    ) -> Result<Vec<T>> {
        let limit = Value::from(limit as u64);
        match after {
            None => self.rows(format!("{select} ORDER BY id LIMIT ?"), vec![limit], read).await,
            Some(after) => {
                let sql = format!("{select} WHERE id > ? ORDER BY id LIMIT ?");
                self.rows(sql, vec![after.into(), limit], read).await
            }
        }
    }

    async fn rows<T: Send>(
        &mut self,
        sql: String,
        values: Vec<Value>,
        read: impl Fn(&dyn Row) -> Result<T> + Send + Sync,
    ) -> Result<Vec<T>> {
        let mut rows = Vec::new();
        let add = &mut |row: &dyn Row| {
            rows.push(read(row)?);
            Ok(())
        };
        self.0.query(sql.into(), values, add).await?;
        Ok(rows)
    }
}

fn record(row: &dyn Row) -> Result<AuditRow> {
    let legacy = LegacyRow {
        id: text(row, 0)?,
        timestamp: text(row, 1)?,
        actor: text(row, 2)?,
        role: text(row, 3)?,
        action: text(row, 4)?,
        request_id: text(row, 5)?,
        details: text_opt(row, 6)?,
        key_id: text_opt(row, 7)?,
        key_version: row.int_opt(8)?,
        prev_hash: text(row, 9)?,
        hash: text(row, 10)?,
        status: text(row, 11)?,
    };
    Ok(AuditRow { row: legacy, bytes: row.unsigned(12)? })
}

/// Refuses truncated ids: the next page would start at the same row.
fn check_ids<T>(page: Vec<T>, id: fn(&T) -> &String) -> Result<Vec<T>> {
    match page.iter().find(|row| id(row).chars().count() > ID_CHARS) {
        Some(_) => Err(foreign(format!("an id has more than {ID_CHARS} characters"))),
        None => Ok(page),
    }
}

fn text(row: &dyn Row, column: usize) -> Result<String> {
    row.text(column).map(str::to_owned)
}

fn text_opt(row: &dyn Row, column: usize) -> Result<Option<String>> {
    Ok(row.text_opt(column)?.map(str::to_owned))
}

fn foreign(what: String) -> Error {
    Error::new(ErrorCode::InvalidConfiguration, format!("the source is not a database of Mini KMS on Node: {what}"))
}

//! The tables of Mini KMS on Node, in one read-only transaction.

use std::collections::BTreeSet;

use super::rows::{AuditRow, SourceGrant, SourceKey, SourceVersion};
use crate::storage::{Connection, Row, Url, Value, open_source};
use crate::types::error::{Error, ErrorCode, Result};

/// Its tables with the columns that are read. `audit_logs` may be missing the last ones in older versions.
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

const KEY: &str = "SELECT id, name, type, purpose, state, CAST(rotation_period_days AS SIGNED), \
    CAST(grace_period_days AS SIGNED), CAST(created_at AS CHAR), metadata, CAST(current_version AS SIGNED) \
    FROM \"keys\"";
const VERSION: &str = "SELECT id, CAST(version AS SIGNED), state, CAST(created_at AS CHAR), \
    CAST(not_before AS CHAR), CAST(not_after AS CHAR), wrapped_material, public_key_pem, \
    CAST(grace_period_days AS SIGNED) FROM key_versions WHERE key_id = ? AND version > ? ORDER BY version LIMIT ?";
const GRANT: &str = "SELECT id, principal, role, key_id, allowed_ops, conditions, CAST(created_at AS CHAR) FROM grants";
const RECORD: &str = "SELECT id, CAST(timestamp AS CHAR), actor, role, action, request_id, details, key_id, \
    CAST(key_version AS SIGNED), prev_hash, hash, status FROM audit_logs";

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
                return Err(foreign(format!("it has no table {table}")));
            }
            if let Some(column) = columns.iter().find(|column| !found.contains(**column)) {
                return Err(foreign(format!("its table {table} has no column {column}")));
            }
            if let Some(column) = found.iter().find(|column| !columns.contains(&column.as_str())) {
                let text = format!(
                    "the source's table {table} has a column {column} that this version does not know: it is of a \
                     newer version of Mini KMS on Node, and what the column means would be lost"
                );
                return Err(Error::new(ErrorCode::SchemaTooNew, text));
            }
        }
        Ok(())
    }

    pub async fn key_count(&mut self) -> Result<u64> {
        self.count("SELECT COUNT(*) FROM \"keys\"").await
    }

    pub async fn audit_count(&mut self) -> Result<u64> {
        self.count("SELECT COUNT(*) FROM audit_logs").await
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
                current_version: row.int(9)?,
            })
        };
        self.page(KEY, after, limit, read).await
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
                public_key_pem: text_opt(row, 7)?,
                grace_period_days: row.int_opt(8)?,
            })
        };
        self.rows(VERSION.to_owned(), vec![key.into(), after.into(), Value::from(limit as u64)], read).await
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
                created_at: text(row, 6)?,
            })
        };
        self.page(GRANT, after, limit, read).await
    }

    pub async fn audit_rows(&mut self, after: Option<&str>, limit: usize) -> Result<Vec<AuditRow>> {
        self.page(RECORD, after, limit, record).await
    }

    pub async fn audit_rows_by_id(&mut self, ids: &[String]) -> Result<Vec<AuditRow>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let marks = vec!["?"; ids.len()].join(", ");
        let values = ids.iter().map(|id| id.as_str().into()).collect();
        self.rows(format!("{RECORD} WHERE id IN ({marks})"), values, record).await
    }

    /// A page by primary key.
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
    Ok(AuditRow {
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
    })
}

fn text(row: &dyn Row, column: usize) -> Result<String> {
    row.text(column).map(str::to_owned)
}

fn text_opt(row: &dyn Row, column: usize) -> Result<Option<String>> {
    Ok(row.text_opt(column)?.map(str::to_owned))
}

fn foreign(what: String) -> Error {
    Error::new(ErrorCode::InvalidConfiguration, format!("the source is no database of Mini KMS on Node: {what}"))
}

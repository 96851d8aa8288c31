//! Statements on `audit_logs`, its indexes, and `audit_checkpoints`.
//!
//! A record is stored without the hash of the one before it, which that one's row has, and without its identifier,
//! which is derived from its hash. On servers, the engine keeps the indexes by key and by actor. In SQLite they are the
//! tables `audit_keys` and `audit_actors`, to which records are added many at a time: an index that every commit
//! maintains costs every commit a page. The head says how many records these tables have, so a commit may leave them as
//! they are.

use super::insert_rows;
use crate::audit::record::{FORMAT, record_id};
use crate::storage::dialect::Dialect;
use crate::storage::{Connection, Row, Statement, Value, corrupt};
use crate::types::audit::{Action, AuditRecord, Status, StoredCheckpoint};
use crate::types::error::Result;
use crate::types::ids::KeyId;
use crate::types::time::Timestamp;

/// The columns of a record as [`read`] expects them, of `audit_logs AS t`.
const COLUMNS: &str = "t.seq, t.timestamp, t.actor, t.role, t.action, t.status, t.request_id, t.key_id, t.key_version, \
                       t.details, t.hash, t.format";
/// The hash of the record before `audit_logs AS t`; null if there is none.
const BEFORE: &str = "(SELECT p.hash FROM audit_logs AS p WHERE p.seq = t.seq - 1)";

/// Records are added to the indexes of the log once they lack this many.
const INDEX_STEP: u64 = 128;
/// The maximum number of records that a commit adds to the indexes beside as many as it appends to the log.
const CATCH_UP: u64 = 1_024;

/// An index of the log that is a table of its own: it has a row for every record that has a value in a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIndex {
    /// The name of the table.
    pub table: &'static str,
    /// The column of both tables.
    pub column: &'static str,
}

/// The indexes of the log where the engine does not keep them.
pub const LOG_INDEXES: [LogIndex; 2] =
    [LogIndex { table: "audit_keys", column: "key_id" }, LogIndex { table: "audit_actors", column: "actor" }];

/// The indexes of the log that are tables of their own, in this engine.
pub fn log_indexes(dialect: &Dialect) -> &'static [LogIndex] {
    if dialect.keeps_log_indexes { &[] } else { &LOG_INDEXES }
}

impl LogIndex {
    /// Whether the index has an entry for this record.
    pub fn has(self, record: &AuditRecord) -> bool {
        self.column != "key_id" || record.key_id.is_some()
    }
}

/// The number of records that the indexes have after a commit by which the log grows from `before` to `size` records,
/// if they had `indexed`: all of them where the engine keeps them. Large steps would delay all callers: a record costs
/// about a page if there are many keys.
pub fn indexed_after(dialect: &Dialect, indexed: u64, before: u64, size: u64) -> u64 {
    if dialect.keeps_log_indexes {
        return size;
    }
    let lacking = size.saturating_sub(indexed);
    if lacking < INDEX_STEP {
        return indexed;
    }
    // However large the batches are, the indexes catch up.
    let more = (lacking / 8).clamp(INDEX_STEP, CATCH_UP);
    indexed.saturating_add(size.saturating_sub(before)).saturating_add(more).min(size)
}

/// A record to be appended to the log, with the columns that are stored.
pub struct NewRecord {
    /// The place in the log.
    pub seq: u64,
    /// The time of the commit.
    pub timestamp: Timestamp,
    /// The principal and its role.
    pub actor: (String, &'static str),
    /// The action that was attempted.
    pub action: Action,
    /// Whether it succeeded.
    pub status: Status,
    /// The caller's id for the request.
    pub request_id: Option<String>,
    /// The key that the record is about.
    pub key_id: Option<KeyId>,
    /// The version that the record is about.
    pub key_version: Option<u32>,
    /// Further details as canonical JSON.
    pub details: String,
    /// The hash of the record.
    pub hash: [u8; 32],
}

/// Appends records to the log.
pub fn insert(rows: Vec<NewRecord>) -> Vec<Statement> {
    let mut values = Vec::with_capacity(rows.len() * 12);
    for row in rows {
        values.extend([
            row.seq.into(),
            row.timestamp.into(),
            row.actor.0.into(),
            Value::Text(row.actor.1.into()),
            Value::Text(row.action.as_str().into()),
            Value::Text(row.status.as_str().into()),
            row.request_id.into(),
            row.key_id.as_ref().map(KeyId::as_bytes).into(),
            row.key_version.into(),
            row.details.into(),
            (&row.hash).into(),
            u32::from(FORMAT).into(),
        ]);
    }
    let columns = COLUMNS.replace("t.", "");
    insert_rows(&format!("INSERT INTO audit_logs ({columns}) VALUES "), 12, "", values.into_iter())
}

/// Adds the records after `after`, up to `last`, to the indexes of the log that are tables of their own. Entries that
/// exist, which an attacker or a repair has left, stay: they must not make the commit fail.
pub fn index(dialect: &Dialect, after: u64, last: u64) -> Vec<Statement> {
    let add = |LogIndex { table, column }: &LogIndex| {
        let sql = format!(
            "INSERT INTO {table} ({column}, seq) SELECT {column}, seq FROM audit_logs \
             WHERE seq > ? AND seq <= ? AND {column} IS NOT NULL ORDER BY {column}, seq ON CONFLICT DO NOTHING"
        );
        Statement::new(sql, vec![after.into(), last.into()])
    };
    log_indexes(dialect).iter().map(add).collect()
}

/// Returns the first record from `first` to `last` that an index of the log lacks.
pub async fn first_unindexed(
    connection: &mut dyn Connection,
    LogIndex { table, column }: LogIndex,
    first: u64,
    last: u64,
) -> Result<Option<u64>> {
    let sql = format!(
        "SELECT MIN(t.seq) FROM audit_logs AS t LEFT JOIN {table} AS i ON i.{column} = t.{column} AND i.seq = t.seq \
         WHERE t.seq >= ? AND t.seq <= ? AND t.{column} IS NOT NULL AND i.seq IS NULL"
    );
    let mut found = None;
    connection
        .query(sql.into(), vec![first.into(), last.into()], &mut |row| {
            found = row.unsigned_opt(0)?;
            Ok(())
        })
        .await?;
    Ok(found)
}

/// Counts the entries of an index of the log up to a record, and those after the records that the index has now.
pub async fn count_entries(
    connection: &mut dyn Connection,
    LogIndex { table, .. }: LogIndex,
    last: u64,
) -> Result<u64> {
    let sql = format!(
        "SELECT COUNT(*) FROM {table} WHERE seq <= ? \
         OR seq > (SELECT CASE WHEN h.indexed > h.seq THEN 0 ELSE h.indexed END FROM audit_head AS h WHERE h.id = 1)"
    );
    let mut count = 0;
    connection
        .query(sql.into(), vec![last.into()], &mut |row| {
            count = row.unsigned(0)?;
            Ok(())
        })
        .await?;
    Ok(count)
}

/// Calls `each` with the records from `first` to `last`, both included, in order.
pub async fn range(
    connection: &mut dyn Connection,
    first: u64,
    last: u64,
    each: &mut (dyn FnMut(AuditRecord) -> Result<()> + Send),
) -> Result<()> {
    let sql = format!("SELECT {COLUMNS} FROM audit_logs AS t WHERE t.seq >= ? AND t.seq <= ? ORDER BY t.seq");
    // The record before has the hash that the first one continues.
    let (mut before, mut last_hash) = (first.saturating_sub(1), [0; 32]);
    let mut read_next = |row: &dyn Row| {
        let seq: u64 = row.unsigned(0)?;
        if seq < first {
            last_hash = row.hash(10).unwrap_or_default();
            return Ok(());
        }
        let is_next = before.checked_add(1) == Some(seq);
        let record = read(row, if is_next { last_hash } else { [0; 32] })?;
        (before, last_hash) = (record.seq, record.hash);
        each(record)
    };
    let from = if first > 1 { first - 1 } else { first };
    connection.query(sql.into(), vec![from.into(), last.into()], &mut read_next).await
}

/// A selection of records for a list.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only records from this sequence number on.
    pub first: Option<u64>,
    /// Only records up to this sequence number, which is included.
    pub last: Option<u64>,
    /// Only records about this key.
    pub key: Option<KeyId>,
    /// Only records of this actor.
    pub actor: Option<String>,
    /// Only records of this action.
    pub action: Option<Action>,
    /// Only records with this status.
    pub status: Option<Status>,
    /// Only records of the request with this id.
    pub request_id: Option<String>,
    /// Oldest first instead of newest first.
    pub ascending: bool,
    /// The maximum number of records.
    pub limit: usize,
}

impl Selection {
    /// The first and last sequence number of the selection.
    fn bounds(&self) -> Vec<Value> {
        vec![self.first.unwrap_or(0).into(), self.last.unwrap_or(i64::MAX.unsigned_abs()).into()]
    }
    fn order(&self, columns: &[&str]) -> String {
        let direction = if self.ascending { "" } else { " DESC" };
        format!("ORDER BY {}{direction} LIMIT ?", columns.join(&format!("{direction}, ")))
    }
    /// The columns to compare, each with its value.
    fn filters(&self) -> Vec<(&'static str, Value)> {
        let filters = [
            ("key_id", self.key.map(|key| key.as_bytes().into())),
            ("actor", self.actor.as_deref().map(Into::into)),
            ("action", self.action.map(|action| action.as_str().into())),
            ("status", self.status.map(|status| status.as_str().into())),
            ("request_id", self.request_id.as_deref().map(Into::into)),
        ];
        filters.into_iter().filter_map(|(column, value)| Some((column, value?))).collect()
    }
}

/// Returns the records of a selection among the next `count` records: those with its key or actor, which an index finds
/// if `is_indexed`, or else all. Also returns the number of the last examined record, if there may be more after it.
pub async fn select_among(
    connection: &mut dyn Connection,
    selection: &Selection,
    is_indexed: bool,
    count: u64,
) -> Result<(Vec<AuditRecord>, Option<u64>)> {
    let mut compared = selection.filters();
    let index = LOG_INDEXES.into_iter().find(|index| compared.first().is_some_and(|(name, _)| *name == index.column));
    let mut values = selection.bounds();
    // The limit applies to the examined entries or records, so that entries without a record cost no more than others.
    let (numbers, examined) = match index.filter(|_| is_indexed) {
        Some(LogIndex { table, column }) => {
            let dialect = connection.dialect();
            let table = if dialect.keeps_log_indexes { "audit_logs" } else { table };
            let wanted = compared.remove(0).1;
            let (within, order) = if dialect.name == "postgres" {
                // The same condition and order in a form that only the index serves: the planner may expect less work
                // of the primary key, which has all records in this order.
                values.insert(1, wanted.clone());
                values.insert(0, wanted);
                let within = format!("(i.{column}, i.seq) >= (?, ?) AND (i.{column}, i.seq) <= (?, ?)");
                (within, selection.order(&[&format!("i.{column}"), "i.seq"]))
            } else {
                values.push(wanted);
                (format!("i.seq >= ? AND i.seq <= ? AND i.{column} = ?"), selection.order(&["i.seq"]))
            };
            let within = format!("FROM {table} AS i WHERE {within}");
            let join = format!("JOIN audit_logs AS t ON t.seq = i.seq AND t.{column} = i.{column}");
            (
                format!("SELECT i.seq {within} {order}"),
                format!("SELECT {COLUMNS} FROM (SELECT i.seq, i.{column} {within} {order}) AS i {join}"),
            )
        }
        None => {
            let within =
                format!("FROM audit_logs AS t WHERE t.seq >= ? AND t.seq <= ? {}", selection.order(&["t.seq"]));
            (format!("SELECT t.seq {within}"), format!("SELECT {COLUMNS} {within}"))
        }
    };
    let count = if compared.is_empty() { selection.limit as u64 } else { count };
    values.push(count.into());
    let among = values.clone();
    let (columns, compared): (Vec<&str>, Vec<Value>) = compared.into_iter().unzip();
    let mut condition = columns.join(" = ? AND t.");
    if !condition.is_empty() {
        condition = format!("WHERE t.{condition} = ?");
    }
    let sql = format!("SELECT {COLUMNS}, {BEFORE} FROM ({examined}) AS t {condition} {}", selection.order(&["t.seq"]));
    values.extend(compared);
    values.push((selection.limit as u64).into());
    let found = records(connection, sql, values).await?;
    if found.len() >= selection.limit {
        return Ok((found, None));
    }
    let end = if selection.ascending { "MAX" } else { "MIN" };
    let sql = format!("SELECT COUNT(*), {end}(seq) FROM ({numbers}) AS examined");
    let mut last = None;
    connection
        .query(sql.into(), among, &mut |row| {
            let is_cut = row.unsigned::<u64>(0)? >= count;
            last = row.unsigned_opt(1)?.filter(|_| is_cut);
            Ok(())
        })
        .await?;
    Ok((found, last))
}

/// Returns the numbers of the records from `first` to `last` at which time was acknowledged to go back, in order.
pub async fn set_backs(connection: &mut dyn Connection, first: u64, last: u64) -> Result<Vec<u64>> {
    let sql = "SELECT seq FROM audit_logs WHERE seq >= ? AND seq <= ? AND action = ? ORDER BY seq";
    let values = vec![first.into(), last.into(), Action::ClockAcknowledge.as_str().into()];
    numbers(connection, sql.into(), values).await
}

async fn records(connection: &mut dyn Connection, sql: String, values: Vec<Value>) -> Result<Vec<AuditRecord>> {
    let mut found = Vec::new();
    let mut keep = |row: &dyn Row| {
        found.push(read(row, row.hash_opt(12)?.unwrap_or_default())?);
        Ok(())
    };
    connection.query(sql.into(), values, &mut keep).await?;
    Ok(found)
}

/// Returns the numbers of the selection's records among its next `count` records of any kind. They are found without
/// the indexes on the compared columns, since the limit applies before the comparison.
pub async fn matching_near(connection: &mut dyn Connection, selection: &Selection, count: u64) -> Result<Vec<u64>> {
    let (columns, compared): (Vec<&str>, Vec<Value>) = selection.filters().into_iter().unzip();
    let sql = format!(
        "SELECT seq FROM (SELECT seq, {} FROM audit_logs WHERE seq >= ? AND seq <= ? {}) AS next_records WHERE {} = ?",
        columns.join(", "),
        selection.order(&["seq"]),
        columns.join(" = ? AND ")
    );
    let mut values = selection.bounds();
    values.push(count.into());
    values.extend(compared);
    numbers(connection, sql, values).await
}

/// The sequence numbers that a query returns.
async fn numbers(connection: &mut dyn Connection, sql: String, values: Vec<Value>) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    connection
        .query(sql.into(), values, &mut |row| {
            found.push(row.unsigned(0)?);
            Ok(())
        })
        .await?;
    Ok(found)
}

/// Returns the hashes of records, in order.
pub async fn hashes(
    connection: &mut dyn Connection,
    first: u64,
    last: u64,
    each: &mut (dyn FnMut([u8; 32]) + Send),
) -> Result<()> {
    let sql = "SELECT hash FROM audit_logs WHERE seq >= ? AND seq <= ? ORDER BY seq";
    let mut read = |row: &dyn Row| {
        each(row.hash(0)?);
        Ok(())
    };
    connection.query(sql.into(), vec![first.into(), last.into()], &mut read).await
}

/// The hash of a record, if the record exists.
pub async fn hash_of(connection: &mut dyn Connection, seq: u64) -> Result<Option<[u8; 32]>> {
    let mut hash = None;
    connection
        .query("SELECT hash FROM audit_logs WHERE seq = ?".into(), vec![seq.into()], &mut |row| {
            hash = Some(row.hash(0)?);
            Ok(())
        })
        .await?;
    Ok(hash)
}

/// The time of the first record with at least this sequence number.
pub async fn time_at(connection: &mut dyn Connection, seq: u64) -> Result<Option<Timestamp>> {
    let mut time = None;
    let sql = "SELECT timestamp FROM audit_logs WHERE seq >= ? ORDER BY seq LIMIT 1";
    connection
        .query(sql.into(), vec![seq.into()], &mut |row| {
            time = Some(row.time(0)?);
            Ok(())
        })
        .await?;
    Ok(time)
}

/// The largest sequence number, or 0 if there are no records.
pub async fn last_seq(connection: &mut dyn Connection) -> Result<u64> {
    let mut last = 0;
    connection
        .query("SELECT COALESCE(MAX(seq), 0) FROM audit_logs".into(), vec![], &mut |row| {
            last = row.unsigned(0)?;
            Ok(())
        })
        .await?;
    Ok(last)
}

/// The smallest sequence number after this one, if any.
pub async fn next_seq(connection: &mut dyn Connection, seq: u64) -> Result<Option<u64>> {
    let mut next = None;
    connection
        .query("SELECT MIN(seq) FROM audit_logs WHERE seq > ?".into(), vec![seq.into()], &mut |row| {
            next = row.unsigned_opt(0)?;
            Ok(())
        })
        .await?;
    Ok(next)
}

/// Reads a record; `prev_hash` is the hash of the record before it.
fn read(row: &dyn Row, prev_hash: [u8; 32]) -> Result<AuditRecord> {
    let hash = row.hash(10)?;
    Ok(AuditRecord {
        seq: row.unsigned(0)?,
        id: record_id(&hash),
        timestamp: row.time(1)?,
        actor: row.text(2)?.to_owned(),
        role: row.text(3)?.to_owned(),
        action: row.text(4)?.to_owned(),
        status: row.text(5)?.to_owned(),
        request_id: row.text_opt(6)?.map(str::to_owned),
        key_id: row.blob_opt(7)?.map(KeyId::from_slice).transpose()?,
        key_version: row.unsigned_opt(8)?,
        details: row.text_opt(9)?.map(str::to_owned),
        prev_hash,
        hash,
        format: u8::try_from(row.int(11)?).map_err(|_| corrupt("a record's format is out of range"))?,
    })
}

/// Stores a checkpoint of the log.
pub fn insert_checkpoint(checkpoint: &StoredCheckpoint) -> Statement {
    let values = vec![
        checkpoint.size.into(),
        checkpoint.frontier.concat().into(),
        (&checkpoint.hash).into(),
        checkpoint.note.as_str().into(),
    ];
    Statement::new("INSERT INTO audit_checkpoints (size, frontier, hash, note) VALUES (?, ?, ?, ?)", values)
}

/// The note of the stored checkpoint of this size.
pub async fn checkpoint_at(connection: &mut dyn Connection, size: u64) -> Result<Option<String>> {
    let mut found = None;
    let sql = "SELECT note FROM audit_checkpoints WHERE size = ?";
    connection
        .query(sql.into(), vec![size.into()], &mut |row| {
            found = Some(row.text(0)?.to_owned());
            Ok(())
        })
        .await?;
    Ok(found)
}

/// The stored checkpoints with more than `after` records, smallest first.
pub async fn checkpoints(connection: &mut dyn Connection, after: u64) -> Result<Vec<StoredCheckpoint>> {
    let mut found = Vec::new();
    let sql = "SELECT size, frontier, hash, note FROM audit_checkpoints WHERE size > ? ORDER BY size";
    connection
        .query(sql.into(), vec![after.into()], &mut |row| {
            found.push(StoredCheckpoint {
                size: row.unsigned(0)?,
                frontier: super::head::roots(row.blob(1)?)?,
                hash: row.hash(2)?,
                note: row.text(3)?.to_owned(),
            });
            Ok(())
        })
        .await?;
    Ok(found)
}

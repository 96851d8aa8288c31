//! Statements on `audit_logs` and `audit_checkpoints`.

use super::insert_rows;
use crate::storage::{Connection, Row, Statement, Value, corrupt};
use crate::types::audit::{Action, AuditRecord, Status, StoredCheckpoint};
use crate::types::error::Result;
use crate::types::ids::{KeyId, RecordId};
use crate::types::time::Timestamp;

const COLUMNS: &str = "seq, id, timestamp, actor, role, action, status, request_id, key_id, key_version, details, \
                       prev_hash, hash, format";

/// Appends records to the log.
pub fn insert(rows: Vec<AuditRecord>) -> Vec<Statement> {
    let mut values = Vec::with_capacity(rows.len() * 14);
    for row in rows {
        values.extend([
            row.seq.into(),
            row.id.as_bytes().into(),
            row.timestamp.into(),
            row.actor.into(),
            row.role.into(),
            row.action.into(),
            row.status.into(),
            row.request_id.into(),
            row.key_id.as_ref().map(KeyId::as_bytes).into(),
            row.key_version.into(),
            row.details.into(),
            (&row.prev_hash).into(),
            (&row.hash).into(),
            u32::from(row.format).into(),
        ]);
    }
    insert_rows(&format!("INSERT INTO audit_logs ({COLUMNS}) VALUES "), 14, "", values.into_iter())
}

/// Calls `each` with the records from `first` to `last`, both included, in order.
pub async fn range(
    connection: &mut dyn Connection,
    first: u64,
    last: u64,
    each: &mut (dyn FnMut(AuditRecord) -> Result<()> + Send),
) -> Result<()> {
    let sql = format!("SELECT {COLUMNS} FROM audit_logs WHERE seq >= ? AND seq <= ? ORDER BY seq");
    connection.query(sql.into(), vec![first.into(), last.into()], &mut |row| each(read(row)?)).await
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
    fn order(&self) -> &'static str {
        if self.ascending { "ORDER BY seq LIMIT ?" } else { "ORDER BY seq DESC LIMIT ?" }
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

/// The columns that an index covers.
const INDEXED: [&str; 2] = ["key_id", "actor"];

/// Returns the records of a selection among the next `count` records: those with its key or actor, which an index
/// finds, or else all. Also returns the number of the last examined record, if there may be more after it.
pub async fn select_among(
    connection: &mut dyn Connection,
    selection: &Selection,
    count: u64,
) -> Result<(Vec<AuditRecord>, Option<u64>)> {
    let mut compared = selection.filters();
    let is_led = compared.first().is_some_and(|(column, _)| INDEXED.contains(column));
    let led = is_led.then(|| compared.remove(0));
    if compared.is_empty() {
        return Ok((select(connection, selection).await?, None));
    }
    let mut looked_at = "FROM audit_logs WHERE seq >= ? AND seq <= ?".to_owned();
    let mut values = selection.bounds();
    if let Some((column, value)) = led {
        looked_at.push_str(&format!(" AND {column} = ?"));
        values.push(value);
    }
    let order = selection.order();
    looked_at.push_str(&format!(" {order}"));
    values.push(count.into());
    let among = values.clone();
    let (columns, compared): (Vec<&str>, Vec<Value>) = compared.into_iter().unzip();
    let condition = columns.join(" = ? AND ");
    let sql =
        format!("SELECT {COLUMNS} FROM (SELECT {COLUMNS} {looked_at}) AS looked_at WHERE {condition} = ? {order}");
    values.extend(compared);
    values.push((selection.limit as u64).into());
    let mut found = Vec::new();
    let mut keep = |row: &dyn Row| {
        found.push(read(row)?);
        Ok(())
    };
    connection.query(sql.into(), values, &mut keep).await?;
    if found.len() >= selection.limit {
        return Ok((found, None));
    }
    let end = if selection.ascending { "MAX" } else { "MIN" };
    let sql = format!("SELECT COUNT(*), {end}(seq) FROM (SELECT seq {looked_at}) AS looked_at");
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

/// Returns the numbers of the selection's records among its next `count` records of any kind. They are found without
/// the indexes on the compared columns, since the limit applies before the comparison.
pub async fn matching_near(connection: &mut dyn Connection, selection: &Selection, count: u64) -> Result<Vec<u64>> {
    let (columns, compared): (Vec<&str>, Vec<Value>) = selection.filters().into_iter().unzip();
    let sql = format!(
        "SELECT seq FROM (SELECT seq, {} FROM audit_logs WHERE seq >= ? AND seq <= ? {}) AS next_records WHERE {} = ?",
        columns.join(", "),
        selection.order(),
        columns.join(" = ? AND ")
    );
    let mut values = selection.bounds();
    values.push(count.into());
    values.extend(compared);
    let mut found = Vec::new();
    connection
        .query(sql.into(), values, &mut |row| {
            found.push(row.unsigned(0)?);
            Ok(())
        })
        .await?;
    Ok(found)
}

/// Returns the records of a selection.
pub async fn select(connection: &mut dyn Connection, selection: &Selection) -> Result<Vec<AuditRecord>> {
    let mut sql = format!("SELECT {COLUMNS} FROM audit_logs WHERE seq >= ? AND seq <= ?");
    let mut values = selection.bounds();
    for (column, value) in selection.filters() {
        sql.push_str(" AND ");
        sql.push_str(column);
        sql.push_str(" = ?");
        values.push(value);
    }
    sql.push(' ');
    sql.push_str(selection.order());
    values.push((selection.limit as u64).into());
    let mut rows = Vec::new();
    connection
        .query(sql.into(), values, &mut |row| {
            rows.push(read(row)?);
            Ok(())
        })
        .await?;
    Ok(rows)
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

fn read(row: &dyn Row) -> Result<AuditRecord> {
    Ok(AuditRecord {
        seq: row.unsigned(0)?,
        id: RecordId::from_slice(row.blob(1)?)?,
        timestamp: row.time(2)?,
        actor: row.text(3)?.to_owned(),
        role: row.text(4)?.to_owned(),
        action: row.text(5)?.to_owned(),
        status: row.text(6)?.to_owned(),
        request_id: row.text_opt(7)?.map(str::to_owned),
        key_id: row.blob_opt(8)?.map(KeyId::from_slice).transpose()?,
        key_version: row.unsigned_opt(9)?,
        details: row.text_opt(10)?.map(str::to_owned),
        prev_hash: row.hash(11)?,
        hash: row.hash(12)?,
        format: u8::try_from(row.int(13)?).map_err(|_| corrupt("a record's format is out of range"))?,
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

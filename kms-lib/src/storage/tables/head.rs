//! Statements on `audit_head`: one row, the end of the log. Every writer locks it first.

use crate::storage::{Connection, Row, Statement, Value, corrupt};
use crate::types::audit::Head;
use crate::types::error::{Error, Result};
use crate::types::ids::{KeyId, LogId};
use crate::types::tallies::{self, Tallies};
use crate::types::time::Timestamp;

/// The columns of a head as [`from_row`] expects them. Of the counters, which neither a signature nor a seal covers, no
/// more is read than one byte above their maximum length.
const HEAD: &str = "log_id, seq, hash, timestamp, revision, frontier, checkpoint, SUBSTR(tallies, 1, 641), indexed";
const _: () = assert!(tallies::ROOM == 640, "HEAD has this number");

/// Reads the head; none in a store that was just created.
pub async fn read(connection: &mut dyn Connection) -> Result<Option<Head>> {
    let mut head = None;
    connection
        .query(format!("SELECT {HEAD} FROM audit_head WHERE id = 1").into(), vec![], &mut |row| {
            head = Some(from_row(row)?);
            Ok(())
        })
        .await?;
    Ok(head)
}

/// The head, and the time of the database's own clock, if it has one.
pub type Locked = Option<(Head, Option<Timestamp>)>;

/// The error for a store without a head.
pub fn missing() -> Error {
    corrupt("the head of the log is missing; restore a backup")
}

/// Reads the head. Fails with `StoreCorrupt` if it is missing.
pub async fn require(connection: &mut dyn Connection) -> Result<Head> {
    read(connection).await?.ok_or_else(missing)
}

/// Begins a transaction by locking the head, and reads it. No other transaction can write until this one ends.
pub async fn begin_locked(connection: &mut dyn Connection) -> Result<Locked> {
    let dialect = connection.dialect();
    let sql = format!("SELECT {HEAD}, {} FROM audit_head WHERE id = 1{}", dialect.now, dialect.lock_row);
    let mut head = None;
    connection
        .begin_write_with(sql.into(), &mut |row| {
            head = Some((from_row(row)?, row.time_opt(9)?));
            Ok(())
        })
        .await?;
    Ok(head)
}

/// Returns the time of the database's own clock, if it has one.
pub async fn database_now(connection: &mut dyn Connection) -> Result<Option<Timestamp>> {
    let sql = format!("SELECT {}", connection.dialect().now);
    let mut now = None;
    connection
        .query(sql.into(), vec![], &mut |row| {
            now = row.time_opt(0)?;
            Ok(())
        })
        .await?;
    Ok(now)
}

fn from_row(row: &dyn Row) -> Result<Head> {
    let seq = row.unsigned(1)?;
    Ok(Head {
        log_id: LogId::from_slice(row.blob(0)?)?,
        seq,
        hash: row.hash(2)?,
        timestamp: row.time(3)?,
        revision: row.unsigned(4)?,
        frontier: roots(row.blob(5)?)?,
        checkpoint: row.text(6)?.to_owned(),
        tallies: read_tallies(row, 7),
        // With an impossible position, lists read the log itself, and the ledger adds all records again.
        indexed: row.unsigned(8).ok().filter(|indexed| *indexed <= seq).unwrap_or(0),
    })
}

/// Reads counters; a value of another type is as unreadable as one that is malformed. SQLite's `SUBSTR` returns null
/// for an empty value.
fn read_tallies(row: &dyn Row, column: usize) -> Tallies {
    let unreadable = || Tallies { is_unreadable: true, ..Tallies::default() };
    row.blob_opt(column).map_or_else(|_| unreadable(), |bytes| Tallies::from_bytes(bytes.unwrap_or_default()))
}

/// Reads the store's revision: one small read, shared by all callers that wait for fresh data.
pub async fn revision(connection: &mut dyn Connection) -> Result<u64> {
    let mut revision = None;
    connection
        .query("SELECT revision FROM audit_head WHERE id = 1".into(), vec![], &mut |row| {
            revision = Some(row.unsigned(0)?);
            Ok(())
        })
        .await?;
    revision.ok_or_else(missing)
}

/// Writes the first head of a store.
pub async fn insert(connection: &mut dyn Connection, head: &Head) -> Result<()> {
    let sql = "INSERT INTO audit_head (log_id, seq, hash, timestamp, revision, frontier, checkpoint, tallies, indexed, \
               id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1)";
    connection.execute(sql.into(), values(head)).await.map(drop)
}

/// Replaces the head, if these versions still have their rows.
pub fn update(head: &Head, versions: &[(KeyId, u32)]) -> Statement {
    let has_rows = " AND EXISTS (SELECT 1 FROM version_usage u JOIN key_versions v ON v.key_id = u.key_id \
                    AND v.version = u.version WHERE u.key_id = ? AND u.version = ?)";
    let sql = format!(
        "UPDATE audit_head SET log_id = ?, seq = ?, hash = ?, timestamp = ?, revision = ?, frontier = ?, \
         checkpoint = ?, tallies = ?, indexed = ? WHERE id = 1{}",
        has_rows.repeat(versions.len())
    );
    let mut values = values(head);
    values.extend(versions.iter().flat_map(|(key, version)| [key.as_bytes().into(), (*version).into()]));
    Statement::new(sql, values)
}

/// Reads the counters that were not added to their tables yet.
pub async fn tallies(connection: &mut dyn Connection) -> Result<Tallies> {
    let mut tallies = Tallies::default();
    connection
        .query("SELECT SUBSTR(tallies, 1, 641) FROM audit_head WHERE id = 1".into(), vec![], &mut |row| {
            tallies = read_tallies(row, 0);
            Ok(())
        })
        .await?;
    Ok(tallies)
}

fn values(head: &Head) -> Vec<Value> {
    vec![
        head.log_id.as_bytes().into(),
        head.seq.into(),
        (&head.hash).into(),
        head.timestamp.into(),
        head.revision.into(),
        head.frontier.concat().into(),
        head.checkpoint.as_str().into(),
        head.tallies.to_bytes().into(),
        head.indexed.into(),
    ]
}

/// Decodes stored subtree roots.
pub(super) fn roots(bytes: &[u8]) -> Result<Vec<[u8; 32]>> {
    let (roots, rest) = bytes.as_chunks::<32>();
    if rest.is_empty() { Ok(roots.to_vec()) } else { Err(corrupt("stored subtree roots are truncated")) }
}

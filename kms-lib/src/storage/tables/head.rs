//! `audit_head`: one row, the end of the log. Whoever writes locks it first.

use crate::storage::{Connection, Value, corrupt};
use crate::types::audit::Head;
use crate::types::error::Result;
use crate::types::ids::LogId;

/// Reads the head; none in a store that was just made. With `lock`, no other transaction writes until this one ends.
pub async fn read(connection: &mut dyn Connection, lock: bool) -> Result<Option<Head>> {
    let lock = if lock { connection.dialect().lock_row } else { "" };
    let sql = format!(
        "SELECT log_id, seq, hash, timestamp, revision, frontier, checkpoint FROM audit_head WHERE id = 1{lock}"
    );
    let mut head = None;
    connection
        .query(sql.into(), vec![], &mut |row| {
            head = Some(Head {
                log_id: LogId::from_slice(row.blob(0)?)?,
                seq: row.unsigned(1)?,
                hash: row.hash(2)?,
                timestamp: row.time(3)?,
                revision: row.unsigned(4)?,
                frontier: roots(row.blob(5)?)?,
                checkpoint: row.text(6)?.to_owned(),
            });
            Ok(())
        })
        .await?;
    Ok(head)
}

/// The revision of the store: one small read that every caller who waits for a fresh answer shares.
pub async fn revision(connection: &mut dyn Connection) -> Result<u64> {
    let mut revision = None;
    connection
        .query("SELECT revision FROM audit_head WHERE id = 1".into(), vec![], &mut |row| {
            revision = Some(row.unsigned(0)?);
            Ok(())
        })
        .await?;
    revision.ok_or_else(|| corrupt("the head of the log is missing"))
}

/// Writes the first head of a store.
pub async fn insert(connection: &mut dyn Connection, head: &Head) -> Result<()> {
    let sql = "INSERT INTO audit_head (log_id, seq, hash, timestamp, revision, frontier, checkpoint, id) \
               VALUES (?, ?, ?, ?, ?, ?, ?, 1)";
    connection.execute(sql.into(), values(head)).await.map(drop)
}

/// Writes the head.
pub async fn update(connection: &mut dyn Connection, head: &Head) -> Result<()> {
    let sql = "UPDATE audit_head SET log_id = ?, seq = ?, hash = ?, timestamp = ?, revision = ?, frontier = ?, \
               checkpoint = ? WHERE id = 1";
    match connection.execute(sql.into(), values(head)).await? {
        1 => Ok(()),
        _ => Err(corrupt("the head of the log is missing")),
    }
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
    ]
}

/// Stored subtree roots.
pub(super) fn roots(bytes: &[u8]) -> Result<Vec<[u8; 32]>> {
    let (roots, rest) = bytes.as_chunks::<32>();
    if rest.is_empty() { Ok(roots.to_vec()) } else { Err(corrupt("stored subtree roots are cut")) }
}

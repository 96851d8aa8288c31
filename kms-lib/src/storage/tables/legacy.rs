//! `legacy_rows` and `legacy_logs`: imported logs. Each source has its rows, numbered from 1, and the number of the
//! last record that sealed them.

use super::insert_rows;
use crate::storage::{Connection, Statement};
use crate::types::error::Result;

/// Appends rows behind the first `sealed`.
pub fn insert(source: &str, sealed: u64, bodies: &[String]) -> Vec<Statement> {
    let mut values = Vec::with_capacity(bodies.len() * 3);
    for (position, body) in (sealed + 1..).zip(bodies) {
        values.extend([source.into(), position.into(), body.as_str().into()]);
    }
    insert_rows("INSERT INTO legacy_rows (source, position, body) VALUES ", 3, "", values.into_iter())
}

/// Notes the record that sealed a log last.
pub fn set_seq(source: &str, seq: u64) -> Vec<Statement> {
    vec![
        Statement::new("DELETE FROM legacy_logs WHERE source = ?", vec![source.into()]),
        Statement::new("INSERT INTO legacy_logs (source, seq) VALUES (?, ?)", vec![source.into(), seq.into()]),
    ]
}

/// The sources of imported logs, each with the record that sealed it last.
pub async fn logs(connection: &mut dyn Connection) -> Result<Vec<(String, u64)>> {
    let mut logs = Vec::new();
    connection
        .query("SELECT source, seq FROM legacy_logs ORDER BY source".into(), vec![], &mut |row| {
            logs.push((row.text(0)?.to_owned(), row.unsigned(1)?));
            Ok(())
        })
        .await?;
    Ok(logs)
}

/// How many rows a source has.
pub async fn size(connection: &mut dyn Connection, source: &str) -> Result<u64> {
    let mut size = 0;
    let sql = "SELECT COALESCE(MAX(position), 0) FROM legacy_rows WHERE source = ?";
    connection
        .query(sql.into(), vec![source.into()], &mut |row| {
            size = row.unsigned(0)?;
            Ok(())
        })
        .await?;
    Ok(size)
}

/// How many rows each source has, whatever their positions.
pub async fn counts(connection: &mut dyn Connection) -> Result<Vec<(String, u64)>> {
    let mut counts = Vec::new();
    let sql = "SELECT source, COUNT(*) FROM legacy_rows GROUP BY source";
    connection
        .query(sql.into(), vec![], &mut |row| {
            counts.push((row.text(0)?.to_owned(), row.unsigned(1)?));
            Ok(())
        })
        .await?;
    Ok(counts)
}

/// At most `limit` rows of a source behind a position, in their order.
pub async fn page(
    connection: &mut dyn Connection,
    source: &str,
    after: u64,
    limit: usize,
) -> Result<Vec<(u64, String)>> {
    let mut rows = Vec::new();
    let sql = "SELECT position, body FROM legacy_rows WHERE source = ? AND position > ? ORDER BY position LIMIT ?";
    connection
        .query(sql.into(), vec![source.into(), after.into(), (limit as u64).into()], &mut |row| {
            rows.push((row.unsigned(0)?, row.text(1)?.to_owned()));
            Ok(())
        })
        .await?;
    Ok(rows)
}

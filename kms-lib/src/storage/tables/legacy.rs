//! Statements on `legacy_rows` and `legacy_logs`: imported logs. Each source has its rows, numbered from 1, and the
//! number of the last record that sealed them.

use super::insert_rows;
use crate::storage::{Connection, Statement, corrupt};
use crate::types::error::Result;

/// The maximum length of the rows that are read at once, in bytes or characters depending on the engine. At least one
/// row is read.
const PAGE_LENGTH: u64 = 8 * 1024 * 1024;
/// The same for a list: its rows are parsed on the task of the caller, which other tasks wait for.
const LIST_LENGTH: u64 = 512 * 1024;
/// The maximum length of an imported row.
const ROW_LENGTH: u64 = 4 * 1024 * 1024;

/// Appends rows after the first `sealed` rows.
pub fn insert(source: &str, sealed: u64, bodies: &[String]) -> Vec<Statement> {
    let mut values = Vec::with_capacity(bodies.len() * 3);
    for (position, body) in (sealed + 1..).zip(bodies) {
        values.extend([source.into(), position.into(), body.as_str().into()]);
    }
    insert_rows("INSERT INTO legacy_rows (source, position, body) VALUES ", 3, "", values.into_iter())
}

/// Notes the record that last sealed a log.
pub fn set_seq(source: &str, seq: u64) -> Vec<Statement> {
    vec![
        Statement::new("DELETE FROM legacy_logs WHERE source = ?", vec![source.into()]),
        Statement::new("INSERT INTO legacy_logs (source, seq) VALUES (?, ?)", vec![source.into(), seq.into()]),
    ]
}

/// Returns the sources of imported logs, each with the record that last sealed it.
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

/// Returns the number of rows of a source.
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

/// Returns the number of rows of each source, whatever their positions.
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

/// Rows of an imported log with their positions.
pub struct LegacyRows {
    pub rows: Vec<(u64, String)>,
    /// Whether rows within the limit were left out because of the length of the earlier rows.
    pub is_cut: bool,
}

/// Returns at most `limit` rows of a source after a position, in order, and fewer if they are long; empty only if no
/// row follows. `StoreCorrupt` for a row that is longer than the import allows.
pub async fn page(connection: &mut dyn Connection, source: &str, after: u64, limit: usize) -> Result<LegacyRows> {
    page_of(connection, source, (after, limit), PAGE_LENGTH).await
}

/// Returns the same for a list, with fewer rows if they are long.
pub async fn list(connection: &mut dyn Connection, source: &str, after: u64, limit: usize) -> Result<LegacyRows> {
    page_of(connection, source, (after, limit), LIST_LENGTH).await
}

async fn page_of(
    connection: &mut dyn Connection,
    source: &str,
    (after, limit): (u64, usize),
    most: u64,
) -> Result<LegacyRows> {
    let lengths = lengths(connection, source, after, limit).await?;
    if lengths.first().is_some_and(|length| *length > ROW_LENGTH) {
        return Err(corrupt("a row of an imported log is longer than the import allows; verify the log"));
    }
    let mut sum = 0;
    let fits = lengths.iter().enumerate().take_while(|(n, length)| {
        sum += **length;
        (*n == 0 || sum <= most) && **length <= ROW_LENGTH
    });
    let limit = fits.count();
    let is_cut = limit < lengths.len();
    let mut rows = Vec::with_capacity(limit);
    let sql = "SELECT position, body FROM legacy_rows WHERE source = ? AND position > ? ORDER BY position LIMIT ?";
    connection
        .query(sql.into(), vec![source.into(), after.into(), (limit as u64).into()], &mut |row| {
            rows.push((row.unsigned(0)?, row.text(1)?.to_owned()));
            Ok(())
        })
        .await?;
    Ok(LegacyRows { rows, is_cut })
}

/// Returns the lengths of the same rows.
async fn lengths(connection: &mut dyn Connection, source: &str, after: u64, limit: usize) -> Result<Vec<u64>> {
    let integer = connection.dialect().cast_integer;
    let sql = format!(
        "SELECT CAST(LENGTH(body) AS {integer}) FROM legacy_rows WHERE source = ? AND position > ? ORDER BY position \
         LIMIT ?"
    );
    let mut lengths = Vec::new();
    connection
        .query(sql.into(), vec![source.into(), after.into(), (limit as u64).into()], &mut |row| {
            lengths.push(row.unsigned(0)?);
            Ok(())
        })
        .await?;
    Ok(lengths)
}

//! Statements on `wrappings`: material of versions and service keys, wrapped under generations of the root key.

use sha2::{Digest, Sha256};

use super::{each_row_of, insert_rows};
use crate::envelope::row::StoredWrapping;
use crate::storage::{Connection, Row, Statement, Value};
use crate::types::error::Result;
use crate::types::ids::KeyId;
use crate::types::root_key::Wrapped;

/// The maximum number of subjects in one statement.
const NAMED: usize = 256;

/// The value in `meta` that names the last record that withdrew the mark of a verified wrapping.
pub const MARKS_WITHDRAWN: &str = "wrappings.marks_withdrawn";

/// A row of `wrappings` as stored.
pub struct WrappingRow {
    /// The fields that the seal covers, together with the fingerprint of the subject.
    pub stored: StoredWrapping,
    /// The wrapped material.
    pub bytes: Vec<u8>,
    /// The stored seal, not verified yet.
    pub seal: Vec<u8>,
}

impl WrappingRow {
    /// The wrapped material with its generation.
    pub fn wrapped(&self) -> Wrapped {
        Wrapped { generation: self.stored.generation, bytes: self.bytes.clone() }
    }
}

/// A row of `wrappings` to insert.
pub struct NewRow {
    /// The identifier of the version or service key.
    pub subject: [u8; 16],
    /// The wrapped material with its generation.
    pub wrapped: Wrapped,
    /// The seal over the row in its unverified state.
    pub seal: [u8; 32],
}

/// Inserts wrappings, all unverified. An existing row for the same subject and generation is a conflict.
pub fn insert(rows: Vec<NewRow>) -> Vec<Statement> {
    let mut values: Vec<Value> = Vec::with_capacity(rows.len() * 5);
    for NewRow { subject, wrapped, seal } in rows {
        values.extend([
            (&subject).into(),
            wrapped.generation.into(),
            wrapped.bytes.into(),
            0u32.into(),
            Value::from(&seal),
        ]);
    }
    let before = "INSERT INTO wrappings (subject, generation, wrapped, verified, seal) VALUES ";
    insert_rows(before, 5, "", values.into_iter())
}

/// Marks a wrapping as `stored` says, unless it was replaced since it was read; then no row changes.
pub fn mark(stored: &StoredWrapping, former_seal: &[u8], seal: &[u8; 32]) -> Statement {
    let sql = "UPDATE wrappings SET verified = ?, seal = ? WHERE subject = ? AND generation = ? AND seal = ?";
    let verified = u32::from(stored.verified);
    let values =
        vec![verified.into(), seal.into(), (&stored.subject).into(), stored.generation.into(), former_seal.into()];
    Statement::new(sql, values)
}

/// Erases the wrapping of a subject under one generation.
pub fn erase(subject: &[u8; 16], generation: u32) -> Statement {
    let sql = "DELETE FROM wrappings WHERE subject = ? AND generation = ?";
    Statement::new(sql, vec![subject.into(), generation.into()])
}

/// Erases all wrappings of a subject.
pub fn erase_all(subject: &[u8; 16]) -> Statement {
    Statement::new("DELETE FROM wrappings WHERE subject = ?", vec![subject.into()])
}

/// Erases all wrappings of these subjects.
pub fn erase_subjects(subjects: &[[u8; 16]]) -> Vec<Statement> {
    let erase = |chunk: &[[u8; 16]]| {
        let marks = vec!["?"; chunk.len()].join(", ");
        let sql = format!("DELETE FROM wrappings WHERE subject IN ({marks})");
        Statement::new(sql, chunk.iter().map(Value::from).collect())
    };
    subjects.chunks(NAMED).map(erase).collect()
}

/// Whether some of these versions of a key, from `first` to `last`, still have a wrapping.
pub async fn are_left(connection: &mut dyn Connection, key: KeyId, first: u32, last: u32) -> Result<bool> {
    let sql = "SELECT 1 FROM key_versions v JOIN wrappings w ON w.subject = v.id \
               WHERE v.key_id = ? AND v.version >= ? AND v.version <= ? LIMIT 1";
    let mut are_left = false;
    connection
        .query(sql.into(), vec![key.as_bytes().into(), first.into(), last.into()], &mut |_| {
            are_left = true;
            Ok(())
        })
        .await?;
    Ok(are_left)
}

/// Returns the subjects of wrappings under a generation, starting after `after`. Values that are not identifiers are
/// skipped: this service never writes them.
pub async fn subjects_under(
    connection: &mut dyn Connection,
    generation: u32,
    after: [u8; 16],
    limit: usize,
) -> Result<Vec<[u8; 16]>> {
    let sql = "SELECT subject FROM wrappings WHERE generation = ? AND subject > ? AND LENGTH(subject) = 16 \
               ORDER BY subject LIMIT ?";
    let values = vec![generation.into(), (&after).into(), (limit as u64).into()];
    let mut subjects = Vec::new();
    connection
        .query(sql.into(), values, &mut |row| {
            subjects.extend(row.blob_opt(0)?.and_then(|id| <[u8; 16]>::try_from(id).ok()));
            Ok(())
        })
        .await?;
    Ok(subjects)
}

/// The wrappings of these subjects under all generations.
pub async fn of_subjects(connection: &mut dyn Connection, subjects: &[[u8; 16]]) -> Result<Vec<WrappingRow>> {
    let mut rows = Vec::new();
    for chunk in subjects.chunks(NAMED) {
        let marks = format!("{}?", "?, ".repeat(chunk.len() - 1));
        let sql = format!("SELECT {COLUMNS} FROM wrappings WHERE subject IN ({marks}) ORDER BY subject, generation");
        let values = chunk.iter().map(Value::from).collect();
        connection
            .query(sql.into(), values, &mut |row| {
                rows.extend(read(row));
                Ok(())
            })
            .await?;
    }
    Ok(rows)
}

const COLUMNS: &str = "subject, generation, wrapped, verified, seal";

/// Reads a row; none if this service could not have written it.
fn read(row: &dyn Row) -> Option<WrappingRow> {
    let bytes = row.blob_opt(2).ok()??.to_vec();
    let stored = StoredWrapping {
        subject: row.blob_opt(0).ok()??.try_into().ok()?,
        generation: row.unsigned(1).ok()?,
        digest: Sha256::digest(&bytes).into(),
        verified: match row.int(3).ok()? {
            0 => false,
            1 => true,
            _ => return None,
        },
    };
    Some(WrappingRow { stored, bytes, seal: row.blob_opt(4).ok()??.to_vec() })
}

/// The part of a wrapping that a verification reads: its row without the material, and its seal.
pub type SealedWrapping = (StoredWrapping, Vec<u8>);

/// Reads all wrappings, and counts the unreadable rows.
pub async fn all(connection: &mut dyn Connection) -> Result<(Vec<SealedWrapping>, u64)> {
    let (mut rows, mut unreadable) = (Vec::new(), 0);
    let mut keep = |row: &dyn Row| {
        match read(row) {
            Some(WrappingRow { stored, seal, .. }) => rows.push((stored, seal)),
            None => unreadable += 1,
        }
        Ok(())
    };
    let select = format!("SELECT {COLUMNS} FROM wrappings");
    each_row_of(connection, &select, &[("subject", 0), ("generation", 1)], &mut keep).await?;
    Ok((rows, unreadable))
}

/// Counts the wrappings of each generation: generation, all, verified.
pub async fn counts(connection: &mut dyn Connection) -> Result<Vec<(u32, u64, u64)>> {
    let integer = connection.dialect().cast_integer;
    let sql = format!(
        "SELECT generation, COUNT(*), CAST(SUM(CASE WHEN verified = 1 THEN 1 ELSE 0 END) AS {integer}) \
         FROM wrappings GROUP BY generation"
    );
    let mut counts = Vec::new();
    connection
        .query(sql.into(), vec![], &mut |row| {
            counts.push((row.unsigned(0)?, row.unsigned(1)?, row.unsigned(2)?));
            Ok(())
        })
        .await?;
    Ok(counts)
}

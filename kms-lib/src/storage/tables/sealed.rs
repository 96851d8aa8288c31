//! Reading rows with their seals. The caller verifies the seals, since the key for that is stored in a row itself.

use crate::storage::{Connection, Row, Sql, Value};
use crate::types::error::Result;

/// A stored row, or the reason why it cannot be read, with its seal.
pub struct Sealed<T> {
    /// The row's own id, if it can be read.
    pub id: Option<[u8; 16]>,
    /// The row, or the error of reading it.
    pub row: Result<T>,
    /// The stored seal, not verified yet.
    pub seal: Vec<u8>,
}

/// The columns of a row's own id and of its seal.
pub(super) struct Place {
    /// The column of the id.
    pub id: usize,
    /// The column of the seal.
    pub seal: usize,
}

/// Reads rows with their seals. A malformed row is returned as an error of its own and does not hide the others.
pub(super) async fn select<T: Send>(
    connection: &mut dyn Connection,
    sql: Sql,
    values: Vec<Value>,
    place: Place,
    read: impl Fn(&dyn Row) -> Result<T> + Send + Sync,
) -> Result<Vec<Sealed<T>>> {
    let mut rows = Vec::new();
    connection
        .query(sql, values, &mut |row| {
            rows.push(sealed(row, &place, &read));
            Ok(())
        })
        .await?;
    Ok(rows)
}

/// Reads one row with its seal.
pub(super) fn sealed<T>(row: &dyn Row, place: &Place, read: impl Fn(&dyn Row) -> Result<T>) -> Sealed<T> {
    Sealed {
        id: row.blob_opt(place.id).ok().flatten().and_then(|bytes| bytes.try_into().ok()),
        row: read(row),
        seal: row.blob_opt(place.seal).ok().flatten().unwrap_or_default().to_vec(),
    }
}

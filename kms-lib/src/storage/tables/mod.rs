//! The statements: one file per group of tables, the same text for every engine.

pub mod audit;
pub mod entities;
pub mod head;
pub mod idempotency;
pub mod secrets;
pub mod usage;

use super::{Connection, Sql, Value};
use crate::types::error::Result;

/// Rows of one multi-row statement. More gain nothing, and every number of rows is a statement of its own to cache.
const CHUNK: usize = 64;

/// Inserts rows of `columns` values each, up to 64 to a statement. `before` ends with `VALUES `.
async fn insert_rows(
    connection: &mut dyn Connection,
    before: &str,
    columns: usize,
    after: &str,
    mut values: std::vec::IntoIter<Value>,
) -> Result<()> {
    let row = format!("({}?)", "?, ".repeat(columns - 1));
    while values.len() > 0 {
        let rows = (values.len() / columns).clamp(1, CHUNK);
        let sql: Sql = format!("{before}{}{row}{after}", format!("{row}, ").repeat(rows - 1)).into();
        connection.execute(sql, values.by_ref().take(rows * columns).collect()).await?;
    }
    Ok(())
}

//! The statements: one file per group of tables, the same text for every engine.

pub mod audit;
pub mod entities;
pub mod head;
pub mod idempotency;
pub mod legacy;
pub mod root_keys;
pub mod sealed;
pub mod secrets;
pub mod usage;
pub mod wrappings;

use super::{Statement, Value};

/// Rows of one multi-row statement. More gain nothing, and every number of rows is a statement of its own to cache.
const CHUNK: usize = 64;

/// Most bytes of values in one statement, unless a single row has more: servers limit the size of a packet, some to 1 MiB.
const CHUNK_BYTES: usize = 512 * 1024;

/// Statements that insert rows of `columns` values each, up to 64 to a statement. `before` ends with `VALUES `.
fn insert_rows(before: &str, columns: usize, after: &str, mut values: std::vec::IntoIter<Value>) -> Vec<Statement> {
    let mut statements = Vec::new();
    let row = format!("({}?)", "?, ".repeat(columns - 1));
    while values.len() > 0 {
        let rows = fitting_rows(values.as_slice(), columns);
        let sql = format!("{before}{}{row}{after}", format!("{row}, ").repeat(rows - 1));
        statements.push(Statement::new(sql, values.by_ref().take(rows * columns).collect()));
    }
    statements
}

/// How many of these rows go into one statement.
fn fitting_rows(values: &[Value], columns: usize) -> usize {
    let mut bytes = 0;
    let fitting = values.chunks(columns).take(CHUNK).take_while(|row| {
        bytes += row.iter().map(Value::bytes).sum::<usize>();
        bytes <= CHUNK_BYTES
    });
    fitting.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_limited_in_rows_and_bytes() {
        let rows = |count: usize, bytes: usize| {
            let values: Vec<Value> =
                (0..count).flat_map(|_| [Value::Int(1), Value::Ciphertext(vec![0; bytes])]).collect();
            fitting_rows(&values, 2)
        };
        assert_eq!(rows(1, 10), 1);
        assert_eq!(rows(64, 10), 64);
        assert_eq!(rows(200, 10), 64);
        assert_eq!(rows(64, 100 * 1024), 5);
        assert_eq!(rows(3, 1024 * 1024), 1);
    }
}

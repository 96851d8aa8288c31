//! The SQL statements: one file per group of tables, with the same text for every engine.

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

use super::{Connection, EachRow, Statement, Value};
use crate::types::error::Result;

/// The number of rows of a multi-row statement. More rows gain nothing, and each number of rows is another statement to
/// cache.
const CHUNK: usize = 64;

/// The maximum number of bytes of values in one statement, unless a single row has more. Servers limit the size of a
/// packet, some to 1 MiB.
const CHUNK_BYTES: usize = 512 * 1024;

/// The number of rows in a page of a table that is read completely.
const PAGE: u64 = 20_000;

/// Calls `each` with every row that `select` reads from a table. On servers, which limit the duration of a statement,
/// it reads page by page in the order of the primary key; use one snapshot if the table may change meanwhile. `key` has
/// the names of the key's columns and their places in `select`: bytes, and a number if there is a second column.
async fn each_row_of(
    connection: &mut dyn Connection,
    select: &str,
    key: &[(&str, usize)],
    each: &mut EachRow<'_>,
) -> Result<()> {
    if connection.dialect().name == "sqlite" {
        return connection.query(select.to_owned().into(), vec![], each).await;
    }
    paged(connection, select, key, PAGE, each).await
}

async fn paged(
    connection: &mut dyn Connection,
    select: &str,
    key: &[(&str, usize)],
    page: u64,
    each: &mut EachRow<'_>,
) -> Result<()> {
    let columns: Vec<&str> = key.iter().map(|(name, _)| *name).collect();
    let behind = match columns.as_slice() {
        [first, second] => format!(" WHERE {first} >= ? AND ({first} > ? OR {second} > ?)"),
        _ => format!(" WHERE {} > ?", columns.concat()),
    };
    let (mut condition, mut values) = ("", Vec::new());
    loop {
        let sql = format!("{select}{condition} ORDER BY {} LIMIT {page}", columns.join(", "));
        let (mut count, mut last) = (0, Vec::new());
        connection
            .query(sql.into(), values, &mut |row| {
                count += 1;
                last.clear();
                for (place, (_, column)) in key.iter().enumerate() {
                    match place {
                        0 => last.push(Value::from(row.blob(*column)?)),
                        _ => last.push(row.int(*column)?.into()),
                    }
                }
                each(row)
            })
            .await?;
        if count < page {
            return Ok(());
        }
        if let [first, _] = last.as_slice() {
            last.insert(0, first.clone());
        }
        (condition, values) = (&behind, last);
    }
}

/// Statements that insert rows of `columns` values each, up to 64 rows per statement. `before` ends with `VALUES `.
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

/// The number of these rows that fit into one statement.
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
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Pages of any size contain every row once, in the order of the key.
    #[cfg(feature = "sqlite")]
    #[tokio::test(flavor = "multi_thread")]
    async fn pages_have_every_row() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("kms.db").display());
        let shared = crate::kms::open::open(crate::Config::new(url).root_key_bytes([7; 32])).await.unwrap();
        let admin = crate::Session::new(shared.clone(), crate::Actor::new("alice", crate::Role::Admin).unwrap());
        for name in ["a", "b", "c"] {
            admin.create_key(crate::NewKey::aes(name)).await.unwrap();
            admin.rotate_key(name, None).await.unwrap();
            admin.rotate_key(name, None).await.unwrap();
        }
        let second = crate::envelope::RootKeySource::from_bytes([8; 32]);
        admin.add_root_key(&second).await.unwrap();
        admin.rewrap(&crate::RootKeyJob::default()).await.unwrap();
        let mut connection = shared.store.reader().await.unwrap();
        let tables: [(&str, &[(&str, usize)]); 3] = [
            ("SELECT id, id FROM key_versions", &[("id", 0)]),
            ("SELECT key_id, version FROM version_usage", &[("key_id", 0), ("version", 1)]),
            ("SELECT subject, generation FROM wrappings", &[("subject", 0), ("generation", 1)]),
        ];
        for (select, key) in tables {
            let mut found = Vec::new();
            for page in [1, 2, 3, 4, 9, 1_000] {
                let mut rows = Vec::new();
                let mut keep = |row: &dyn crate::storage::Row| {
                    rows.push((row.blob(0)?.to_vec(), row.int(1).unwrap_or_default()));
                    Ok(())
                };
                paged(connection.as_mut(), select, key, page, &mut keep).await.unwrap();
                assert!(rows.is_sorted() && rows.len() >= 9, "{select} {page} {rows:?}");
                found.push(rows);
            }
            assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{select}");
        }
    }

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

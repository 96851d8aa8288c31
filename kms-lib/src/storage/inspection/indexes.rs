//! Comparing indexes with their tables. A row missing from an index would be missing from lists without any error.

use super::expected;
use crate::storage::schema::newest;
use crate::storage::{Connection, Sql};
use crate::types::error::{ErrorCode, Result};

/// The maximum number of messages of an integrity check.
const MESSAGES: usize = 100;
/// Tables that a verification reads completely. Their primary key is the column `id`.
const SMALL_TABLES: [&str; 5] = ["keys", "key_versions", "grants", "credentials", "root_keys"];

/// Returns the findings of SQLite's own check of the whole file: damaged pages, and indexes that do not match their
/// tables. Empty for other engines. The check is one statement, so it sees one state of the store, and it takes no lock
/// that blocks writers.
pub async fn integrity(connection: &mut dyn Connection) -> Result<Vec<String>> {
    if connection.dialect().name != "sqlite" {
        return Ok(Vec::new());
    }
    sqlite_check(connection, format!("PRAGMA integrity_check({MESSAGES})").into()).await
}

async fn sqlite_check(connection: &mut dyn Connection, sql: Sql) -> Result<Vec<String>> {
    let mut messages = Vec::new();
    let checked = connection
        .query(sql, vec![], &mut |row| {
            let message = row.text(0)?;
            // One row may contain several lines.
            messages.extend(message.lines().filter(|line| *line != "ok").map(str::to_owned));
            Ok(())
        })
        .await;
    match checked {
        // Damage that prevents the check is itself the finding.
        Err(error) if error.code() == ErrorCode::StoreCorrupt => messages.push(error.message().to_owned()),
        checked => checked?,
    }
    messages.truncate(MESSAGES);
    Ok(messages)
}

/// Returns the names of the small tables' indexes that do not contain the rows of their table.
pub async fn small_tables(connection: &mut dyn Connection) -> Result<Vec<String>> {
    match connection.dialect().name {
        "sqlite" => {
            let mut messages = Vec::new();
            for table in SMALL_TABLES.into_iter().chain(["version_usage"]) {
                let sql = format!("PRAGMA integrity_check('{table}')");
                messages.extend(sqlite_check(connection, sql.into()).await?);
            }
            Ok(messages)
        }
        engine => {
            connection.begin_read().await?;
            let compared = compare_small(connection, engine == "mysql").await;
            connection.rollback().await?;
            compared
        }
    }
}

async fn compare_small(connection: &mut dyn Connection, is_mysql: bool) -> Result<Vec<String>> {
    let mut differing = Vec::new();
    let dialect = connection.dialect();
    for table in expected::tables(dialect, newest(dialect))? {
        if !SMALL_TABLES.contains(&table.name.as_str()) {
            continue;
        }
        for index in &table.indexes {
            let condition = if index.is_near_limit && !is_mysql { " WHERE near_limit = 1" } else { "" };
            let (scan, ordered) = if is_mysql {
                let name = name_on_mysql(connection, &table.name, index).await?;
                let hint = |name: &str| format!("SELECT id FROM \"{}\" FORCE INDEX (\"{name}\")", table.name);
                (hint("PRIMARY"), format!("{} ORDER BY {}", hint(&name), index.columns.join(", ")))
            } else {
                let select = format!("SELECT id FROM \"{}\"{condition}", table.name);
                (select.clone(), format!("{select} ORDER BY {} OFFSET 0", index.columns.join(", ")))
            };
            let of_table = fingerprint(connection, scan, is_mysql, false).await?;
            if of_table != fingerprint(connection, ordered, is_mysql, true).await? {
                let name = index.name.clone().unwrap_or_else(|| format!("over {}", index.columns.join(", ")));
                differing.push(format!("the index {name} does not match the rows of {}", table.name));
            }
        }
    }
    Ok(differing)
}

/// The name of an index on MySQL, as part of a quoted name. Indexes of constraints may have been renamed.
async fn name_on_mysql(connection: &mut dyn Connection, table: &str, index: &expected::Index) -> Result<String> {
    if let Some(name) = &index.name {
        return Ok(name.clone());
    }
    if index.is_primary {
        return Ok("PRIMARY".into());
    }
    let sql = "SELECT index_name FROM information_schema.statistics WHERE table_schema = DATABASE() \
               AND table_name = ? AND column_name = ? AND seq_in_index = 1 AND non_unique = 0";
    let mut name = index.columns[0].clone();
    connection
        .query(sql.into(), vec![table.into(), index.columns[0].as_str().into()], &mut |row| {
            name = row.text(0)?.replace('"', "\"\"");
            Ok(())
        })
        .await?;
    Ok(name)
}

/// The number of rows that a statement returns, and an order-independent sum over their ids.
async fn fingerprint(
    connection: &mut dyn Connection,
    select: String,
    is_mysql: bool,
    by_index: bool,
) -> Result<(i64, i64)> {
    let sum = if is_mysql {
        "CAST(COALESCE(SUM(CRC32(id)), 0) AS SIGNED)"
    } else {
        let (index, table) = if by_index { ("on", "off") } else { ("off", "on") };
        for setting in [
            format!("SET LOCAL enable_indexscan = {index}"),
            format!("SET LOCAL enable_indexonlyscan = {index}"),
            format!("SET LOCAL enable_seqscan = {table}"),
            format!("SET LOCAL enable_sort = {table}"),
            "SET LOCAL enable_bitmapscan = off".to_owned(),
        ] {
            connection.execute(setting.into(), vec![]).await?;
        }
        "CAST(COALESCE(SUM(CAST(hashtext(encode(id, 'hex')) AS BIGINT)), 0) AS BIGINT)"
    };
    let mut found = (0, 0);
    connection
        .query(format!("SELECT COUNT(*), {sum} FROM ({select}) AS rows_read").into(), vec![], &mut |row| {
            found = (row.int(0)?, row.int(1)?);
            Ok(())
        })
        .await?;
    Ok(found)
}

//! The schema of a MySQL or MariaDB database, from `information_schema`.

use std::collections::{BTreeMap, BTreeSet};

use super::Inspection;
use super::expected::{Column, Index, Kind, Table};
use crate::storage::{Connection, Sql};
use crate::types::error::Result;

/// Whether this user sees triggers: `information_schema.triggers` shows only those of tables on which the user has the
/// TRIGGER privilege.
const MAY_SEE_TRIGGERS: &str = "SELECT
    (SELECT COUNT(*) FROM information_schema.user_privileges WHERE privilege_type = 'TRIGGER')
    + (SELECT COUNT(*) FROM information_schema.schema_privileges
       WHERE privilege_type = 'TRIGGER' AND DATABASE() LIKE table_schema)";

/// Compares the schema with the expected tables.
pub(super) async fn inspect(connection: &mut dyn Connection, expected: &[Table], found: &mut Inspection) -> Result<()> {
    inspect_tables(connection, expected, found).await?;
    inspect_columns(connection, expected, found).await?;
    inspect_indexes(connection, expected, found).await?;
    inspect_constraints(connection, expected, found).await?;
    inspect_triggers(connection, expected, found).await
}

/// Calls `each` with the cells of every row, all as text; a null cell is empty.
async fn texts(
    connection: &mut dyn Connection,
    sql: impl Into<Sql>,
    columns: usize,
    each: &mut (dyn FnMut(Vec<String>) + Send),
) -> Result<()> {
    connection
        .query(sql.into(), vec![], &mut |row| {
            let cells = (0..columns).map(|n| Ok(row.text_opt(n)?.unwrap_or_default().to_owned()));
            each(cells.collect::<Result<_>>()?);
            Ok(())
        })
        .await
}

async fn inspect_tables(connection: &mut dyn Connection, expected: &[Table], found: &mut Inspection) -> Result<()> {
    let sql = "SELECT table_name, table_type, engine, create_options FROM information_schema.tables \
               WHERE table_schema = DATABASE()";
    let mut present = BTreeMap::new();
    texts(connection, sql, 4, &mut |mut cells| {
        let name = std::mem::take(&mut cells[0]);
        present.insert(name, cells);
    })
    .await?;
    for table in expected {
        let object = format!("table {}", table.name);
        let Some(cells) = present.remove(&table.name) else {
            found.differs(object, "is missing");
            continue;
        };
        let (kind, engine, options) = (&cells[1], &cells[2], cells[3].to_ascii_lowercase());
        if kind != "BASE TABLE" {
            found.fault(object, format!("is a {}", kind.to_ascii_lowercase()));
        } else if !engine.eq_ignore_ascii_case("InnoDB") {
            found.fault(object, format!("has the storage engine {engine} instead of InnoDB"));
        } else if options.contains("partitioned") {
            found.fault(object, "is partitioned");
        }
    }
    for (name, cells) in present {
        found.warn(format!("the {} {name} does not belong to this service", cells[1].to_ascii_lowercase()));
    }
    Ok(())
}

async fn inspect_columns(connection: &mut dyn Connection, expected: &[Table], found: &mut Inspection) -> Result<()> {
    let sql = "SELECT table_name, column_name, column_type, is_nullable, column_default, extra, \
               COALESCE(generation_expression, ''), collation_name FROM information_schema.columns \
               WHERE table_schema = DATABASE()";
    let mut present = BTreeMap::new();
    texts(connection, sql, 8, &mut |cells| {
        present.insert((cells[0].clone(), cells[1].clone()), cells);
    })
    .await?;
    for table in expected {
        for column in &table.columns {
            let object = format!("column {}.{}", table.name, column.name);
            match present.remove(&(table.name.clone(), column.name.clone())) {
                // A missing table is already reported.
                None => found.fault(object, "is missing"),
                Some(cells) if !is_as_expected(&cells, column) => found.fault(object, "was altered"),
                Some(_) => {}
            }
        }
    }
    for (table, column) in present.into_keys() {
        if expected.iter().any(|expected| expected.name == table) {
            found.differs(format!("column {table}.{column}"), "was added");
        }
    }
    Ok(())
}

fn is_as_expected(cells: &[String], column: &Column) -> bool {
    let (kind, collation) = match column.kind {
        Kind::Int => ("bigint", ""),
        Kind::ShortBlob => ("varbinary(64)", ""),
        Kind::Ciphertext => ("longblob", ""),
        Kind::ShortText => ("varbinary(512)", ""),
        Kind::Text => ("longtext", "utf8mb4_bin"),
    };
    // MariaDB and older servers include a display width.
    let present = cells[2].to_ascii_lowercase();
    let is_kind = present == kind || (column.kind == Kind::Int && present == "bigint(20)");
    let has_no_default = cells[4].is_empty() || cells[4].eq_ignore_ascii_case("NULL");
    is_kind
        && (cells[3] == "YES") == column.is_nullable
        && has_no_default
        && cells[5].is_empty()
        && cells[6].is_empty()
        && cells[7] == collation
}

async fn inspect_indexes(connection: &mut dyn Connection, expected: &[Table], found: &mut Inspection) -> Result<()> {
    let usable = usable_index(connection).await?;
    // A part that is an expression has no column; a prefix part has its length.
    let sql = format!(
        "SELECT table_name, index_name, CAST(non_unique AS CHAR), COALESCE(column_name, '(expression)'), \
         COALESCE(CAST(sub_part AS CHAR), ''), CASE WHEN {usable} THEN index_type ELSE 'ignored' END, \
         COALESCE(collation, '') FROM information_schema.statistics WHERE table_schema = DATABASE() \
         ORDER BY table_name, index_name, seq_in_index"
    );
    let mut present: BTreeMap<(String, String), (bool, Vec<String>)> = BTreeMap::new();
    texts(connection, sql, 7, &mut |cells| {
        let index = present.entry((cells[0].clone(), cells[1].clone())).or_default();
        index.0 = cells[2] == "0";
        let is_plain = cells[4].is_empty() && cells[5] == "BTREE" && cells[6] != "D";
        index.1.push(if is_plain { cells[3].clone() } else { format!("{} ({})", cells[3], cells[5]) });
    })
    .await?;
    for table in expected {
        let mut here: BTreeMap<String, (bool, Vec<String>)> = BTreeMap::new();
        for ((_, name), index) in present.iter().filter(|((of, _), _)| *of == table.name) {
            here.insert(name.clone(), index.clone());
        }
        for index in &table.indexes {
            match find(index, &here) {
                Some(name) => drop(here.remove(&name)),
                None if index.name.as_ref().is_some_and(|name| !here.contains_key(name)) => {
                    found.differs(index.described(table), "is missing or was altered");
                }
                None => found.fault(index.described(table), "was altered"),
            }
        }
        for (name, (is_unique, _)) in here {
            if is_unique {
                found.differs(format!("unique index {name}"), format!("was added, on {}", table.name));
            } else if !table.indexes.iter().any(|index| index.name.as_ref() == Some(&name)) {
                found.warn(format!("the index {name} on {} does not belong to this service", table.name));
            }
        }
    }
    Ok(())
}

/// A condition on `information_schema.statistics` for indexes that the server uses. MariaDB has ignored indexes and
/// MySQL invisible ones, in columns that the other and older servers lack.
async fn usable_index(connection: &mut dyn Connection) -> Result<&'static str> {
    let mut condition = "1 = 1";
    let sql = "SELECT UPPER(column_name) FROM information_schema.columns WHERE table_schema = 'information_schema' \
               AND UPPER(table_name) = 'STATISTICS' AND UPPER(column_name) IN ('IGNORED', 'IS_VISIBLE')";
    texts(connection, sql, 1, &mut |cells| {
        condition = if cells[0] == "IGNORED" { "ignored = 'NO'" } else { "is_visible = 'YES'" };
    })
    .await?;
    Ok(condition)
}

/// Returns the name of the index that is as expected. Indexes of constraints may have any name, except the primary key.
fn find(index: &Index, here: &BTreeMap<String, (bool, Vec<String>)>) -> Option<String> {
    let mut found = here.iter().filter(|(name, (is_unique, columns))| {
        let is_named = match &index.name {
            Some(expected) => *name == expected,
            None => (*name == "PRIMARY") == index.is_primary,
        };
        is_named && *is_unique == index.is_unique && *columns == index.columns
    });
    found.next().map(|(name, _)| name.clone())
}

async fn inspect_constraints(
    connection: &mut dyn Connection,
    expected: &[Table],
    found: &mut Inspection,
) -> Result<()> {
    let sql = "SELECT table_name, constraint_name, constraint_type FROM information_schema.table_constraints \
               WHERE table_schema = DATABASE() AND constraint_type NOT IN ('PRIMARY KEY', 'UNIQUE')";
    texts(connection, sql, 3, &mut |cells| {
        if expected.iter().any(|table| table.name == cells[0]) {
            let kind = cells[2].to_ascii_lowercase();
            found.fault(format!("{kind} constraint {}", cells[1]), format!("was added, on {}", cells[0]));
        }
    })
    .await
}

async fn inspect_triggers(connection: &mut dyn Connection, expected: &[Table], found: &mut Inspection) -> Result<()> {
    let sql = "SELECT trigger_name, event_object_table FROM information_schema.triggers \
               WHERE event_object_schema = DATABASE()";
    let ours: BTreeSet<&str> = expected.iter().map(|table| table.name.as_str()).collect();
    texts(connection, sql, 2, &mut |cells| {
        if ours.contains(cells[1].as_str()) {
            found.fault(format!("trigger {}", cells[0]), format!("was added, on {}", cells[1]));
        } else {
            found.warn(format!("the trigger {} on {} does not belong to this service", cells[0], cells[1]));
        }
    })
    .await?;
    let mut rights = 0;
    let mut who = (String::new(), String::new());
    connection
        .query(MAY_SEE_TRIGGERS.into(), vec![], &mut |row| {
            rights = row.int(0)?;
            Ok(())
        })
        .await?;
    if rights > 0 {
        return Ok(());
    }
    texts(connection, "SELECT DATABASE(), CURRENT_USER()", 2, &mut |cells| {
        who = (cells[0].clone(), cells[1].clone());
    })
    .await?;
    let (user, host) = who.1.rsplit_once('@').unwrap_or((&who.1, "%"));
    found.warn(format!(
        "triggers cannot be seen with this user's rights: run GRANT TRIGGER ON `{}`.* TO '{user}'@'{host}', or look \
         at information_schema.triggers as another user",
        who.0
    ));
    Ok(())
}

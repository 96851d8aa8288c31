//! The schema of a PostgreSQL database, from `pg_catalog`, which shows everything to every user. Objects are looked up
//! where our statements find them: in the schemas of the search path.

use std::collections::{BTreeMap, BTreeSet};

use super::Inspection;
use super::expected::{Column, Index, Kind, Table};
use crate::storage::Connection;
use crate::types::error::Result;

/// Joins the schema of an object, and requires that it is in the search path.
const IN_PATH: &str = "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                       WHERE n.nspname = ANY (current_schemas(false))";

/// Compares the schema with the expected tables.
pub(super) async fn inspect(connection: &mut dyn Connection, expected: &[Table], found: &mut Inspection) -> Result<()> {
    inspect_search_path(connection, found).await?;
    inspect_tables(connection, expected, found).await?;
    inspect_columns(connection, expected, found).await?;
    inspect_indexes(connection, expected, found).await?;
    inspect_attached(connection, expected, found).await
}

/// Returns rows whose cells are all text; a null cell is empty.
async fn texts(connection: &mut dyn Connection, sql: String, columns: usize) -> Result<Vec<Vec<String>>> {
    let mut rows = Vec::new();
    connection
        .query(sql.into(), vec![], &mut |row| {
            let cells = (0..columns).map(|n| Ok(row.text_opt(n)?.unwrap_or_default().to_owned()));
            rows.push(cells.collect::<Result<Vec<_>>>()?);
            Ok(())
        })
        .await?;
    Ok(rows)
}

/// The server's own functions and operators come first unless the path names `pg_catalog` after other schemas, in which
/// foreign functions could then replace them.
async fn inspect_search_path(connection: &mut dyn Connection, found: &mut Inspection) -> Result<()> {
    let sql = "SELECT pg_catalog.array_to_string(pg_catalog.current_schemas(true), ',')";
    let path = texts(connection, sql.to_owned(), 1).await?.pop().and_then(|mut cells| cells.pop()).unwrap_or_default();
    // Temporary tables come before it, but belong only to our own session, and never include functions.
    let first = path.split(',').find(|schema| !schema.starts_with("pg_temp"));
    if first != Some("pg_catalog") {
        found.fault("setting search_path", "names pg_catalog after other schemas");
    }
    Ok(())
}

async fn inspect_tables(connection: &mut dyn Connection, expected: &[Table], found: &mut Inspection) -> Result<()> {
    // An unlogged table is emptied after a crash. Inheritance and partitions add rows of other tables.
    let sql = format!(
        "SELECT c.relname::text, c.relkind::text, c.relpersistence::text, COALESCE(a.amname::text, ''), \
         CASE WHEN c.relrowsecurity OR c.relforcerowsecurity THEN 'is under row level security' \
              WHEN EXISTS (SELECT 1 FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid) THEN 'has a rule' \
              WHEN c.relispartition OR EXISTS (SELECT 1 FROM pg_catalog.pg_inherits i \
                   WHERE c.oid IN (i.inhrelid, i.inhparent)) THEN 'inherits from a table, or another one from it' \
              ELSE '' END \
         FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_am a ON a.oid = c.relam {IN_PATH} \
         AND c.relkind IN ('r', 'p', 'v', 'm', 'f')"
    );
    let mut present: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
    for cells in texts(connection, sql, 5).await? {
        present.entry(cells[0].clone()).or_default().push(cells);
    }
    for table in expected {
        let object = format!("table {}", table.name);
        let here = present.remove(&table.name).unwrap_or_default();
        let what = match &here[..] {
            [] => {
                found.differs(object, "is missing");
                continue;
            }
            [cells] if cells[1] != "r" => format!("is {}", kind(&cells[1])),
            [cells] if cells[2] != "p" => "is unlogged or temporary".to_owned(),
            [cells] if cells[3] != "heap" => format!("has the access method {}", cells[3]),
            [cells] if !cells[4].is_empty() => cells[4].clone(),
            [_] => continue,
            _ => "is in several schemas of the search path".to_owned(),
        };
        found.fault(object, what);
    }
    for cells in present.into_values().flatten() {
        found.warn(format!("{} {} does not belong to this service", kind(&cells[1]), cells[0]));
    }
    Ok(())
}

fn kind(relkind: &str) -> &'static str {
    match relkind {
        "r" => "a table",
        "p" => "a partitioned table",
        "v" => "a view",
        "m" => "a materialized view",
        "f" => "a foreign table",
        _ => "another relation",
    }
}

async fn inspect_columns(connection: &mut dyn Connection, expected: &[Table], found: &mut Inspection) -> Result<()> {
    let sql = format!(
        "SELECT c.relname::text, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), \
         a.attnotnull::text, (a.atthasdef OR a.attidentity <> '' OR a.attgenerated <> '')::text, \
         COALESCE(l.collname::text, '') \
         FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation \
         JOIN pg_catalog.pg_class c ON c.oid = a.attrelid {IN_PATH} \
         AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped"
    );
    let mut present = BTreeMap::new();
    for cells in texts(connection, sql, 6).await? {
        present.insert((cells[0].clone(), cells[1].clone()), cells);
    }
    for table in expected {
        for column in &table.columns {
            let object = format!("column {}.{}", table.name, column.name);
            match present.remove(&(table.name.clone(), column.name.clone())) {
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
        Kind::ShortBlob | Kind::Ciphertext => ("bytea", ""),
        Kind::ShortText => ("text", "C"),
        Kind::Text => ("text", "default"),
    };
    cells[2] == kind && (cells[3] != "true") == column.is_nullable && cells[4] == "false" && cells[5] == collation
}

async fn inspect_indexes(connection: &mut dyn Connection, expected: &[Table], found: &mut Inspection) -> Result<()> {
    // The definition includes columns, order, collation and operator class where they are not the defaults. It begins
    // with names, which an attacker may choose.
    let sql = format!(
        "SELECT c.relname::text, x.relname::text, \
         CASE WHEN i.indisprimary THEN 'primary' WHEN i.indisunique THEN 'unique' ELSE '' END, \
         (i.indisvalid AND i.indisready AND i.indislive AND i.indimmediate)::text, \
         pg_catalog.pg_get_indexdef(i.indexrelid), \
         COALESCE(pg_catalog.pg_get_expr(i.indpred, i.indrelid), ''), \
         pg_catalog.format('CREATE %sINDEX %I ON %I.%I USING ', \
             CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, x.relname, n.nspname, c.relname) \
         FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid \
         JOIN pg_catalog.pg_class c ON c.oid = i.indrelid {IN_PATH}"
    );
    let present = texts(connection, sql, 7).await?;
    for table in expected {
        let mut here: Vec<&Vec<String>> = present.iter().filter(|cells| cells[0] == table.name).collect();
        for index in &table.indexes {
            match here.iter().position(|cells| is_index(cells, index)) {
                Some(at) => drop(here.remove(at)),
                None if index.name.as_ref().is_some_and(|name| here.iter().all(|cells| cells[1] != *name)) => {
                    found.differs(index.described(table), "is missing or was altered");
                }
                None => found.fault(index.described(table), "is invalid or was altered"),
            }
        }
        for cells in here {
            if !cells[2].is_empty() {
                found.differs(format!("unique index {}", cells[1]), format!("was added, on {}", table.name));
            } else if !table.indexes.iter().any(|index| index.name.as_ref() == Some(&cells[1])) {
                found.warn(format!("the index {} on {} does not belong to this service", cells[1], table.name));
            }
        }
    }
    Ok(())
}

fn is_index(cells: &[String], index: &Index) -> bool {
    let unique = match (index.is_primary, index.is_unique) {
        (true, _) => "primary",
        (false, true) => "unique",
        (false, false) => "",
    };
    let definition = cells[4].strip_prefix(&cells[6]).map(|definition| definition.replace('"', ""));
    let expected = format!("btree ({})", index.columns.join(", "));
    // The fill factor (`WITH`) is the operator's choice; the condition is compared separately.
    let is_defined = definition.is_some_and(|definition| {
        let rest = definition.strip_prefix(&expected);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(" WITH (") || rest.starts_with(" WHERE "))
    });
    let condition = if index.is_near_limit { "(near_limit = 1)" } else { "" };
    index.name.as_ref().is_none_or(|name| *name == cells[1])
        && cells[2] == unique
        && cells[3] == "true"
        && is_defined
        && cells[5] == condition
}

/// Compares triggers and constraints.
async fn inspect_attached(connection: &mut dyn Connection, expected: &[Table], found: &mut Inspection) -> Result<()> {
    let ours: BTreeSet<&str> = expected.iter().map(|table| table.name.as_str()).collect();
    let sql = format!(
        "SELECT c.relname::text, t.tgname::text FROM pg_catalog.pg_trigger t \
         JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid {IN_PATH} AND NOT t.tgisinternal"
    );
    for cells in texts(connection, sql, 2).await? {
        if ours.contains(cells[0].as_str()) {
            found.fault(format!("trigger {}", cells[1]), format!("was added, on {}", cells[0]));
        } else {
            found.warn(format!("the trigger {} on {} does not belong to this service", cells[1], cells[0]));
        }
    }
    // Constraints for primary keys, unique columns and not-null columns are compared through the other catalogs.
    let sql = format!(
        "SELECT c.relname::text, k.conname::text FROM pg_catalog.pg_constraint k \
         JOIN pg_catalog.pg_class c ON c.oid = k.conrelid {IN_PATH} AND k.contype NOT IN ('p', 'u', 'n')"
    );
    for cells in texts(connection, sql, 2).await? {
        if ours.contains(cells[0].as_str()) {
            found.fault(format!("constraint {}", cells[1]), format!("was added, on {}", cells[0]));
        }
    }
    Ok(())
}

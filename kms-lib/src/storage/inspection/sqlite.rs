//! The schema of a SQLite file: its `sqlite_schema` is compared with that of an in-memory database in which the same
//! migrations were executed.
//!
//! The text of a statement contains everything that SQLite knows of an object (columns, types, collations, conflict
//! clauses, generated columns, `WHERE` of a partial index), so texts are compared. Any trigger is a fault, even on a
//! foreign table, since it could be reached through a view or a foreign key.

use std::collections::BTreeMap;

use super::Inspection;
use crate::storage::dialect::SQLITE;
use crate::storage::schema::{VERSION_TABLE, migrations};
use crate::storage::{Connection, corrupt};
use crate::types::error::{Error, ErrorCode, Result};

const OBJECTS: &str = "SELECT type, name, tbl_name, sql FROM sqlite_schema";

/// Objects by kind and name.
type Objects = BTreeMap<(String, String), Object>;

struct Object {
    table: String,
    /// The statement that created the object; none for indexes of constraints.
    sql: Option<String>,
}

/// Compares the schema with that of the migrations up to this version.
pub(super) async fn inspect(connection: &mut dyn Connection, version: usize, found: &mut Inspection) -> Result<()> {
    let expected = expected(version).map_err(|e| {
        let text = format!("the schema cannot be created in memory for comparison: {e}");
        Error::new(ErrorCode::Internal, text).with_source(e)
    })?;
    let mut present = Objects::new();
    connection
        .query(OBJECTS.into(), vec![], &mut |row| {
            let key = (row.text(0)?.to_owned(), row.text(1)?.to_owned());
            let sql = row.text_opt(3)?.map(normalized);
            if present.insert(key.clone(), Object { table: row.text(2)?.to_owned(), sql }).is_some() {
                return Err(corrupt(format!("the schema has two objects with the name {}", key.1)));
            }
            Ok(())
        })
        .await?;
    for ((kind, name), object) in &expected {
        match present.get(&(kind.clone(), name.clone())) {
            None => found.differs(format!("{kind} {name}"), "is missing"),
            Some(here) if kind == "table" && has_more_columns(here, object) => {
                found.differs(format!("table {name}"), "has more columns than this software created");
            }
            Some(here) if here.sql != object.sql || here.table != object.table => {
                found.fault(format!("{kind} {name}"), "differs from the one this software created");
            }
            Some(_) => {}
        }
    }
    for ((kind, name), object) in present.iter().filter(|(key, _)| !expected.contains_key(*key)) {
        foreign(kind, name, object, &expected, found);
    }
    Ok(())
}

/// Whether a table differs only by columns that `ALTER TABLE` added, which cannot refuse or ignore rows.
fn has_more_columns(here: &Object, expected: &Object) -> bool {
    let texts = here.sql.as_deref().zip(expected.sql.as_deref());
    let added = texts.and_then(|(here, expected)| {
        // The engine adds columns before the constraints and options of a table.
        let constraints = [", PRIMARY KEY (", ", UNIQUE ("].into_iter().filter_map(|start| expected.find(start)).min();
        let (columns, rest) = expected.split_at(constraints.or_else(|| expected.rfind(')'))?);
        here.strip_prefix(columns)?.strip_suffix(rest)
    });
    added.is_some_and(|added| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | ',' | '_' | '"');
        here.table == expected.table
            && added.starts_with(", ")
            && added.chars().all(is_plain)
            && !added.to_ascii_lowercase().contains("conflict")
    })
}

/// Reports an object that the migrations do not create.
fn foreign(kind: &str, name: &str, object: &Object, expected: &Objects, found: &mut Inspection) {
    let is_ours = |table: &str| expected.keys().any(|(kind, name)| kind == "table" && name.eq_ignore_ascii_case(table));
    match kind {
        "trigger" => found.fault(format!("trigger {name}"), format!("was added, on {}", object.table)),
        "index" if is_ours(&object.table) => {
            // A unique index could refuse rows, or trigger a conflict clause. SQLite normalizes the beginning of this
            // text.
            let sql = object.sql.as_deref().unwrap_or_default();
            if sql.to_ascii_lowercase().starts_with("create index ") {
                found.warn(format!("the index {name} on {} does not belong to this service", object.table));
            } else {
                found.differs(format!("unique index {name}"), format!("was added, on {}", object.table));
            }
        }
        "view" | "table" if is_ours(name) => found.fault(format!("{kind} {name}"), "has the name of a table"),
        // Indexes of foreign tables are reported with these.
        "view" | "table" => found.warn(format!("the {kind} {name} does not belong to this service")),
        _ => {}
    }
}

fn expected(version: usize) -> rusqlite::Result<Objects> {
    let memory = rusqlite::Connection::open_in_memory()?;
    memory.execute_batch(VERSION_TABLE)?;
    for statement in migrations(&SQLITE).into_iter().take(version).flatten() {
        memory.execute_batch(&SQLITE.ddl(statement))?;
    }
    let mut statement = memory.prepare(OBJECTS)?;
    let objects = statement.query_map([], |row| {
        let sql: Option<String> = row.get(3)?;
        Ok(((row.get(0)?, row.get(1)?), Object { table: row.get(2)?, sql: sql.as_deref().map(normalized) }))
    })?;
    objects.collect()
}

/// Normalizes a statement: single blanks between words, and no quotes around the name of its table, which `ALTER TABLE
/// ... RENAME` adds. Other quoted parts stay as they are: `"NOT" NULL` is not `NOT NULL`.
fn normalized(sql: &str) -> String {
    let text = single_blanks(sql);
    let place = if text.starts_with("CREATE TABLE ") { "CREATE TABLE \"" } else { " ON \"" };
    let unquoted = text.split_once(place).and_then(|(before, rest)| {
        let (name, after) = rest.split_once('"')?;
        let is_plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        let place = place.strip_suffix('"')?;
        (is_plain && !before.contains(['"', '(']) && after.starts_with(" ("))
            .then(|| format!("{before}{place}{name}{after}"))
    });
    unquoted.unwrap_or(text)
}

fn single_blanks(sql: &str) -> String {
    let mut text = String::with_capacity(sql.len());
    let mut quote = None;
    for c in sql.trim().chars() {
        match quote {
            Some(end) => {
                text.push(c);
                if c == end {
                    quote = None;
                }
            }
            None if c.is_ascii_whitespace() => {
                if !text.ends_with(' ') {
                    text.push(' ');
                }
            }
            None => {
                text.push(c);
                quote = match c {
                    '\'' | '"' | '`' => Some(c),
                    '[' => Some(']'),
                    _ => None,
                };
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::storage::schema::newest;

    #[test]
    fn blanks_between_words_do_not_matter_but_quoted_ones_do() {
        assert_eq!(normalized(" CREATE  TABLE\n\tt (a)"), "CREATE TABLE t (a)");
        assert_ne!(normalized("CREATE TABLE t (a DEFAULT ' ')"), normalized("CREATE TABLE t (a DEFAULT '  ')"));
    }

    #[test]
    fn quotes_around_the_name_of_a_table_do_not_matter_but_others_do() {
        assert_eq!(normalized("CREATE TABLE \"t\" (a)"), "CREATE TABLE t (a)");
        assert_eq!(normalized("CREATE INDEX i ON \"t\" (a)"), "CREATE INDEX i ON t (a)");
        for kept in ["CREATE TABLE t (a TEXT \"NOT\" NULL)", "CREATE INDEX i ON t (\"a\")", "CREATE TABLE \"T\" (a)"] {
            assert_eq!(normalized(kept), kept);
        }
    }

    #[test]
    fn the_migrations_make_tables_and_indexes_and_nothing_else() {
        let objects = expected(newest(&SQLITE)).unwrap();
        assert!(objects.keys().all(|(kind, _)| kind == "table" || kind == "index"));
        assert!(objects.contains_key(&("index".into(), "key_versions_not_after".into())));
    }
}

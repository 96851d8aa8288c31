//! The schema that the migrations create, as a description to compare with the catalogs of database servers. It is
//! parsed from the statements of the migrations, so that the schema is defined in one place.

use crate::storage::dialect::Dialect;
use crate::storage::schema::{VERSION_TABLE, migrations};
use crate::types::error::{Error, ErrorCode, Result};

/// The type of a column, as named in the migrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    ShortBlob,
    Ciphertext,
    ShortText,
    Text,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub name: String,
    pub kind: Kind,
    pub is_nullable: bool,
}

/// An index. Indexes of constraints have no name here, since engines name them differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    pub name: Option<String>,
    pub columns: Vec<String>,
    pub is_unique: bool,
    pub is_primary: bool,
    /// Whether the index covers only versions near their limit, where the engine has partial indexes.
    pub is_near_limit: bool,
}

impl Index {
    /// The name of the index or, without one, its columns.
    pub fn described(&self, table: &Table) -> String {
        match &self.name {
            Some(name) => format!("index {name}"),
            None => format!("index of {} over {}", table.name, self.columns.join(", ")),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub name: String,
    pub columns: Vec<Column>,
    pub indexes: Vec<Index>,
}

/// Returns the tables of this version of an engine's schema.
pub(super) fn tables(dialect: &Dialect, version: usize) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    let statements = migrations(dialect).into_iter().take(version).flatten();
    for statement in std::iter::once(&VERSION_TABLE).chain(statements) {
        let text = statement.split_whitespace().collect::<Vec<_>>().join(" ");
        read(&text, &mut tables).ok_or_else(|| {
            Error::new(ErrorCode::Internal, format!("a statement of the schema cannot be described: {text}"))
        })?;
    }
    Ok(tables)
}

fn read(text: &str, tables: &mut Vec<Table>) -> Option<()> {
    if let Some(rest) = text.strip_prefix("CREATE TABLE ") {
        let rest = rest.strip_prefix("IF NOT EXISTS ").unwrap_or(rest);
        let (name, body) = rest.split_once(" (")?;
        let mut table = Table { name: unquoted(name), columns: Vec::new(), indexes: Vec::new() };
        let body = body.strip_suffix("{clustered}").unwrap_or(body);
        for part in parts(body.strip_suffix(')')?) {
            read_part(part.trim(), &mut table)?;
        }
        tables.push(table);
        return Some(());
    }
    if let Some(rest) = text.strip_prefix("ALTER TABLE ") {
        let (name, column) = rest.split_once(" ADD COLUMN ")?;
        return read_part(column, find(tables, name)?);
    }
    if let Some(name) = text.strip_prefix("DROP TABLE IF EXISTS ") {
        tables.retain(|table| table.name != unquoted(name));
        return Some(());
    }
    let (is_unique, rest) = match text.strip_prefix("CREATE UNIQUE INDEX ") {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix("CREATE INDEX ")?),
    };
    let (name, rest) = rest.strip_prefix("IF NOT EXISTS ").unwrap_or(rest).split_once(" ON ")?;
    let (table, rest) = rest.split_once(" (")?;
    let (is_near_limit, rest) = match rest.strip_suffix("{near_limit}") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let columns = rest.strip_suffix(')')?.split(", ").map(unquoted).collect();
    let index = Index { name: Some(name.to_owned()), columns, is_unique, is_primary: false, is_near_limit };
    find(tables, table)?.indexes.push(index);
    Some(())
}

fn find<'a>(tables: &'a mut [Table], name: &str) -> Option<&'a mut Table> {
    let name = unquoted(name);
    tables.iter_mut().find(|table| table.name == name)
}

/// Parses a column or a constraint of a table.
fn read_part(part: &str, table: &mut Table) -> Option<()> {
    for (prefix, is_primary) in [("UNIQUE (", false), ("PRIMARY KEY (", true)] {
        if let Some(columns) = part.strip_prefix(prefix) {
            let columns = columns.strip_suffix(')')?.split(", ").map(unquoted).collect();
            table.indexes.push(constraint(columns, is_primary));
            return Some(());
        }
    }
    let mut words = part.splitn(3, ' ');
    let name = unquoted(words.next()?);
    let kind = match words.next()? {
        "{int}" | "BIGINT" => Kind::Int,
        "{short_blob}" => Kind::ShortBlob,
        "{blob}" => Kind::Ciphertext,
        "{short_text}" => Kind::ShortText,
        "{text}" => Kind::Text,
        _ => return None,
    };
    let (is_nullable, index) = match words.next() {
        None => (true, None),
        Some("NOT NULL") => (false, None),
        Some("NOT NULL PRIMARY KEY") => (false, Some(true)),
        Some("NOT NULL UNIQUE") => (false, Some(false)),
        Some(_) => return None,
    };
    if let Some(is_primary) = index {
        table.indexes.push(constraint(vec![name.clone()], is_primary));
    }
    table.columns.push(Column { name, kind, is_nullable });
    Some(())
}

fn constraint(columns: Vec<String>, is_primary: bool) -> Index {
    Index { name: None, columns, is_unique: true, is_primary, is_near_limit: false }
}

/// Splits at the commas outside parentheses.
fn parts(body: &str) -> Vec<&str> {
    let mut depth = 0usize;
    body.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .collect()
}

fn unquoted(name: &str) -> String {
    name.trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::storage::dialect;
    use crate::storage::schema::newest;

    const DIALECTS: &[&Dialect] = &[
        #[cfg(feature = "sqlite")]
        &dialect::SQLITE,
        #[cfg(feature = "postgres")]
        &dialect::POSTGRES,
        #[cfg(feature = "mysql")]
        &dialect::MYSQL,
    ];

    #[test]
    fn every_statement_of_the_migrations_is_described() {
        let has_primary = |table: &Table| table.indexes.iter().any(|index| index.is_primary);
        for dialect in DIALECTS {
            let tables = tables(dialect, newest(dialect)).unwrap();
            let count = |start: &str| {
                let statements = migrations(dialect).into_iter().flatten();
                statements.filter(|text| text.starts_with(start)).count()
            };
            assert_eq!(tables.len(), 1 + count("CREATE TABLE") - count("DROP TABLE"));
            assert!(tables.iter().all(has_primary), "{tables:?}");
            let find = |name: &str| tables.iter().find(|table| table.name == name);
            let actors = find("audit_actors").map(|table| &table.indexes[0]);
            assert!(actors.is_none_or(|index| index.is_primary && index.columns == ["actor", "seq"]));
            let mut of_log = find("audit_logs").unwrap().indexes.iter();
            let is_kept = of_log.any(|index| index.columns == ["actor", "seq"] && !index.is_unique);
            assert_eq!((actors.is_none(), is_kept), (dialect.keeps_log_indexes, dialect.keeps_log_indexes));
            assert!(find("version_usage").unwrap().indexes.iter().any(|index| index.is_near_limit));
            let mut of_versions = find("key_versions").unwrap().indexes.iter();
            assert!(of_versions.any(|index| index.columns == ["key_id", "version"] && index.is_unique));
        }
    }
}

//! Checks of the database itself: its schema, its indexes, and rows that no other check covers.

use std::sync::Arc;

use crate::audit::verify::{Fault, Finding};
use crate::storage::inspection::{self, indexes};
use crate::storage::tables::head;
use crate::storage::{Connection, Store};
use crate::types::error::Result;

/// The faults and warnings found.
#[derive(Default)]
pub(super) struct Found {
    pub faults: Vec<Fault>,
    pub warnings: Vec<String>,
    /// Whether the schema or the file is so damaged that other statements may fail.
    pub is_broken: bool,
}

/// Checks the schema and, if it has no fault, the indexes against the tables. With `is_whole`, the whole SQLite file is
/// checked, otherwise only the tables that a verification reads completely.
pub(super) async fn check(store: &Arc<dyn Store>, is_whole: bool) -> Result<Found> {
    let mut reader = store.long_reader().await?;
    let reader = reader.as_mut();
    let inspected = inspection::inspect(reader).await?;
    let mut found = Found { warnings: inspected.warnings, ..Found::default() };
    for deviation in inspected.faults {
        found.add(Finding::SchemaAltered { object: deviation.object, what: deviation.what });
    }
    found.is_broken = !found.faults.is_empty();
    if found.is_broken {
        return Ok(found);
    }
    let is_sqlite = reader.dialect().name == "sqlite";
    let damage = match is_whole && is_sqlite {
        true => indexes::integrity(reader).await?,
        false => indexes::small_tables(reader).await?,
    };
    for what in damage {
        found.add(Finding::Damaged { what });
    }
    found.is_broken = !found.faults.is_empty();
    if found.is_broken {
        return Ok(found);
    }
    if let Some(below) = number(reader, "SELECT MIN(seq) FROM audit_logs WHERE seq < 1").await? {
        found.add(Finding::BelowFirst { found: below });
    }
    let heads = number(reader, "SELECT COUNT(*) FROM audit_head WHERE id <> 1").await?.unwrap_or(0);
    if heads > 0 {
        found.add(Finding::SurplusRows { table: "audit_head".into(), count: heads.unsigned_abs() });
    }
    if head::tallies(reader).await?.is_unreadable {
        found.add(Finding::Damaged { what: "the counters in the head of the log cannot be read".to_owned() });
    }
    Ok(found)
}

impl Found {
    fn add(&mut self, finding: Finding) {
        self.faults.push(Fault { seq: 0, finding });
    }
}

async fn number(connection: &mut dyn Connection, sql: &'static str) -> Result<Option<i64>> {
    let mut found = None;
    connection
        .query(sql.into(), vec![], &mut |row| {
            found = row.int_opt(0)?;
            Ok(())
        })
        .await?;
    Ok(found)
}

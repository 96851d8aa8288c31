//! Inspecting the schema of the database, which is not trusted: it is compared with the one that the migrations create.
//!
//! A difference that could change the effect of our statements is a fault. Foreign objects that cannot are warnings.
//! Contents are not inspected here: [`indexes`] compares indexes with their tables.

mod expected;
pub mod indexes;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

use super::schema::{count_tables, newest, stored_version};
use super::{Connection, StoreFuture, corrupt};
use crate::types::error::Result;

/// A part of the schema that differs from what the migrations create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deviation {
    /// The kind and name of the object: `index grants_revision`.
    pub object: String,
    /// The difference, as a predicate: `is missing`.
    pub what: String,
}

/// The result of inspecting the schema.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Differences that could change the effect of statements.
    pub faults: Vec<Deviation>,
    /// Foreign objects that cannot change it, and parts of the schema that the user may not see.
    pub warnings: Vec<String>,
    /// Whether the stored schema version is newer than the one it is compared with.
    is_newer: bool,
}

impl Inspection {
    fn fault(&mut self, object: impl Into<String>, what: impl Into<String>) {
        self.faults.push(Deviation { object: object.into(), what: what.into() });
    }
    /// Adds a difference that a newer schema may have; there it is only a warning.
    fn differs(&mut self, object: impl Into<String>, what: impl Into<String>) {
        let (object, what) = (object.into(), what.into());
        if self.is_newer {
            self.warn(format!("{object} {what}, perhaps because of a newer version of this software"));
        } else {
            self.fault(object, what);
        }
    }
    fn warn(&mut self, what: impl Into<String>) {
        self.warnings.push(what.into());
    }
}

/// Compares the schema with the one that the migrations create up to the stored version. Must not be called within a
/// transaction that changed the schema.
///
/// A schema newer than this software knows is compared with the newest known one. The stored version is not signed, so
/// it excuses only what migrations do: adding columns, and adding or dropping tables and indexes.
pub fn inspect<'a>(connection: &'a mut dyn Connection) -> StoreFuture<'a, Inspection> {
    Box::pin(async move {
        let before = version(connection).await?;
        let found = inspect_version(connection, before).await?;
        if found.faults.is_empty() {
            return Ok(found);
        }
        // Another node may have migrated the store meanwhile.
        let after = version(connection).await?;
        if after == before { Ok(found) } else { inspect_version(connection, after).await }
    })
}

async fn version(connection: &mut dyn Connection) -> Result<usize> {
    let has_version = count_tables(connection, "'kms_schema'").await? > 0;
    if has_version { stored_version(connection).await } else { Ok(newest(connection.dialect())) }
}

async fn inspect_version(connection: &mut dyn Connection, stored: usize) -> Result<Inspection> {
    let version = stored.clamp(1, newest(connection.dialect()));
    let mut found = Inspection { is_newer: stored > version, ..Inspection::default() };
    if found.is_newer {
        found.warn(format!("the schema has version {stored}, which is newer than this software knows"));
    }
    let dialect = connection.dialect();
    match dialect.name {
        #[cfg(feature = "sqlite")]
        "sqlite" => sqlite::inspect(connection, version, &mut found).await?,
        #[cfg(feature = "mysql")]
        "mysql" => mysql::inspect(connection, &expected::tables(dialect, version)?, &mut found).await?,
        #[cfg(feature = "postgres")]
        "postgres" => postgres::inspect(connection, &expected::tables(dialect, version)?, &mut found).await?,
        other => found.warn(format!("the schema of {other} cannot be inspected")),
    }
    Ok(found)
}

/// Refuses a store whose schema was altered (`StoreCorrupt`), and logs the warnings. On SQLite, writers and lists
/// inspect the schema again after it changed.
pub async fn require_sound(connection: &mut dyn Connection) -> Result<()> {
    // Read before the inspection, so that later changes are noticed.
    let cookie = connection.schema_cookie().await?;
    let found = inspect(connection).await?;
    for warning in &found.warnings {
        tracing::warn!("{warning}");
    }
    refuse(&found.faults)?;
    connection.approve_schema(cookie);
    Ok(())
}

/// The error for faults of the schema, if there are any.
pub fn refuse(faults: &[Deviation]) -> Result<()> {
    let Some(first) = faults.first() else { return Ok(()) };
    let others = match faults.len() - 1 {
        0 => String::new(),
        count => format!(", and {count} more"),
    };
    Err(corrupt(format!(
        "the schema of the store was altered: {} {}{others}; undo the alteration or restore a backup",
        first.object, first.what
    )))
}

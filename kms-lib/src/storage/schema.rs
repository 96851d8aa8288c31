//! The schema and its versions. Migrations run at opening, each in one transaction, and are never edited after release.

use super::dialect::Dialect;
use super::{Connection, Value, corrupt};
use crate::types::error::{Error, ErrorCode, Result};

/// The migrations of every engine: the statements of each. Names are quoted where an engine reserves them (`keys` in
/// MySQL).
const COMMON: [&[&str]; 2] = [FIRST, &["ALTER TABLE idempotency ADD COLUMN answer {text}"]];

/// The further migration of engines that keep the indexes of the log themselves, where a schema change can be rolled
/// back: what may fail because of another transaction comes before what takes long. The operator may have created the
/// indexes beforehand.
const LOG_INDEXES: &[&str] = &[
    "DROP TABLE IF EXISTS audit_keys",
    "DROP TABLE IF EXISTS audit_actors",
    "CREATE INDEX IF NOT EXISTS audit_logs_key_id ON audit_logs (key_id, seq)",
    "CREATE INDEX IF NOT EXISTS audit_logs_actor ON audit_logs (actor, seq)",
];
/// The same where it cannot be rolled back: an interrupted migration leaves what the former schema needs.
const LOG_INDEXES_STEPWISE: &[&str] = &[
    "CREATE INDEX audit_logs_key_id ON audit_logs (key_id, seq)",
    "CREATE INDEX audit_logs_actor ON audit_logs (actor, seq)",
    "DROP TABLE IF EXISTS audit_keys",
    "DROP TABLE IF EXISTS audit_actors",
];

/// The migrations of an engine, in order: the statements of each.
pub(super) fn migrations(dialect: &Dialect) -> Vec<&'static [&'static str]> {
    let further = if dialect.schema_rolls_back { LOG_INDEXES } else { LOG_INDEXES_STEPWISE };
    COMMON.into_iter().chain(dialect.keeps_log_indexes.then_some(further)).collect()
}

/// The newest version of the schema.
pub(super) fn newest(dialect: &Dialect) -> usize {
    migrations(dialect).len()
}

/// Creates the table that holds the schema's version.
pub(super) const VERSION_TABLE: &str = "CREATE TABLE IF NOT EXISTS kms_schema (version BIGINT NOT NULL PRIMARY KEY)";

const FIRST: &[&str] = &[
    "CREATE TABLE \"keys\" (
        id {short_blob} NOT NULL PRIMARY KEY, name {short_text} NOT NULL UNIQUE, type {short_text} NOT NULL,
        purpose {short_text} NOT NULL, state {short_text} NOT NULL, disabled_reason {short_text},
        state_before_deletion {short_text}, rotation_period_days {int}, grace_period_days {int},
        current_version {int} NOT NULL, rotate_at {int}, delete_at {int}, deletion_wait_days {int},
        audit_context {short_text} NOT NULL,
        metadata {text}, import_source {short_text}, import_final {int} NOT NULL, created_at {int} NOT NULL,
        revision {int} NOT NULL, seal {short_blob} NOT NULL)",
    "CREATE INDEX keys_revision ON \"keys\" (revision)",
    "CREATE INDEX keys_rotate_at ON \"keys\" (rotate_at)",
    "CREATE INDEX keys_delete_at ON \"keys\" (delete_at)",
    "CREATE TABLE key_versions (
        id {short_blob} NOT NULL PRIMARY KEY, key_id {short_blob} NOT NULL, version {int} NOT NULL,
        state {short_text} NOT NULL, not_before {int}, not_after {int}, grace_period_days {int},
        created_at {int} NOT NULL, origin {short_text} NOT NULL, fingerprint {short_blob} NOT NULL,
        public_key_digest {short_blob}, public_key_pem {text}, revision {int} NOT NULL, seal {short_blob} NOT NULL,
        UNIQUE (key_id, version))",
    "CREATE INDEX key_versions_revision ON key_versions (revision)",
    "CREATE INDEX key_versions_not_after ON key_versions (state, not_after)",
    "CREATE TABLE version_usage (
        key_id {short_blob} NOT NULL, version {int} NOT NULL, encryptions {int} NOT NULL, last_used_at {int},
        near_limit {int} NOT NULL, PRIMARY KEY (key_id, version))",
    "CREATE INDEX version_usage_near_limit ON version_usage (near_limit){near_limit}",
    "CREATE TABLE grants (
        id {short_blob} NOT NULL PRIMARY KEY, principal {short_text} NOT NULL, role {short_text} NOT NULL,
        key_id {short_text} NOT NULL, allowed_ops {text} NOT NULL, conditions {text} NOT NULL,
        created_at {int} NOT NULL, withdrawn_at {int}, grantor {short_text} NOT NULL,
        grantor_role {short_text} NOT NULL, granted_through {blob} NOT NULL, cascaded {int} NOT NULL,
        revision {int} NOT NULL, seal {short_blob} NOT NULL)",
    "CREATE TABLE quarantine (
        id {short_blob} NOT NULL PRIMARY KEY, entity_table {short_text} NOT NULL, row_id {short_blob} NOT NULL,
        key_id {short_blob}, key_name {short_text}, created_at {int} NOT NULL, released_at {int},
        revision {int} NOT NULL, seal {short_blob} NOT NULL)",
    "CREATE INDEX quarantine_revision ON quarantine (revision)",
    "CREATE TABLE credentials (
        id {short_blob} NOT NULL PRIMARY KEY, principal {short_text} NOT NULL, role {short_text} NOT NULL,
        secret_hash {short_blob} NOT NULL, label {text}, created_at {int} NOT NULL, expires_at {int},
        withdrawn_at {int}, removal {int}, revision {int} NOT NULL, seal {short_blob} NOT NULL)",
    "CREATE INDEX credentials_revision ON credentials (revision)",
    "CREATE INDEX grants_revision ON grants (revision)",
    "CREATE TABLE audit_logs (
        seq {int} NOT NULL PRIMARY KEY, timestamp {int} NOT NULL, actor {short_text} NOT NULL,
        role {short_text} NOT NULL, action {short_text} NOT NULL, status {short_text} NOT NULL,
        request_id {short_text}, key_id {short_blob}, key_version {int}, details {text}, hash {short_blob} NOT NULL,
        format {int} NOT NULL)",
    "CREATE TABLE audit_keys (
        key_id {short_blob} NOT NULL, seq {int} NOT NULL, PRIMARY KEY (key_id, seq)){clustered}",
    "CREATE TABLE audit_actors (
        actor {short_text} NOT NULL, seq {int} NOT NULL, PRIMARY KEY (actor, seq)){clustered}",
    "CREATE TABLE audit_head (
        id {int} NOT NULL PRIMARY KEY, log_id {short_blob} NOT NULL, seq {int} NOT NULL, hash {short_blob} NOT NULL,
        timestamp {int} NOT NULL, revision {int} NOT NULL, frontier {blob} NOT NULL, checkpoint {text} NOT NULL,
        tallies {blob} NOT NULL, indexed {int} NOT NULL)",
    "CREATE TABLE audit_checkpoints (
        size {int} NOT NULL PRIMARY KEY, frontier {blob} NOT NULL, hash {short_blob} NOT NULL, note {text} NOT NULL)",
    "CREATE TABLE usage_hourly (
        hour {int} NOT NULL, action {short_text} NOT NULL, status {short_text} NOT NULL, count {int} NOT NULL,
        PRIMARY KEY (hour, action, status))",
    "CREATE TABLE root_keys (
        id {short_blob} NOT NULL PRIMARY KEY, generation {int} NOT NULL UNIQUE, provider {short_text} NOT NULL,
        reference {text}, derivation {text} NOT NULL, salt {short_blob}, check_value {blob} NOT NULL,
        state {short_text} NOT NULL, compromised_at {int}, closed_seq {int}, created_at {int} NOT NULL,
        retired_at {int}, revision {int} NOT NULL, seal {short_blob} NOT NULL)",
    "CREATE INDEX root_keys_revision ON root_keys (revision)",
    "CREATE TABLE wrappings (
        subject {short_blob} NOT NULL, generation {int} NOT NULL, wrapped {blob} NOT NULL, verified {int} NOT NULL,
        seal {short_blob} NOT NULL, PRIMARY KEY (subject, generation))",
    "CREATE INDEX wrappings_generation ON wrappings (generation, subject)",
    "CREATE TABLE service_keys (
        kind {short_text} NOT NULL, number {int} NOT NULL, id {short_blob} NOT NULL UNIQUE, public_key {short_blob},
        fingerprint {short_blob} NOT NULL, first_seq {int} NOT NULL, state {short_text} NOT NULL,
        revision {int} NOT NULL, seal {short_blob} NOT NULL, PRIMARY KEY (kind, number))",
    "CREATE TABLE idempotency (
        principal {short_text} NOT NULL, idempotency_key {short_text} NOT NULL, request_digest {short_blob} NOT NULL,
        subject {short_blob} NOT NULL, seq {int} NOT NULL, expires_at {int} NOT NULL,
        PRIMARY KEY (principal, idempotency_key))",
    "CREATE INDEX idempotency_expires_at ON idempotency (expires_at)",
    "CREATE TABLE legacy_rows (
        source {short_text} NOT NULL, position {int} NOT NULL, body {text} NOT NULL, PRIMARY KEY (source, position))",
    "CREATE TABLE legacy_logs (source {short_text} NOT NULL PRIMARY KEY, seq {int} NOT NULL)",
    "CREATE TABLE meta (name {short_text} NOT NULL PRIMARY KEY, value {text} NOT NULL)",
];

/// The names of the tables of every engine.
const TABLES: &str = "'keys', 'key_versions', 'version_usage', 'grants', 'credentials', 'quarantine', 'audit_logs', \
                      'audit_head', 'audit_checkpoints', 'usage_hourly', 'root_keys', 'wrappings', 'service_keys', \
                      'idempotency', 'meta', 'legacy_rows', 'legacy_logs'";
/// The names of the tables that are indexes of the log, where the engine does not keep these.
const INDEX_TABLES: &str = ", 'audit_keys', 'audit_actors'";

/// Upgrades the store to the current schema. A store with a newer schema is left unchanged: `SchemaTooNew`. A database
/// with foreign tables of these names is refused. Must be called under the setup lock.
pub async fn migrate(connection: &mut dyn Connection) -> Result<()> {
    let newest = newest(connection.dialect());
    // In this order, since another node that is creating the schema starts with the version table.
    let has_tables = count_tables(connection, &format!("{TABLES}{INDEX_TABLES}")).await? > 0;
    let is_ours = count_tables(connection, "'kms_schema'").await? > 0;
    if has_tables && !is_ours {
        return Err(corrupt(
            "the database has tables of these names that are not of this service; use an empty database (data of \
             Mini KMS on Node can be imported into it)",
        ));
    }
    let present = if is_ours { stored_version(connection).await? } else { 0 };
    if present > newest {
        return Err(too_new(present, newest));
    }
    if present == newest {
        return Ok(());
    }
    connection.begin_write().await?;
    match upgrade(connection).await {
        Ok(()) => connection.commit().await,
        Err(error) => {
            // If the rollback fails as well, the connection is lost, and the server rolls back.
            let _ = connection.rollback().await;
            Err(error)
        }
    }
}

/// Whether the store has the current schema. `StoreCorrupt` if its version is current but tables are missing.
pub async fn is_current(connection: &mut dyn Connection) -> Result<bool> {
    let dialect = connection.dialect();
    let newest = newest(dialect);
    if count_tables(connection, "'kms_schema'").await? == 0 || stored_version(connection).await? != newest {
        return Ok(false);
    }
    let tables = format!("{TABLES}{}", if dialect.keeps_log_indexes { "" } else { INDEX_TABLES });
    let (found, expected) = (count_tables(connection, &tables).await?, tables.split(',').count());
    if usize::try_from(found).is_ok_and(|found| found < expected) {
        return Err(corrupt(format!("the store has {found} of its {expected} tables; restore a backup")));
    }
    Ok(true)
}

pub(super) async fn count_tables(connection: &mut dyn Connection, tables: &str) -> Result<i64> {
    let mut count = 0;
    let sql = connection.dialect().count_tables.replace("{tables}", tables);
    connection
        .query(sql.into(), vec![], &mut |row| {
            count = row.int(0)?;
            Ok(())
        })
        .await?;
    Ok(count)
}

/// The stored schema version; 0 if setup never finished. `StoreCorrupt` if it is not a valid version.
pub(super) async fn stored_version(connection: &mut dyn Connection) -> Result<usize> {
    let mut stored = 0;
    connection
        .query("SELECT version FROM kms_schema ORDER BY version".into(), vec![], &mut |row| {
            stored = row.int(0).ok().and_then(|version| usize::try_from(version).ok()).unwrap_or(0);
            if stored == 0 {
                return Err(corrupt("the store's schema version is not a positive number; restore a backup"));
            }
            Ok(())
        })
        .await?;
    Ok(stored)
}

async fn upgrade(connection: &mut dyn Connection) -> Result<()> {
    let migrations = migrations(connection.dialect());
    let newest = migrations.len();
    connection.execute(VERSION_TABLE.into(), vec![]).await?;
    // Read again: another process may have created the schema while this one waited for the lock.
    let present = stored_version(connection).await?;
    if present > newest {
        return Err(too_new(present, newest));
    }
    if present == newest {
        return Ok(());
    }
    if present > 0 {
        connection.allow_long_statements().await?;
    }
    for statements in &migrations[present..] {
        for statement in *statements {
            let text = connection.dialect().ddl(statement);
            make(connection, text.into(), vec![]).await?;
        }
    }
    let version = vec![Value::from(newest as u64)];
    make(connection, "INSERT INTO kms_schema (version) VALUES (?)".into(), version).await?;
    connection.execute("DELETE FROM kms_schema WHERE version < ?".into(), vec![Value::from(newest as u64)]).await?;
    Ok(())
}

/// Executes a statement of a migration. Where such statements cannot be rolled back, another node or an earlier
/// attempt may have created it already.
async fn make(connection: &mut dyn Connection, sql: super::Sql, values: Vec<Value>) -> Result<()> {
    match connection.execute(sql, values).await {
        Err(error) if error.code() == ErrorCode::Conflict && !connection.dialect().schema_rolls_back => Ok(()),
        done => done.map(drop),
    }
}

/// Checks that a store opened for reading has a readable schema: `SchemaTooNew`, or `StoreCorrupt` if the file is not a
/// store. An older schema differs only in idempotency records, which reading does not use.
pub async fn check_schema(connection: &mut dyn Connection) -> Result<()> {
    let present =
        if count_tables(connection, "'kms_schema'").await? > 0 { stored_version(connection).await? } else { 0 };
    let newest = newest(connection.dialect());
    match present {
        0 => Err(corrupt("the file is a database, but not a store of this service; check its path")),
        version if version > newest => Err(too_new(version, newest)),
        _ => Ok(()),
    }
}

fn too_new(version: usize, newest: usize) -> Error {
    let text = format!(
        "the store has schema version {version}, and this software supports up to {newest}; use newer software"
    );
    Error::new(ErrorCode::SchemaTooNew, text)
}

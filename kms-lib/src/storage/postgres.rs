//! PostgreSQL 13 and later.

use std::fmt::Write;
use std::sync::Arc;

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{
    PgArgumentBuffer, PgArguments, PgConnectOptions, PgConnection, PgRow, PgSslMode, PgTypeInfo, Postgres,
};

use super::access::{access, several};
use super::dialect::{Dialect, POSTGRES};
use super::server::{Engine, ServerStore, Target, share};
use super::server_errors::{misconfigured, other_error};
use super::url::{Host, Url};
use super::{Connection, EachRow, Row, Sql, Store, StoreFuture, Value, corrupt, undecodable};
use crate::types::error::{Error, ErrorCode, Result};

/// The oldest supported version, in the form of `server_version_num`.
const OLDEST: i64 = 130_000;
/// Settings of every connection. No node holds the head's lock for longer than seconds, even if it vanishes. Commits
/// are durable whatever the server's configuration says, and no stricter than needed.
const SETTINGS: &str = "SET lock_timeout = '5s'; SET statement_timeout = '15s'; \
    SET idle_in_transaction_session_timeout = '5s'; SET default_transaction_isolation = 'read committed'; \
    SET standard_conforming_strings = on; SET bytea_output = 'hex'; \
    SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; \
    SELECT set_config('synchronous_commit', 'on', false) \
    WHERE current_setting('synchronous_commit') IN ('off', 'local')";

/// The number of times two connections are compared to detect a pooler that moves them between sessions.
const PROBES: usize = 3;
/// The part of messages that explains what to do about a connection pooler.
const POOLER: &str = ": a connection pooler, such as PgBouncer, is in transaction or statement mode, or refuses a \
    parameter; use session mode (pool_mode = session), or the address of PostgreSQL itself in store_url";

/// Opens the store in a database.
pub(super) async fn open(url: &Url) -> Result<Arc<dyn Store>> {
    let target = Target::new(url, |host| options(url, host))?;
    // Checked before any setting is made, which would otherwise stay in a session that other clients share.
    check_session(&ServerStore::new(Arc::clone(&target), "SELECT 1".into(), false)).await?;
    let store = ServerStore::<Postgres>::new(target, SETTINGS.into(), false);
    check(&mut store.connect().await?).await?;
    Ok(share(store))
}

fn options(url: &Url, host: &Host) -> Result<PgConnectOptions> {
    // The driver's error may contain the password.
    let mut options: PgConnectOptions =
        host.url.parse().map_err(|_| misconfigured(format!("store_url: {url} is malformed")))?;
    if let Some(address) = host.literal {
        options = options.host(&address.to_string());
    }
    if !url.has_ssl_mode() {
        let is_socket = options.get_socket().is_some() || options.get_host().starts_with('/');
        options = options.ssl_mode(if is_socket { PgSslMode::Disable } else { PgSslMode::VerifyFull });
    }
    if !url.has_application_name() {
        options = options.application_name("mini-kms");
    }
    // No fractional numbers are read, and PgBouncer refuses the parameter.
    Ok(options.extra_float_digits(None).statement_cache_capacity(256))
}

/// Refuses a connection pooler that assigns every transaction to any free session of the server: settings, the setup
/// lock and prepared statements belong to a session. Alternating transactions on two connections reveal such a pooler.
async fn check_session(probe: &ServerStore<Postgres>) -> Result<()> {
    let (mut one, mut two) = (probe.connect().await?, probe.connect().await?);
    let (first, second) = (session_id(&mut one).await?, session_id(&mut two).await?);
    let mut is_own = first != second;
    for _ in 0..PROBES {
        is_own &= session_id(&mut one).await? == first && session_id(&mut two).await? == second;
    }
    if is_own {
        Ok(())
    } else {
        Err(misconfigured(format!("transactions share sessions of the database server{POOLER}")))
    }
}

/// The server session in which a transaction runs. Uses no prepared statement.
async fn session_id(connection: &mut dyn Connection) -> Result<i64> {
    let mut id = 0;
    let sql = "SELECT CAST(pg_backend_pid() AS BIGINT)".into();
    connection
        .begin_write_with(sql, &mut |row| {
            id = row.int(0)?;
            Ok(())
        })
        .await?;
    connection.rollback().await?;
    Ok(id)
}

async fn check(connection: &mut dyn Connection) -> Result<()> {
    let mut found = (0, String::new(), String::new());
    let sql = "SELECT CAST(current_setting('server_version_num') AS BIGINT), current_setting('server_encoding'), \
               current_setting('fsync')";
    connection
        .query(sql.into(), vec![], &mut |row| {
            found = (row.int(0)?, row.text(1)?.to_owned(), row.text(2)?.to_owned());
            Ok(())
        })
        .await?;
    let (version, encoding, fsync) = found;
    if version < OLDEST {
        return Err(misconfigured(format!("PostgreSQL 13 or later is required; the server is {}", version / 10_000)));
    }
    if encoding != "UTF8" {
        return Err(misconfigured(format!("the database's encoding is {encoding}; it must be UTF8")));
    }
    if fsync == "off" {
        tracing::warn!("fsync is off on the database server; acknowledged changes can be lost when it crashes");
    }
    Ok(())
}

impl Engine for Postgres {
    const DIALECT: &'static Dialect = &POSTGRES;
    const BEGIN_WRITE: &'static str = "BEGIN";
    const BEGIN_READ: &'static str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    // "mini-kms" as a number. The lock belongs to the database, and ends with the session.
    const LOCK_SETUP: &'static str = "SELECT CAST(1 AS BIGINT) FROM pg_advisory_lock(7883954206563397491)";
    const UNLOCK_SETUP: &'static str = "SELECT pg_advisory_unlock(7883954206563397491)";
    const NO_TIME_LIMIT: Option<&'static str> = Some("SET LOCAL statement_timeout = 0");
    const IS_WRITABLE: &'static str = "SELECT CAST(CASE WHEN pg_is_in_recovery() \
        OR current_setting('transaction_read_only') = 'on' THEN 0 ELSE 1 END AS BIGINT)";

    fn run(connection: &mut PgConnection, sql: Sql) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
            sql.execute(connection).await.map(drop).map_err(store_error)
        })
    }
    fn several<'a>(
        connection: &'a mut PgConnection,
        text: String,
        each: &'a mut EachRow<'_>,
    ) -> StoreFuture<'a, Vec<u64>> {
        Box::pin(several(connection, text, each))
    }
    fn execute(connection: &mut PgConnection, sql: Sql, values: Vec<Value>) -> StoreFuture<'_, u64> {
        Box::pin(execute(connection, sql, values))
    }
    fn query<'a>(
        connection: &'a mut PgConnection,
        sql: Sql,
        values: Vec<Value>,
        each: &'a mut EachRow<'_>,
    ) -> StoreFuture<'a, ()> {
        Box::pin(query(connection, sql, values, each))
    }
    fn error(error: sqlx::Error) -> Error {
        store_error(error)
    }
}

/// A null value of whatever type the statement expects.
struct Untyped;

impl sqlx::Type<Postgres> for Untyped {
    fn type_info() -> PgTypeInfo {
        // The type `unknown`: the server infers the type.
        PgTypeInfo::with_oid(Oid(705))
    }
}

impl sqlx::Encode<'_, Postgres> for Untyped {
    fn encode_by_ref(&self, _: &mut PgArgumentBuffer) -> std::result::Result<IsNull, BoxDynError> {
        Ok(IsNull::Yes)
    }
}

/// Replaces each `?` with `$1`, `$2`, ... Every question mark in our statements is a placeholder.
fn numbered(sql: Sql) -> Sql {
    if !sql.contains('?') {
        return sql;
    }
    let mut text = String::with_capacity(sql.len() * 2);
    for (number, part) in sql.split('?').enumerate() {
        if number > 0 {
            // Writing to a string does not fail.
            let _ = write!(text, "${number}");
        }
        text.push_str(part);
    }
    text.into()
}

access!(
    Postgres, PgConnection, PgArguments, PgRow,
    spell: numbered,
    null: Untyped,
    text: |row, column| sqlx::Row::try_get::<Option<&str>, usize>(row, column).map_err(undecodable)
);

several!(PgConnection, row: TextRow::new);

/// A row received as text, as for statements without values. Its byte strings are decoded into owned values.
struct TextRow(Vec<Value>);

impl TextRow {
    fn new(row: PgRow) -> Result<Self> {
        use sqlx::{Column as _, Row as _, TypeInfo as _};
        let cell = |column: &sqlx::postgres::PgColumn| {
            let at = column.ordinal();
            match column.type_info().name() {
                "INT8" => row.try_get::<Option<i64>, usize>(at).map(Value::from),
                "BYTEA" => row.try_get::<Option<Vec<u8>>, usize>(at).map(Value::from),
                _ => row.try_get::<Option<String>, usize>(at).map(Value::from),
            }
        };
        let cells: std::result::Result<_, sqlx::Error> = row.columns().iter().map(cell).collect();
        cells.map(Self).map_err(undecodable)
    }
    fn cell(&self, column: usize) -> Result<&Value> {
        self.0.get(column).ok_or_else(|| corrupt(format!("column {column} is missing")))
    }
}

impl Row for TextRow {
    fn int_opt(&self, column: usize) -> Result<Option<i64>> {
        match self.cell(column)? {
            Value::Null => Ok(None),
            Value::Int(number) => Ok(Some(*number)),
            _ => Err(corrupt(format!("column {column} is not a number"))),
        }
    }
    fn text_opt(&self, column: usize) -> Result<Option<&str>> {
        match self.cell(column)? {
            Value::Null => Ok(None),
            Value::Text(text) => Ok(Some(text)),
            _ => Err(corrupt(format!("column {column} is not text"))),
        }
    }
    fn blob_opt(&self, column: usize) -> Result<Option<&[u8]>> {
        match self.cell(column)? {
            Value::Null => Ok(None),
            Value::Ciphertext(bytes) => Ok(Some(bytes)),
            _ => Err(corrupt(format!("column {column} is not bytes"))),
        }
    }
}

/// Maps errors by SQLSTATE (PostgreSQL documentation, appendix A).
fn store_error(error: sqlx::Error) -> Error {
    let sqlx::Error::Database(database) = &error else { return other_error(error) };
    let state = database.code().unwrap_or_default();
    if is_poolers(&state, database.message()) {
        let text = format!("the database server reports: {} ({state}){POOLER}", database.message());
        return misconfigured(text).with_source(error);
    }
    let code = match &*state {
        // Deadlock, serialization failure, lock not available.
        "40P01" | "40001" | "55P03" => ErrorCode::StoreContended,
        "23505" => ErrorCode::Conflict,
        "53100" => ErrorCode::StoreFull,
        "42501" => ErrorCode::StoreReadOnly,
        // No such database, wrong password, no such role, no schema to create tables in.
        "3D000" | "28P01" | "28000" | "3F000" => ErrorCode::InvalidConfiguration,
        // The database's encoding lacks a character.
        "22P05" | "22021" => ErrorCode::InvalidArgument,
        // The server is a standby; after a failover it may be the primary again.
        "25006" => ErrorCode::StoreUnavailable,
        // A table or column is missing, or already exists.
        "42P01" | "42703" | "42P07" | "42701" => ErrorCode::StoreCorrupt,
        // Cancelled by a time limit; ended while idle in a transaction.
        "57014" | "25P03" | "25P02" => ErrorCode::StoreUnavailable,
        _ => match state.get(..2).unwrap_or_default() {
            // Connection exceptions, insufficient resources, operator intervention, system errors.
            "08" | "53" | "57" | "58" => ErrorCode::StoreUnavailable,
            "XX" => ErrorCode::StoreCorrupt,
            _ => ErrorCode::Internal,
        },
    };
    Error::new(code, format!("the database server reports: {} ({state})", database.message())).with_source(error)
}

/// Whether PgBouncer refused something, or prepared statements failed because of a pooler.
fn is_poolers(state: &str, message: &str) -> bool {
    match state {
        // The prepared statement does not exist, or another connection created it.
        "26000" | "42P05" => true,
        "08P01" => message.contains("unsupported startup parameter") || message.contains("pooling mode"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_numbered() {
        assert_eq!(numbered("SELECT 1".into()), "SELECT 1");
        assert_eq!(numbered("VALUES (?, ?), (?)".into()), "VALUES ($1, $2), ($3)");
    }
}

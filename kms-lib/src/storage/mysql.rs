//! MySQL 8, MariaDB 10.6 and later, and Galera clusters of them.

use std::sync::Arc;

use sqlx::mysql::{
    MySql, MySqlArguments, MySqlConnectOptions, MySqlConnection, MySqlDatabaseError, MySqlRow, MySqlSslMode,
};

use super::access::{access, several};
use super::dialect::{Dialect, MYSQL};
use super::server::{Engine, ServerStore, Target, share};
use super::server_errors::{misconfigured, other_error};
use super::url::{Host, Url};
use super::{Connection, EachRow, Row, Sql, Store, StoreFuture, Value, corrupt, undecodable};
use crate::types::error::{Error, ErrorCode, Result};

/// The smallest packet limit with which all our statements work.
const PACKET: i64 = 1024 * 1024;
/// Settings of every connection. Waits for the head's lock are short. `wait_timeout` releases the lock of a node that
/// vanished while it held it; it is longer than the time for which this service reuses an idle connection without
/// checking it. The server's defaults for transactions and engines are not relied upon.
const SETTINGS: &str = "SET SESSION sql_mode = 'ANSI_QUOTES,STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', \
    SESSION default_storage_engine = InnoDB, SESSION autocommit = 1, SESSION completion_type = 0, \
    SESSION innodb_lock_wait_timeout = 5, SESSION lock_wait_timeout = 10, SESSION wait_timeout = 30; \
    SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";
/// MariaDB can limit idle transactions separately.
const SETTINGS_MARIADB: &str = "; SET SESSION idle_transaction_timeout = 5";
/// On a Galera node, reads wait for commits of other nodes to arrive, so that every node knows what another has
/// returned.
const SETTINGS_GALERA: &str = "; SET SESSION wsrep_sync_wait = 1";

/// The kind of a server.
struct Server {
    is_mariadb: bool,
    is_galera: bool,
}

/// Settings of a connection to a foreign database that is only read. The connection may be idle between two pages for
/// as long as a remote root key takes, and the server may be older than a store requires. Values are read in UTC, and
/// compared as the columns define.
#[cfg(feature = "import")]
const SOURCE_SETTINGS: &str = "SET SESSION sql_mode = 'ANSI_QUOTES', SESSION time_zone = '+00:00', \
    SESSION wait_timeout = 28800, SESSION net_write_timeout = 600, SESSION lock_wait_timeout = 10";

/// Connects to a foreign database for reading.
#[cfg(feature = "import")]
pub async fn open_source(url: &Url) -> Result<Box<dyn Connection>> {
    let target = Target::new(url, |host| options(url, host))?;
    let store = ServerStore::<MySql>::new(target, SOURCE_SETTINGS.to_owned(), false);
    Ok(Box::new(store.connect().await?))
}

/// Opens the store in a database.
pub(super) async fn open(url: &Url) -> Result<Arc<dyn Store>> {
    let target = Target::new(url, |host| options(url, host))?;
    let probe = ServerStore::<MySql>::new(Arc::clone(&target), "DO 0".into(), false);
    let server = check(&mut probe.connect().await?).await?;
    let mut settings = SETTINGS.to_owned();
    if server.is_mariadb {
        settings.push_str(SETTINGS_MARIADB);
    }
    if server.is_galera {
        settings.push_str(SETTINGS_GALERA);
    }
    Ok(share(ServerStore::<MySql>::new(target, settings, server.is_galera)))
}

fn options(url: &Url, host: &Host) -> Result<MySqlConnectOptions> {
    // The driver's error may contain the password.
    let mut options: MySqlConnectOptions =
        host.url.parse().map_err(|_| misconfigured(format!("store_url: {url} is malformed")))?;
    if let Some(address) = host.literal {
        options = options.host(&address.to_string());
    }
    if !url.has_ssl_mode() {
        let is_socket = options.get_socket().is_some();
        options = options.ssl_mode(if is_socket { MySqlSslMode::Preferred } else { MySqlSslMode::VerifyIdentity });
    }
    Ok(options.charset("utf8mb4").statement_cache_capacity(256))
}

async fn check(connection: &mut dyn Connection) -> Result<Server> {
    let mut version = String::new();
    let mut limits = (0, false);
    // A returned commit must be on disk: in the engine's log, and in the binary log if there is one, since recovery
    // depends on it.
    let sql = "SELECT VERSION(), CAST(@@max_allowed_packet AS SIGNED), \
               CAST(@@innodb_flush_log_at_trx_commit IN (1, 3) AND (NOT @@log_bin OR @@sync_binlog = 1) AS SIGNED)";
    connection
        .query(sql.into(), vec![], &mut |row| {
            version = row.text(0)?.to_owned();
            limits = (row.int(1)?, row.int(2)? == 1);
            Ok(())
        })
        .await?;
    let is_mariadb = version.contains("MariaDB");
    let oldest = if is_mariadb { (10, 6) } else { (8, 0) };
    if numbers(&version).is_none_or(|found| found < oldest) {
        return Err(misconfigured(format!("MySQL 8.0 or MariaDB 10.6 or later is required; the server is {version}")));
    }
    let (packet, is_durable) = limits;
    if packet < PACKET {
        return Err(misconfigured(format!("max_allowed_packet is {packet}; set it to {PACKET} or more")));
    }
    let mut is_galera = false;
    connection
        .query("SHOW VARIABLES LIKE 'wsrep_on'".into(), vec![], &mut |row| {
            is_galera = row.text(1)? == "ON";
            Ok(())
        })
        .await?;
    if !is_durable {
        tracing::warn!(
            "the database server does not sync every commit (innodb_flush_log_at_trx_commit, sync_binlog); \
             acknowledged changes can be lost when it crashes"
        );
    }
    Ok(Server { is_mariadb, is_galera })
}

/// Parses the first two numbers of a version. Some MariaDB servers prepend `5.5.5-` for old clients.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let version = version.strip_prefix("5.5.5-").unwrap_or(version);
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

impl Engine for MySql {
    const DIALECT: &'static Dialect = &MYSQL;
    const BEGIN_WRITE: &'static str = "START TRANSACTION";
    const BEGIN_READ: &'static str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; \
        START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";
    // Lock names are global to the server, and at most 64 characters long.
    const LOCK_SETUP: &'static str = "SELECT GET_LOCK(CONCAT('mini-kms ', MD5(DATABASE())), 5)";
    const UNLOCK_SETUP: &'static str = "SELECT RELEASE_LOCK(CONCAT('mini-kms ', MD5(DATABASE())))";
    // A number, or a word on servers with several read-only modes.
    const IS_WRITABLE: &'static str = "SELECT CAST(@@global.read_only IN ('0', 'OFF') AS SIGNED)";
    #[cfg(feature = "import")]
    const MESSAGE_LIMIT: Option<&'static str> = Some("SELECT CAST(@@max_allowed_packet AS SIGNED)");

    fn run(connection: &mut MySqlConnection, sql: Sql) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
            sql.execute(connection).await.map(drop).map_err(store_error)
        })
    }
    fn several<'a>(
        connection: &'a mut MySqlConnection,
        text: String,
        each: &'a mut EachRow<'_>,
    ) -> StoreFuture<'a, Vec<u64>> {
        Box::pin(several(connection, text, each))
    }
    fn execute(connection: &mut MySqlConnection, sql: Sql, values: Vec<Value>) -> StoreFuture<'_, u64> {
        Box::pin(execute(connection, sql, values))
    }
    fn query<'a>(
        connection: &'a mut MySqlConnection,
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

/// Reads text of any column. Some are stored as bytes; see the dialect.
fn text(row: &MySqlRow, column: usize) -> Result<Option<&str>> {
    let bytes: Option<&[u8]> = sqlx::Row::try_get_unchecked(row, column).map_err(undecodable)?;
    bytes
        .map(|bytes| std::str::from_utf8(bytes).map_err(|_| corrupt(format!("column {column} is not UTF-8"))))
        .transpose()
}

access!(MySql, MySqlConnection, MySqlArguments, MySqlRow, spell: std::convert::identity, null: None::<i64>, text: text);

several!(MySqlConnection, row: |row| Ok::<_, Error>(SqlRow(row)));

/// Maps errors by number (MySQL Server Error Message Reference; MariaDB Error Code Reference).
fn store_error(error: sqlx::Error) -> Error {
    let sqlx::Error::Database(database) = &error else { return other_error(error) };
    let number = database.try_downcast_ref::<MySqlDatabaseError>().map_or(0, MySqlDatabaseError::number);
    let code = match number {
        // Lock wait timeout, which rolls back only the statement; deadlock, which Galera also reports to the later
        // transaction; record changed since last read; prepared statement needs to be prepared again.
        1205 | 1213 | 1020 | 1615 => ErrorCode::StoreContended,
        // The row, table or index already exists.
        1062 | 1022 | 1050 | 1060 | 1061 => ErrorCode::Conflict,
        1021 | 1026 | 1114 => ErrorCode::StoreFull,
        1142 | 1143 | 1227 => ErrorCode::StoreReadOnly,
        // The server is read-only: after a failover, another connection may reach a writable one.
        1290 | 1792 | 1836 => ErrorCode::StoreUnavailable,
        // Wrong user, password or database; host not allowed; expired password; TLS required; packet too large.
        1044 | 1045 | 1049 | 1698 | 1129 | 1130 | 1820 | 1862 | 3118 | 3159 | 4151 | 1153 => {
            ErrorCode::InvalidConfiguration
        }
        // Too many connections; shutting down; killed; a Galera node that is not ready; time limits; lost connections.
        1040
        | 1053
        | 1077
        | 1080
        | 1152
        | 1158..=1161
        | 1184
        | 1203
        | 1226
        | 1317
        | 1047
        | 1927
        | 1969
        | 2006
        | 2013
        | 3024
        | 3169
        | 4031 => ErrorCode::StoreUnavailable,
        // Missing or damaged tables or columns.
        1146 | 1054 | 1034 | 1194 | 1195 | 1712 | 1815 => ErrorCode::StoreCorrupt,
        _ => ErrorCode::Internal,
    };
    Error::new(code, format!("the database server reports: {} ({number})", database.message())).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(numbers("8.0.36"), Some((8, 0)));
        assert_eq!(numbers("10.11.19-MariaDB-0+deb12u1"), Some((10, 11)));
        assert_eq!(numbers("5.5.5-10.6.1-MariaDB"), Some((10, 6)));
        assert_eq!(numbers("5.7.44-log"), Some((5, 7)));
        assert_eq!(numbers("what"), None);
    }
}

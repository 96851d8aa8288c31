//! The writing connection: SQLite on the calling thread. Its statements take microseconds, less than a round trip to
//! another thread.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::types::{Null, ValueRef};
use rusqlite::{CachedStatement, InterruptHandle, OpenFlags};

use super::files::{FileId, Files};
use super::schema::{Approved, COOKIE};
use super::{coded, unexpected};
use crate::storage::dialect::{Dialect, SQLITE};
use crate::storage::inspection::require_sound;
use crate::storage::{Connection, EachRow, Row, Sql, Statement, StoreFuture, Value, corrupt};
use crate::types::error::{Error, ErrorCode, Result};

/// The time that a writer waits for the writers of other processes.
pub(super) const WRITE_WAIT: Duration = Duration::from_secs(10);
/// The interval between attempts. SQLite's own waiting grows to 100 ms an attempt, and loses against a process that
/// never pauses.
const WRITE_POLL: Duration = Duration::from_micros(500);
/// The number of cached prepared statements. Statements that insert rows differ by their number of rows, up to 64.
const PREPARED: usize = 256;

/// Settings of every connection. On macOS only `F_FULLFSYNC` reaches the disk; elsewhere the setting has no effect.
const SETTINGS: [&str; 5] = [
    "PRAGMA synchronous = FULL",
    "PRAGMA fullfsync = ON",
    "PRAGMA checkpoint_fullfsync = ON",
    "PRAGMA secure_delete = ON",
    "PRAGMA foreign_keys = ON",
];

/// A writing connection.
pub(super) struct Writer {
    // One thread at a time uses SQLite's handle; the mutex is only ever accessed exclusively.
    connection: Mutex<rusqlite::Connection>,
    files: Files,
    approved: Approved,
    /// Whether this connection found the schema sound. Another connection may have parsed another schema with the same
    /// counter, since the counter can be set.
    is_inspected: bool,
}

impl Writer {
    /// Connects to the file, which must exist. This sets WAL mode and therefore takes locks; another process doing the
    /// same at that moment does not make it fail.
    pub(super) async fn open(path: &Path, file: FileId, log_path: PathBuf, approved: Approved) -> Result<Self> {
        let connection = connect_in_turn(path).await?;
        let files = Files { path: path.to_owned(), file, log_path, log: None, log_bytes: 0 };
        files.check()?;
        Ok(Self { connection: Mutex::new(connection), files, approved, is_inspected: false })
    }

    fn connection(&mut self) -> &rusqlite::Connection {
        self.connection.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    async fn begin(&mut self) -> Result<()> {
        self.files.check()?;
        self.lock().await?;
        self.files.note_log()?;
        if self.files.is_log_shorter()? {
            self.reconnect().await?;
            self.lock().await?;
        }
        // A trigger added meanwhile would take effect in this transaction.
        self.check_schema_change().await
    }

    /// Replaces the connection, and with it the cache, by a new one that has read nothing yet.
    async fn reconnect(&mut self) -> Result<()> {
        self.run("ROLLBACK", &[], &mut |_| Ok(()))?;
        let path = self.files.path.clone();
        // The old connection is closed after the new one exists, since the last one to close would remove the log.
        self.connection = Mutex::new(connect_in_turn(&path).await?);
        self.is_inspected = false;
        self.files.check()?;
        self.files.note_log_bytes()
    }

    /// Begins a transaction that holds the file's write lock.
    async fn lock(&mut self) -> Result<()> {
        let deadline = Instant::now() + WRITE_WAIT;
        loop {
            match run(self.connection(), "BEGIN IMMEDIATE", &[], &mut |_| Ok(())) {
                Ok(_) => return Ok(()),
                Err(Failure::Sql(error)) if is_busy(&error) && Instant::now() < deadline => {
                    tokio::time::sleep(WRITE_POLL).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn cookie(&mut self) -> Result<Option<i64>> {
        let mut cookie = None;
        self.run(COOKIE, &[], &mut |row| {
            cookie = row.int_opt(0)?;
            Ok(())
        })?;
        Ok(cookie)
    }

    fn run(&mut self, sql: &str, values: &[Value], each: &mut EachRow<'_>) -> Result<u64> {
        run(self.connection(), sql, values, each).map_err(Into::into)
    }
}

/// Connects and applies the settings. Each statement waits this long for the locks of other processes.
pub(super) fn connect(path: &Path, wait: Duration) -> std::result::Result<rusqlite::Connection, Failure> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = rusqlite::Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(wait)?;
    connection.set_prepared_statement_cache_capacity(PREPARED);
    let mut mode = String::new();
    run(&connection, "PRAGMA journal_mode = WAL", &[], &mut |row| {
        mode = row.text(0)?.to_owned();
        Ok(())
    })?;
    if mode != "wal" {
        let what = format!("the store's journal stays in mode {mode}: its file system cannot share memory");
        return Err(Error::new(ErrorCode::StoreUnavailable, what).into());
    }
    for setting in SETTINGS {
        run(&connection, setting, &[], &mut |_| Ok(()))?;
    }
    Ok(connection)
}

/// A copy in progress.
#[derive(Clone, Default)]
pub(super) struct Copying(Arc<Mutex<(bool, Option<InterruptHandle>)>>);

/// Cancels a copy when it is dropped.
pub(super) struct Abandon(pub Copying);

impl Drop for Abandon {
    fn drop(&mut self) {
        let mut state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = true;
        if let Some(handle) = &state.1 {
            handle.interrupt();
        }
    }
}

/// Copies the store, as of one moment, into an empty file, unless that is cancelled.
pub(super) fn copy(path: &Path, to: &str, copying: &Copying) -> Result<()> {
    let connection = connect(path, WRITE_WAIT)?;
    {
        let mut state = copying.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 {
            return Err(Error::new(ErrorCode::Closed, "the copy of the store was cancelled"));
        }
        state.1 = Some(connection.get_interrupt_handle());
    }
    run(&connection, "VACUUM INTO ?", &[to.into()], &mut |_| Ok(())).map_err(Error::from)?;
    connection.close().map_err(|(_, e)| error_of(e))
}

impl Connection for Writer {
    fn dialect(&self) -> &'static Dialect {
        &SQLITE
    }
    fn lock_setup(&mut self) -> StoreFuture<'_, ()> {
        // Writing transactions exclude each other here, and they include the statements that change the schema.
        Box::pin(async { Ok(()) })
    }
    fn unlock_setup(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
    fn begin_write(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(self.begin())
    }
    fn begin_read(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async { self.run("BEGIN", &[], &mut |_| Ok(())).map(drop) })
    }
    fn commit(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            self.run("COMMIT", &[], &mut |_| Ok(()))?;
            // A commit to a file without a name would be lost with this process.
            self.files.check()?;
            self.files.note_log_bytes()
        })
    }
    fn rollback(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            // SQLite may have rolled back automatically because of a full disk or an I/O error.
            if !self.connection().is_autocommit() {
                self.run("ROLLBACK", &[], &mut |_| Ok(()))?;
            }
            self.files.check()
        })
    }
    fn execute(&mut self, sql: Sql, values: Vec<Value>) -> StoreFuture<'_, u64> {
        Box::pin(async move { self.run(&sql, &values, &mut |_| Ok(())) })
    }
    fn execute_all(&mut self, statements: Vec<Statement>) -> StoreFuture<'_, Vec<u64>> {
        Box::pin(async move {
            statements.iter().map(|statement| self.run(&statement.sql, &statement.values, &mut |_| Ok(()))).collect()
        })
    }
    fn query<'a>(&'a mut self, sql: Sql, values: Vec<Value>, each: &'a mut EachRow<'_>) -> StoreFuture<'a, ()> {
        Box::pin(async move { self.run(&sql, &values, each).map(drop) })
    }
    fn scrub(&mut self) -> StoreFuture<'_, bool> {
        Box::pin(async {
            self.files.check()?;
            // A checkpoint alone would leave the pages in the log until later ones overwrite them.
            let mut is_busy = true;
            self.run("PRAGMA wal_checkpoint(TRUNCATE)", &[], &mut |row| {
                is_busy = row.int(0)? != 0;
                Ok(())
            })?;
            self.files.note_log_bytes()?;
            Ok(!is_busy)
        })
    }
    fn checkpoint(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            self.files.check()?;
            self.run("PRAGMA wal_checkpoint(PASSIVE)", &[], &mut |_| Ok(())).map(drop)
        })
    }
    fn schema_cookie(&mut self) -> StoreFuture<'_, Option<i64>> {
        Box::pin(async { self.cookie() })
    }
    fn approve_schema(&mut self, cookie: Option<i64>) {
        self.approved.set(cookie);
        self.is_inspected = true;
    }
    fn check_schema_change(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            let cookie = self.cookie()?;
            let is_new = !self.is_inspected && self.approved.is_known();
            if is_new || self.approved.has_changed(cookie) { require_sound(self).await } else { Ok(()) }
        })
    }
    fn close(self: Box<Self>) -> StoreFuture<'static, ()> {
        Box::pin(async move {
            let connection = self.connection.into_inner().unwrap_or_else(PoisonError::into_inner);
            connection.close().map_err(|(_, e)| error_of(e))
        })
    }
}

/// Connects while other processes are connecting too.
async fn connect_in_turn(path: &Path) -> std::result::Result<rusqlite::Connection, Failure> {
    let deadline = Instant::now() + WRITE_WAIT;
    loop {
        // Writers poll for the lock themselves.
        match connect(path, Duration::ZERO) {
            Err(Failure::Sql(error)) if is_busy(&error) && Instant::now() < deadline => {
                tokio::time::sleep(WRITE_POLL).await;
            }
            done => return done,
        }
    }
}

/// Executes a statement to its end; returns the number of rows it changed.
pub(super) fn run(
    connection: &rusqlite::Connection,
    sql: &str,
    values: &[Value],
    each: &mut EachRow<'_>,
) -> std::result::Result<u64, Failure> {
    let mut statement = connection.prepare_cached(sql)?;
    bind(&mut statement, values)?;
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        each(&SqlRow(row))?;
    }
    Ok(connection.changes())
}

fn bind(statement: &mut CachedStatement<'_>, values: &[Value]) -> rusqlite::Result<()> {
    for (place, value) in (1..).zip(values) {
        match value {
            Value::Null => statement.raw_bind_parameter(place, Null),
            Value::Int(n) => statement.raw_bind_parameter(place, n),
            Value::Text(text) => statement.raw_bind_parameter(place, text),
            Value::Ciphertext(bytes) => statement.raw_bind_parameter(place, bytes),
        }?;
    }
    Ok(())
}

struct SqlRow<'a>(&'a rusqlite::Row<'a>);

impl SqlRow<'_> {
    fn value(&self, column: usize) -> Result<ValueRef<'_>> {
        self.0.get_ref(column).map_err(|e| corrupt(e.to_string()).with_source(e))
    }
}

impl Row for SqlRow<'_> {
    fn int_opt(&self, column: usize) -> Result<Option<i64>> {
        self.value(column)?.as_i64_or_null().map_err(|_| not_of_type(column))
    }
    fn text_opt(&self, column: usize) -> Result<Option<&str>> {
        self.value(column)?.as_str_or_null().map_err(|_| not_of_type(column))
    }
    fn blob_opt(&self, column: usize) -> Result<Option<&[u8]>> {
        self.value(column)?.as_blob_or_null().map_err(|_| not_of_type(column))
    }
}

fn not_of_type(column: usize) -> Error {
    corrupt(format!("column {column} has a value of another type"))
}

/// The reason why a statement failed: an error of SQLite, or one of ours.
pub(super) enum Failure {
    Sql(rusqlite::Error),
    Other(Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Sql(error) => error_of(error),
            Failure::Other(error) => error,
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
    matches!(error.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked))
}

fn error_of(error: rusqlite::Error) -> Error {
    // Errors in statements are a separate variant if another crate enables that feature of rusqlite.
    let code = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<rusqlite::ffi::Error>());
    let shown = match error.sqlite_error().or(code) {
        Some(code) => coded(code.extended_code, &error.to_string()),
        None => unexpected(&error),
    };
    shown.with_source(error)
}

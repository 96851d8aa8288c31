//! SQLite in one file: write-ahead log, every commit synced, several processes on one file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use sqlx::error::DatabaseError;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteRow, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection as _, Either, Executor as _, Sqlite};

use super::access::access;
use super::dialect::{Dialect, SQLITE};
use super::files::{FileId, Files, create_private, fill, free_space, gone};
use super::{Connection, EachRow, Reserve, Row, Sql, Statement, Store, StoreFuture, Value, corrupt};
use crate::types::error::{Error, ErrorCode, Result};

/// How long a writer waits for the writers of other processes.
const WRITE_WAIT: Duration = Duration::from_secs(10);
/// How often it tries. SQLite's own waiting grows to 100 ms a try, and loses to a process that never pauses.
const WRITE_POLL: Duration = Duration::from_micros(500);
/// What has more values than this is a trip of its own to the connection's thread.
const JOINED_VALUES: usize = 512;
/// Connections that read.
const READERS: u32 = 4;

/// A SQLite file.
pub struct SqliteStore {
    path: PathBuf,
    options: SqliteConnectOptions,
    readers: SqlitePool,
    claim: Mutex<Option<File>>,
    /// The file that was opened first. None for a store that is only read.
    file: Option<FileId>,
}

impl SqliteStore {
    /// Opens the file, and makes it (mode 0600) if there is none. A file that is not a database is left untouched.
    pub async fn open(path: &Path) -> Result<Self> {
        create_private(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("secure_delete", "ON")
            .busy_timeout(Duration::from_secs(5))
            .statement_cache_capacity(256)
            .disable_statement_logging();
        let reading = options.clone().pragma("query_only", "ON");
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .min_connections(0)
            .acquire_timeout(Duration::from_secs(10))
            .connect_lazy_with(reading);
        let file = Some(FileId::of(path).map_err(|e| gone(path, &e.to_string()))?);
        Ok(Self { path: path.to_owned(), options, readers, claim: Mutex::new(None), file })
    }

    /// Opens a file to read it; nothing is ever written to it.
    pub async fn open_read_only(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .read_only(true)
            .busy_timeout(Duration::from_secs(5))
            .disable_statement_logging();
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(Duration::from_secs(10))
            .connect_lazy_with(options.clone());
        Ok(Self { path: path.to_owned(), options, readers, claim: Mutex::new(None), file: None })
    }

    /// A file beside that of the database.
    fn beside(&self, ending: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(ending);
        path.into()
    }

    async fn connect(&self) -> Result<SqliteConnection> {
        // Opening sets WAL and therefore locks; another process doing the same must not make it fail.
        let deadline = Instant::now() + WRITE_WAIT;
        // Writers poll for the lock themselves.
        let options = self.options.clone().busy_timeout(Duration::ZERO);
        loop {
            match SqliteConnection::connect_with(&options).await {
                Err(error) if is_busy(&error) && Instant::now() < deadline => tokio::time::sleep(WRITE_POLL).await,
                other => return other.map_err(|e| store_error(&e)),
            }
        }
    }
}

impl Store for SqliteStore {
    fn dialect(&self) -> &'static Dialect {
        &SQLITE
    }
    fn writer(&self) -> StoreFuture<'_, Box<dyn Connection>> {
        Box::pin(async {
            // Another file of this name is not written, whatever is in it.
            let file = match self.file {
                Some(file) => file,
                None => FileId::of(&self.path).map_err(|e| gone(&self.path, &e.to_string()))?,
            };
            file.check(&self.path)?;
            let connection = self.connect().await?;
            let files = Files { path: self.path.clone(), file, log_path: self.beside("-wal"), log: None };
            files.check()?;
            Ok(Box::new(Writer { connection, files }) as Box<dyn Connection>)
        })
    }
    fn reader(&self) -> StoreFuture<'_, Box<dyn Connection>> {
        Box::pin(async {
            if let Some(file) = &self.file {
                file.check(&self.path)?;
            }
            let connection = self.readers.acquire().await.map_err(|e| store_error(&e))?;
            Ok(Box::new(Reader { connection, in_transaction: false }) as Box<dyn Connection>)
        })
    }
    fn claim(&self, exclusive: bool) -> Result<()> {
        let path = self.beside("-claim");
        let failed = |e: std::io::Error| Error::new(ErrorCode::StoreUnavailable, format!("the store's lock file: {e}"));
        let file = File::options().create(true).truncate(false).write(true).open(path).map_err(failed)?;
        let taken = if exclusive { file.try_lock() } else { file.try_lock_shared() };
        match taken {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let why = if exclusive {
                    "another process has the store open; audit.ack = \"queued\" needs it alone"
                } else {
                    "another process holds the store alone (audit.ack = \"queued\")"
                };
                return Err(Error::new(ErrorCode::StoreInUse, why));
            }
            Err(std::fs::TryLockError::Error(e)) => return Err(failed(e)),
        }
        *self.claim.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(file);
        Ok(())
    }
    fn copy_to<'a>(&'a self, to: &'a Path) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            // An empty file of mode 0600, which SQLite fills.
            create_private(to)?;
            let name = to.to_str().ok_or_else(|| Error::invalid("the place of a backup is not UTF-8"))?;
            let mut connection = self.connect().await?;
            execute(&mut connection, "VACUUM INTO ?".into(), vec![name.into()]).await?;
            connection.close().await.map_err(|e| store_error(&e))?;
            let synced = File::open(to).and_then(|file| file.sync_all());
            synced.map_err(|e| Error::new(ErrorCode::InputOutput, format!("{}: {e}", to.display())))
        })
    }
    fn makes_way(&self) -> bool {
        true
    }
    fn free_space(&self) -> Option<u64> {
        free_space(self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }
    fn reserve(&self, bytes: u64) -> Reserve {
        match std::fs::metadata(self.beside("-reserve")) {
            Ok(file) if file.len() == 0 => Reserve::GivenUp,
            Ok(file) if file.len() == bytes => Reserve::Kept,
            _ => Reserve::Missing,
        }
    }
    fn keep_reserve(&self, bytes: u64) -> Result<()> {
        let path = self.beside("-reserve");
        let failed = |e: std::io::Error| Error::new(ErrorCode::StoreFull, format!("{}: {e}", path.display()));
        if self.reserve(bytes) == Reserve::Kept {
            return Ok(());
        }
        create_private(&path)?;
        let filled = fill(&path, bytes);
        if filled.is_err() {
            // Half a reserve is room that something else could use.
            let _ = std::fs::remove_file(&path);
        }
        filled.map_err(failed)
    }
    fn release_reserve(&self) -> bool {
        // The empty file says to others, and after a restart, that it was given up.
        let path = self.beside("-reserve");
        let had = std::fs::metadata(&path).is_ok_and(|file| file.len() > 0);
        had && File::options().write(true).truncate(true).open(path).is_ok()
    }
    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            self.readers.close().await;
            self.claim.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            Ok(())
        })
    }
}

struct Writer {
    connection: SqliteConnection,
    files: Files,
}

impl Writer {
    /// Begins, and asks for something.
    async fn begin(&mut self, first: &str, each: &mut EachRow<'_>) -> Result<()> {
        self.files.check()?;
        let deadline = Instant::now() + WRITE_WAIT;
        let begin = format!("BEGIN IMMEDIATE; {first}");
        loop {
            match several(&mut self.connection, begin.clone(), vec![], each).await {
                Ok(_) => return self.files.note_log(),
                Err(Failure::Sql(error)) if is_busy(&error) && Instant::now() < deadline => {
                    tokio::time::sleep(WRITE_POLL).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Connection for Writer {
    fn dialect(&self) -> &'static Dialect {
        &SQLITE
    }
    fn begin_write(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async { self.begin("", &mut |_| Ok(())).await })
    }
    fn begin_write_with<'a>(&'a mut self, first: Sql, each: &'a mut EachRow<'_>) -> StoreFuture<'a, ()> {
        Box::pin(async move { self.begin(&first, each).await })
    }
    fn execute_all(&mut self, statements: Vec<Statement>) -> StoreFuture<'_, Vec<u64>> {
        Box::pin(execute_all(&mut self.connection, statements))
    }
    fn lock_setup(&mut self) -> StoreFuture<'_, ()> {
        // Transactions that write exclude each other here, and statements that change the schema are part of them.
        Box::pin(async { Ok(()) })
    }
    fn unlock_setup(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
    fn begin_read(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async { execute(&mut self.connection, "BEGIN".into(), vec![]).await.map(drop) })
    }
    fn commit(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            execute(&mut self.connection, "COMMIT".into(), vec![]).await?;
            // Committed to a file without a name, it would be gone with this process.
            self.files.check()
        })
    }
    fn rollback(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            rollback(&mut self.connection).await?;
            self.files.check()
        })
    }
    fn execute(&mut self, sql: Sql, values: Vec<Value>) -> StoreFuture<'_, u64> {
        Box::pin(execute(&mut self.connection, sql, values))
    }
    fn query<'a>(&'a mut self, sql: Sql, values: Vec<Value>, each: &'a mut EachRow<'_>) -> StoreFuture<'a, ()> {
        Box::pin(query(&mut self.connection, sql, values, each))
    }
    fn close(self: Box<Self>) -> StoreFuture<'static, ()> {
        Box::pin(async { self.connection.close().await.map_err(|e| store_error(&e)) })
    }
}

struct Reader {
    connection: PoolConnection<Sqlite>,
    in_transaction: bool,
}

impl Connection for Reader {
    fn dialect(&self) -> &'static Dialect {
        &SQLITE
    }
    fn begin_write(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async { Err(reads_only()) })
    }
    fn lock_setup(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async { Err(reads_only()) })
    }
    fn unlock_setup(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async { Err(reads_only()) })
    }
    fn begin_read(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            self.in_transaction = true;
            execute(&mut self.connection, "BEGIN".into(), vec![]).await.map(drop)
        })
    }
    fn commit(&mut self) -> StoreFuture<'_, ()> {
        self.rollback()
    }
    fn rollback(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            rollback(&mut self.connection).await?;
            self.in_transaction = false;
            Ok(())
        })
    }
    fn execute(&mut self, sql: Sql, values: Vec<Value>) -> StoreFuture<'_, u64> {
        Box::pin(execute(&mut self.connection, sql, values))
    }
    fn query<'a>(&'a mut self, sql: Sql, values: Vec<Value>, each: &'a mut EachRow<'_>) -> StoreFuture<'a, ()> {
        Box::pin(query(&mut self.connection, sql, values, each))
    }
    fn close(self: Box<Self>) -> StoreFuture<'static, ()> {
        Box::pin(async { Ok(()) })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Dropped in the middle of a transaction (its caller went away): the connection must not go back as it is.
        if self.in_transaction {
            self.connection.close_on_drop();
        }
    }
}

fn reads_only() -> Error {
    Error::new(ErrorCode::Internal, "a reading connection cannot write")
}

async fn rollback(connection: &mut SqliteConnection) -> Result<()> {
    match sqlx::query("ROLLBACK").execute(connection).await {
        Ok(_) => Ok(()),
        // SQLite has rolled back by itself (a full disk, an I/O error): there is nothing left to do.
        Err(sqlx::Error::Database(e)) if e.message().contains("no transaction is active") => Ok(()),
        Err(e) => Err(store_error(&e)),
    }
}

access!(
    Sqlite, SqliteConnection, SqliteArguments, SqliteRow,
    spell: std::convert::identity,
    null: None::<i64>,
    text: |row, column| sqlx::Row::try_get::<Option<&str>, usize>(row, column).map_err(|e| corrupt(e.to_string()))
);

/// Executes statements together as far as they have few values: a trip to the connection's thread and back costs more than
/// a small statement. What has many is not joined with others, or every mixture of them would be a text to be cached.
async fn execute_all(connection: &mut SqliteConnection, statements: Vec<Statement>) -> Result<Vec<u64>> {
    let mut changed = Vec::with_capacity(statements.len());
    let (mut text, mut values) = (String::new(), Vec::new());
    for statement in statements {
        if values.len() + statement.values.len() > JOINED_VALUES && !text.is_empty() {
            let (text, values) = (std::mem::take(&mut text), std::mem::take(&mut values));
            changed.extend(several(connection, text, values, &mut |_| Ok(())).await?);
        }
        text.push_str(&statement.sql);
        text.push(';');
        values.extend(statement.values);
    }
    changed.extend(several(connection, text, values, &mut |_| Ok(())).await?);
    Ok(changed)
}

/// Executes the statements of one text, which share the list of values; answers how many rows each changed.
async fn several(
    connection: &mut SqliteConnection,
    text: String,
    values: Vec<Value>,
    each: &mut EachRow<'_>,
) -> std::result::Result<Vec<u64>, Failure> {
    let mut changed = Vec::new();
    let mut steps = connection.fetch_many(statement(text.into(), values)?);
    while let Some(step) = steps.try_next().await? {
        match step {
            Either::Left(done) => changed.push(done.rows_affected()),
            Either::Right(row) => each(&SqlRow(row))?,
        }
    }
    Ok(changed)
}

/// Why statements failed: SQLite's word, or ours.
enum Failure {
    Sql(sqlx::Error),
    Other(Error),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
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
            Failure::Sql(error) => store_error(&error),
            Failure::Other(error) => error,
        }
    }
}

/// The primary result code (https://www.sqlite.org/rescode.html): the extended one without its upper bytes.
fn result_code(error: &dyn DatabaseError) -> u32 {
    error.code().and_then(|code| code.parse::<u32>().ok()).unwrap_or_default() & 0xff
}

fn is_busy(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(e) if matches!(result_code(e.as_ref()), 5 | 6))
}

fn store_error(error: &sqlx::Error) -> Error {
    let sqlx::Error::Database(database) = error else {
        return match error {
            sqlx::Error::PoolClosed => Error::new(ErrorCode::Closed, "the service is closed"),
            sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed | sqlx::Error::Io(_) => {
                Error::new(ErrorCode::StoreUnavailable, format!("the store cannot be used: {error}"))
            }
            _ => Error::new(ErrorCode::Internal, format!("the store answered unexpectedly: {error}")),
        };
    };
    let (code, what) = match result_code(database.as_ref()) {
        5 | 6 => (ErrorCode::StoreUnavailable, "the store is locked by another process"),
        3 | 8 => (ErrorCode::StoreReadOnly, "the store may not be written"),
        10 | 14 => (ErrorCode::StoreUnavailable, "the store cannot be read or written"),
        11 => (ErrorCode::StoreCorrupt, "the store is damaged"),
        13 => (ErrorCode::StoreFull, "the store is full"),
        19 => (ErrorCode::Conflict, "the store holds a row that contradicts this one"),
        26 => (ErrorCode::StoreCorrupt, "the file is not a database"),
        _ => (ErrorCode::Internal, "the store answered unexpectedly"),
    };
    Error::new(code, format!("{what} ({})", database.message()))
}

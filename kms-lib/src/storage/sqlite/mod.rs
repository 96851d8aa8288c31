//! SQLite in one file: write-ahead log, every commit synced, and several processes on one file.

mod file_system;
mod files;
mod loader;
mod opened;
mod reader;
mod schema;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqliteLockingMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Sqlite};

use super::durable::sync_name;
use super::{Connection, Reserve, Store, StoreFuture};
use crate::types::error::{Error, ErrorCode, Result};
use crate::workers::run_blocking;
pub(crate) use files::is_read_only;
use files::{FileId, create_private, empty, fill, free_space, give_to_owner, unreachable_file};
use loader::Loader;
use opened::Opened;
pub(crate) use opened::is_open;
use reader::Reader;
use schema::Approved;
use writer::{Abandon, Copying, Writer};

#[cfg(test)]
mod tests;

/// The number of reading connections; the same number exists for long reads.
const READERS: u32 = 4;

/// A store in a SQLite file.
pub struct SqliteStore {
    path: PathBuf,
    readers: SqlitePool,
    /// Connections for long reads.
    long_readers: SqlitePool,
    claim: Mutex<Option<File>>,
    /// Registers that the store is open in this process.
    opened: Mutex<Option<Opened>>,
    /// The file that was opened first. None for a store that is only read.
    file: Option<FileId>,
    /// The schema counter at the last inspection.
    approved: Approved,
}

impl SqliteStore {
    /// Opens the file, and creates it (mode 0600) if none exists. A file that is not a database is left unchanged.
    pub async fn open(path: &Path) -> Result<Self> {
        let mut opened = Opened::here()?;
        file_system::check(path)?;
        create_private(path)?;
        // SQLite creates its other files beside the target of a link.
        let path = &std::fs::canonicalize(path).map_err(|e| unreachable_file(path, e))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("secure_delete", "ON")
            .busy_timeout(Duration::from_secs(5))
            .statement_cache_capacity(256)
            .disable_statement_logging()
            .pragma("query_only", "ON");
        let (readers, long_readers) = (pool(options.clone()), pool(options));
        let file = FileId::of(path).map_err(|e| unreachable_file(path, e))?;
        opened.note(file);
        let (claim, opened, file) = (Mutex::new(None), Mutex::new(Some(opened)), Some(file));
        let (path, approved) = (path.to_owned(), Approved::default());
        Ok(Self { path, readers, long_readers, claim, opened, file, approved })
    }

    /// Opens a file for reading; nothing is ever written to it.
    ///
    /// Where SQLite cannot create the files that reading a write-ahead log requires, such as on a read-only medium, the
    /// file is read without locks: no process can have it open for writing there, since that requires these files too.
    pub async fn open_read_only(path: &Path) -> Result<Self> {
        let path = &std::fs::canonicalize(path).map_err(|e| unreachable_file(path, e))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .read_only(true)
            .busy_timeout(Duration::from_secs(5))
            .disable_statement_logging();
        let store = Self::reading(path, options.clone())?;
        let is_refused = |error: &Error| matches!(error.code(), ErrorCode::StoreUnavailable | ErrorCode::StoreReadOnly);
        match store.probe().await {
            Err(error) if is_refused(&error) => {
                tracing::debug!(%error, "the store is read without locks");
                let has_log = std::fs::metadata(store.beside("-wal")).is_ok_and(|log| log.len() > 0);
                // The write-ahead log belongs to the store; its index is then kept in memory.
                let options = match has_log && cfg!(unix) {
                    true => options.vfs("unix-none").locking_mode(SqliteLockingMode::Exclusive),
                    false => options.immutable(true),
                };
                let unlocked = Self::reading(path, options)?;
                match unlocked.probe().await {
                    Ok(()) => Ok(unlocked),
                    Err(_) => Ok(store),
                }
            }
            // Other errors show when the store is read.
            _ => Ok(store),
        }
    }

    fn reading(path: &Path, options: SqliteConnectOptions) -> Result<Self> {
        let opened = Mutex::new(Some(Opened::here()?));
        let (readers, long_readers) = (pool(options.clone()), pool(options));
        let (path, claim, approved) = (path.to_owned(), Mutex::new(None), Approved::default());
        Ok(Self { path, readers, long_readers, claim, opened, file: None, approved })
    }

    /// Fails if the store cannot be read.
    async fn probe(&self) -> Result<()> {
        let mut reader = self.reader().await?;
        reader.query("SELECT COUNT(*) FROM sqlite_schema".into(), vec![], &mut |_| Ok(())).await
    }

    async fn connect(&self, readers: &SqlitePool) -> Result<PoolConnection<Sqlite>> {
        if let Some(file) = &self.file {
            file.check(&self.path)?;
        }
        readers.acquire().await.map_err(store_error)
    }

    /// The path of a file beside the database.
    fn beside(&self, ending: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(ending);
        path.into()
    }
}

/// A pool whose connections are created on demand.
fn pool(options: SqliteConnectOptions) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(READERS)
        .min_connections(0)
        .acquire_timeout(Duration::from_secs(10))
        .connect_lazy_with(options)
}

impl Store for SqliteStore {
    fn writer(&self) -> StoreFuture<'_, Box<dyn Connection>> {
        Box::pin(async {
            // Another file of this name is not written, whatever it contains.
            let Some(file) = self.file else {
                return Err(Error::new(
                    ErrorCode::StoreReadOnly,
                    "the store was opened for reading and cannot be written",
                ));
            };
            file.check(&self.path)?;
            let writer = Writer::open(&self.path, file, self.beside("-wal"), self.approved.clone()).await?;
            Ok(Box::new(writer) as Box<dyn Connection>)
        })
    }
    fn reader(&self) -> StoreFuture<'_, Box<dyn Connection>> {
        Box::pin(async {
            let connection = self.connect(&self.readers).await?;
            Ok(Box::new(Reader::new(connection, self.approved.clone())) as Box<dyn Connection>)
        })
    }
    fn long_reader(&self) -> StoreFuture<'_, Box<dyn Connection>> {
        Box::pin(async {
            let connection = self.connect(&self.long_readers).await?;
            Ok(Box::new(Reader::long(connection, self.approved.clone()).await?) as Box<dyn Connection>)
        })
    }
    fn loader(&self, given_up: Arc<AtomicBool>) -> StoreFuture<'_, Box<dyn Connection>> {
        Box::pin(async {
            // A store that is only read may need the settings that its reading connections have.
            let Some(file) = &self.file else { return self.reader().await };
            file.check(&self.path)?;
            Ok(Box::new(Loader::open(&self.path, given_up)?) as Box<dyn Connection>)
        })
    }
    fn claim(&self, exclusive: bool) -> Result<()> {
        let path = self.beside("-claim");
        let failed = |e: std::io::Error| {
            let text = format!("the store's lock file {} cannot be locked: {e}", path.display());
            Error::new(ErrorCode::StoreUnavailable, text).with_source(e)
        };
        if let Some(made) = create_private(&path)? {
            give_to_owner(&self.path, &made);
        }
        let file = File::options().write(true).open(&path).map_err(failed)?;
        let taken = if exclusive { file.try_lock() } else { file.try_lock_shared() };
        match taken {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let why = if exclusive {
                    "another process has the store open; audit.ack = \"queued\" needs exclusive access"
                } else {
                    "another process has exclusive access to the store (audit.ack = \"queued\")"
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
            // Absolute, since SQLite takes a name that begins with `file:` for a URI.
            let to = &std::path::absolute(to).map_err(|e| unreachable_file(to, e))?;
            let name = to.to_str().ok_or_else(|| Error::invalid("the path of a backup is not valid UTF-8"))?.to_owned();
            // An empty file of mode 0600, which SQLite then fills.
            if create_private(to)?.is_none() {
                return Err(Error::invalid(format!("{name} already exists; choose another path for the backup")));
            }
            let (path, copying) = (self.path.clone(), Copying::default());
            // Dropped with this future, which stops the copy on the other thread.
            let given_up = Abandon(copying.clone());
            let copied = run_blocking(move || {
                let copied = writer::copy(&path, &name, &copying).and_then(|()| {
                    let synced = File::open(&name).and_then(|file| file.sync_all());
                    let synced = synced.and_then(|()| sync_name(Path::new(&name)));
                    synced.map_err(|e| Error::new(ErrorCode::InputOutput, format!("{name}: {e}")).with_source(e))
                });
                if copied.is_err() {
                    // A partial copy must not be taken for a backup; on a full disk SQLite also leaves its journal.
                    for left in [name.as_str(), &format!("{name}-journal")] {
                        let _ = std::fs::remove_file(left);
                    }
                }
                copied
            });
            let copied = copied.await;
            drop(given_up);
            copied
        })
    }
    fn blocks_thread(&self) -> bool {
        true
    }
    fn yields_after_commit(&self) -> bool {
        true
    }
    fn free_space(&self) -> Option<u64> {
        free_space(self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }
    fn reserve(&self, bytes: u64) -> Reserve {
        match std::fs::metadata(self.beside("-reserve")) {
            Ok(file) if file.len() == 0 => Reserve::GivenUp,
            // A larger reserve, kept by a process with other settings, is equally good.
            Ok(file) if file.len() >= bytes => Reserve::Kept,
            _ => Reserve::Missing,
        }
    }
    fn keep_reserve(&self, bytes: u64) -> Result<()> {
        let path = self.beside("-reserve");
        let failed =
            |e: std::io::Error| Error::new(ErrorCode::StoreFull, format!("{}: {e}", path.display())).with_source(e);
        if self.reserve(bytes) == Reserve::Kept {
            return Ok(());
        }
        if let Some(made) = create_private(&path)? {
            give_to_owner(&self.path, &made);
        }
        let filled = fill(&path, bytes);
        if filled.is_err() {
            // A partial reserve only takes space that other files could use.
            let _ = std::fs::remove_file(&path);
        }
        filled.map_err(failed)
    }
    fn release_reserve(&self) -> bool {
        // The empty file shows other processes, also after a restart, that the reserve was given up.
        let path = self.beside("-reserve");
        let had = std::fs::metadata(&path).is_ok_and(|file| file.len() > 0);
        had && empty(&path).is_ok()
    }
    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            self.readers.close().await;
            self.long_readers.close().await;
            self.claim.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            self.opened.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            Ok(())
        })
    }
}

fn store_error(error: sqlx::Error) -> Error {
    let shown = match &error {
        sqlx::Error::Database(database) => {
            let code = database.code().and_then(|code| code.parse().ok()).unwrap_or_default();
            coded(code, database.message())
        }
        sqlx::Error::PoolClosed => Error::new(ErrorCode::Closed, "the service is closed"),
        sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed | sqlx::Error::Io(_) => {
            Error::new(ErrorCode::StoreUnavailable, format!("the store cannot be used: {error}"))
        }
        _ => unexpected(&error),
    };
    shown.with_source(error)
}

/// SQLite's messages for a table, a column or an index that is not as our statements expect it. It has no codes for
/// these errors.
const SCHEMA_ERRORS: [&str; 5] =
    ["no such table", "no such column", "has no column named", "already exists", "duplicate column name"];

/// Maps SQLite's result codes (https://www.sqlite.org/rescode.html). The primary code counts, which is the extended one
/// without its upper bytes.
fn coded(code: i32, message: &str) -> Error {
    let (code, what) = match code & 0xff {
        1 if SCHEMA_ERRORS.iter().any(|known| message.contains(known)) => {
            (ErrorCode::StoreCorrupt, "the store's schema is damaged; restore a backup")
        }
        5 | 6 => (ErrorCode::StoreUnavailable, "the store is locked by another process"),
        3 | 8 => (ErrorCode::StoreReadOnly, "the store is read-only for this process"),
        10 | 14 => (ErrorCode::StoreUnavailable, "the store cannot be read or written"),
        11 => (ErrorCode::StoreCorrupt, "the store is damaged"),
        13 => (ErrorCode::StoreFull, "the store is full"),
        19 => (ErrorCode::Conflict, "the store already has a row with this key"),
        26 => (ErrorCode::StoreCorrupt, "the file is not a database"),
        _ => (ErrorCode::Internal, "the store responded unexpectedly"),
    };
    Error::new(code, format!("{what} ({message})"))
}

fn unexpected(error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorCode::Internal, format!("the store responded unexpectedly: {error}"))
}

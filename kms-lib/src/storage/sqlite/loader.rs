//! The connection that loads whole tables: SQLite on the calling thread. Rows of the reading connections, which have a
//! thread of their own, cost several times as much, because each value is copied before it crosses to the other thread.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::reader::reads_only;
use super::writer::{WRITE_WAIT, connect, run};
use crate::storage::dialect::{Dialect, SQLITE};
use crate::storage::{Connection, EachRow, Sql, StoreFuture, Value};
use crate::types::error::{Error, ErrorCode, Result};

/// A connection that only reads, and blocks the calling thread meanwhile.
pub(super) struct Loader {
    // One thread at a time uses SQLite's handle; the mutex is only ever accessed exclusively.
    connection: Mutex<rusqlite::Connection>,
    /// Set when nobody waits for the rows any longer.
    given_up: Arc<AtomicBool>,
}

impl Loader {
    /// Connects to the file, which must exist.
    pub(super) fn open(path: &Path, given_up: Arc<AtomicBool>) -> Result<Self> {
        let connection = connect(path, WRITE_WAIT)?;
        run(&connection, "PRAGMA query_only = ON", &[], &mut |_| Ok(()))?;
        Ok(Self { connection: Mutex::new(connection), given_up })
    }

    fn run(&mut self, sql: &str, values: &[Value], each: &mut EachRow<'_>) -> Result<u64> {
        let connection = self.connection.get_mut().unwrap_or_else(PoisonError::into_inner);
        let given_up = &self.given_up;
        let mut each = |row: &dyn crate::storage::Row| match given_up.load(Ordering::Relaxed) {
            true => Err(Error::new(ErrorCode::Closed, "the load of the store was cancelled")),
            false => each(row),
        };
        run(connection, sql, values, &mut each).map_err(Into::into)
    }
}

impl Connection for Loader {
    fn dialect(&self) -> &'static Dialect {
        &SQLITE
    }
    fn lock_setup(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async { Err(reads_only()) })
    }
    fn unlock_setup(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async { Err(reads_only()) })
    }
    fn begin_write(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async { Err(reads_only()) })
    }
    fn begin_read(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async { self.run("BEGIN", &[], &mut |_| Ok(())).map(drop) })
    }
    fn commit(&mut self) -> StoreFuture<'_, ()> {
        self.rollback()
    }
    fn rollback(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async { self.run("ROLLBACK", &[], &mut |_| Ok(())).map(drop) })
    }
    fn execute(&mut self, _sql: Sql, _values: Vec<Value>) -> StoreFuture<'_, u64> {
        Box::pin(async { Err(reads_only()) })
    }
    fn query<'a>(&'a mut self, sql: Sql, values: Vec<Value>, each: &'a mut EachRow<'_>) -> StoreFuture<'a, ()> {
        Box::pin(async move { self.run(&sql, &values, each).map(drop) })
    }
    fn close(self: Box<Self>) -> StoreFuture<'static, ()> {
        Box::pin(async { Ok(()) })
    }
}

//! Reading connections through sqlx, each with its own thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::Sqlite;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};

use super::schema::{Approved, COOKIE};
use super::store_error;
use crate::storage::access::access;
use crate::storage::dialect::{Dialect, SQLITE};
use crate::storage::inspection::require_sound;
use crate::storage::{Connection, EachRow, Row, Sql, StoreFuture, Value, undecodable};
use crate::types::error::{Error, ErrorCode, Result};

/// After this many steps, some hundred microseconds, SQLite checks whether a long read was cancelled.
const STEPS: i32 = 10_000;

pub(super) struct Reader {
    connection: PoolConnection<Sqlite>,
    in_transaction: bool,
    approved: Approved,
    /// Set when the caller of a long read has dropped its future.
    given_up: Option<Arc<AtomicBool>>,
}

impl Reader {
    pub(super) fn new(connection: PoolConnection<Sqlite>, approved: Approved) -> Self {
        Self { connection, in_transaction: false, approved, given_up: None }
    }

    /// A connection for reads that may take long, such as a check of the whole file. SQLite works on its own thread,
    /// and would otherwise continue for minutes after the caller dropped its future.
    pub(super) async fn long(mut connection: PoolConnection<Sqlite>, approved: Approved) -> Result<Self> {
        let given_up = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&given_up);
        // Replaces the handler of the connection's previous user.
        let mut handle = connection.lock_handle().await.map_err(store_error)?;
        handle.set_progress_handler(STEPS, move || !seen.load(Ordering::Relaxed));
        drop(handle);
        Ok(Self { connection, in_transaction: false, approved, given_up: Some(given_up) })
    }
}

/// Cancels a read when this is dropped, unless the read has ended.
struct GivingUp(Option<Arc<AtomicBool>>);

impl Drop for GivingUp {
    fn drop(&mut self) {
        if let Some(given_up) = self.0.take() {
            given_up.store(true, Ordering::Relaxed);
        }
    }
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
        Box::pin(async move {
            let mut giving_up = GivingUp(self.given_up.clone());
            let done = query(&mut self.connection, sql, values, each).await;
            giving_up.0 = None;
            done
        })
    }
    fn schema_cookie(&mut self) -> StoreFuture<'_, Option<i64>> {
        Box::pin(async {
            let mut cookie = None;
            self.query(COOKIE.into(), vec![], &mut |row| {
                cookie = row.int_opt(0)?;
                Ok(())
            })
            .await?;
            Ok(cookie)
        })
    }
    fn approve_schema(&mut self, cookie: Option<i64>) {
        self.approved.set(cookie);
    }
    fn check_schema_change(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            let cookie = self.schema_cookie().await?;
            if self.approved.has_changed(cookie) { require_sound(self).await } else { Ok(()) }
        })
    }
    fn close(self: Box<Self>) -> StoreFuture<'static, ()> {
        Box::pin(async { Ok(()) })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Dropped in a transaction because its caller dropped the future: the connection must not return to the pool.
        if self.in_transaction {
            self.connection.close_on_drop();
        }
    }
}

pub(super) fn reads_only() -> Error {
    Error::new(ErrorCode::Internal, "a reading connection cannot write")
}

async fn rollback(connection: &mut SqliteConnection) -> Result<()> {
    match sqlx::query("ROLLBACK").execute(connection).await {
        Ok(_) => Ok(()),
        // SQLite has already rolled back because of a full disk or an I/O error; nothing is left to do.
        Err(sqlx::Error::Database(e)) if e.message().contains("no transaction is active") => Ok(()),
        Err(e) => Err(store_error(e)),
    }
}

access!(
    Sqlite, SqliteConnection, SqliteArguments, SqliteRow,
    spell: std::convert::identity,
    null: None::<i64>,
    text: |row, column| sqlx::Row::try_get::<Option<&str>, usize>(row, column).map_err(undecodable)
);

//! The storage layer. A [`Store`] provides connections; the SQL that reads and writes through them is shared by all
//! engines, in [`tables`]. An engine adds a dialect and its connections, not another copy of the statements.

#![cfg_attr(not(any(feature = "mysql", feature = "postgres")), allow(dead_code, reason = "what servers need"))]

mod access;
pub mod dialect;
pub(crate) mod durable;
pub mod inspection;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod literal;
mod location;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
mod schema;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod server;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod server_errors;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod tables;
mod url;

pub use location::{Location, is_open_file, open_file_read_only, redact};
#[cfg(feature = "import")]
pub use mysql::open_source;
pub use schema::{check_schema, is_current, migrate};
#[cfg(feature = "import")]
pub use url::Url;

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::types::error::Result;
use dialect::Dialect;

/// The future that storage operations return, and rare operations of the layers above. Boxed, it has one copy in a
/// program: the code of an async function is compiled into every crate and codegen unit that awaits it.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// The text of a statement: fixed, or assembled from fixed parts. Values are never part of it except in hexadecimal;
/// they are bound to `?`.
pub type Sql = Cow<'static, str>;

/// A bound value of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// The null value.
    Null,
    /// A number, or a time in microseconds.
    Int(i64),
    /// A text value.
    Text(Cow<'static, str>),
    /// A byte string.
    Ciphertext(Vec<u8>),
}

impl Value {
    /// The approximate size of the value in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Null | Self::Int(_) => 8,
            Self::Text(text) => text.len(),
            Self::Ciphertext(bytes) => bytes.len(),
        }
    }
}

/// A statement with the values for its `?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The text of the statement.
    pub sql: Sql,
    /// The values for its placeholders, in order.
    pub values: Vec<Value>,
}

impl Statement {
    /// A statement with this text and these values.
    pub fn new(sql: impl Into<Sql>, values: Vec<Value>) -> Self {
        Self { sql: sql.into(), values }
    }

    /// The approximate size of all values in bytes.
    pub fn bytes(&self) -> usize {
        self.values.iter().map(Value::bytes).sum()
    }
}

/// The state of the disk reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// The reserve does not exist yet.
    Missing,
    /// The reserve exists.
    Kept,
    /// The reserve was given up by some process because the store was full.
    GivenUp,
}

/// A database that contains a store. Cheap to share.
pub trait Store: Send + Sync {
    /// Opens a new writing connection. Only opening, the ledger and the readiness check use one.
    fn writer(&self) -> StoreFuture<'_, Box<dyn Connection>>;
    /// Returns a reading connection, which returns to its pool when dropped.
    fn reader(&self) -> StoreFuture<'_, Box<dyn Connection>>;
    /// The number of reading connections; at least two.
    fn readers(&self) -> usize {
        4
    }
    /// Like [`Self::reader`], for reads that may take long: lists and verifications of the log. Other reads do not wait
    /// for these.
    fn long_reader(&self) -> StoreFuture<'_, Box<dyn Connection>> {
        self.reader()
    }
    /// Like [`Self::reader`], for loading whole tables. Where [`Self::blocks_thread`] is true, it blocks the calling
    /// thread, and its reads fail with `Closed` once `given_up` is set.
    fn loader(&self, _given_up: Arc<AtomicBool>) -> StoreFuture<'_, Box<dyn Connection>> {
        self.reader()
    }
    /// Takes or checks the lock that decides whether other processes may open the store too. Held until the store is
    /// closed.
    fn claim(&self, exclusive: bool) -> Result<()>;
    /// Copies the store, as of one moment, to a new file, while it continues to work.
    fn copy_to<'a>(&'a self, to: &'a std::path::Path) -> StoreFuture<'a, ()>;
    /// Whether writing and loading connections block the calling thread for as long as the disk takes. The ledger then
    /// has its own thread.
    fn blocks_thread(&self) -> bool {
        false
    }
    /// Whether a process must pause after a commit to let another process write, because the engine's locks have no
    /// queue.
    fn yields_after_commit(&self) -> bool {
        false
    }
    /// Whether the store is one of several database nodes that abort each other's commits and share no locks.
    fn is_cluster(&self) -> bool {
        false
    }
    /// Free bytes on the store's disk; none if they cannot be determined from here.
    fn free_space(&self) -> Option<u64> {
        None
    }
    /// The state of a reserve of this many bytes.
    fn reserve(&self, _bytes: u64) -> Reserve {
        Reserve::Missing
    }
    /// Creates a reserve of this many bytes unless it exists already.
    fn keep_reserve(&self, _bytes: u64) -> Result<()> {
        Ok(())
    }
    /// Deletes the disk reserve; returns whether there was one.
    fn release_reserve(&self) -> bool {
        false
    }
    /// Closes all connections and releases the claim.
    fn close(&self) -> StoreFuture<'_, ()>;
}

/// A connection to a store.
pub trait Connection: Send + Sync {
    /// The SQL dialect of the engine.
    fn dialect(&self) -> &'static Dialect;
    /// Waits for the setup lock and takes it, so that no two processes create or upgrade a store at once. Held until
    /// [`Connection::unlock_setup`], or until the connection ends. A cluster has no such lock: there, concurrent setups
    /// are detected by `StoreContended` or `Conflict`. Until then, statements have a longer time limit.
    fn lock_setup(&mut self) -> StoreFuture<'_, ()>;
    /// Releases the setup lock.
    fn unlock_setup(&mut self) -> StoreFuture<'_, ()>;
    /// Lets the statements of the current transaction take as long as the migration of a large store needs: up to an
    /// hour each.
    fn allow_long_statements(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
    /// Begins a writing transaction. Waits for other writers, for seconds at most.
    fn begin_write(&mut self) -> StoreFuture<'_, ()>;
    /// Begins a writing transaction and calls `each` with the rows of its first statement, which has no values, in one
    /// round trip where the engine allows that. After an error it is not known whether a transaction has begun.
    fn begin_write_with<'a>(&'a mut self, first: Sql, each: &'a mut EachRow<'_>) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            self.begin_write().await?;
            self.query(first, vec![], each).await
        })
    }
    /// Begins a transaction that sees one state of the store.
    fn begin_read(&mut self) -> StoreFuture<'_, ()>;
    /// Commits. After an error the outcome is not known, except for `StoreContended`: then nothing was committed.
    fn commit(&mut self) -> StoreFuture<'_, ()>;
    /// Rolls back. Not an error if there is no transaction.
    fn rollback(&mut self) -> StoreFuture<'_, ()>;
    /// Executes a statement; returns the number of rows it changed.
    fn execute(&mut self, sql: Sql, values: Vec<Value>) -> StoreFuture<'_, u64>;
    /// Executes statements in order until one fails; returns the number of rows that each changed. Uses as few round
    /// trips as the engine allows.
    fn execute_all(&mut self, statements: Vec<Statement>) -> StoreFuture<'_, Vec<u64>> {
        Box::pin(async move {
            let mut changed = Vec::with_capacity(statements.len());
            for Statement { sql, values } in statements {
                changed.push(self.execute(sql, values).await?);
            }
            Ok(changed)
        })
    }
    /// Calls `each` with every row of the result as it arrives.
    fn query<'a>(&'a mut self, sql: Sql, values: Vec<Value>, each: &'a mut EachRow<'_>) -> StoreFuture<'a, ()>;
    /// Removes deleted and overwritten data from the engine's log, where that is a local file. Must not be called
    /// within a transaction. Returns whether the data is gone; if not, a reader still uses the log, and a later attempt
    /// may succeed.
    fn scrub(&mut self) -> StoreFuture<'_, bool> {
        Box::pin(async { Ok(true) })
    }
    /// Moves the contents of the engine's log into the database as far as no reader prevents it, where that log is a
    /// local file, so that it does not grow. Must not be called within a transaction.
    fn checkpoint(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
    /// A number that changes with the schema, where the engine has one.
    fn schema_cookie(&mut self) -> StoreFuture<'_, Option<i64>> {
        Box::pin(async { Ok(None) })
    }
    /// Notes that the schema with this cookie was inspected and is sound. From then on, writing transactions inspect
    /// the schema again when the cookie has changed.
    fn approve_schema(&mut self, _cookie: Option<i64>) {}
    /// Inspects the schema again if it changed since it was approved; `StoreCorrupt` if it was altered.
    fn check_schema_change(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
    /// Closes the connection.
    fn close(self: Box<Self>) -> StoreFuture<'static, ()>;
    /// The largest message in bytes that the server accepts from this connection, statement and values together; none
    /// if no limit matters.
    #[cfg(feature = "import")]
    fn message_limit(&mut self) -> StoreFuture<'_, Option<u64>> {
        Box::pin(async { Ok(None) })
    }
}

/// The callback for each row of a result.
pub type EachRow<'c> = dyn FnMut(&dyn Row) -> Result<()> + Send + 'c;

/// A row of a result. Columns are counted from 0. A column of another type than requested is `StoreCorrupt`.
pub trait Row {
    /// A number; none if null.
    fn int_opt(&self, column: usize) -> Result<Option<i64>>;
    /// A text; none if null.
    fn text_opt(&self, column: usize) -> Result<Option<&str>>;
    /// A byte string; none if null.
    fn blob_opt(&self, column: usize) -> Result<Option<&[u8]>>;
}

impl dyn Row + '_ {
    /// A number that is not null.
    pub fn int(&self, column: usize) -> Result<i64> {
        self.int_opt(column)?.ok_or_else(|| absent(column))
    }
    /// A number that is not null, not negative and in range.
    pub fn unsigned<T: TryFrom<i64>>(&self, column: usize) -> Result<T> {
        T::try_from(self.int(column)?).map_err(|_| corrupt(format!("column {column} is out of range")))
    }
    /// A number that is not negative and in range; none if null.
    pub fn unsigned_opt<T: TryFrom<i64>>(&self, column: usize) -> Result<Option<T>> {
        self.int_opt(column)?
            .map(|n| T::try_from(n).map_err(|_| corrupt(format!("column {column} is out of range"))))
            .transpose()
    }
    /// A text that is not null.
    pub fn text(&self, column: usize) -> Result<&str> {
        self.text_opt(column)?.ok_or_else(|| absent(column))
    }
    /// A byte string that is not null.
    pub fn blob(&self, column: usize) -> Result<&[u8]> {
        self.blob_opt(column)?.ok_or_else(|| absent(column))
    }
    /// A hash of 32 bytes that is not null.
    pub fn hash(&self, column: usize) -> Result<[u8; 32]> {
        self.blob(column)?.try_into().map_err(|_| corrupt(format!("column {column} is not 32 bytes long")))
    }
    /// A hash of 32 bytes; none if null.
    pub fn hash_opt(&self, column: usize) -> Result<Option<[u8; 32]>> {
        self.blob_opt(column)?
            .map(|bytes| bytes.try_into().map_err(|_| corrupt(format!("column {column} is not 32 bytes long"))))
            .transpose()
    }
    /// A time that is not null.
    pub fn time(&self, column: usize) -> Result<crate::Timestamp> {
        self.time_opt(column)?.ok_or_else(|| absent(column))
    }
    /// A time; none if null.
    pub fn time_opt(&self, column: usize) -> Result<Option<crate::Timestamp>> {
        self.int_opt(column)?
            .map(|n| {
                let time = crate::Timestamp::from_micros(n);
                if time.micros() == n { Ok(time) } else { Err(corrupt(format!("column {column} is not a time"))) }
            })
            .transpose()
    }
}

fn absent(column: usize) -> crate::Error {
    corrupt(format!("column {column} is empty"))
}

/// The error for a column that is not of the expected type.
fn undecodable(error: sqlx::Error) -> crate::Error {
    corrupt(error.to_string()).with_source(error)
}

/// The error for invalid stored data.
pub fn corrupt(message: impl Into<String>) -> crate::Error {
    crate::Error::new(crate::ErrorCode::StoreCorrupt, message)
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}
impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Int(i64::from(value))
    }
}
impl From<u64> for Value {
    fn from(value: u64) -> Self {
        // Sequence numbers and counters do not reach 2^63.
        Self::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}
impl From<crate::Timestamp> for Value {
    fn from(value: crate::Timestamp) -> Self {
        Self::Int(value.micros())
    }
}
impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(Cow::Owned(value.to_owned()))
    }
}
impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(Cow::Owned(value))
    }
}
impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Self::Ciphertext(value.to_owned())
    }
}
impl<const N: usize> From<&[u8; N]> for Value {
    fn from(value: &[u8; N]) -> Self {
        Self::Ciphertext(value.to_vec())
    }
}
impl From<Vec<u8>> for Value {
    fn from(value: Vec<u8>) -> Self {
        Self::Ciphertext(value)
    }
}
impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

//! Where everything is kept. A [`Store`] hands out connections; what is read and written through them is SQL that all
//! engines share, in [`tables`]. An engine adds a dialect and its connections, not a second copy of the statements.

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
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod tables;
mod url;

pub use location::{Location, redact};
#[cfg(feature = "import")]
pub use mysql::open_source;
pub use schema::{check_schema, is_current, migrate};
pub use url::Url;

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;

use crate::types::error::Result;
use dialect::Dialect;

/// A future that storage answers with.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// The text of a statement: fixed, or put together from fixed parts. Values never go into it; they are bound to `?`, or
/// stand there in hexadecimal.
pub type Sql = Cow<'static, str>;

/// A bound value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Absent.
    Null,
    /// A number or a time in microseconds.
    Int(i64),
    /// Text.
    Text(String),
    /// Bytes.
    Ciphertext(Vec<u8>),
}

impl Value {
    /// Its size.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Null | Self::Int(_) => 8,
            Self::Text(text) => text.len(),
            Self::Ciphertext(bytes) => bytes.len(),
        }
    }
}

/// A statement, with the values for its `?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Its text.
    pub sql: Sql,
    /// Its values.
    pub values: Vec<Value>,
}

impl Statement {
    /// A statement of a text and its values.
    pub fn new(sql: impl Into<Sql>, values: Vec<Value>) -> Self {
        Self { sql: sql.into(), values }
    }

    /// Bytes of its values.
    pub fn bytes(&self) -> usize {
        self.values.iter().map(Value::bytes).sum()
    }
}

/// Room that is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// There is none yet.
    Missing,
    /// It is there.
    Kept,
    /// It was given up, by whichever process, since the store was full.
    GivenUp,
}

/// A database. Cheap to share.
pub trait Store: Send + Sync {
    /// How its engine speaks SQL.
    fn dialect(&self) -> &'static Dialect;
    /// A new connection that writes. Only opening, the ledger and the look whether the service is ready ask for one.
    fn writer(&self) -> StoreFuture<'_, Box<dyn Connection>>;
    /// A connection that only reads; it goes back to its pool when dropped.
    fn reader(&self) -> StoreFuture<'_, Box<dyn Connection>>;
    /// How many of these there are at a time, at least two.
    fn readers(&self) -> usize {
        4
    }
    /// The same for reads that may take long, lists and verifications of the log: what others read meanwhile does not
    /// wait for these.
    fn long_reader(&self) -> StoreFuture<'_, Box<dyn Connection>> {
        self.reader()
    }
    /// Takes or checks the lock that says whether other processes may open the store too. Held until closed.
    fn claim(&self, exclusive: bool) -> Result<()>;
    /// Copies the store, as it is at one moment, to a new file, while it goes on working.
    fn copy_to<'a>(&'a self, to: &'a std::path::Path) -> StoreFuture<'a, ()>;
    /// Whether its writing connections work on the thread that uses them, for as long as the disk takes: the ledger
    /// then has a thread of its own.
    fn blocks_thread(&self) -> bool {
        false
    }
    /// Whether a process that has just committed must pause to let another one in: the engine's locks have no queue.
    fn yields_after_commit(&self) -> bool {
        false
    }
    /// Whether it is one of several database nodes whose commits abort each other's, and that share no locks.
    fn is_cluster(&self) -> bool {
        false
    }
    /// Free bytes where the store is; none if that cannot be known from here.
    fn free_space(&self) -> Option<u64> {
        None
    }
    /// Whether so many bytes are set aside, or were given up.
    fn reserve(&self, _bytes: u64) -> Reserve {
        Reserve::Missing
    }
    /// Sets so many bytes aside, unless they are already.
    fn keep_reserve(&self, _bytes: u64) -> Result<()> {
        Ok(())
    }
    /// Gives up what was set aside; answers whether there was anything.
    fn release_reserve(&self) -> bool {
        false
    }
    /// Closes all connections and gives up the claim.
    fn close(&self) -> StoreFuture<'_, ()>;
}

/// A connection to a store.
pub trait Connection: Send + Sync {
    /// How its engine speaks SQL.
    fn dialect(&self) -> &'static Dialect;
    /// Waits for the lock under which stores are made and brought up to date, and takes it: no two processes do that
    /// at once. Held until [`Connection::unlock_setup`], or the connection ends. A cluster has none: there, others are
    /// noticed by `StoreContended` or `Conflict`. Until then statements may take longer than at other times.
    fn lock_setup(&mut self) -> StoreFuture<'_, ()>;
    /// Gives the lock back.
    fn unlock_setup(&mut self) -> StoreFuture<'_, ()>;
    /// Begins a transaction that will write; waits, for seconds at most, for other writers.
    fn begin_write(&mut self) -> StoreFuture<'_, ()>;
    /// Does that, and calls `each` with what its first statement answers, which has no values: one trip to the engine
    /// where it allows that. After an error it is open whether a transaction has begun.
    fn begin_write_with<'a>(&'a mut self, first: Sql, each: &'a mut EachRow<'_>) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            self.begin_write().await?;
            self.query(first, vec![], each).await
        })
    }
    /// Begins a transaction that sees one state of the store.
    fn begin_read(&mut self) -> StoreFuture<'_, ()>;
    /// Commits. After an error it is open whether it did, but for `StoreContended`: then it did not.
    fn commit(&mut self) -> StoreFuture<'_, ()>;
    /// Rolls back; no error if there is nothing to roll back.
    fn rollback(&mut self) -> StoreFuture<'_, ()>;
    /// Executes a statement; answers how many rows it changed.
    fn execute(&mut self, sql: Sql, values: Vec<Value>) -> StoreFuture<'_, u64>;
    /// Executes statements one after the other, until one fails; answers how many rows each of them changed. As few
    /// trips to the engine as it allows.
    fn execute_all(&mut self, statements: Vec<Statement>) -> StoreFuture<'_, Vec<u64>> {
        Box::pin(async move {
            let mut changed = Vec::with_capacity(statements.len());
            for Statement { sql, values } in statements {
                changed.push(self.execute(sql, values).await?);
            }
            Ok(changed)
        })
    }
    /// Calls `each` with every row of the answer, as it streams in.
    fn query<'a>(&'a mut self, sql: Sql, values: Vec<Value>, each: &'a mut EachRow<'_>) -> StoreFuture<'a, ()>;
    /// Removes what was deleted or overwritten from the engine's own log, where that is a file of ours. Not within a
    /// transaction. Answers whether it is gone; if not, somebody still reads the log, and it is worth another try
    /// later.
    fn scrub(&mut self) -> StoreFuture<'_, bool> {
        Box::pin(async { Ok(true) })
    }
    /// Moves what is in the engine's own log into the database, as far as nobody reads that, where that is a file of
    /// ours: then the log need not grow. Not within a transaction.
    fn checkpoint(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
    /// A number that changes with the schema, where the engine has one.
    fn schema_cookie(&mut self) -> StoreFuture<'_, Option<i64>> {
        Box::pin(async { Ok(None) })
    }
    /// Notes that the schema of this cookie was inspected and is sound. From then on, transactions that write inspect
    /// it again when it has changed.
    fn approve_schema(&mut self, _cookie: Option<i64>) {}
    /// Inspects the schema again if it has changed since it was approved; `StoreCorrupt` if it was altered.
    fn check_schema_change(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
    /// Closes the connection.
    fn close(self: Box<Self>) -> StoreFuture<'static, ()>;
}

/// What is called with each row.
pub type EachRow<'c> = dyn FnMut(&dyn Row) -> Result<()> + Send + 'c;

/// A row of an answer. Columns are counted from 0. A column of another type than asked for is `StoreCorrupt`.
pub trait Row {
    /// A number, or none.
    fn int_opt(&self, column: usize) -> Result<Option<i64>>;
    /// Text, or none.
    fn text_opt(&self, column: usize) -> Result<Option<&str>>;
    /// Bytes, or none.
    fn blob_opt(&self, column: usize) -> Result<Option<&[u8]>>;
}

impl dyn Row + '_ {
    /// A number.
    pub fn int(&self, column: usize) -> Result<i64> {
        self.int_opt(column)?.ok_or_else(|| absent(column))
    }
    /// A number that is not negative and fits.
    pub fn unsigned<T: TryFrom<i64>>(&self, column: usize) -> Result<T> {
        T::try_from(self.int(column)?).map_err(|_| corrupt(format!("column {column} is out of range")))
    }
    /// A number that is not negative and fits, or none.
    pub fn unsigned_opt<T: TryFrom<i64>>(&self, column: usize) -> Result<Option<T>> {
        self.int_opt(column)?
            .map(|n| T::try_from(n).map_err(|_| corrupt(format!("column {column} is out of range"))))
            .transpose()
    }
    /// Text.
    pub fn text(&self, column: usize) -> Result<&str> {
        self.text_opt(column)?.ok_or_else(|| absent(column))
    }
    /// Bytes.
    pub fn blob(&self, column: usize) -> Result<&[u8]> {
        self.blob_opt(column)?.ok_or_else(|| absent(column))
    }
    /// A hash: 32 bytes.
    pub fn hash(&self, column: usize) -> Result<[u8; 32]> {
        self.blob(column)?.try_into().map_err(|_| corrupt(format!("column {column} is not 32 bytes long")))
    }
    /// A hash, or none.
    pub fn hash_opt(&self, column: usize) -> Result<Option<[u8; 32]>> {
        self.blob_opt(column)?
            .map(|bytes| bytes.try_into().map_err(|_| corrupt(format!("column {column} is not 32 bytes long"))))
            .transpose()
    }
    /// A time.
    pub fn time(&self, column: usize) -> Result<crate::Timestamp> {
        self.time_opt(column)?.ok_or_else(|| absent(column))
    }
    /// A time, or none.
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

/// An error about what is stored.
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
        // Sequence numbers and counters: 2^63 is out of reach.
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
        Self::Text(value.to_owned())
    }
}
impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
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

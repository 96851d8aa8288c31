//! Common code for database servers: connections with time limits, which are dropped as soon as their state is not
//! known.

use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::{ConnectOptions, Database};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::dialect::Dialect;
use super::server_errors::{misconfigured, unavailable};
use super::url::{Host, Url};
use super::{Connection, EachRow, Sql, Statement, Store, StoreFuture, Value, literal};
use crate::types::error::{Error, ErrorCode, Result};

/// The time limit of waiting for a free reading connection.
const PLACE_WAIT: Duration = Duration::from_secs(5);
/// The time limit of a statement. It is longer than the server's own limits, whose errors are clearer.
const STATEMENT_WAIT: Duration = Duration::from_secs(20);
/// The time limit of a statement while the store is set up. On a cluster, a statement that changes the schema waits
/// until every member has executed all earlier such statements, and reads wait for them too.
const SETUP_STATEMENT_WAIT: Duration = Duration::from_secs(120);
/// The time limit of a statement that migrates a store: it may create an index over the whole log.
const MIGRATION_STATEMENT_WAIT: Duration = Duration::from_secs(3_600);
/// The time limit of waiting for the setup lock.
const SETUP_WAIT: Duration = Duration::from_secs(120);
/// The number of reading connections.
const READERS: usize = 8;
/// Statements with more values than this are prepared and bound; others that follow each other are sent as text,
/// together.
const TEXT_VALUES: usize = 64;
/// The approximate maximum number of bytes of statements that are sent as text, together.
const TEXT_BYTES: usize = 64 * 1024;
/// The time that closing waits for connections that are reading.
const CLOSE_WAIT: Duration = Duration::from_secs(10);
/// A connection that was idle for longer may have been lost, and is not reused.
const REST: Duration = Duration::from_secs(10);
/// The maximum age of a reading connection. Renewal makes changes of addresses or privileges take effect.
const READER_LIFETIME: Duration = Duration::from_secs(600);

/// An engine with a server.
pub(super) trait Engine: Database<Connection: Sync> {
    /// The SQL dialect of the engine.
    const DIALECT: &'static Dialect;
    /// The statement that begins a writing transaction.
    const BEGIN_WRITE: &'static str;
    /// The statement that begins a transaction on one state of the store.
    const BEGIN_READ: &'static str;
    /// Takes the setup lock; returns one row whose only value is 1 if the lock was taken.
    const LOCK_SETUP: &'static str;
    /// Releases the setup lock.
    const UNLOCK_SETUP: &'static str;
    /// Ends the server's own time limit for the statements of the current transaction, if it has one.
    const NO_TIME_LIMIT: Option<&'static str> = None;
    /// Returns one row whose only value is 1 if the server accepts writes.
    const IS_WRITABLE: &'static str;
    /// A query of the largest message in bytes that the server accepts, if there is a limit.
    #[cfg(feature = "import")]
    const MESSAGE_LIMIT: Option<&'static str> = None;

    /// Executes statements without values.
    fn run(connection: &mut Self::Connection, sql: Sql) -> StoreFuture<'_, ()>;
    /// Executes the statements of a text without bound values until one fails; returns the number of rows that each
    /// changed, and calls `each` with every row of their results.
    fn several<'a>(
        connection: &'a mut Self::Connection,
        text: String,
        each: &'a mut EachRow<'_>,
    ) -> StoreFuture<'a, Vec<u64>>;
    /// Executes a statement; returns the number of rows it changed.
    fn execute(connection: &mut Self::Connection, sql: Sql, values: Vec<Value>) -> StoreFuture<'_, u64>;
    /// Calls `each` with every row of the result.
    fn query<'a>(
        connection: &'a mut Self::Connection,
        sql: Sql,
        values: Vec<Value>,
        each: &'a mut EachRow<'_>,
    ) -> StoreFuture<'a, ()>;
    /// Converts a driver error.
    fn error(error: sqlx::Error) -> Error;
}

type Options<E> = <<E as Database>::Connection as sqlx::Connection>::Options;

/// The servers to which a store connects.
pub(super) struct Target<E: Engine> {
    /// The hosts, in the order in which they are tried.
    hosts: Vec<Options<E>>,
    /// The time limit for connecting to one host.
    wait: Duration,
    /// Whether read-only servers are skipped.
    must_write: bool,
}

impl<E: Engine> Target<E> {
    /// The hosts of a URL, each with the options that `options` creates for it.
    pub(super) fn new(url: &Url, options: impl Fn(&Host) -> Result<Options<E>>) -> Result<Arc<Self>> {
        let hosts = url.hosts().iter().map(|host| Ok(options(host)?.disable_statement_logging()));
        let hosts = hosts.collect::<Result<_>>()?;
        Ok(Arc::new(Self { hosts, wait: url.connect_wait(), must_write: url.must_write() }))
    }
}

/// A store in a database on a server.
pub(super) struct ServerStore<E: Engine> {
    target: Arc<Target<E>>,
    /// The index of the host that was connected last; it is tried first.
    last: AtomicUsize,
    /// The statements that configure a new connection.
    settings: String,
    readers: Arc<Readers<E>>,
    /// Whether commits on other database nodes abort ours.
    is_cluster: bool,
}

impl<E: Engine> ServerStore<E> {
    /// A store that connects to this target and executes `settings` on every connection.
    pub(super) fn new(target: Arc<Target<E>>, settings: String, is_cluster: bool) -> Self {
        Self { target, last: AtomicUsize::new(0), settings, readers: Arc::new(Readers::new()), is_cluster }
    }

    /// Opens a new, configured connection to the first usable host.
    pub(super) async fn connect(&self) -> Result<Held<E>> {
        let count = self.target.hosts.len();
        let mut failed = None;
        let first = self.last.load(Ordering::Relaxed);
        for (number, host) in self.target.hosts.iter().enumerate().cycle().skip(first).take(count) {
            match self.connect_to(host).await {
                Ok(held) => {
                    self.last.store(number, Ordering::Relaxed);
                    return Ok(held);
                }
                Err(error) if error.code() == ErrorCode::StoreUnavailable => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(match failed {
            Some(error) if count == 1 => error,
            Some(error) => {
                let text = format!("none of the {count} database servers can be used: {}", error.message());
                error.with_message(text)
            }
            None => misconfigured("store_url names no host"),
        })
    }

    async fn connect_to(&self, host: &Options<E>) -> Result<Held<E>> {
        let connecting = timeout(self.target.wait, host.connect()).await;
        let connection = match connecting {
            Ok(connected) => connected.map_err(E::error)?,
            Err(_) => {
                let seconds = self.target.wait.as_secs();
                return Err(unavailable(&format!(
                    "the database server did not accept a connection within {seconds} s"
                )));
            }
        };
        let mut held = Held::new(Box::new(connection), Instant::now());
        held.in_cluster = self.is_cluster;
        held.run(self.settings.clone().into()).await?;
        if self.target.must_write {
            held.check_writable().await?;
        }
        Ok(held)
    }

    async fn reader(&self) -> Result<Held<E>> {
        let waiting = timeout(PLACE_WAIT, Arc::clone(&self.readers.places).acquire_owned()).await;
        let place = match waiting {
            Ok(Ok(place)) => place,
            Ok(Err(_)) => return Err(Error::new(ErrorCode::Closed, "the service is closed")),
            Err(_) => return Err(unavailable("all connections to the database server are in use; retry later")),
        };
        let mut held = match self.readers.take() {
            Some(rested) => Held::new(rested.connection, rested.born),
            None => self.connect().await?,
        };
        held.in_cluster = self.is_cluster;
        held.home = Some((Arc::clone(&self.readers), place));
        Ok(held)
    }
}

/// Idle reading connections. They are not checked before use; if one turns out to be lost, all others are dropped.
struct Readers<E: Engine> {
    rested: Mutex<Vec<Rested<E>>>,
    places: Arc<Semaphore>,
}

struct Rested<E: Engine> {
    connection: Box<E::Connection>,
    born: Instant,
    since: Instant,
}

impl<E: Engine> Readers<E> {
    fn new() -> Self {
        Self { rested: Mutex::default(), places: Arc::new(Semaphore::new(READERS)) }
    }
    fn take(&self) -> Option<Rested<E>> {
        let mut rested = self.rested.lock().unwrap_or_else(PoisonError::into_inner);
        rested.retain(|one| one.since.elapsed() < REST && one.born.elapsed() < READER_LIFETIME);
        rested.pop()
    }
    fn put(&self, connection: Box<E::Connection>, born: Instant) {
        if !self.places.is_closed() {
            let mut rested = self.rested.lock().unwrap_or_else(PoisonError::into_inner);
            rested.push(Rested { connection, born, since: Instant::now() });
        }
    }
    fn clear(&self) {
        self.rested.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl<E: Engine> Store for ServerStore<E> {
    fn writer(&self) -> StoreFuture<'_, Box<dyn Connection>> {
        Box::pin(async { Ok(Box::new(self.connect().await?) as Box<dyn Connection>) })
    }
    fn reader(&self) -> StoreFuture<'_, Box<dyn Connection>> {
        Box::pin(async { Ok(Box::new(self.reader().await?) as Box<dyn Connection>) })
    }
    fn readers(&self) -> usize {
        READERS
    }
    fn claim(&self, exclusive: bool) -> Result<()> {
        if exclusive {
            return Err(Error::new(
                ErrorCode::InvalidConfiguration,
                "audit.ack = \"queued\" needs exclusive access to the store: use a SQLite file, not a database server",
            ));
        }
        Ok(())
    }
    fn copy_to<'a>(&'a self, _: &'a Path) -> StoreFuture<'a, ()> {
        Box::pin(async { Err(Error::invalid("a backup of a database server is made with the server's own tools")) })
    }
    fn yields_after_commit(&self) -> bool {
        self.is_cluster
    }
    fn is_cluster(&self) -> bool {
        self.is_cluster
    }
    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            // A reader that is still active after that loses its place.
            let all = u32::try_from(READERS).unwrap_or(u32::MAX);
            let _ = timeout(CLOSE_WAIT, self.readers.places.acquire_many(all)).await;
            self.readers.places.close();
            self.readers.clear();
            Ok(())
        })
    }
}

/// A connection, and whether it may still be used.
pub(super) struct Held<E: Engine> {
    /// None only while this is being dropped.
    connection: Option<Box<E::Connection>>,
    born: Instant,
    /// Set while a statement is running: if its future is dropped, the state of the connection is not known.
    busy: bool,
    in_transaction: bool,
    /// Whether the server is a member of a cluster, whose other members' commits abort transactions here. Each
    /// statement is then sent alone, so that the next one reports that the transaction is gone: with several statements
    /// in one message, a head was seen to change without its records. The setup lock is not taken, since it does not
    /// cover the cluster, Galera does not support `GET_LOCK`, and clusters were seen to hang with it.
    in_cluster: bool,
    /// The time limit of a statement.
    bound: Duration,
    /// The pool to which the connection returns after use, and its place there.
    home: Option<(Arc<Readers<E>>, OwnedSemaphorePermit)>,
}

impl<E: Engine> Held<E> {
    fn new(connection: Box<E::Connection>, born: Instant) -> Self {
        Self {
            connection: Some(connection),
            born,
            busy: false,
            in_transaction: false,
            in_cluster: false,
            bound: STATEMENT_WAIT,
            home: None,
        }
    }

    /// Refuses a read-only server, since another host may be the primary.
    async fn check_writable(&mut self) -> Result<()> {
        let mut is_writable = false;
        let sql = E::IS_WRITABLE.into();
        self.query(sql, vec![], &mut |row| {
            is_writable = row.int(0)? == 1;
            Ok(())
        })
        .await?;
        if is_writable {
            Ok(())
        } else {
            Err(unavailable("the database server is read-only (a standby or replica); use the address of the primary"))
        }
    }

    /// Performs work on the connection within the time limit.
    async fn bounded<'a, T, F>(&'a mut self, work: impl FnOnce(&'a mut E::Connection) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>> + 'a,
        E: 'a,
    {
        let Some(connection) = self.connection.as_mut().filter(|_| !self.busy) else {
            return Err(unavailable("the connection to the database server was lost"));
        };
        self.busy = true;
        let busy = &mut self.busy;
        let done = timeout(self.bound, work(connection)).await;
        match done {
            // An error of the connection itself leaves it marked as unusable.
            Ok(Err(error)) if error.code() == ErrorCode::StoreUnavailable => Err(error),
            Ok(done) => {
                *busy = false;
                done
            }
            Err(_) => {
                let seconds = self.bound.as_secs();
                Err(unavailable(&format!("the database server did not respond to a statement within {seconds} s")))
            }
        }
    }

    async fn run(&mut self, sql: Sql) -> Result<()> {
        self.bounded(|connection| E::run(connection, sql)).await
    }

    /// Executes these statements in one message: several as text, and one alone prepared, so that the server need not
    /// parse and plan it again.
    async fn send(&mut self, mut statements: Vec<Statement>) -> Result<Vec<u64>> {
        if statements.len() < 2 {
            let Some(Statement { sql, values }) = statements.pop() else { return Ok(Vec::new()) };
            return Ok(vec![self.execute(sql, values).await?]);
        }
        let mut text = String::new();
        for statement in &statements {
            literal::append(&mut text, statement, E::DIALECT);
        }
        self.bounded(|connection| Box::pin(async { E::several(connection, text, &mut |_| Ok(())).await })).await
    }
}

impl<E: Engine> Connection for Held<E> {
    fn dialect(&self) -> &'static Dialect {
        E::DIALECT
    }
    fn lock_setup(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            self.bound = SETUP_STATEMENT_WAIT;
            if self.in_cluster {
                return Ok(());
            }
            let deadline = tokio::time::Instant::now() + SETUP_WAIT;
            loop {
                let mut taken = false;
                let asked = self
                    .query(E::LOCK_SETUP.into(), vec![], &mut |row| {
                        taken = row.int_opt(0)? == Some(1);
                        Ok(())
                    })
                    .await;
                match asked {
                    Ok(()) if taken => return Ok(()),
                    Ok(()) => {}
                    Err(error) if error.code() == ErrorCode::StoreContended => {}
                    Err(error) => return Err(error),
                }
                if tokio::time::Instant::now() > deadline {
                    return Err(unavailable("another node did not finish setting up the store in time; retry later"));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    }
    fn unlock_setup(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            self.bound = STATEMENT_WAIT;
            if self.in_cluster {
                return Ok(());
            }
            self.query(E::UNLOCK_SETUP.into(), vec![], &mut |_| Ok(())).await
        })
    }
    fn allow_long_statements(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            self.bound = MIGRATION_STATEMENT_WAIT;
            match E::NO_TIME_LIMIT {
                Some(sql) => self.run(sql.into()).await,
                None => Ok(()),
            }
        })
    }
    fn begin_write(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            self.in_transaction = true;
            self.run(E::BEGIN_WRITE.into()).await
        })
    }
    fn begin_write_with<'a>(&'a mut self, first: Sql, each: &'a mut EachRow<'_>) -> StoreFuture<'a, ()> {
        self.in_transaction = true;
        Box::pin(async move {
            if self.in_cluster {
                self.run(E::BEGIN_WRITE.into()).await?;
                return self.query(first, vec![], each).await;
            }
            let text = format!("{}; {first}", E::BEGIN_WRITE);
            self.bounded(|connection| E::several(connection, text, each)).await.map(drop)
        })
    }
    fn begin_read(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            self.in_transaction = true;
            self.run(E::BEGIN_READ.into()).await
        })
    }
    fn commit(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            self.run("COMMIT".into()).await?;
            self.in_transaction = false;
            Ok(())
        })
    }
    fn rollback(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            self.run("ROLLBACK".into()).await?;
            self.in_transaction = false;
            Ok(())
        })
    }
    fn execute(&mut self, sql: Sql, values: Vec<Value>) -> StoreFuture<'_, u64> {
        Box::pin(self.bounded(|connection| E::execute(connection, sql, values)))
    }
    fn execute_all(&mut self, statements: Vec<Statement>) -> StoreFuture<'_, Vec<u64>> {
        Box::pin(async move {
            let mut changed = Vec::with_capacity(statements.len());
            let (mut small, mut bytes) = (Vec::new(), 0);
            for statement in statements {
                // Values are written in hexadecimal.
                let size = statement.sql.len() + 2 * statement.bytes();
                let is_small = !self.in_cluster && statement.values.len() <= TEXT_VALUES && size <= TEXT_BYTES;
                if !is_small || bytes + size > TEXT_BYTES {
                    changed.extend(self.send(std::mem::take(&mut small)).await?);
                    bytes = 0;
                }
                if is_small {
                    bytes += size;
                    small.push(statement);
                } else {
                    changed.push(self.execute(statement.sql, statement.values).await?);
                }
            }
            changed.extend(self.send(small).await?);
            Ok(changed)
        })
    }
    fn query<'a>(&'a mut self, sql: Sql, values: Vec<Value>, each: &'a mut EachRow<'_>) -> StoreFuture<'a, ()> {
        Box::pin(self.bounded(|connection| E::query(connection, sql, values, each)))
    }
    #[cfg(feature = "import")]
    fn message_limit(&mut self) -> StoreFuture<'_, Option<u64>> {
        Box::pin(async {
            let Some(sql) = E::MESSAGE_LIMIT else { return Ok(None) };
            let mut limit = None;
            self.query(sql.into(), vec![], &mut |row| {
                limit = row.unsigned_opt(0)?;
                Ok(())
            })
            .await?;
            Ok(limit)
        })
    }
    fn close(self: Box<Self>) -> StoreFuture<'static, ()> {
        // Dropping the connection is enough: the server rolls back an open transaction, and a pooled connection is
        // returned.
        Box::pin(async move {
            drop(self);
            Ok(())
        })
    }
}

impl<E: Engine> Drop for Held<E> {
    fn drop(&mut self) {
        let (Some(connection), Some((readers, _place))) = (self.connection.take(), self.home.take()) else { return };
        if self.busy {
            readers.clear();
        } else if !self.in_transaction {
            readers.put(connection, self.born);
        }
    }
}

/// Turns a store into a shared trait object.
pub(super) fn share<E: Engine>(store: ServerStore<E>) -> Arc<dyn Store> {
    Arc::new(store)
}

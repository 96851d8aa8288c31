//! A store with injected errors, on top of SQLite.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crate::kms::open::open_on;
use crate::session::{Session, Shared};
use crate::storage::dialect::Dialect;
use crate::storage::sqlite::SqliteStore;
use crate::storage::{Connection, EachRow, Reserve, Sql, Store, StoreFuture, Value};
use crate::{Actor, Config, Error, ErrorCode, NewKey, Result, Role};

/// Something that another process does.
type Interruption = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The faults to inject.
pub(crate) struct Faults {
    /// The next commit takes place, but reports that the connection was lost.
    pub(super) lose_answer: AtomicBool,
    /// The number of commits that do not take place.
    pub(super) lose_commits: AtomicU32,
    /// Statements with this text among their values fail with this error code.
    pub(super) poison: Mutex<Option<(String, ErrorCode)>>,
    /// The number of write transactions that were begun.
    pub(super) writes: AtomicU32,
    /// The next commit panics.
    pub(super) panics: AtomicBool,
    /// The names of the threads that committed; "caller" for those without a name.
    pub(super) committed_by: Mutex<Vec<String>>,
    /// Rolling back fails too: the connection is lost.
    pub(super) lose_rollbacks: AtomicBool,
    /// No connection is available.
    pub(super) unreachable: AtomicBool,
    /// Requests for a reading connection wait for this first.
    pub(super) gate: tokio::sync::Mutex<()>,
    /// The number of requests for a reading connection that fail.
    pub(super) lose_readers: AtomicU32,
    /// The number of reading connections after which further requests fail.
    pub(crate) readers_left: AtomicU32,
    /// The interruption before a query, and the number of queries that come first.
    interruption: Mutex<Option<(u32, Interruption)>>,
}

impl Faults {
    /// Has something done after this number of queries, before the next one.
    pub(crate) fn interrupt(&self, queries: u32, doing: impl Future<Output = ()> + Send + 'static) {
        *self.interruption.lock().unwrap() = Some((queries, Box::pin(doing)));
    }

    /// Whether there were not as many queries.
    pub(crate) fn is_uninterrupted(&self) -> bool {
        self.interruption.lock().unwrap().is_some()
    }

    fn interruption(&self) -> Option<Interruption> {
        let mut interruption = self.interruption.lock().unwrap();
        match interruption.take()? {
            (0, doing) => Some(doing),
            (queries, doing) => {
                *interruption = Some((queries - 1, doing));
                None
            }
        }
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            lose_answer: AtomicBool::new(false),
            lose_commits: AtomicU32::new(0),
            poison: Mutex::new(None),
            writes: AtomicU32::new(0),
            panics: AtomicBool::new(false),
            committed_by: Mutex::default(),
            lose_rollbacks: AtomicBool::new(false),
            unreachable: AtomicBool::new(false),
            gate: tokio::sync::Mutex::new(()),
            lose_readers: AtomicU32::new(0),
            readers_left: AtomicU32::new(u32::MAX),
            interruption: Mutex::default(),
        }
    }
}

struct FaultyStore {
    inner: SqliteStore,
    faults: Arc<Faults>,
}

impl FaultyStore {
    fn wrap<'a>(&'a self, connection: StoreFuture<'a, Box<dyn Connection>>) -> StoreFuture<'a, Box<dyn Connection>> {
        Box::pin(async move {
            if self.faults.unreachable.load(Ordering::SeqCst) {
                return Err(Error::new(ErrorCode::StoreUnavailable, "unplugged"));
            }
            let faults = Arc::clone(&self.faults);
            Ok(Box::new(FaultyConnection { inner: connection.await?, faults }) as Box<dyn Connection>)
        })
    }
}

impl Store for FaultyStore {
    fn writer(&self) -> StoreFuture<'_, Box<dyn Connection>> {
        self.wrap(self.inner.writer())
    }
    fn reader(&self) -> StoreFuture<'_, Box<dyn Connection>> {
        Box::pin(async {
            drop(self.faults.gate.lock().await);
            let lose = |n: u32| n.checked_sub(1);
            let is_last = self.faults.readers_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lose).is_err();
            if is_last || self.faults.lose_readers.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lose).is_ok() {
                return Err(Error::new(ErrorCode::StoreUnavailable, "unplugged"));
            }
            self.wrap(self.inner.reader()).await
        })
    }
    fn loader(&self, given_up: Arc<AtomicBool>) -> StoreFuture<'_, Box<dyn Connection>> {
        self.wrap(self.inner.loader(given_up))
    }
    fn claim(&self, exclusive: bool) -> Result<()> {
        self.inner.claim(exclusive)
    }
    fn blocks_thread(&self) -> bool {
        self.inner.blocks_thread()
    }
    fn copy_to<'a>(&'a self, to: &'a Path) -> StoreFuture<'a, ()> {
        self.inner.copy_to(to)
    }
    fn reserve(&self, bytes: u64) -> Reserve {
        self.inner.reserve(bytes)
    }
    fn keep_reserve(&self, bytes: u64) -> Result<()> {
        self.inner.keep_reserve(bytes)
    }
    fn release_reserve(&self) -> bool {
        self.inner.release_reserve()
    }
    fn close(&self) -> StoreFuture<'_, ()> {
        self.inner.close()
    }
}

struct FaultyConnection {
    inner: Box<dyn Connection>,
    faults: Arc<Faults>,
}

impl Connection for FaultyConnection {
    fn dialect(&self) -> &'static Dialect {
        self.inner.dialect()
    }
    fn lock_setup(&mut self) -> StoreFuture<'_, ()> {
        self.inner.lock_setup()
    }
    fn unlock_setup(&mut self) -> StoreFuture<'_, ()> {
        self.inner.unlock_setup()
    }
    fn begin_write(&mut self) -> StoreFuture<'_, ()> {
        self.faults.writes.fetch_add(1, Ordering::SeqCst);
        self.inner.begin_write()
    }
    fn begin_read(&mut self) -> StoreFuture<'_, ()> {
        self.inner.begin_read()
    }
    fn commit(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            let thread = std::thread::current().name().unwrap_or("caller").to_owned();
            self.faults.committed_by.lock().unwrap().push(thread);
            assert!(!self.faults.panics.swap(false, Ordering::SeqCst), "injected");
            let lost = || Error::new(ErrorCode::StoreUnavailable, "connection lost");
            if self.faults.lose_answer.swap(false, Ordering::SeqCst) {
                self.inner.commit().await?;
                return Err(lost());
            }
            let lose = |n: u32| n.checked_sub(1);
            if self.faults.lose_commits.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lose).is_ok() {
                return Err(lost());
            }
            self.inner.commit().await
        })
    }
    fn rollback(&mut self) -> StoreFuture<'_, ()> {
        if self.faults.lose_rollbacks.load(Ordering::SeqCst) {
            return Box::pin(async { Err(Error::new(ErrorCode::StoreUnavailable, "connection lost")) });
        }
        self.inner.rollback()
    }
    fn execute(&mut self, sql: Sql, values: Vec<Value>) -> StoreFuture<'_, u64> {
        let poison = self.faults.poison.lock().unwrap().clone();
        if let Some((text, code)) = poison
            && values.contains(&Value::from(text))
        {
            return Box::pin(async move { Err(Error::new(code, "poisoned")) });
        }
        self.inner.execute(sql, values)
    }
    fn query<'a>(&'a mut self, sql: Sql, values: Vec<Value>, each: &'a mut EachRow<'_>) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            if let Some(doing) = self.faults.interruption() {
                doing.await;
            }
            self.inner.query(sql, values, each).await
        })
    }
    fn close(self: Box<Self>) -> StoreFuture<'static, ()> {
        self.inner.close()
    }
}

pub(crate) async fn open(file: &Path) -> (Arc<Shared>, Session, Arc<Faults>) {
    let opened = reopen(file).await;
    opened.1.create_key(NewKey::aes("k")).await.unwrap();
    opened
}

/// Like the function above, on an existing store.
pub(crate) async fn reopen(file: &Path) -> (Arc<Shared>, Session, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    let config = Config::new(format!("sqlite:{}", file.display())).root_key_bytes([7; 32]);
    let shared = open_with(config, file, &faults).await.unwrap();
    let session = Session::new(Arc::clone(&shared), Actor::new("alice", Role::Admin).unwrap());
    (shared, session, faults)
}

/// Opens a store with these faults.
pub(crate) async fn open_with(config: Config, file: &Path, faults: &Arc<Faults>) -> Result<Arc<Shared>> {
    let inner = SqliteStore::open(file).await.unwrap();
    open_on(config, Arc::new(FaultyStore { inner, faults: Arc::clone(faults) })).await
}

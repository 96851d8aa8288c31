//! Tests of the ledger on a store with injected errors, on top of SQLite.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crate::kms::open::open_on;
use crate::session::{Session, Shared};
use crate::storage::dialect::Dialect;
use crate::storage::sqlite::SqliteStore;
use crate::storage::{Connection, EachRow, Reserve, Sql, Store, StoreFuture, Value};
use crate::types::view::CatalogView;
use crate::{
    Action, Actor, AuditAck, AuditQuery, Config, Context, Error, ErrorCode, NewKey, Paging, Result, Role, Status,
};

/// The faults to inject.
pub(crate) struct Faults {
    /// The next commit takes place, but reports that the connection was lost.
    lose_answer: AtomicBool,
    /// The number of commits that do not take place.
    lose_commits: AtomicU32,
    /// Statements with this text among their values fail with this error code.
    poison: Mutex<Option<(String, ErrorCode)>>,
    /// The number of write transactions that were begun.
    writes: AtomicU32,
    /// Rolling back fails too: the connection is lost.
    lose_rollbacks: AtomicBool,
    /// No connection is available.
    unreachable: AtomicBool,
    /// Requests for a reading connection wait for this first.
    gate: tokio::sync::Mutex<()>,
    /// The number of requests for a reading connection that fail.
    lose_readers: AtomicU32,
    /// The number of reading connections after which further requests fail.
    pub(crate) readers_left: AtomicU32,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            lose_answer: AtomicBool::new(false),
            lose_commits: AtomicU32::new(0),
            poison: Mutex::new(None),
            writes: AtomicU32::new(0),
            lose_rollbacks: AtomicBool::new(false),
            unreachable: AtomicBool::new(false),
            gate: tokio::sync::Mutex::new(()),
            lose_readers: AtomicU32::new(0),
            readers_left: AtomicU32::new(u32::MAX),
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
            && values.contains(&Value::Text(text))
        {
            return Box::pin(async move { Err(Error::new(code, "poisoned")) });
        }
        self.inner.execute(sql, values)
    }
    fn query<'a>(&'a mut self, sql: Sql, values: Vec<Value>, each: &'a mut EachRow<'_>) -> StoreFuture<'a, ()> {
        self.inner.query(sql, values, each)
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
    let inner = SqliteStore::open(file).await.unwrap();
    let store = Arc::new(FaultyStore { inner, faults: Arc::clone(&faults) });
    let config = Config::new(format!("sqlite:{}", file.display())).root_key_bytes([7; 32]);
    let shared = open_on(config, store).await.unwrap();
    let session = Session::new(Arc::clone(&shared), Actor::new("alice", Role::Admin).unwrap());
    (shared, session, faults)
}

/// A result that is returned before its commit is a promise, and a ledger that has stopped keeps none.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_has_stopped_releases_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let url = format!("sqlite:{}", file.display());
    let store = SqliteStore::open(&file).await.unwrap();
    let config = Config::new(&url).root_key_bytes([7; 32]).audit_ack(AuditAck::Queued);
    let shared = open_on(config, Arc::new(store)).await.unwrap();
    let session = Session::new(Arc::clone(&shared), Actor::new("alice", Role::Admin).unwrap());
    session.create_key(NewKey::aes("k")).await.unwrap();
    // A head that no record leads to: the ledger notices it with its next batch, and writes nothing more.
    let mut connection = shared.store.writer().await.unwrap();
    connection.execute("UPDATE audit_head SET seq = seq + 7".into(), vec![]).await.unwrap();
    connection.close().await.unwrap();
    while session.create_key(NewKey::aes("other")).await.is_ok() {}
    let callers: Vec<_> = (0..32)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move {
                let mut returned = 0;
                for _ in 0..100 {
                    returned += usize::from(session.encrypt("k", b"x", &Context::new()).await.is_ok());
                }
                returned
            })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap(), 0, "results without records");
    }
}

async fn size(session: &Session) -> u64 {
    let report = session.verify_audit().await.unwrap();
    assert!(report.ok, "{:?}", report.faults);
    report.size
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_lost_its_answer_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let (_shared, session, faults) = open(&folder.path().join("kms.db")).await;
    let before = size(&session).await;
    faults.lose_answer.store(true, Ordering::SeqCst);
    let sealed = session.encrypt("k", b"x", &Context::new()).await.unwrap();
    assert_eq!(sealed.receipt.seq, before + 2);
    faults.lose_answer.store(true, Ordering::SeqCst);
    session.rotate_key("k", None).await.unwrap();
    assert_eq!(session.get_key("k").await.unwrap().current_version, 2);
    session.decrypt(&sealed.ciphertext, &Context::new()).await.unwrap();
    // The verification before, the encryption, the rotation, the decryption.
    assert_eq!(size(&session).await, before + 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_did_not_take_place_fails_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (_shared, session, faults) = open(&folder.path().join("kms.db")).await;
    let before = size(&session).await;
    faults.lose_commits.store(1, Ordering::SeqCst);
    let error = session.rotate_key("k", None).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::StoreUnavailable);
    assert!(error.is_retryable());
    assert_eq!(session.get_key("k").await.unwrap().current_version, 1);
    session.rotate_key("k", None).await.unwrap();
    assert_eq!(size(&session).await, before + 2);
}

/// A row that conflicts with another one, or a statement that is too large for the server: only its submission fails.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_culprit_of_a_batch_fails() {
    let folder = tempfile::tempdir().unwrap();
    let (shared, session, faults) = open(&folder.path().join("kms.db")).await;
    for poison in [ErrorCode::Conflict, ErrorCode::InvalidConfiguration, ErrorCode::StoreCorrupt] {
        *faults.poison.lock().unwrap() = Some(("mallory".into(), poison));
        let culprit = Session::new(Arc::clone(&shared), Actor::new("mallory", Role::Admin).unwrap());
        let calls: Vec<_> = (0..100)
            .map(|i| {
                let session = if i == 42 { culprit.clone() } else { session.clone() };
                tokio::spawn(async move { session.encrypt("k", b"x", &Context::new()).await })
            })
            .collect();
        for (i, call) in calls.into_iter().enumerate() {
            match call.await.unwrap() {
                Ok(_) => assert_ne!(i, 42),
                Err(error) => assert_eq!((i, error.code()), (42, poison)),
            }
        }
        *faults.poison.lock().unwrap() = None;
    }
    size(&session).await;
}

/// A request that is sent many times concurrently takes effect once, and the copies do not make the ledger commit its
/// batch submission by submission.
#[tokio::test(flavor = "multi_thread")]
async fn copies_of_a_request_do_not_dissolve_a_batch() {
    let folder = tempfile::tempdir().unwrap();
    let (_shared, session, faults) = open(&folder.path().join("kms.db")).await;
    let before = faults.writes.load(Ordering::SeqCst);
    let copies: Vec<_> = (0..400)
        .map(|i| {
            let session = session.with_idempotency_key("the same").unwrap();
            let name = if i % 2 == 0 { "one" } else { "other" };
            tokio::spawn(async move { session.create_key(NewKey::aes(name)).await.map(|key| key.id) })
        })
        .collect();
    let (mut answers, mut conflicts) = (Vec::new(), 0);
    for copy in copies {
        match copy.await.unwrap() {
            Ok(answer) => answers.push(answer),
            Err(error) => {
                // The same key for two different requests: one of them takes effect.
                assert_eq!(error.code(), ErrorCode::IdempotencyConflict);
                conflicts += 1;
            }
        }
    }
    answers.dedup();
    assert!(answers.len() == 1 && conflicts == 200, "{answers:?}, {conflicts} conflicts");
    let writes = faults.writes.load(Ordering::SeqCst) - before;
    assert!(writes < 50, "{writes} transactions");
    // No copy is in the log as a failure.
    assert_eq!(
        session.list_audit(&AuditQuery::new().status(Status::Failure), &Paging::new(10)).await.unwrap().items,
        []
    );
    size(&session).await;
}

/// A copy that arrives after the first one took effect fails because of that, and gets the first one's answer.
#[tokio::test(flavor = "multi_thread")]
async fn copies_of_a_request_are_no_failures() {
    let folder = tempfile::tempdir().unwrap();
    let (_shared, session, _faults) = open(&folder.path().join("kms.db")).await;
    for round in 0..20 {
        let session = session.with_idempotency_key(&format!("request {round}")).unwrap();
        let copies: Vec<_> = (0..20)
            .map(|_| {
                let session = session.clone();
                tokio::spawn(async move { session.create_key(NewKey::aes(format!("key {round}"))).await.map(|k| k.id) })
            })
            .collect();
        for copy in copies {
            copy.await.unwrap().unwrap();
        }
        let copies: Vec<_> = (0..20)
            .map(|_| {
                let session = session.with_idempotency_key(&format!("revocation {round}")).unwrap();
                tokio::spawn(async move { session.revoke_key(format!("key {round}").as_str()).await.map(|_| ()) })
            })
            .collect();
        for copy in copies {
            copy.await.unwrap().unwrap();
        }
    }
    let failures = session.list_audit(&AuditQuery::new().status(Status::Failure), &Paging::new(10)).await.unwrap();
    assert_eq!(failures.items, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn service_resumes_when_the_store_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let (_shared, session, faults) = open(&folder.path().join("kms.db")).await;
    let sealed = session.encrypt("k", b"x", &Context::new()).await.unwrap();
    faults.unreachable.store(true, Ordering::SeqCst);
    faults.lose_commits.store(1, Ordering::SeqCst);
    // The commit fails, and without a connection its outcome cannot be checked; the engine confirmed the rollback, so
    // the caller gets a definite answer.
    let error = session.encrypt("k", b"x", &Context::new()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::StoreUnavailable);
    assert_eq!(session.get_key("k").await.unwrap_err().code(), ErrorCode::StoreUnavailable);
    faults.unreachable.store(false, Ordering::SeqCst);
    session.decrypt(&sealed.ciphertext, &Context::new()).await.unwrap();
    size(&session).await;
}

/// The store is lost during a commit that took place, for longer than callers wait.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_cannot_be_found_out_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let (_shared, session, faults) = open(&folder.path().join("kms.db")).await;
    let before = size(&session).await;
    faults.lose_answer.store(true, Ordering::SeqCst);
    faults.lose_rollbacks.store(true, Ordering::SeqCst);
    faults.unreachable.store(true, Ordering::SeqCst);
    let error = session.rotate_key("k", None).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::OutcomeUnknown);
    assert!(!error.is_retryable());
    faults.lose_rollbacks.store(false, Ordering::SeqCst);
    faults.unreachable.store(false, Ordering::SeqCst);
    // The commit took place, and the service continues from there.
    session.encrypt("k", b"x", &Context::new()).await.unwrap();
    assert_eq!(session.get_key("k").await.unwrap().current_version, 2);
    assert_eq!(size(&session).await, before + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_encrypts_no_more_than_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let (_shared, session, _) = open(&file).await;
    let url = format!("sqlite:{}", file.display());
    let mut raw = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
    let limit = i64::try_from(crate::types::limits::ENCRYPTIONS_MAX).unwrap();
    sqlx::query("UPDATE version_usage SET encryptions = ?").bind(limit - 10).execute(&mut raw).await.unwrap();
    let sealed = session.encrypt("k", b"x", &Context::new()).await.unwrap();
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move { session.encrypt("k", b"x", &Context::new()).await })
        })
        .collect();
    let mut succeeded = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => succeeded += 1,
            Err(error) => assert_eq!(error.code(), ErrorCode::KeyExhausted),
        }
    }
    // A batch that exceeds the limit is refused; the limit is never exceeded.
    assert!(succeeded <= 9, "{succeeded}");
    let count = session.get_version("k", 1).await.unwrap().encryptions.unwrap();
    assert_eq!(i64::try_from(count).unwrap(), limit - 9 + succeeded);
    session.decrypt(&sealed.ciphertext, &Context::new()).await.unwrap();
    let metrics = session.metrics().await.unwrap();
    assert_eq!(metrics.keys.near_encryption_limit.len(), 1);
    session.rotate_key("k", None).await.unwrap();
    session.encrypt("k", b"x", &Context::new()).await.unwrap();
    size(&session).await;
}

/// A caller that waits for another's check of the store must not accept one that failed or was aborted.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_failed_has_seen_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let (shared, _session, faults) = open(&file).await;
    let config = Config::new(format!("sqlite:{}", file.display())).root_key_bytes([7; 32]);
    let elsewhere = crate::kms::open::open(config).await.unwrap();
    let session = Session::new(elsewhere, Actor::new("alice", Role::Admin).unwrap());
    for given_up in [false, true] {
        let closed = faults.gate.lock().await;
        let mut looks = Vec::new();
        for _ in 0..3 {
            let shared = Arc::clone(&shared);
            looks.push(tokio::spawn(async move { shared.catalog.ensure_fresh().await }));
            // In this order, one after the other.
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        }
        session.rotate_key("k", None).await.unwrap();
        faults.lose_readers.store(if given_up { 1 } else { 2 }, Ordering::SeqCst);
        drop(closed);
        let last = looks.pop().unwrap();
        if given_up {
            looks[1].abort();
        }
        last.await.unwrap().unwrap();
        let present = session.get_key("k").await.unwrap();
        let known = shared.catalog.snapshot().key(present.id).map(|key| key.current_version);
        assert_eq!(known, Some(present.current_version), "given up: {given_up}");
    }
}

/// Released results are recorded unchanged in the log, also when they reach the version's limit.
#[tokio::test(flavor = "multi_thread")]
async fn released_encryptions_at_the_limit_are_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let (shared, session, _) = open(&file).await;
    shared.ledger.close(std::time::Duration::from_secs(30)).await.unwrap();
    shared.store.close().await.unwrap();
    drop((session, shared));
    let url = format!("sqlite:{}", file.display());
    let mut raw = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
    let limit = i64::try_from(crate::types::limits::ENCRYPTIONS_MAX).unwrap();
    sqlx::query("UPDATE version_usage SET encryptions = ?").bind(limit - 5).execute(&mut raw).await.unwrap();
    sqlx::Connection::close(raw).await.unwrap();
    let config = Config::new(&url).root_key_bytes([7; 32]).audit_ack(AuditAck::Queued);
    let shared = crate::kms::open::open(config.clone()).await.unwrap();
    let session = Session::new(shared.clone(), Actor::new("alice", Role::Admin).unwrap());
    let mut succeeded = 0u64;
    let error = loop {
        match session.encrypt("k", b"x", &Context::new()).await {
            Ok(_) => succeeded += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), ErrorCode::KeyExhausted);
    shared.ledger.close(std::time::Duration::from_secs(30)).await.unwrap();
    shared.store.close().await.unwrap();
    drop((session, shared));
    let shared = crate::kms::open::open(config).await.unwrap();
    let session = Session::new(shared.clone(), Actor::new("alice", Role::Admin).unwrap());
    let query = AuditQuery::new().action(Action::Encrypt).status(Status::Success);
    let (mut recorded, mut paging) = (0, Paging::new(1_000));
    loop {
        let page = session.list_audit(&query, &paging).await.unwrap();
        recorded += page.items.len() as u64;
        paging.cursor = page.next_cursor;
        if paging.cursor.is_none() {
            break;
        }
    }
    assert!(succeeded >= 5, "{succeeded}");
    assert_eq!(recorded, succeeded);
    size(&session).await;
}

/// Closing a ledger whose store cannot be written takes no longer than allowed, and leaves no caller waiting.
#[tokio::test(flavor = "multi_thread")]
async fn closing_is_bounded_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let (shared, session, _) = open(&file).await;
    let url = format!("sqlite:{}", file.display());
    let mut raw = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut raw).await.unwrap();
    let calls: Vec<_> = (0..5)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move { session.encrypt("k", b"x", &Context::new()).await.map(drop) })
        })
        .collect();
    // One is being written, others may wait.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let begun = std::time::Instant::now();
    let closed = shared.ledger.close(std::time::Duration::from_millis(200)).await;
    assert_eq!(closed.unwrap_err().code(), ErrorCode::StoreUnavailable);
    assert!(begun.elapsed() < std::time::Duration::from_secs(2));
    assert_eq!(session.encrypt("k", b"x", &Context::new()).await.unwrap_err().code(), ErrorCode::Closed);
    sqlx::query("ROLLBACK").execute(&mut raw).await.unwrap();
    for call in calls {
        let _ = tokio::time::timeout(std::time::Duration::from_secs(20), call).await.unwrap().unwrap();
    }
}

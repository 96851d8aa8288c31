//! Shared by the suites: a service on a temporary store, with a clock that can be moved.

#![allow(dead_code, clippy::unwrap_used, reason = "every suite uses a part")]

pub mod output;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use kms_lib::{
    Actor, AuditQuery, AuditRecord, Clock, Config, Context, Error, ErrorCode, Kms, NewKey, Paging, Role,
    SchedulerConfig, Session, Timestamp,
};
pub use kms_test_support::engine;
use tempfile::TempDir;

/// The root key of most suites.
pub const ROOT_KEY: [u8; 32] = [7; 32];
/// The plaintext that most suites encrypt. It must never appear in any output.
const PLAINTEXT: &[u8] = b"a plaintext that nobody prints";

/// A separate store: a file, or a new database on a server, depending on `KMS_TEST_ENGINE`.
pub struct Place {
    pub folder: TempDir,
    ahead: Arc<AtomicI64>,
    url: String,
}

impl Place {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = engine::new_store(&folder.path().join("kms.db"));
        Self::at(folder, url)
    }
    /// A store in a file whatever the engine is, for tests that need files.
    pub fn in_a_file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("kms.db").display());
        Self::at(folder, url)
    }
    pub fn at(folder: TempDir, url: String) -> Self {
        output::trace();
        output::secret(&ROOT_KEY);
        Self { folder, ahead: Arc::default(), url }
    }
    pub fn file(&self) -> PathBuf {
        assert!(self.is_a_file(), "this suite is not for servers");
        self.folder.path().join("kms.db")
    }
    pub fn is_a_file(&self) -> bool {
        self.url.starts_with("sqlite:")
    }
    pub fn url(&self) -> String {
        self.url.clone()
    }
    /// The configuration: a root key, the movable clock, and a scheduler that runs only on request.
    pub fn config(&self) -> Config {
        let ahead = Arc::clone(&self.ahead);
        let clock =
            Clock::new(move || Timestamp::from_micros(Timestamp::now().micros() + ahead.load(Ordering::SeqCst)));
        Config::new(self.url())
            .root_key_bytes(ROOT_KEY)
            .clock(clock.skip_skew_check())
            .scheduler(SchedulerConfig::disabled())
    }
    /// The time of the movable clock.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_micros(Timestamp::now().micros() + self.ahead.load(Ordering::SeqCst))
    }
    pub async fn open(&self) -> Kms {
        Kms::open(self.config()).await.unwrap()
    }
    /// Moves the clock by this number of days.
    pub fn pass_days(&self, days: i64) {
        self.ahead.fetch_add(days * 86_400_000_000, Ordering::SeqCst);
    }
    pub fn pass_seconds(&self, seconds: i64) {
        self.ahead.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }
    /// Copies the store, whose file no process has open, so that every test case begins with an intact one.
    pub fn copy(&self) -> Self {
        let new = Self::new();
        std::fs::copy(self.file(), new.file()).unwrap();
        new
    }
    /// The number of wrappings under this generation of the root key.
    pub async fn wrappings_under(&self, generation: u32) -> i64 {
        self.number(&format!("SELECT COUNT(*) FROM wrappings WHERE generation = {generation}")).await
    }
    /// Executes statements directly on the database, bypassing the service.
    pub async fn tamper(&self, sql: &str) {
        assert!(self.try_tamper(sql).await, "the database refuses {sql}");
    }
    /// Like [`tamper`](Self::tamper), but returns whether the database executed them.
    pub async fn try_tamper(&self, sql: &str) -> bool {
        engine::execute(&self.url, sql).await
    }
    /// Returns the only number in a query's result.
    pub async fn number(&self, sql: &str) -> i64 {
        engine::number(&self.url, sql).await
    }
}

pub fn actor(principal: &str, role: Role) -> Actor {
    Actor::new(principal, role).unwrap()
}

pub fn admin(kms: &Kms) -> Session {
    output::trace();
    kms.session(actor("alice", Role::Admin))
}

/// Returns the code of an error.
#[track_caller]
pub fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorCode {
    let error = result.unwrap_err();
    // Formatted as applications would log it.
    tracing::trace!(target: "kms_lib::tests", %error, ?error, message = error.message());
    error.code()
}

/// Asserts that the store works: a key can be created and used, and the log has no fault.
pub async fn check_usable(kms: &Kms) {
    output::secret(PLAINTEXT);
    let session = admin(kms);
    let name = format!("check-{}", kms_lib::KeyId::random().to_string().replace('-', "_"));
    let key = session.create_key(NewKey::aes(name)).await.unwrap();
    let sealed = session.encrypt(key.id, PLAINTEXT, &Context::new()).await.unwrap();
    let opened = session.decrypt(&sealed.ciphertext, &Context::new()).await.unwrap();
    assert_eq!(opened.plaintext.as_slice(), PLAINTEXT);
    let data_key = session.generate_data_key(key.id, 32, &Context::new()).await.unwrap();
    output::secret(data_key.plaintext.as_deref().unwrap());
    tracing::trace!(target: "kms_lib::tests", ?session, ?key, ?sealed, ?opened, ?data_key, ?kms);
    let report = session.verify_audit().await.unwrap();
    assert!(report.ok, "{:?}", report.faults);
}

/// Returns the newest record.
pub async fn last_record(session: &Session) -> AuditRecord {
    let page = session.list_audit(&AuditQuery::new(), &Paging::new(1)).await.unwrap();
    page.items.into_iter().next().unwrap()
}

/// Returns the whole log, oldest first.
pub async fn whole_log(session: &Session) -> Vec<AuditRecord> {
    let (query, mut paging) = (AuditQuery::new().oldest_first(), Paging::new(1_000));
    let mut rows = Vec::new();
    loop {
        let page = session.list_audit(&query, &paging).await.unwrap();
        rows.extend(page.items);
        paging.cursor = page.next_cursor;
        if paging.cursor.is_none() {
            return rows;
        }
    }
}

//! What the suites share: a service on a temporary file, with a clock that can be moved.

#![allow(dead_code, clippy::unwrap_used, reason = "every suite uses a part")]

pub mod engine;
pub mod output;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use kms_lib::{
    Actor, AuditQuery, AuditRecord, Clock, Config, Context, Error, ErrorCode, Kms, NewKey, Paging, Role,
    SchedulerConfig, Session, Timestamp,
};
use tempfile::TempDir;

/// The root key of most suites.
pub const ROOT_KEY: [u8; 32] = [7; 32];
/// What most suites encrypt in between. Nobody prints it.
const PLAINTEXT: &[u8] = b"a plaintext that nobody prints";

/// A store of its own: a file, or a new database on a server, as `KMS_TEST_ENGINE` says.
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
    /// A store in a file, whatever the engine is: for what only files can do.
    pub fn in_a_file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("kms.db").display());
        Self::at(folder, url)
    }
    fn at(folder: TempDir, url: String) -> Self {
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
    /// Its configuration: a root key, the movable clock, a scheduler that runs only when asked.
    pub fn config(&self) -> Config {
        let ahead = Arc::clone(&self.ahead);
        let clock =
            Clock::new(move || Timestamp::from_micros(Timestamp::now().micros() + ahead.load(Ordering::SeqCst)));
        Config::new(self.url())
            .root_key_bytes(ROOT_KEY)
            .clock(clock.skip_skew_check())
            .scheduler(SchedulerConfig::disabled())
    }
    /// The movable clock's time.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_micros(Timestamp::now().micros() + self.ahead.load(Ordering::SeqCst))
    }
    pub async fn open(&self) -> Kms {
        Kms::open(self.config()).await.unwrap()
    }
    /// Moves the clock.
    pub fn pass_days(&self, days: i64) {
        self.ahead.fetch_add(days * 86_400_000_000, Ordering::SeqCst);
    }
    pub fn pass_seconds(&self, seconds: i64) {
        self.ahead.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }
    /// Executes statements on the database behind the service's back.
    pub async fn tamper(&self, sql: &str) {
        assert!(self.try_tamper(sql).await, "the database refuses {sql}");
    }
    /// The same; answers whether the database does it.
    pub async fn try_tamper(&self, sql: &str) -> bool {
        engine::execute(&self.url, sql).await
    }
    /// The only number that a query answers with.
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

/// The code of an error.
#[track_caller]
pub fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorCode {
    let error = result.unwrap_err();
    // As applications would write it to their logs.
    tracing::trace!(target: "kms_lib::tests", %error, ?error, message = error.message());
    error.code()
}

/// The store works: a key is made and used, and the log is good.
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

/// The newest record.
pub async fn last_record(session: &Session) -> AuditRecord {
    let page = session.list_audit(&AuditQuery::new(), &Paging::new(1)).await.unwrap();
    page.items.into_iter().next().unwrap()
}

/// The whole log, oldest first.
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

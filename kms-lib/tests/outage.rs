//! Log lines about an outage of the store.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use kms_lib::{Actor, Config, Context, ErrorCode, Kms, NewKey, Role, Session};
use kms_test_support::{MariaDb, Postgres, Server};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard};

/// A writer that collects log lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn take(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }
}

/// Collects the log lines of this process, for one test at a time.
async fn logged() -> (Lines, MutexGuard<'static, ()>) {
    static LINES: OnceLock<Lines> = OnceLock::new();
    static ONE: AsyncMutex<()> = AsyncMutex::const_new(());
    let one = ONE.lock().await;
    let lines = LINES.get_or_init(|| {
        let lines = Lines::default();
        let writer = lines.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        lines
    });
    (lines.clone(), one)
}

async fn open(url: String) -> (Kms, Session) {
    let kms = Kms::open(Config::new(url).root_key_bytes([7; 32])).await.unwrap();
    let session = kms.session(Actor::new("alice", Role::Admin).unwrap());
    session.create_key(NewKey::aes("k")).await.unwrap();
    session.encrypt("k", b"x", &Context::new()).await.unwrap();
    (kms, session)
}

/// Sends requests for this long. All must fail. Returns their number.
async fn fail(session: &Session, time: Duration, codes: &[ErrorCode]) -> usize {
    let begun = Instant::now();
    let mut failed = 0;
    while begun.elapsed() < time {
        let error = session.encrypt("k", b"x", &Context::new()).await.unwrap_err();
        assert!(codes.contains(&error.code()), "{error}");
        failed += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    failed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_logged_when_it_begins_and_when_it_ends() {
    let (lines, _one) = logged().await;
    let folder = tempfile::tempdir().unwrap();
    let (file, away) = (folder.path().join("kms.db"), folder.path().join("away.db"));
    let (kms, session) = open(format!("sqlite:{}", file.display())).await;
    lines.take();
    std::fs::rename(&file, &away).unwrap();
    let failed = fail(&session, Duration::from_secs(3), &[ErrorCode::StoreUnavailable]).await;
    std::fs::rename(&away, &file).unwrap();
    let during = lines.take();
    assert!(failed > 50, "{failed}");
    // At most one line about reading and one about writing. The high-water file causes none.
    assert!((1..=2).contains(&during.len()), "{during:#?}");
    session.encrypt("k", b"x", &Context::new()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let after = lines.take();
    assert!(!after.is_empty() && after.iter().all(|line| line.contains("the outage has ended")), "{after:#?}");
    assert!(after.iter().any(|line| line.contains(&format!("failed={failed}"))), "{failed}: {after:#?}");
    kms.close().await.unwrap();
}

/// An outage of a database server, which is killed.
async fn server_goes_away(server: Option<impl Server>) {
    let Some(mut server) = server else { return eprintln!("SKIPPED: the server is not installed") };
    let (lines, _one) = logged().await;
    let (kms, session) = open(server.create_database()).await;
    lines.take();
    server.kill();
    // The first request may have been in progress.
    let codes = [ErrorCode::StoreUnavailable, ErrorCode::OutcomeUnknown];
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move { fail(&session, Duration::from_secs(5), &codes).await })
        })
        .collect();
    let mut failed = 0;
    for caller in callers {
        failed += caller.await.unwrap();
    }
    let during = lines.take();
    assert!(failed > 16, "{failed}");
    assert!((1..=4).contains(&during.len()), "{failed} requests failed: {during:#?}");
    server.start();
    let mut tries = 0;
    while session.encrypt("k", b"x", &Context::new()).await.is_err() {
        tries += 1;
        assert!(tries < 600, "the service does not resume");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = lines.take();
    assert!(after.iter().any(|line| line.contains("the outage has ended")), "{after:#?}");
    assert!(after.len() <= 4, "{after:#?}");
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_mariadb_is_logged_when_it_begins_and_when_it_ends() {
    server_goes_away(MariaDb::try_new(&[])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_postgresql_is_logged_when_it_begins_and_when_it_ends() {
    server_goes_away(Postgres::try_new(&[])).await;
}

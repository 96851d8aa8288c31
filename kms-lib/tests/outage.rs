//! A store that goes away and comes back: what the logs say of it.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kms_lib::{Actor, Config, Context, ErrorCode, Kms, NewKey, Role};

/// What is logged.
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_logged_when_it_begins_and_when_it_ends() {
    let lines = Lines::default();
    let writer = lines.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let folder = tempfile::tempdir().unwrap();
    let (file, away) = (folder.path().join("kms.db"), folder.path().join("away.db"));
    let kms = Kms::open(Config::new(format!("sqlite:{}", file.display())).root_key_bytes([7; 32])).await.unwrap();
    let session = kms.session(Actor::new("alice", Role::Admin).unwrap());
    session.create_key(NewKey::aes("k")).await.unwrap();
    session.encrypt("k", b"x", &Context::new()).await.unwrap();
    lines.take();
    std::fs::rename(&file, &away).unwrap();
    let begun = Instant::now();
    let mut failed = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        let error = session.encrypt("k", b"x", &Context::new()).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::StoreUnavailable);
        failed += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    std::fs::rename(&away, &file).unwrap();
    let during = lines.take();
    assert!(failed > 50, "{failed}");
    // One that it cannot be read, one that it cannot be written, and the high-water file has none.
    assert!((1..=2).contains(&during.len()), "{during:#?}");
    session.encrypt("k", b"x", &Context::new()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let after = lines.take();
    assert!(!after.is_empty() && after.iter().all(|line| line.contains("that is over")), "{after:#?}");
    assert!(after.iter().any(|line| line.contains(&format!("failed={failed}"))), "{failed}: {after:#?}");
    kms.close().await.unwrap();
}

//! SIGKILL at random moments while a process adds root keys, rewraps, verifies and retires in a loop: the next open
//! works with the configured keys, nothing is lost, and the work continues.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{admin, check_usable};
use kms_lib::RootKeyState;
use kms_lib::{Actor, Config, Context, Kms, NewKey, Role, RootKeySource, Session};
use kms_lib::{RetireOptions, RootKeyJob};

const CHILD: &str = "KMS_TEST_ROOT_KEY_FILE";
/// The largest number of generations in the test.
const KEYS: u32 = 600;

fn key(generation: u32) -> [u8; 32] {
    assert!(generation <= KEYS, "the test needs more root keys");
    let mut key = [7; 32];
    key[..4].copy_from_slice(&generation.to_be_bytes());
    key
}

/// A configuration with the keys of all generations. The store opens with any that fits.
fn config(file: &Path) -> Config {
    let config = Config::new(format!("sqlite:{}", file.display())).root_key_bytes(key(1));
    (2..=KEYS).fold(config, |config, generation| config.add_root_key_bytes(key(generation)))
}

/// Adds a generation if only one is active. Otherwise moves to the newest: rewraps, verifies, and retires the others.
async fn step(session: &Session) {
    let listed = session.list_root_keys().await.unwrap();
    let active: Vec<u32> =
        listed.iter().filter(|root| root.state == RootKeyState::Active).map(|root| root.generation).collect();
    let newest = listed.last().unwrap().generation;
    if active.len() == 1 {
        session.add_root_key(&RootKeySource::from_bytes(key(newest + 1))).await.unwrap();
        return;
    }
    let report = session.rewrap(&RootKeyJob::default()).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    let report = session.verify_root_key(newest, &RootKeyJob::default()).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    for generation in active.into_iter().filter(|generation| *generation != newest) {
        session.retire_root_key(generation, &RetireOptions::default()).await.unwrap();
    }
}

/// Not a test: the child process, which works until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_process() {
    let Some(file) = std::env::var_os(CHILD) else { return };
    let kms = Kms::open(config(Path::new(&file))).await.unwrap();
    let session = kms.session(Actor::new("child", Role::Admin).unwrap());
    loop {
        step(&session).await;
    }
}

#[tokio::test]
async fn every_step_survives_sigkill() {
    let full = std::env::var("KMS_TEST_MODE").is_ok_and(|mode| mode == "full");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let kms = Kms::open(config(&file)).await.unwrap();
    let session = admin(&kms);
    let mut sealed = Vec::new();
    for n in 0..300 {
        let key = session.create_key(NewKey::aes(format!("k{n}"))).await.unwrap();
        sealed.push(session.encrypt(key.id, b"x", &Context::new()).await.unwrap().ciphertext);
    }
    kms.close().await.unwrap();
    for round in 0..if full { 60 } else { 8 } {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_process", "--nocapture", "--test-threads=1"])
            .env(CHILD, &file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let random = u64::from(rand::random::<u8>());
        tokio::time::sleep(Duration::from_millis(300 + 5 * random)).await;
        // The child must not have ended before the kill.
        assert!(child.try_wait().unwrap().is_none(), "round {round}: the child failed");
        child.kill().unwrap();
        child.wait().unwrap();

        let kms = Kms::open(config(&file)).await.unwrap();
        let session = admin(&kms);
        let report = session.verify_audit().await.unwrap();
        assert!(report.ok, "round {round}: {:?}", report.faults);
        for ciphertext in sealed.iter().step_by(7) {
            session.decrypt(ciphertext, &Context::new()).await.unwrap();
        }
        check_usable(&kms).await;
        kms.close().await.unwrap();
    }
    let kms = Kms::open(config(&file)).await.unwrap();
    let session = admin(&kms);
    for _ in 0..2 {
        step(&session).await;
    }
    let listed = session.list_root_keys().await.unwrap();
    assert!(listed.len() > 2, "the children made only {} generations", listed.len());
    let newest = listed.last().unwrap().generation;
    kms.run_scheduler().await.unwrap();
    kms.close().await.unwrap();
    // The keys of the last two generations open the store.
    let last = Config::new(format!("sqlite:{}", file.display())).root_key_bytes(key(newest));
    let kms = Kms::open(last.add_root_key_bytes(key(newest - 1))).await.unwrap();
    for ciphertext in &sealed {
        admin(&kms).decrypt(ciphertext, &Context::new()).await.unwrap();
    }
    kms.close().await.unwrap();
}

//! SIGKILL before and after every commit of the replacement of a leaked root key: adding, rewrapping, marking,
//! replacing the service's own keys, verifying, retiring and erasing. After each kill, the next process opens the store
//! without loss and completes the replacement.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use common::{admin, check_usable};
use kms_lib::{
    Actor, Config, Context, ErrorCode, Kms, NewKey, RetireOptions, Role, RootKeyJob, RootKeySource, RootKeyState,
    SchedulerConfig, Session,
};
use tracing::span::{Attributes, Id};
use tracing_subscriber::layer::{Context as Layered, Layer, SubscriberExt};

const FILE: &str = "KMS_TEST_STEPS_FILE";
const STEP: &str = "KMS_TEST_STEPS_KILL_AT";
const FIRST: [u8; 32] = [1; 32];
const SECOND: [u8; 32] = [2; 32];
/// More keys than rewrapping handles in one page.
const KEYS: usize = 105;

fn only(file: &Path, key: [u8; 32]) -> Config {
    let config = Config::new(format!("sqlite:{}", file.display())).scheduler(SchedulerConfig::disabled());
    config.root_key_bytes(key)
}

fn config(file: &Path) -> Config {
    only(file, FIRST).add_root_key_bytes(SECOND)
}

/// Kills the process at one chosen moment, of those before and after each change.
struct Killer {
    at: u32,
    passed: AtomicU32,
}

impl Killer {
    fn pass(&self) {
        if self.passed.fetch_add(1, Ordering::SeqCst) + 1 == self.at {
            let _ = Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
        }
    }
}

impl<S> Layer<S> for Killer
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Layered<'_, S>) {
        if attributes.metadata().name() == "kms.change" {
            self.pass();
        }
    }
    fn on_close(&self, id: Id, context: Layered<'_, S>) {
        if context.span(&id).is_some_and(|span| span.name() == "kms.change") {
            self.pass();
        }
    }
}

/// Replaces the first root key, from the step at which an earlier process was killed.
async fn work(session: &Session) {
    let (job, leaked) = (RootKeyJob::default(), RetireOptions::default().compromised(true));
    if session.list_root_keys().await.unwrap().len() == 1 {
        session.add_root_key(&RootKeySource::from_bytes(SECOND)).await.unwrap();
    }
    let report = session.rewrap(&job).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    match session.retire_root_key(1, &leaked).await {
        Ok(retired) => return assert!(!retired.erasure_pending),
        Err(error) => assert_eq!(error.code(), ErrorCode::WrongState, "{error}"),
    }
    session.replace_signing_key().await.unwrap();
    session.replace_integrity_key().await.unwrap();
    // The interrupted rewrapping may have begun before the generation was marked.
    session.replace_integrity_key().await.unwrap();
    let report = session.verify_root_key(2, &job).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    session.retire_root_key(1, &leaked).await.unwrap();
}

/// Not a test: the child process, which works until it is killed or has finished.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_process() {
    let Some(file) = std::env::var_os(FILE) else { return };
    let kms = Kms::open(config(Path::new(&file))).await.unwrap();
    let at = std::env::var(STEP).unwrap().parse().unwrap();
    let killer = Killer { at, passed: AtomicU32::new(0) };
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(killer)).unwrap();
    work(&kms.session(Actor::new("child", Role::Admin).unwrap())).await;
    kms.close().await.unwrap();
}

fn run_child(file: &Path, at: u32) -> ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_process", "--nocapture", "--test-threads=1"])
        .env(FILE, file)
        .env(STEP, at.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
}

/// Creates a store with keys and closes it. Returns ciphertexts of some keys.
async fn prepare(file: &Path) -> Vec<Vec<u8>> {
    let kms = Kms::open(config(file)).await.unwrap();
    let session = admin(&kms);
    let mut sealed = Vec::new();
    for n in 0..KEYS {
        let key = session.create_key(NewKey::aes(format!("k{n}"))).await.unwrap();
        if n % 10 == 0 {
            sealed.push(session.encrypt(key.id, b"x", &Context::new()).await.unwrap().ciphertext);
        }
    }
    kms.close().await.unwrap();
    sealed
}

async fn decrypt(kms: &Kms, sealed: &[Vec<u8>]) {
    for ciphertext in sealed {
        admin(kms).decrypt(ciphertext, &Context::new()).await.unwrap();
    }
}

/// Checks that the store verifies, completes the replacement, and checks that the first root key is no longer needed.
async fn complete(file: &Path, sealed: &[Vec<u8>]) {
    let kms = Kms::open(config(file)).await.unwrap();
    let report = admin(&kms).verify_audit().await.unwrap();
    assert!(report.ok, "{:?}", report.faults);
    decrypt(&kms, sealed).await;
    check_usable(&kms).await;
    work(&admin(&kms)).await;
    let listed = admin(&kms).list_root_keys().await.unwrap();
    assert_eq!((listed.len(), listed[0].state, listed[0].wrappings), (2, RootKeyState::Retired, 0));
    kms.close().await.unwrap();
    let kms = Kms::open(only(file, SECOND)).await.unwrap();
    decrypt(&kms, sealed).await;
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

#[tokio::test]
async fn every_step_can_be_the_last_of_its_process() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original.db");
    let sealed = prepare(&original).await;
    let mut steps = 0;
    for at in 1.. {
        let file = folder.path().join(format!("{at}.db"));
        std::fs::copy(&original, &file).unwrap();
        let status = run_child(&file, at);
        let is_killed = status.signal() == Some(9);
        assert!(is_killed || status.success(), "moment {at}: {status}");
        complete(&file, &sealed).await;
        if !is_killed {
            break;
        }
        steps = at;
    }
    // Add, rewrap in two pages, mark, the refusal, two replacements with their pages, verify in two pages, retire and
    // erase: at least 20 changes, each with a moment before and after it.
    assert!(steps >= 40, "only {steps} moments");
}

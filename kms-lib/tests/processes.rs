//! Several processes on one file: a revocation in one process holds in the others, and a process that is killed while
//! it has the lock does not block the others.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{ROOT_KEY, actor, admin, check_usable};
use kms_lib::{Config, Context, ErrorCode, Kms, NewKey, Role};
use sqlx::{Connection, SqliteConnection};

const CHILD: &str = "KMS_TEST_PROCESSES";
const FILE: &str = "KMS_TEST_PROCESSES_FILE";

fn config(file: &Path) -> Config {
    Config::new(format!("sqlite:{}", file.display())).root_key_bytes(ROOT_KEY)
}

fn spawn(role: &str, file: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_process", "--nocapture", "--test-threads=1"])
        .env(CHILD, role)
        .env(FILE, file)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Not a test: the code of the child processes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_process() {
    let (Ok(role), Some(file)) = (std::env::var(CHILD), std::env::var_os(FILE)) else { return };
    match role.as_str() {
        "uses" => uses(Path::new(&file)).await,
        "locks" => locks(Path::new(&file)).await,
        other => panic!("{other}"),
    }
}

/// The newest version whose revocation has returned. None at the end of the test.
fn revoked(file: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(file.with_file_name("revoked")).unwrap();
    text.parse().ok()
}

fn announce(file: &Path, what: &str) {
    let new = file.with_file_name("revoked.new");
    std::fs::write(&new, what).unwrap();
    std::fs::rename(&new, file.with_file_name("revoked")).unwrap();
}

/// Encrypts and decrypts continuously. No operation that begins after the announcement of a revocation may succeed with
/// that version.
async fn uses(file: &Path) {
    let kms = Kms::open(config(file)).await.unwrap();
    let successes = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let session = kms.session(actor("user", Role::Admin));
            let (file, successes) = (file.to_owned(), Arc::clone(&successes));
            tokio::spawn(async move {
                let mut blob = None;
                let none = Context::new();
                while let Some(before) = revoked(&file) {
                    let made = session.encrypt("doomed", b"x", &none).await.map(|made| {
                        blob = Some(made.ciphertext);
                        made.version
                    });
                    check(made.map_err(|error| error.code()), before, &successes);
                    let Some((blob, before)) = blob.as_deref().zip(revoked(&file)) else { continue };
                    let opened = session.decrypt(blob, &none).await.map(|opened| opened.version);
                    check(opened.map_err(|error| error.code()), before, &successes);
                }
            })
        })
        .collect();
    println!("ready");
    for task in tasks {
        task.await.unwrap();
    }
    println!("successes {}", successes.load(Ordering::Relaxed));
    kms.close().await.unwrap();
}

fn check(outcome: Result<u32, ErrorCode>, revoked_before: u32, successes: &AtomicU64) {
    match outcome {
        Ok(version) => {
            assert!(version > revoked_before, "version {version} was used after {revoked_before} was revoked");
            successes.fetch_add(1, Ordering::Relaxed);
        }
        Err(code) => assert!(matches!(code, ErrorCode::VersionRevoked | ErrorCode::Conflict), "{code}"),
    }
}

/// Takes the lock, writes to the write-ahead log without committing, and waits to be killed.
async fn locks(file: &Path) {
    let mut raw = SqliteConnection::connect(&format!("sqlite:{}", file.display())).await.unwrap();
    // With a small cache, SQLite writes pages of the open transaction to the log.
    for sql in ["PRAGMA cache_size = 1", "BEGIN IMMEDIATE", "UPDATE audit_logs SET actor = 'mallory'"] {
        sqlx::query(sql).execute(&mut raw).await.unwrap();
    }
    println!("locked");
    std::future::pending::<()>().await;
}

/// The output of a child, beginning with its first line for the test.
fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_in_one_process_holds_in_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let kms = Kms::open(config(&file)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("doomed")).await.unwrap();
    announce(&file, "0");
    let mut children = [spawn("uses", &file), spawn("uses", &file)];
    let mut outputs = children.each_mut().map(lines);
    for output in &mut outputs {
        assert!(output.any(|line| line.ends_with("ready")));
    }
    for version in 1..=30 {
        // At any moment, some of the processes are within an operation.
        tokio::time::sleep(Duration::from_millis(20 + 3 * u64::from(version))).await;
        session.revoke_version("doomed", version).await.unwrap();
        announce(&file, &version.to_string());
        tokio::time::sleep(Duration::from_millis(10)).await;
        session.rotate_key("doomed", None).await.unwrap();
    }
    announce(&file, "over");
    for (child, output) in children.iter_mut().zip(outputs) {
        let text = output.collect::<Vec<_>>().join("\n");
        assert!(child.wait().unwrap().success(), "a process used a revoked version");
        let successes = text.split_once("successes ").and_then(|(_, rest)| rest.lines().next()?.parse::<u64>().ok());
        assert!(successes.is_some_and(|count| count > 100), "{text}");
    }
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_killed_with_the_lock_does_not_block_others() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let kms = Kms::open(config(&file)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    for i in 0..200 {
        session.encrypt("k", b"x", &Context::from([("i", i.to_string())])).await.unwrap();
    }
    for _ in 0..3 {
        let mut child = spawn("locks", &file);
        assert!(lines(&mut child).any(|line| line.ends_with("locked")));
        let waiting = {
            let session = session.clone();
            tokio::spawn(async move { session.encrypt("k", b"x", &Context::new()).await })
        };
        let revoking = {
            let session = session.clone();
            tokio::spawn(async move { session.rotate_key("k", None).await })
        };
        // Meanwhile reads work, and writes do not.
        session.get_key("k").await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!waiting.is_finished() && !revoking.is_finished());
        child.kill().unwrap();
        child.wait().unwrap();
        waiting.await.unwrap().unwrap();
        revoking.await.unwrap().unwrap();
        // The killed process had not committed its writes.
        check_usable(&kms).await;
    }
    kms.close().await.unwrap();
    let kms = Kms::open(config(&file)).await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

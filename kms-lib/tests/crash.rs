//! SIGKILL at random moments under load: acknowledged operations are in the log, the log verifies, and the next open
//! works.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{admin, check_usable};
use kms_lib::internals::hex;
use kms_lib::{Actor, AuditQuery, Config, Context, Kms, NewKey, Paging, Role, blocking};

const CHILD: &str = "KMS_TEST_CRASH_FILE";

fn config(file: &Path) -> Config {
    Config::new(format!("sqlite:{}", file.display())).root_key_bytes([7; 32])
}

/// Not a test: the child process, which works until it is killed and prints each acknowledged operation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_process() {
    let Some(file) = std::env::var_os(CHILD) else { return };
    let kms = Kms::open(config(Path::new(&file))).await.unwrap();
    let session = kms.session(Actor::new("child", Role::Admin).unwrap());
    let say = |seq: u64, hash: [u8; 32]| println!("acknowledged {seq} {}", hex(&hash));
    for _ in 0..16 {
        let session = session.clone();
        tokio::spawn(async move {
            loop {
                let sealed = session.encrypt("k", b"x", &Context::new()).await.unwrap();
                say(sealed.receipt.seq, sealed.receipt.hash);
                let opened = session.decrypt(&sealed.ciphertext, &Context::new()).await.unwrap();
                say(opened.receipt.seq, opened.receipt.hash);
            }
        });
    }
    loop {
        let key = session.rotate_key("k", None).await.unwrap();
        println!("version {}", key.current_version);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// Not a test: like `child_process`, with threads that call the blocking interface and write to the log themselves.
#[test]
fn blocking_child_process() {
    let Some(file) = std::env::var_os(CHILD) else { return };
    let kms = blocking::Kms::open(config(Path::new(&file))).unwrap();
    let session = kms.session(Actor::new("child", Role::Admin).unwrap());
    let say = |seq: u64, hash: [u8; 32]| println!("acknowledged {seq} {}", hex(&hash));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                loop {
                    let sealed = session.encrypt("k", b"x", &Context::new()).unwrap();
                    say(sealed.receipt.seq, sealed.receipt.hash);
                    let opened = session.decrypt(&sealed.ciphertext, &Context::new()).unwrap();
                    say(opened.receipt.seq, opened.receipt.hash);
                }
            });
        }
        loop {
            let key = session.rotate_key("k", None).unwrap();
            println!("version {}", key.current_version);
            std::thread::sleep(Duration::from_millis(3));
        }
    });
}

#[tokio::test]
async fn acknowledged_operations_survive_sigkill() {
    survive("child_process").await;
}

#[tokio::test]
async fn what_blocking_callers_wrote_survives_sigkill() {
    survive("blocking_child_process").await;
}

/// Kills this child process at random moments, and checks what it has acknowledged.
async fn survive(child: &str) {
    let full = std::env::var("KMS_TEST_MODE").is_ok_and(|mode| mode == "full");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let kms = Kms::open(config(&file)).await.unwrap();
    admin(&kms).create_key(NewKey::aes("k")).await.unwrap();
    kms.close().await.unwrap();
    let mut acknowledged = 0;
    for round in 0..if full { 50 } else { 6 } {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", child, "--nocapture", "--test-threads=1"])
            .env(CHILD, &file)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            // Ignores a line that the kill cut.
            BufReader::new(output).split(b'\n').map_while(Result::ok).map(|l| String::from_utf8(l).unwrap()).collect()
        });
        // The kill comes at a random moment, from opening to full load.
        let random = u64::from(rand::random::<u8>());
        tokio::time::sleep(Duration::from_millis(if round == 0 { 15 } else { 100 + 3 * random })).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let lines: Vec<String> = reader.join().unwrap();

        let kms = Kms::open(config(&file)).await.unwrap();
        let session = admin(&kms);
        let report = session.verify_audit().await.unwrap();
        assert!(report.ok, "round {round}: {:?}", report.faults);
        let current = session.get_key("k").await.unwrap().current_version;
        for line in &lines {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["acknowledged", seq, hash] if hash.len() == 64 => {
                    let seq: u64 = seq.parse().unwrap();
                    let paging = Paging::new(1).after((seq + 1).to_string());
                    let record = session.list_audit(&AuditQuery::new(), &paging).await.unwrap().items.remove(0);
                    assert_eq!((record.seq, hex(&record.hash).as_str()), (seq, hash), "round {round}");
                    acknowledged += 1;
                }
                ["version", version] => assert!(current >= version.parse().unwrap_or(0)),
                _ => {}
            }
        }
        check_usable(&kms).await;
        kms.close().await.unwrap();
    }
    assert!(acknowledged > 100, "only {acknowledged} operations were acknowledged");
}

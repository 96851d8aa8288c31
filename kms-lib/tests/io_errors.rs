//! I/O errors other than a full disk: writes beyond a limit on the size of files fail (`EFBIG`) within the write-ahead
//! log. Requests fail closed with a clear code, the service resumes when the limit is lifted, and no acknowledged
//! operation is lost.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{ROOT_KEY, actor, admin, check_usable, whole_log};
use kms_lib::internals::hex;
use kms_lib::{Config, Context, ErrorCode, Kms, NewKey, Role};
use sqlx::{Connection, SqliteConnection};

const CHILD: &str = "KMS_TEST_LIMITED_FILE";

fn config(file: &Path) -> Config {
    // No reserve: the limit would hit its file first.
    Config::new(format!("sqlite:{}", file.display())).root_key_bytes(ROOT_KEY).disk_space(0, 0)
}

/// Not a test: the child process. It works under the limit, prints what was acknowledged and what failed, and continues
/// until everything succeeds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_process() {
    let Some(file) = std::env::var_os(CHILD) else { return };
    let kms = Kms::open(config(Path::new(&file))).await.unwrap();
    let session = kms.session(actor("child", Role::Admin));
    let context = Context::from([("filler", "x".repeat(1_900))]);
    let mut failed = 0;
    let mut after = 0;
    while after < 20 {
        match session.encrypt("k", b"x", &context).await {
            Ok(sealed) => {
                println!("acknowledged {} {}", sealed.receipt.seq, hex(&sealed.receipt.hash));
                after += u32::from(failed > 0);
            }
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                println!("failed {}", error.code());
                // No other operation is acknowledged either.
                let change = session.rotate_key("k", None).await;
                println!("change {}", change.map_or_else(|error| error.code().to_string(), |_| "made".into()));
                failed += 1;
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
    println!("resumed");
    kms.close().await.unwrap();
}

#[tokio::test]
async fn writes_that_fail_within_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let kms = Kms::open(config(&file)).await.unwrap();
    admin(&kms).create_key(NewKey::aes("k")).await.unwrap();
    kms.close().await.unwrap();
    // 2 MiB (in blocks of 1,024 bytes), less than the write-ahead log grows to. The signal that would end the process
    // is ignored, so that the write fails instead.
    let script = "trap '' XFSZ; ulimit -S -f 2048 || exit 77; exec \"$0\" \"$@\"";
    let mut child = Command::new("bash")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child_process", "--nocapture", "--test-threads=1"])
        .env(CHILD, &file)
        .env_remove("KMS_TEST_OUTPUT")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = Vec::new();
    let mut failures = 0;
    let mut resumed = false;
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            [.., "acknowledged", seq, hash] => acknowledged.push((seq.parse::<u64>().unwrap(), hash.to_owned())),
            ["failed", code] => {
                assert_eq!(code, ErrorCode::StoreUnavailable.as_str());
                failures += 1;
                if failures == 3 {
                    let lifted =
                        Command::new("prlimit").args(["--pid", &child.id().to_string(), "--fsize=unlimited:"]).status();
                    if !lifted.is_ok_and(|status| status.success()) {
                        eprintln!("SKIPPED: prlimit cannot lift the limit, so resuming is not tested");
                        child.kill().unwrap();
                    }
                }
            }
            // Refused like everything else, unless the limit was lifted in the meantime.
            ["change", code] => assert!(code == "StoreUnavailable" || failures >= 3, "{code}"),
            ["resumed"] => resumed = true,
            _ => {}
        }
    }
    let ended = child.wait().unwrap();
    assert!(failures > 0, "the limit was never reached");
    assert_eq!(resumed, ended.success());

    let kms = Kms::open(config(&file)).await.unwrap();
    let rows = whole_log(&admin(&kms)).await;
    assert!(acknowledged.len() > 40);
    for (seq, hash) in acknowledged {
        assert_eq!(hex(&rows[usize::try_from(seq - 1).unwrap()].hash), hash);
    }
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// Another process moves the write-ahead log into the database, as every process does after it erased material.
#[tokio::test]
async fn a_write_ahead_log_that_another_process_emptied_causes_no_errors() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let kms = Kms::open(config(&file)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let mut other = SqliteConnection::connect(file.to_str().unwrap()).await.unwrap();
    for _ in 0..20 {
        for _ in 0..5 {
            session.encrypt("k", b"x", &Context::new()).await.unwrap();
        }
        while std::fs::metadata(folder.path().join("kms.db-wal")).unwrap().len() > 0 {
            sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut other).await.unwrap();
        }
    }
    other.close().await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// Another program truncates the write-ahead log while the service runs. The next operation notices it, and nothing is
/// acknowledged that would be written after the gap.
#[tokio::test]
async fn a_truncated_write_ahead_log_is_noticed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    for is_emptied in [true, false] {
        let kms = Kms::open(config(&file)).await.unwrap();
        let session = admin(&kms);
        let name = format!("k-{is_emptied}");
        session.create_key(NewKey::aes(name.as_str())).await.unwrap();
        for _ in 0..20 {
            session.encrypt(name.as_str(), b"x", &Context::new()).await.unwrap();
        }
        let log = std::fs::File::options().write(true).open(folder.path().join("kms.db-wal")).unwrap();
        let length = log.metadata().unwrap().len();
        assert!(length > 4_096);
        log.set_len(if is_emptied { 0 } else { length / 2 }).unwrap();
        for _ in 0..5 {
            let error = session.encrypt(name.as_str(), b"x", &Context::new()).await.unwrap_err();
            assert!(matches!(error.code(), ErrorCode::StoreUnavailable | ErrorCode::StoreCorrupt), "{error}");
        }
        // The test does not check what is left of the store: repairing it is a matter of backups.
        let _ = kms.close().await;
        for ending in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(folder.path().join(format!("kms.db{ending}")));
        }
    }
}

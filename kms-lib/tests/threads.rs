//! The operating system starts only some of the threads that the service needs: every call returns, with an error that
//! invites to try again if there are too few.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kms_lib::{Actor, Config, Context, Error, ErrorCode, NewKey, Role, SignatureAlgorithm, blocking};

const CHILD: &str = "KMS_TEST_FEW_THREADS";
/// The stack of each thread of the child, in KiB: threads are limited through the address space.
const STACK: u64 = 1 << 20;

/// Uses a service until something fails.
fn use_service(file: &str) -> Result<(), Error> {
    let kms = blocking::Kms::open(Config::new(format!("sqlite:{file}")).root_key_bytes(common::ROOT_KEY))?;
    let session = kms.session(Actor::new("alice", Role::Admin)?);
    let used = (|| {
        session.create_key(NewKey::aes("a"))?;
        session.encrypt("a", b"x", &Context::new())?;
        session.create_key(NewKey::rsa_signing("s"))?;
        session.sign("s", b"x", SignatureAlgorithm::RsaPssSha256).map(drop)
    })();
    kms.close().and(used)
}

/// Not a test: the child process.
#[test]
fn child_process() {
    let Ok(file) = std::env::var(CHILD) else { return };
    match use_service(&file) {
        Ok(()) => println!("outcome: used"),
        Err(error) => println!("outcome: {} {}", error.code(), error.message()),
    }
}

#[test]
fn a_service_with_few_threads_fails_or_works() {
    let folder = tempfile::tempdir().unwrap();
    let mut outcomes = Vec::new();
    for threads in 0.. {
        let file = folder.path().join(format!("{threads}.db"));
        let limit = (threads * STACK + STACK / 2).to_string();
        let mut child = Command::new("sh")
            .args(["-c", "ulimit -v \"$1\" && exec \"$2\" child_process --exact --nocapture --test-threads=1", "sh"])
            .arg(limit)
            .arg(std::env::current_exe().unwrap())
            .env(CHILD, file)
            .env("TOKIO_WORKER_THREADS", "2")
            .env("RUST_MIN_STACK", (STACK * 1024).to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if begun.elapsed() > Duration::from_secs(60) {
                child.kill().unwrap();
                panic!("with {threads} threads the service does not return");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let outcome = text.lines().find_map(|line| Some(line.split_once("outcome: ")?.1.to_owned()));
        let outcome = outcome.unwrap_or_else(|| panic!("with {threads} threads the service ends without an error"));
        let is_used = outcome == "used";
        outcomes.push(outcome);
        if is_used {
            break;
        }
        assert!(threads < 40, "{outcomes:?}");
    }
    outcomes.pop();
    let retryable = [ErrorCode::Overloaded, ErrorCode::StoreUnavailable].map(|code| code.to_string());
    let is_retryable = |outcome: &String| retryable.iter().any(|code| outcome.starts_with(code));
    assert!(outcomes.len() > 3 && outcomes.iter().all(is_retryable), "{outcomes:#?}");
}

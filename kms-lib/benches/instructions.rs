//! Fixed work whose instructions tests/bench/instructions.py counts: `instructions WORK COUNT`.
//!
//! The functions named `measured_*` are what is counted, and the ledger's commit. Everything that varies is fixed: the
//! runtime has one thread, the provider is RustCrypto, the inputs are constant, and nothing runs in the background.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program that measures and prints")]

use std::hint::black_box;
use std::path::Path;

use futures_util::future::{join, join_all};
use kms_lib::audit::export::ExportVerifier;
use kms_lib::limits::PAGE_LIMIT;
use kms_lib::{
    Actor, AuditAck, AuditQuery, Config, Context, CryptoProvider, Kms, NewKey, Paging, Role, SchedulerConfig, Session,
};
use rusqlite::Connection;
use tokio::runtime::{Builder, Runtime};

const PLAINTEXT: [u8; 256] = [0x5a; 256];
/// The number of records in one commit.
const BATCH: usize = 64;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let (Some(work), Some(count)) = (arguments.next(), arguments.next()) else {
        println!("usage: instructions encrypt|decrypt|commit|verify COUNT");
        return;
    };
    let count: usize = count.parse().unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ack = if work == "commit" { AuditAck::Durable } else { AuditAck::Queued };
    let (kms, session) = runtime.block_on(open(folder.path(), ack));
    match work.as_str() {
        "encrypt" => measured_encrypt(&runtime, &session, count),
        "decrypt" => {
            let ciphertext = runtime.block_on(session.encrypt("aes", &PLAINTEXT, &context())).unwrap().ciphertext;
            measured_decrypt(&runtime, &session, &ciphertext, count);
        }
        "commit" => commit(&runtime, &session, folder.path(), count),
        "verify" => {
            let (lines, key) = runtime.block_on(export(&session, count));
            measured_verify(&lines, &key);
        }
        other => println!("unknown work: {other}"),
    }
    runtime.block_on(kms.close()).unwrap();
}

async fn open(folder: &Path, ack: AuditAck) -> (Kms, Session) {
    let config = Config::new(format!("sqlite:{}", folder.join("kms.db").display()))
        .root_key_bytes([7; 32])
        .crypto_provider(CryptoProvider::RustCrypto)
        .audit_ack(ack)
        .limits(65_536, 1 << 30)
        .scheduler(SchedulerConfig::disabled());
    let kms = Kms::open(config).await.unwrap();
    let session = kms.session(Actor::new("bench", Role::Admin).unwrap());
    session.create_key(NewKey::aes("aes")).await.unwrap();
    session.encrypt("aes", &PLAINTEXT, &context()).await.unwrap();
    (kms, session)
}

fn context() -> Context {
    Context::from([("table", "users"), ("row", "4711")])
}

#[inline(never)]
fn measured_encrypt(runtime: &Runtime, session: &Session, count: usize) {
    runtime.block_on(async {
        for _ in 0..count {
            black_box(session.encrypt("aes", &PLAINTEXT, &context()).await.unwrap());
        }
    });
}

#[inline(never)]
fn measured_decrypt(runtime: &Runtime, session: &Session, ciphertext: &[u8], count: usize) {
    runtime.block_on(async {
        for _ in 0..count {
            black_box(session.decrypt(ciphertext, &context()).await.unwrap());
        }
    });
}

/// Commits `count` batches of [`BATCH`] records. Another connection holds the lock of the store until all records of a
/// batch wait for it. The ledger takes the first of them alone, before the others arrive.
fn commit(runtime: &Runtime, session: &Session, folder: &Path, count: usize) {
    let other = Connection::open(folder.join("kms.db")).unwrap();
    for _ in 0..count {
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let context = context();
        let encryptions = (0..=BATCH).map(|_| session.encrypt("aes", &PLAINTEXT, &context));
        let release = async { other.execute_batch("ROLLBACK").unwrap() };
        let (results, ()) = runtime.block_on(join(join_all(encryptions), release));
        assert!(results.iter().all(Result::is_ok));
    }
}

/// The lines of an export of the log with `count` records, and the key that it is verified with.
async fn export(session: &Session, count: usize) -> (Vec<String>, String) {
    for _ in 0..count {
        session.encrypt("aes", &PLAINTEXT, &context()).await.unwrap();
    }
    // A change is committed after all earlier records.
    session.create_key(NewKey::aes("last")).await.unwrap();
    let note = session.checkpoint().await.unwrap();
    let query = AuditQuery::new().oldest_first();
    let mut paging = Paging::new(PAGE_LIMIT);
    let mut lines = Vec::new();
    loop {
        let page = session.list_audit(&query, &paging).await.unwrap();
        lines.extend(page.items.iter().map(|record| serde_json::to_string(record).unwrap()));
        paging.cursor = page.next_cursor;
        if paging.cursor.is_none() {
            break;
        }
    }
    lines.push(serde_json::json!({ "checkpoint": note }).to_string());
    (lines, session.audit_public_key().await.unwrap())
}

#[inline(never)]
fn measured_verify(lines: &[String], key: &str) {
    let mut verifier = ExportVerifier::new(key).unwrap();
    for line in lines {
        verifier.push_line(line);
    }
    assert!(verifier.finish().ok);
}

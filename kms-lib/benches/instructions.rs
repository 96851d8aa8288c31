//! Fixed work whose instructions tests/bench/instructions.py counts: `instructions WORK COUNT`.
//!
//! The functions named `measured_*` are counted, after some repetitions that are not. Everything that varies is fixed:
//! the provider is RustCrypto, the inputs are constant, and what is counted runs on the main thread alone. The tasks of
//! the service run on a thread of the runtime; the ledger's thread waits for the lock of the store, or has nothing to
//! do, because the main thread writes as a blocking caller does.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program that measures and prints")]

use std::future::poll_fn;
use std::hint::black_box;
use std::path::Path;
use std::pin::Pin;
use std::task::Poll;

use kms_lib::audit::export::ExportVerifier;
use kms_lib::internals::Leader;
use kms_lib::limits::PAGE_LIMIT;
use kms_lib::{
    Actor, AuditAck, AuditQuery, Config, Context, CryptoProvider, Kms, NewKey, Paging, Role, SchedulerConfig, Session,
};
use rusqlite::Connection;
use tokio::runtime::{Builder, Handle, Runtime};

const PLAINTEXT: [u8; 256] = [0x5a; 256];
/// The number of records in one commit.
const BATCH: usize = 64;
/// The repetitions before those that are counted.
const WARM_UP: usize = 20;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let (Some(work), Some(count)) = (arguments.next(), arguments.next()) else {
        println!("usage: instructions encrypt|decrypt|commit|verify COUNT");
        return;
    };
    let count: usize = count.parse().unwrap();
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ack = if work == "commit" { AuditAck::Durable } else { AuditAck::Queued };
    let (kms, session) = runtime.block_on(open(folder.path(), ack));
    match work.as_str() {
        "encrypt" => encrypt(&runtime, &session, &folder.path().join("kms.db"), count),
        "decrypt" => decrypt(&runtime, &session, &folder.path().join("kms.db"), count),
        "commit" => commit(&runtime, &session, count),
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

/// Keeps the ledger's thread from writing, with a lock on the store, while `work` runs.
fn while_nothing_is_written(store: &Path, work: impl FnOnce()) {
    let other = Connection::open(store).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    work();
    other.execute_batch("ROLLBACK").unwrap();
}

fn encrypt(runtime: &Runtime, session: &Session, store: &Path, count: usize) {
    let context = context();
    while_nothing_is_written(store, || {
        for _ in 0..WARM_UP {
            runtime.block_on(session.encrypt("aes", &PLAINTEXT, &context)).unwrap();
        }
        for _ in 0..count {
            measured_encrypt(runtime.handle(), session, &context);
        }
    });
}

#[inline(never)]
fn measured_encrypt(runtime: &Handle, session: &Session, context: &Context) {
    black_box(runtime.block_on(session.encrypt("aes", &PLAINTEXT, context)).unwrap());
}

fn decrypt(runtime: &Runtime, session: &Session, store: &Path, count: usize) {
    let context = context();
    let ciphertext = runtime.block_on(session.encrypt("aes", &PLAINTEXT, &context)).unwrap().ciphertext;
    while_nothing_is_written(store, || {
        for _ in 0..WARM_UP {
            runtime.block_on(session.decrypt(&ciphertext, &context)).unwrap();
        }
        for _ in 0..count {
            measured_decrypt(runtime.handle(), session, &ciphertext, &context);
        }
    });
}

#[inline(never)]
fn measured_decrypt(runtime: &Handle, session: &Session, ciphertext: &[u8], context: &Context) {
    black_box(runtime.block_on(session.decrypt(ciphertext, context)).unwrap());
}

/// Commits `count` batches of [`BATCH`] records. The operations are submitted first; then the last of them becomes the
/// leader, and writes them all. If the ledger's thread wrote them instead, which is rare, the count is incomplete, and
/// the program ends with status 3.
fn commit(runtime: &Runtime, session: &Session, count: usize) {
    let context = context();
    for n in 0..WARM_UP + count {
        let mut leader = Leader::default();
        let encrypting = || Box::pin(session.encrypt("aes", &PLAINTEXT, &context));
        let mut encryptions: Vec<_> = (0..BATCH).map(|_| encrypting()).collect();
        for encryption in &mut encryptions {
            let submitted = runtime.block_on(poll_fn(|waker| Poll::Ready(leader.begin(encryption.as_mut(), waker))));
            assert!(submitted.is_pending());
        }
        let mut last = encryptions.pop().unwrap();
        let poll = if n < WARM_UP { lead } else { measured_commit };
        match poll(runtime.handle(), &mut leader, last.as_mut()) {
            Poll::Ready(done) => drop(done.unwrap()),
            Poll::Pending if n < WARM_UP => drop(runtime.block_on(last).unwrap()),
            Poll::Pending => std::process::exit(3),
        }
        for encryption in encryptions {
            runtime.block_on(encryption).unwrap();
        }
    }
}

#[inline(never)]
fn measured_commit<T>(runtime: &Handle, leader: &mut Leader, operation: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    lead(runtime, leader, operation)
}

/// Polls an operation once, and writes as the leader if the ledger's thread does not.
fn lead<T>(runtime: &Handle, leader: &mut Leader, mut operation: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    runtime.block_on(poll_fn(|waker| Poll::Ready(leader.poll(operation.as_mut(), waker))))
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

//! The runtime on which the service was opened may end before the service is closed, or be idle between calls.
//! Submitted operations are written in both cases.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{Place, ROOT_KEY, admin};
use kms_lib::{AuditAck, Config, Context, ErrorCode, Kms, NewKey};
use tokio::runtime::{Builder, Runtime};

const OPERATIONS: u64 = 100;

fn config(place: &Place, ack: AuditAck) -> Config {
    Config::new(place.url()).root_key_bytes(ROOT_KEY).audit_ack(ack)
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A service whose runtime ended while operations waited for the lock on the store. The lock is released afterwards.
fn orphaned(place: &Place, ack: AuditAck) -> Kms {
    let first = runtime();
    let kms = first.block_on(Kms::open(config(place, ack))).unwrap();
    let session = admin(&kms);
    first.block_on(session.create_key(NewKey::aes("key"))).unwrap();
    let come_in = || {
        let telemetry = first.block_on(kms.telemetry()).unwrap();
        telemetry.queued + telemetry.submissions
    };
    let before = come_in();
    let other = rusqlite::Connection::open(place.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..OPERATIONS {
        let session = session.clone();
        let encrypting = async move { session.encrypt("key", b"x", &Context::new()).await };
        match ack {
            AuditAck::Durable => drop(first.spawn(encrypting)),
            // The result was returned, and its record is not written yet.
            AuditAck::Queued => drop(first.block_on(encrypting).unwrap()),
            other => panic!("{other:?}"),
        }
    }
    let begun = Instant::now();
    while come_in() < before + OPERATIONS {
        assert!(begun.elapsed() < Duration::from_secs(9), "the ledger gave up before all operations were submitted");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(first);
    other.execute_batch("ROLLBACK").unwrap();
    kms
}

/// Checks that every submitted operation is in the log.
async fn check(kms: Kms) {
    let rows = common::whole_log(&admin(&kms)).await;
    assert_eq!(rows.iter().filter(|row| row.action == "ENCRYPT").count() as u64, OPERATIONS);
    common::check_usable(&kms).await;
    kms.close().await.unwrap();
}

fn closed_on_another_runtime(ack: AuditAck) {
    let place = Place::in_a_file();
    let kms = orphaned(&place, ack);
    runtime().block_on(async {
        assert_eq!(common::code(admin(&kms).encrypt("key", b"x", &Context::new()).await), ErrorCode::Closed);
        // Waits until everything is written, and releases the store.
        kms.close().await.unwrap();
        check(Kms::open(config(&place, ack)).await.unwrap()).await;
    });
}

#[test]
fn waiting_operations_are_written_when_their_runtime_ends() {
    closed_on_another_runtime(AuditAck::Durable);
}

#[test]
fn released_results_are_written_when_their_runtime_ends() {
    closed_on_another_runtime(AuditAck::Queued);
}

#[test]
fn the_service_need_not_be_closed() {
    let place = Place::in_a_file();
    drop(orphaned(&place, AuditAck::Queued));
    runtime().block_on(async {
        let begun = Instant::now();
        // The thread of the ledger ends, and releases its exclusive use of the store.
        let kms = loop {
            match Kms::open(config(&place, AuditAck::Durable)).await {
                Ok(kms) => break kms,
                Err(error) => assert_eq!(error.code(), ErrorCode::StoreInUse),
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "the ledger still has the store");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        check(kms).await;
    });
}

/// A single-threaded runtime does nothing between calls.
#[test]
fn the_log_is_written_while_the_runtime_is_idle() {
    let place = Place::in_a_file();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let kms = runtime.block_on(Kms::open(config(&place, AuditAck::Queued))).unwrap();
    runtime.block_on(admin(&kms).create_key(NewKey::aes("key"))).unwrap();
    for _ in 0..OPERATIONS {
        runtime.block_on(admin(&kms).encrypt("key", b"x", &Context::new())).unwrap();
    }
    // The runtime is idle, and the log is written nevertheless.
    let log = rusqlite::Connection::open(place.file()).unwrap();
    let count = "SELECT COUNT(*) FROM audit_logs WHERE action = 'ENCRYPT'";
    let written = || log.query_row(count, [], |row| row.get::<_, i64>(0)).unwrap().unsigned_abs();
    let begun = Instant::now();
    while written() < OPERATIONS {
        assert!(begun.elapsed() < Duration::from_secs(10), "the log is not written");
        std::thread::sleep(Duration::from_millis(5));
    }
    runtime.block_on(kms.close()).unwrap();
}

/// The disk does not answer while the high-water file is written: its temporary file is a FIFO without a reader. The
/// only thread of the runtime must not block.
#[cfg(unix)]
#[test]
fn a_blocked_high_water_file_blocks_no_thread_of_the_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let fifo = folder.path().join(format!("mark.{}.new", std::process::id()));
    let url = format!("sqlite:{}", folder.path().join("kms.db").display());
    let config = Config::new(url).root_key_bytes([7; 32]).high_water(&mark);
    let (tell, told) = std::sync::mpsc::channel();
    let pipe = fifo.clone();
    let running = std::thread::spawn(move || {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async move {
            let kms = Kms::open(config).await.unwrap();
            let session = admin(&kms);
            session.create_key(NewKey::aes("k")).await.unwrap();
            assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
            let session = tokio::spawn(async move {
                // The file is written once a second.
                for _ in 0..30 {
                    session.encrypt("k", b"x", &Context::new()).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                session
            });
            drop(session.await.unwrap());
            tell.send(()).unwrap();
            kms.close().await
        })
    });
    let is_served = told.recv_timeout(Duration::from_secs(60)).is_ok();
    // Opening the other end releases a thread that waits for the FIFO.
    let end = std::thread::spawn(move || std::fs::read(&fifo));
    assert!(is_served, "the blocked file blocks the runtime");
    assert!(end.join().unwrap().is_ok(), "the file was not being written");
    let _ = running.join().unwrap();
}

//! The runtime that the service was opened on may end before the service is closed, or at all.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Place, ROOT_KEY, admin};
use kms_lib::{AuditAck, Config, Context, CreateKey, ErrorCode, Kms};
use tokio::runtime::Builder;

const OPERATIONS: usize = 300;

fn config(place: &Place, ack: AuditAck) -> Config {
    Config::new(place.url()).root_key_bytes(ROOT_KEY).audit_ack(ack)
}

/// What was released before it was written is written, and the store is free for the next one.
fn ends_without_closing(ack: AuditAck) {
    let place = Place::in_a_file();
    let first = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let kms = first.block_on(async {
        let kms = Kms::open(config(&place, ack)).await.unwrap();
        admin(&kms).create_key(CreateKey::aes("key")).await.unwrap();
        for _ in 0..OPERATIONS {
            admin(&kms).encrypt("key", b"x", &Context::new()).await.unwrap();
        }
        kms
    });
    drop(first);
    let second = Builder::new_current_thread().enable_all().build().unwrap();
    second.block_on(async {
        let error = admin(&kms).encrypt("key", b"x", &Context::new()).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::Closed);
        drop(kms);
        let again = loop {
            match Kms::open(config(&place, ack)).await {
                // The ledger's thread is still at its last commit.
                Err(error) if error.code() == ErrorCode::StoreInUse => tokio::task::yield_now().await,
                opened => break opened.unwrap(),
            }
        };
        let rows = common::whole_log(&admin(&again)).await;
        assert_eq!(rows.iter().filter(|row| row.action == "ENCRYPT").count(), OPERATIONS);
        again.close().await.unwrap();
    });
}

#[test]
fn a_runtime_that_ends_loses_nothing_durable() {
    ends_without_closing(AuditAck::Durable);
}

#[test]
fn a_runtime_that_ends_loses_nothing_queued() {
    ends_without_closing(AuditAck::Queued);
}

/// A runtime of one thread, which does nothing between calls.
#[test]
fn a_runtime_may_rest_between_calls() {
    let place = Place::in_a_file();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let kms = runtime.block_on(Kms::open(config(&place, AuditAck::Queued))).unwrap();
    runtime.block_on(admin(&kms).create_key(CreateKey::aes("key"))).unwrap();
    for _ in 0..OPERATIONS {
        runtime.block_on(admin(&kms).encrypt("key", b"x", &Context::new())).unwrap();
    }
    runtime.block_on(kms.close()).unwrap();
}

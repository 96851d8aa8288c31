//! Tests of the ledger on a store with injected errors, on top of SQLite.

#![allow(clippy::unwrap_used)]

mod counters;
mod faulty_store;
mod leading;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::kms::open::open_on;
use crate::session::Session;
use crate::storage::sqlite::SqliteStore;
use crate::types::view::CatalogView;
use crate::{Action, Actor, AuditAck, AuditQuery, Config, Context, ErrorCode, NewKey, Paging, Role, Status};

pub(crate) use faulty_store::{Faults, open, open_with, reopen};

/// With `queued`, a result is returned before its commit. A ledger that has stopped must not return any.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_ledger_releases_no_results() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let url = format!("sqlite:{}", file.display());
    let store = SqliteStore::open(&file).await.unwrap();
    let config = Config::new(&url).root_key_bytes([7; 32]).audit_ack(AuditAck::Queued);
    let shared = open_on(config, Arc::new(store)).await.unwrap();
    let session = Session::new(Arc::clone(&shared), Actor::new("alice", Role::Admin).unwrap());
    session.create_key(NewKey::aes("k")).await.unwrap();
    // The head does not follow from the records. The ledger notices this with its next batch, and stops.
    let mut connection = shared.store.writer().await.unwrap();
    connection.execute("UPDATE audit_head SET seq = seq + 7".into(), vec![]).await.unwrap();
    connection.close().await.unwrap();
    while session.create_key(NewKey::aes("other")).await.is_ok() {}
    let callers: Vec<_> = (0..32)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move {
                let mut returned = 0;
                for _ in 0..100 {
                    returned += usize::from(session.encrypt("k", b"x", &Context::new()).await.is_ok());
                }
                returned
            })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap(), 0, "results without records");
    }
}

async fn size(session: &Session) -> u64 {
    let report = session.verify_audit().await.unwrap();
    assert!(report.ok, "{:?}", report.faults);
    report.size
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_response_is_lost_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let (_shared, session, faults) = open(&folder.path().join("kms.db")).await;
    let before = size(&session).await;
    faults.lose_answer.store(true, Ordering::SeqCst);
    let sealed = session.encrypt("k", b"x", &Context::new()).await.unwrap();
    assert_eq!(sealed.receipt.seq, before + 2);
    faults.lose_answer.store(true, Ordering::SeqCst);
    session.rotate_key("k", None).await.unwrap();
    assert_eq!(session.get_key("k").await.unwrap().current_version, 2);
    session.decrypt(&sealed.ciphertext, &Context::new()).await.unwrap();
    // The earlier verification, the encryption, the rotation and the decryption.
    assert_eq!(size(&session).await, before + 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_did_not_take_place_has_no_effect() {
    let folder = tempfile::tempdir().unwrap();
    let (_shared, session, faults) = open(&folder.path().join("kms.db")).await;
    let before = size(&session).await;
    faults.lose_commits.store(1, Ordering::SeqCst);
    let error = session.rotate_key("k", None).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::StoreUnavailable);
    assert!(error.is_retryable());
    assert_eq!(session.get_key("k").await.unwrap().current_version, 1);
    session.rotate_key("k", None).await.unwrap();
    assert_eq!(size(&session).await, before + 2);
}

/// If a row conflicts with another one, or a statement is too large for the server, only its submission fails.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_faulty_submission_of_a_batch_fails() {
    let folder = tempfile::tempdir().unwrap();
    let (shared, session, faults) = open(&folder.path().join("kms.db")).await;
    for poison in [ErrorCode::Conflict, ErrorCode::InvalidConfiguration, ErrorCode::StoreCorrupt] {
        *faults.poison.lock().unwrap() = Some(("mallory".into(), poison));
        let culprit = Session::new(Arc::clone(&shared), Actor::new("mallory", Role::Admin).unwrap());
        let calls: Vec<_> = (0..100)
            .map(|i| {
                let session = if i == 42 { culprit.clone() } else { session.clone() };
                tokio::spawn(async move { session.encrypt("k", b"x", &Context::new()).await })
            })
            .collect();
        for (i, call) in calls.into_iter().enumerate() {
            match call.await.unwrap() {
                Ok(_) => assert_ne!(i, 42),
                Err(error) => assert_eq!((i, error.code()), (42, poison)),
            }
        }
        *faults.poison.lock().unwrap() = None;
    }
    size(&session).await;
}

/// A request that is sent many times concurrently takes effect once, and the copies do not make the ledger commit its
/// batch submission by submission.
#[tokio::test(flavor = "multi_thread")]
async fn copies_of_a_request_do_not_dissolve_a_batch() {
    let folder = tempfile::tempdir().unwrap();
    let (_shared, session, faults) = open(&folder.path().join("kms.db")).await;
    let before = faults.writes.load(Ordering::SeqCst);
    let copies: Vec<_> = (0..400)
        .map(|i| {
            let session = session.with_idempotency_key("the same").unwrap();
            let name = if i % 2 == 0 { "one" } else { "other" };
            tokio::spawn(async move { session.create_key(NewKey::aes(name)).await.map(|key| key.id) })
        })
        .collect();
    let (mut answers, mut conflicts) = (Vec::new(), 0);
    for copy in copies {
        match copy.await.unwrap() {
            Ok(answer) => answers.push(answer),
            Err(error) => {
                // The same key for two different requests: one of them takes effect.
                assert_eq!(error.code(), ErrorCode::IdempotencyConflict);
                conflicts += 1;
            }
        }
    }
    answers.dedup();
    assert!(answers.len() == 1 && conflicts == 200, "{answers:?}, {conflicts} conflicts");
    let writes = faults.writes.load(Ordering::SeqCst) - before;
    assert!(writes < 50, "{writes} transactions");
    // No copy is in the log as a failure.
    assert_eq!(
        session.list_audit(&AuditQuery::new().status(Status::Failure), &Paging::new(10)).await.unwrap().items,
        []
    );
    size(&session).await;
}

/// A copy that arrives after the first one took effect fails because of that, and gets the first one's answer.
#[tokio::test(flavor = "multi_thread")]
async fn copies_of_a_request_are_not_failures() {
    let folder = tempfile::tempdir().unwrap();
    let (_shared, session, _faults) = open(&folder.path().join("kms.db")).await;
    for round in 0..20 {
        let session = session.with_idempotency_key(&format!("request {round}")).unwrap();
        let copies: Vec<_> = (0..20)
            .map(|_| {
                let session = session.clone();
                tokio::spawn(async move { session.create_key(NewKey::aes(format!("key {round}"))).await.map(|k| k.id) })
            })
            .collect();
        for copy in copies {
            copy.await.unwrap().unwrap();
        }
        let copies: Vec<_> = (0..20)
            .map(|_| {
                let session = session.with_idempotency_key(&format!("revocation {round}")).unwrap();
                tokio::spawn(async move { session.revoke_key(format!("key {round}").as_str()).await.map(|_| ()) })
            })
            .collect();
        for copy in copies {
            copy.await.unwrap().unwrap();
        }
    }
    let failures = session.list_audit(&AuditQuery::new().status(Status::Failure), &Paging::new(10)).await.unwrap();
    assert_eq!(failures.items, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn service_resumes_when_the_store_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let (_shared, session, faults) = open(&folder.path().join("kms.db")).await;
    let sealed = session.encrypt("k", b"x", &Context::new()).await.unwrap();
    faults.unreachable.store(true, Ordering::SeqCst);
    faults.lose_commits.store(1, Ordering::SeqCst);
    // The commit fails, and without a connection its outcome cannot be checked; the engine confirmed the rollback, so
    // the caller gets a definite answer.
    let error = session.encrypt("k", b"x", &Context::new()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::StoreUnavailable);
    assert_eq!(session.get_key("k").await.unwrap_err().code(), ErrorCode::StoreUnavailable);
    faults.unreachable.store(false, Ordering::SeqCst);
    session.decrypt(&sealed.ciphertext, &Context::new()).await.unwrap();
    size(&session).await;
}

/// The store is lost during a commit that took place, for longer than callers wait.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_outcome_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let (_shared, session, faults) = open(&folder.path().join("kms.db")).await;
    let before = size(&session).await;
    faults.lose_answer.store(true, Ordering::SeqCst);
    faults.lose_rollbacks.store(true, Ordering::SeqCst);
    faults.unreachable.store(true, Ordering::SeqCst);
    let error = session.rotate_key("k", None).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::OutcomeUnknown);
    assert!(!error.is_retryable());
    faults.lose_rollbacks.store(false, Ordering::SeqCst);
    faults.unreachable.store(false, Ordering::SeqCst);
    // The commit took place, and the service continues from there.
    session.encrypt("k", b"x", &Context::new()).await.unwrap();
    assert_eq!(session.get_key("k").await.unwrap().current_version, 2);
    assert_eq!(size(&session).await, before + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_encrypts_no_more_than_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let (_shared, session, _) = open(&file).await;
    let url = format!("sqlite:{}", file.display());
    let mut raw = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
    let limit = i64::try_from(crate::types::limits::ENCRYPTIONS_MAX).unwrap();
    sqlx::query("UPDATE version_usage SET encryptions = ?").bind(limit - 10).execute(&mut raw).await.unwrap();
    let sealed = session.encrypt("k", b"x", &Context::new()).await.unwrap();
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move { session.encrypt("k", b"x", &Context::new()).await })
        })
        .collect();
    let mut succeeded = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => succeeded += 1,
            Err(error) => assert_eq!(error.code(), ErrorCode::KeyExhausted),
        }
    }
    // A batch that exceeds the limit is refused; the limit is never exceeded.
    assert!(succeeded <= 9, "{succeeded}");
    let count = session.get_version("k", 1).await.unwrap().encryptions.unwrap();
    assert_eq!(i64::try_from(count).unwrap(), limit - 9 + succeeded);
    session.decrypt(&sealed.ciphertext, &Context::new()).await.unwrap();
    let metrics = session.metrics().await.unwrap();
    assert_eq!(metrics.keys.near_encryption_limit.len(), 1);
    session.rotate_key("k", None).await.unwrap();
    session.encrypt("k", b"x", &Context::new()).await.unwrap();
    size(&session).await;
}

/// A caller that waits for another's check of the store must not accept one that failed or was aborted.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_refresh_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let (shared, _session, faults) = open(&file).await;
    let config = Config::new(format!("sqlite:{}", file.display())).root_key_bytes([7; 32]);
    let elsewhere = crate::kms::open::open(config).await.unwrap();
    let session = Session::new(elsewhere, Actor::new("alice", Role::Admin).unwrap());
    for given_up in [false, true] {
        let closed = faults.gate.lock().await;
        let mut looks = Vec::new();
        for _ in 0..3 {
            let shared = Arc::clone(&shared);
            looks.push(tokio::spawn(async move { shared.catalog.ensure_fresh().await }));
            // One after the other, in this order.
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        }
        session.rotate_key("k", None).await.unwrap();
        faults.lose_readers.store(if given_up { 1 } else { 2 }, Ordering::SeqCst);
        drop(closed);
        let last = looks.pop().unwrap();
        if given_up {
            looks[1].abort();
        }
        last.await.unwrap().unwrap();
        let present = session.get_key("k").await.unwrap();
        let known = shared.catalog.snapshot().key(present.id).map(|key| key.current_version);
        assert_eq!(known, Some(present.current_version), "given up: {given_up}");
    }
}

/// Released results are recorded unchanged in the log, also when they reach the version's limit.
#[tokio::test(flavor = "multi_thread")]
async fn released_encryptions_at_the_limit_are_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let (shared, session, _) = open(&file).await;
    shared.ledger.close(std::time::Duration::from_secs(30)).await.unwrap();
    shared.store.close().await.unwrap();
    drop((session, shared));
    let url = format!("sqlite:{}", file.display());
    let mut raw = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
    let limit = i64::try_from(crate::types::limits::ENCRYPTIONS_MAX).unwrap();
    sqlx::query("UPDATE version_usage SET encryptions = ?").bind(limit - 5).execute(&mut raw).await.unwrap();
    sqlx::Connection::close(raw).await.unwrap();
    let config = Config::new(&url).root_key_bytes([7; 32]).audit_ack(AuditAck::Queued);
    let shared = crate::kms::open::open(config.clone()).await.unwrap();
    let session = Session::new(shared.clone(), Actor::new("alice", Role::Admin).unwrap());
    let mut succeeded = 0u64;
    let error = loop {
        match session.encrypt("k", b"x", &Context::new()).await {
            Ok(_) => succeeded += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), ErrorCode::KeyExhausted);
    shared.ledger.close(std::time::Duration::from_secs(30)).await.unwrap();
    shared.store.close().await.unwrap();
    drop((session, shared));
    let shared = crate::kms::open::open(config).await.unwrap();
    let session = Session::new(shared.clone(), Actor::new("alice", Role::Admin).unwrap());
    let query = AuditQuery::new().action(Action::Encrypt).status(Status::Success);
    let (mut recorded, mut paging) = (0, Paging::new(1_000));
    loop {
        let page = session.list_audit(&query, &paging).await.unwrap();
        recorded += page.items.len() as u64;
        paging.cursor = page.next_cursor;
        if paging.cursor.is_none() {
            break;
        }
    }
    assert!(succeeded >= 5, "{succeeded}");
    assert_eq!(recorded, succeeded);
    size(&session).await;
}

/// Closing a ledger whose store cannot be written takes no longer than allowed, and leaves no caller waiting.
#[tokio::test(flavor = "multi_thread")]
async fn closing_is_bounded_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let (shared, session, _) = open(&file).await;
    let url = format!("sqlite:{}", file.display());
    let mut raw = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut raw).await.unwrap();
    let calls: Vec<_> = (0..5)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move { session.encrypt("k", b"x", &Context::new()).await.map(drop) })
        })
        .collect();
    // One submission is being written, and others may wait.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let begun = std::time::Instant::now();
    let closed = shared.ledger.close(std::time::Duration::from_millis(200)).await;
    assert_eq!(closed.unwrap_err().code(), ErrorCode::StoreUnavailable);
    assert!(begun.elapsed() < std::time::Duration::from_secs(2));
    assert_eq!(session.encrypt("k", b"x", &Context::new()).await.unwrap_err().code(), ErrorCode::Closed);
    sqlx::query("ROLLBACK").execute(&mut raw).await.unwrap();
    for call in calls {
        let _ = tokio::time::timeout(std::time::Duration::from_secs(20), call).await.unwrap().unwrap();
    }
}

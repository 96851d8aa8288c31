//! Tests that rotations disturb neither concurrent encryptions nor concurrent rotations.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};

use crate::common::{Place, admin, code, last_record, whole_log};
use kms_lib::SignatureAlgorithm::RsaPssSha256;
use kms_lib::{Action, Clock, Context, ErrorCode, Kms, NewKey, Role, Session, Status, Timestamp};

/// Each of `rotators` tasks rotates one key `rotations` times while others encrypt and sign; no call fails.
async fn rotate_under_load(sessions: &[Session], rotators: u32, rotations: u32) {
    let before = sessions[0].get_key("busy").await.unwrap().current_version;
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU32::new(0));
    let mut callers = Vec::new();
    for task in 0..12 {
        let session = sessions[task % sessions.len()].clone();
        let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
        callers.push(tokio::spawn(async move {
            let none = Context::new();
            while !stop.load(Ordering::SeqCst) {
                let sealed = session.encrypt("busy", b"payload", &none).await.unwrap();
                session.decrypt(&sealed.ciphertext, &none).await.unwrap();
                done.fetch_add(1, Ordering::SeqCst);
            }
        }));
    }
    let rotating: Vec<_> = (0..rotators)
        .map(|task| {
            let session = sessions[task as usize % sessions.len()].clone();
            tokio::spawn(async move {
                for _ in 0..rotations {
                    session.rotate_key("busy", None).await.unwrap();
                }
            })
        })
        .collect();
    for rotator in rotating {
        rotator.await.unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(done.load(Ordering::SeqCst) > 0);
    let key = sessions[0].get_key("busy").await.unwrap();
    assert_eq!(key.current_version, before + rotators * rotations);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn four_rotators_cost_no_caller_an_error() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("busy")).await.unwrap();
    rotate_under_load(std::slice::from_ref(&session), 4, 20).await;
    assert!(session.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rotators_on_several_nodes_cost_no_caller_an_error() {
    let place = Place::new();
    let (one, two) = (place.open().await, place.open().await);
    let sessions = [admin(&one), admin(&two)];
    sessions[0].create_key(NewKey::aes("busy")).await.unwrap();
    rotate_under_load(&sessions, 4, 10).await;
    assert!(sessions[1].verify_audit().await.unwrap().ok);
    one.close().await.unwrap();
    two.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_rotations_at_once_make_fifty_versions() {
    let place = Place::new();
    let kms = Kms::open(place.config().limits(4_096, 64 << 20)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let calls: Vec<_> = (0..50)
        .map(|i| {
            // Each task has its own caller, because one caller may not fill the lane of changes.
            let session = kms.session(crate::common::actor(&format!("rotator-{i}"), Role::Admin));
            tokio::spawn(async move { session.rotate_key("k", None).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(session.get_key("k").await.unwrap().current_version, 51);
    let rows = whole_log(&session).await;
    let rotations = rows.iter().filter(|row| row.action == Action::KeyRotate.as_str());
    let versions: Vec<_> = rotations.map(|row| (row.status.as_str(), row.key_version.unwrap())).collect();
    assert_eq!(versions, (2..=51).map(|version| (Status::Success.as_str(), version)).collect::<Vec<_>>());
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_expected_another_version_is_no_use_to_repeat() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    // Of many calls that expect the same version, one succeeds.
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move { session.rotate_key("k", Some(1)).await })
        })
        .collect();
    let mut rotated = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(key) => rotated += key.current_version,
            Err(error) => assert_eq!((error.code(), error.is_retryable()), (ErrorCode::Conflict, false)),
        }
    }
    assert_eq!(rotated, 2);
    assert_eq!(code(session.rotate_key("k", Some(1)).await), ErrorCode::Conflict);
    kms.close().await.unwrap();
}

/// The window of a version that verification finds counts as if the caller had named the version: whenever it ends
/// during the operation, no success is logged after its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_ends_meanwhile_ends_a_verification() {
    let place = Place::new();
    // A clock that jumps ahead after a number of readings.
    let (looks, ahead) = (Arc::new(AtomicI64::new(i64::MAX)), Arc::new(AtomicI64::new(0)));
    let clock = Clock::new({
        let (looks, ahead) = (Arc::clone(&looks), Arc::clone(&ahead));
        move || {
            let is_over = looks.fetch_sub(1, Ordering::SeqCst) <= 0;
            let ahead = ahead.load(Ordering::SeqCst) + if is_over { 20_000_000 } else { 0 };
            Timestamp::from_micros(Timestamp::now().micros() + ahead)
        }
    });
    let kms = Kms::open(place.config().clock(clock.skip_skew_check())).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::rsa_signing("s")).await.unwrap();
    let signed = session.sign("s", b"m", RsaPssSha256).await.unwrap().signature;
    session.rotate_key("s", None).await.unwrap();
    let mut ends = 0;
    for count in 0..16 {
        looks.store(i64::MAX, Ordering::SeqCst);
        let present = Timestamp::from_micros(Timestamp::now().micros() + ahead.load(Ordering::SeqCst));
        let end = present.plus_seconds(10);
        session.set_window("s", 1, Some(end)).await.unwrap();
        // The key is loaded first, so that only the clock decides the result.
        assert!(session.verify("s", b"m", &signed, RsaPssSha256, None).await.unwrap().valid);
        looks.store(count, Ordering::SeqCst);
        let verified = session.verify("s", b"m", &signed, RsaPssSha256, None).await;
        looks.store(i64::MAX, Ordering::SeqCst);
        ahead.fetch_add(20_000_000, Ordering::SeqCst);
        match verified {
            Ok(found) if found.valid => {
                let record = last_record(&session).await;
                assert_eq!((record.seq, record.action.as_str()), (found.receipt.seq, Action::Verify.as_str()));
                assert!(record.timestamp < end, "{count} looks: verified at {}, after {end}", record.timestamp);
            }
            Ok(_) => ends += 1,
            Err(error) => {
                assert_eq!(error.code(), ErrorCode::VersionDisabled);
                ends += 1;
            }
        }
    }
    assert!(ends > 0);
    kms.close().await.unwrap();
}

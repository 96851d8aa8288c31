//! Tests of replacing the log's signing key: a verifier that pins any of the keys is led to the others, and to no
//! foreign key.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{Place, actor, admin, check_usable, code, last_record};
use kms_lib::{Context, ErrorCode, Kms, NewKey, Report, Role, Session, VerifyOptions};
use sqlx::{Connection, Row, SqliteConnection};

fn pinned(key: &str) -> VerifyOptions {
    VerifyOptions::new().pinned_key(key)
}

async fn encrypt(session: &Session, times: usize) {
    for _ in 0..times {
        session.encrypt("k", b"x", &Context::new()).await.unwrap();
    }
}

/// Creates a closed store whose signing key was replaced twice, and returns its three public keys.
async fn replaced_twice() -> (Place, Vec<String>) {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let mut keys = vec![session.audit_public_key().await.unwrap()];
    for _ in 0..2 {
        encrypt(&session, 5).await;
        keys.push(session.replace_signing_key().await.unwrap());
    }
    encrypt(&session, 5).await;
    kms.close().await.unwrap();
    (place, keys)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_pins_any_of_the_keys_is_led_to_the_others() {
    let (place, keys) = replaced_twice().await;
    let kms = place.open().await;
    let session = admin(&kms);
    assert_eq!(session.audit_public_key().await.unwrap(), keys[2]);
    let ranges = session.audit_public_keys().await.unwrap();
    assert_eq!(ranges.iter().map(|key| key.verifier_key.clone()).collect::<Vec<_>>(), keys);
    // Create, 5, replace, 5, replace: the replacements are records 8 and 14.
    let bounds: Vec<_> = ranges.iter().map(|key| (key.first_seq, key.last_seq)).collect();
    assert_eq!(bounds, [(1, Some(8)), (8, Some(14)), (14, None)]);
    for key in &keys {
        let report = session.verify_audit_with(&pinned(key)).await.unwrap();
        assert!(report.ok, "{:?}", report.faults);
    }
    assert!(session.verify_audit().await.unwrap().ok);
    assert!(session.verify_audit_incrementally().await.unwrap().ok);
    // A key of another log, and a key that this log never had.
    let other = Place::new();
    let elsewhere = other.open().await;
    let foreign = admin(&elsewhere).audit_public_key().await.unwrap();
    assert_eq!(code(session.verify_audit_with(&pinned(&foreign)).await), ErrorCode::InvalidArgument);
    let log = keys[0].split('+').next().unwrap();
    let renamed = kms_lib::audit::checkpoint::verifier_key(log, &[9; 32]);
    assert!(!session.verify_audit_with(&pinned(&renamed)).await.unwrap().ok);
    elsewhere.close().await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();

    // The private halves of the former keys are erased.
    let mut raw = SqliteConnection::connect(&place.url()).await.unwrap();
    let rows = sqlx::query("SELECT number FROM service_keys JOIN wrappings ON subject = id WHERE kind = 'signing'")
        .fetch_all(&mut raw)
        .await
        .unwrap();
    let numbers: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(numbers, [3]);
    raw.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_admins_replace_it_and_it_is_recorded() {
    let place = Place::new();
    let kms = place.open().await;
    let before = admin(&kms).audit_public_key().await.unwrap();
    for role in [Role::App, Role::Auditor] {
        let refused = kms.session(actor("bob", role)).replace_signing_key().await;
        assert_eq!(code(refused), ErrorCode::AccessDenied);
        let record = last_record(&admin(&kms)).await;
        assert_eq!((record.action.as_str(), record.status.as_str()), ("SIGNING_KEY_REPLACE", "FAILURE"));
    }
    let once = admin(&kms).with_idempotency_key("once").unwrap();
    assert_eq!(code(once.replace_signing_key().await), ErrorCode::InvalidArgument);
    let after = admin(&kms).replace_signing_key().await.unwrap();
    let record = last_record(&admin(&kms)).await;
    let details: serde_json::Value = serde_json::from_str(record.details.as_deref().unwrap()).unwrap();
    assert_eq!(details["previousKey"], before.as_str());
    assert_eq!(details["verifierKey"], after.as_str());
    assert_eq!(details["number"], 2);
    // Both keys sign the checkpoint that ends with this record.
    let checkpoint = admin(&kms).checkpoint().await.unwrap();
    assert_eq!(checkpoint.matches("\u{2014} mini-kms/log/").count(), 2, "{checkpoint}");
    encrypt_once_more(&kms).await;
    kms.close().await.unwrap();
}

async fn encrypt_once_more(kms: &Kms) {
    check_usable(kms).await;
    let checkpoint = admin(kms).checkpoint().await.unwrap();
    assert_eq!(checkpoint.matches("\u{2014} mini-kms/log/").count(), 1, "{checkpoint}");
}

/// Two services on one file, as two processes have them: the one that did not replace the key continues without an
/// error.
#[tokio::test(flavor = "multi_thread")]
async fn other_processes_follow() {
    let place = Place::new();
    let one = place.open().await;
    let two = place.open().await;
    admin(&one).create_key(NewKey::aes("k")).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = [&one, &two, &one, &two]
        .into_iter()
        .map(|kms| {
            let (session, stop) = (admin(kms), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut done = 0;
                while !stop.load(Ordering::SeqCst) {
                    session.encrypt("k", b"x", &Context::new()).await.unwrap();
                    done += 1;
                }
                done
            })
        })
        .collect();
    let mut replaced = 0;
    for round in 0..10 {
        let kms = if round % 2 == 0 { &one } else { &two };
        // In every third round both replace the key; at most one of them gets an error because the other was first.
        let (a, b) = if round % 3 == 0 {
            let (first, second) = (admin(&one), admin(&two));
            tokio::join!(first.replace_signing_key(), second.replace_signing_key())
        } else {
            (admin(kms).replace_signing_key().await, Err(kms_lib::Error::new(ErrorCode::Conflict, "not asked")))
        };
        for result in [a, b] {
            match result {
                Ok(_) => replaced += 1,
                Err(error) => assert_eq!(error.code(), ErrorCode::Conflict),
            }
        }
    }
    stop.store(true, Ordering::SeqCst);
    for task in load {
        assert!(task.await.unwrap() > 0);
    }
    assert!(replaced >= 10);
    for kms in [&one, &two] {
        let keys = admin(kms).audit_public_keys().await.unwrap();
        assert_eq!(keys.len(), replaced + 1);
        for key in &keys {
            let report = admin(kms).verify_audit_with(&pinned(&key.verifier_key)).await.unwrap();
            assert!(report.ok, "{:?}", report.faults);
        }
        check_usable(kms).await;
    }
    one.close().await.unwrap();
    two.close().await.unwrap();
}

#[derive(Debug, PartialEq)]
enum Found {
    Refused(ErrorCode),
    At(u64),
    Nothing,
}

async fn find(place: &Place, key: Option<&str>) -> Found {
    let kms = match Kms::open(place.config()).await {
        Ok(kms) => kms,
        Err(error) => return Found::Refused(error.code()),
    };
    let options = key.map_or_else(VerifyOptions::default, pinned);
    let Report { broken_at, .. } = admin(&kms).verify_audit_with(&options).await.unwrap();
    kms.close().await.unwrap();
    broken_at.map_or(Found::Nothing, Found::At)
}

#[tokio::test(flavor = "multi_thread")]
async fn altered_keys_and_links_are_found() {
    let (original, keys) = replaced_twice().await;
    let refused = Found::Refused(ErrorCode::IntegrityFailure);
    for (sql, expected) in [
        ("UPDATE service_keys SET public_key = randomblob(32) WHERE number = 1 AND kind = 'signing'", Found::At(1)),
        // The checkpoint of 8 records should have its signature, so the fault is between 1 and 8.
        ("UPDATE service_keys SET public_key = randomblob(32) WHERE number = 2", Found::At(1)),
        ("UPDATE service_keys SET public_key = randomblob(32) WHERE number = 3", refused),
        ("UPDATE service_keys SET public_key = NULL WHERE number = 2", Found::Refused(ErrorCode::IntegrityFailure)),
        ("UPDATE service_keys SET first_seq = 9 WHERE number = 2", Found::At(8)),
        ("UPDATE service_keys SET first_seq = 12 WHERE number = 3", Found::At(12)),
        ("UPDATE service_keys SET first_seq = 99 WHERE number = 3", Found::Refused(ErrorCode::IntegrityFailure)),
        ("UPDATE service_keys SET first_seq = 14 WHERE number = 2", Found::Refused(ErrorCode::IntegrityFailure)),
        ("DELETE FROM service_keys WHERE number = 3", Found::Refused(ErrorCode::IntegrityFailure)),
        ("DELETE FROM service_keys WHERE number = 2", Found::Refused(ErrorCode::IntegrityFailure)),
        (
            "UPDATE wrappings SET wrapped = zeroblob(66)
             WHERE subject = (SELECT id FROM service_keys WHERE number = 3)",
            Found::Refused(ErrorCode::IntegrityFailure),
        ),
        ("UPDATE service_keys SET number = 4 WHERE number = 3", Found::Refused(ErrorCode::IntegrityFailure)),
        (
            "UPDATE wrappings SET wrapped = zeroblob(66)
             WHERE subject = (SELECT id FROM service_keys WHERE kind = 'integrity')",
            Found::Refused(ErrorCode::IntegrityFailure),
        ),
        ("DELETE FROM service_keys WHERE kind = 'integrity'", Found::Refused(ErrorCode::StoreCorrupt)),
        ("DELETE FROM audit_checkpoints WHERE size = 8", Found::At(8)),
        ("DELETE FROM audit_checkpoints WHERE size = 14", Found::At(14)),
        // The signature of the new key alone is not enough.
        ("UPDATE audit_checkpoints SET note = substr(note, 1, length(note) - 150) WHERE size = 8", Found::At(1)),
        (
            "UPDATE audit_logs SET details = replace(details, '\"number\":2', '\"number\":3') WHERE seq = 8",
            Found::At(8),
        ),
        ("UPDATE audit_logs SET action = 'ENCRYPT' WHERE seq = 14", Found::At(14)),
    ] {
        let place = original.copy();
        place.tamper(sql).await;
        let found = find(&place, None).await;
        assert_eq!(found, expected, "{sql}");
        for key in &keys {
            let found = find(&place, Some(key)).await;
            assert!(found != Found::Nothing, "{sql}: not found by who pins {key}");
        }
    }
    assert_eq!(find(&original, None).await, Found::Nothing);
}

/// A running service also notices altered keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_service_notices_altered_keys() {
    let (place, _) = replaced_twice().await;
    let kms = place.open().await;
    place.tamper("UPDATE service_keys SET public_key = randomblob(32) WHERE number = 2").await;
    assert_eq!(code(admin(&kms).audit_public_keys().await), ErrorCode::IntegrityFailure);
    assert_eq!(code(admin(&kms).replace_signing_key().await), ErrorCode::IntegrityFailure);
    assert_eq!(admin(&kms).verify_audit().await.unwrap().broken_at, Some(1));
    kms.close().await.unwrap();
}

/// A backup from before the replacement does not contain the key that signed the high-water file.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_to_before_the_replacement_is_noticed() {
    let place = Place::new();
    let noted = place.folder.path().join("high-water");
    let config = place.config().high_water(&noted);
    let kms = Kms::open(config.clone()).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let backup = place.folder.path().join("backup.db");
    kms.session(actor("alice", Role::Admin)).backup(&backup).await.unwrap();
    let before = session.audit_public_key().await.unwrap();
    session.replace_signing_key().await.unwrap();
    encrypt(&session, 3).await;
    kms.close().await.unwrap();

    for name in ["kms.db", "kms.db-wal", "kms.db-shm"] {
        let _ = std::fs::remove_file(place.folder.path().join(name));
    }
    Kms::restore(&config, &backup).await.unwrap();
    assert_eq!(code(Kms::open(config.clone()).await), ErrorCode::RestoreDetected);
    let kms = Kms::open(config.clone().acknowledge_restore(true)).await.unwrap();
    assert_eq!(last_record(&admin(&kms)).await.action, "RESTORE_ACKNOWLEDGE");
    assert_eq!(admin(&kms).audit_public_key().await.unwrap(), before);
    check_usable(&kms).await;
    kms.close().await.unwrap();
    Kms::open(config).await.unwrap().close().await.unwrap();
}

/// A head that no known key signed, in a store whose newest signing key was deleted, stops the service. The service
/// does not search for the key indefinitely, and can be closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_signing_key_that_was_deleted_is_not_waited_for() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    session.replace_signing_key().await.unwrap();
    place.tamper("DELETE FROM service_keys WHERE kind = 'signing' AND number = 2").await;
    place.tamper("UPDATE audit_head SET seq = seq + 1, checkpoint = 'none'").await;
    let work = async {
        assert_eq!(code(session.encrypt("k", b"x", &Context::new()).await), ErrorCode::IntegrityFailure);
        kms.close().await.unwrap();
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), work).await.unwrap();
}

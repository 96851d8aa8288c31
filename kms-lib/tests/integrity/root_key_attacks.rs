//! Tests of attacks on the replacement of root keys, and of concurrent calls: what an attacker with write access to the
//! database can achieve, and what must not be lost by any combination of calls.

use std::sync::Arc;

use crate::common::{Place, admin, check_usable, code, whole_log};
use kms_lib::{
    Config, Context, ErrorCode, Kms, NewKey, RetireOptions, RootKeyJob, RootKeySource, RootKeyState, Session,
};

const SECOND: [u8; 32] = [8; 32];
const THIRD: [u8; 32] = [9; 32];

fn source(key: [u8; 32]) -> RootKeySource {
    crate::common::output::secret(&key);
    RootKeySource::from_bytes(key)
}

fn all(place: &Place) -> Config {
    place.config().add_root_key_bytes(SECOND)
}

async fn add_and_verify(session: &Session, key: [u8; 32]) -> u32 {
    let added = session.add_root_key(&source(key)).await.unwrap();
    assert!(session.rewrap(&RootKeyJob::default()).await.unwrap().is_complete());
    assert!(session.verify_root_key(added.generation, &RootKeyJob::default()).await.unwrap().is_complete());
    added.generation
}

/// An attacker restores a retired generation with its former seal: nothing is wrapped under it, not even by a rewrap,
/// and root keys cannot be changed while the right generations are unknown.
#[tokio::test(flavor = "multi_thread")]
async fn a_retired_generation_that_is_put_back() {
    let place = Place::new();
    let kms = Kms::open(all(&place)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    add_and_verify(&session, SECOND).await;
    place.tamper("CREATE TABLE kept AS SELECT * FROM root_keys WHERE generation = 1").await;
    session.retire_root_key(1, &RetireOptions::default()).await.unwrap();
    session.create_key(NewKey::aes("since")).await.unwrap();
    kms.close().await.unwrap();
    place.tamper("DELETE FROM root_keys WHERE generation = 1").await;
    place.tamper("INSERT INTO root_keys SELECT * FROM kept").await;
    place.tamper("DROP TABLE kept").await;

    let kms = Kms::open(all(&place)).await.unwrap();
    let (session, job) = (admin(&kms), RootKeyJob::default());
    assert_eq!(code(session.encrypt("k", b"x", &Context::new()).await), ErrorCode::IntegrityFailure);
    assert_eq!(code(session.rewrap(&job).await), ErrorCode::IntegrityFailure);
    assert_eq!(place.wrappings_under(1).await, 0, "wrapped under a retired root key");
    assert_eq!(code(session.plan_rewrap().await), ErrorCode::IntegrityFailure);
    assert_eq!(code(session.verify_root_key(2, &job).await), ErrorCode::IntegrityFailure);
    assert_eq!(code(session.verify_planned_root_key(&source(THIRD), &job).await), ErrorCode::IntegrityFailure);
    assert_eq!(code(session.add_root_key(&source(THIRD)).await), ErrorCode::IntegrityFailure);
    for generation in [1, 2] {
        let options = RetireOptions::default().compromised(true);
        assert_eq!(code(session.retire_root_key(generation, &options).await), ErrorCode::IntegrityFailure);
    }
    kms.run_scheduler().await.unwrap();
    assert_eq!((place.wrappings_under(1).await, place.wrappings_under(2).await), (0, 4));
    kms.close().await.unwrap();
}

/// Two generations, each verified only together with the other, are retired concurrently.
#[tokio::test(flavor = "multi_thread")]
async fn two_generations_retired_at_once() {
    for round in 2..8 {
        let place = Place::new();
        let one = Kms::open(all(&place).add_root_key_bytes(THIRD)).await.unwrap();
        let session = admin(&one);
        session.create_key(NewKey::aes("k")).await.unwrap();
        let sealed = session.encrypt("k", b"x", &Context::new()).await.unwrap();
        add_and_verify(&session, SECOND).await;
        session.verify_root_key(1, &RootKeyJob::default()).await.unwrap();
        // Only the service's own keys are wrapped under the third generation.
        session.add_root_key(&source(THIRD)).await.unwrap();
        session.verify_root_key(3, &RootKeyJob::default()).await.unwrap();
        // Concurrent changes keep the ledger busy, so that both retirements wait for the same batch.
        let busy = Arc::new(session);
        let load: Vec<_> = (0..40)
            .map(|_| {
                let session = Arc::clone(&busy);
                tokio::spawn(async move {
                    for _ in 0..round {
                        session.disable_key("k").await.unwrap();
                        session.enable_key("k").await.unwrap();
                    }
                })
            })
            .collect();
        let retire = |generation| {
            let session = Arc::clone(&busy);
            tokio::spawn(async move { session.retire_root_key(generation, &RetireOptions::default()).await })
        };
        let (first, second) = (retire(1), retire(2));
        let done = [first.await.unwrap(), second.await.unwrap()];
        for task in load {
            task.await.unwrap();
        }
        assert_eq!(done.iter().filter(|done| done.is_ok()).count(), 1, "{done:?}");
        one.close().await.unwrap();
        let kms = Kms::open(all(&place).add_root_key_bytes(THIRD)).await.unwrap();
        admin(&kms).decrypt(&sealed.ciphertext, &Context::new()).await.unwrap();
        check_usable(&kms).await;
        kms.close().await.unwrap();
    }
}

/// A node without the remaining key does not retire its own, because it would lock itself out.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_the_key_that_stays() {
    let place = Place::new();
    let both = Kms::open(all(&place)).await.unwrap();
    let without = Kms::open(place.config()).await.unwrap();
    admin(&both).create_key(NewKey::aes("k")).await.unwrap();
    add_and_verify(&admin(&both), SECOND).await;
    let options = RetireOptions::default();
    assert_eq!(code(admin(&without).retire_root_key(1, &options).await), ErrorCode::RootKeyUnavailable);
    let verifying = options.verify_new(true);
    assert_eq!(code(admin(&without).retire_root_key(1, &verifying).await), ErrorCode::RootKeyUnavailable);
    assert_eq!(admin(&both).list_root_keys().await.unwrap()[0].state, RootKeyState::Active);
    admin(&without).encrypt("k", b"x", &Context::new()).await.unwrap();
    for kms in [both, without] {
        kms.close().await.unwrap();
    }
}

/// A key may be reported as leaked after its retirement.
#[tokio::test(flavor = "multi_thread")]
async fn compromised_after_it_was_retired() {
    let place = Place::new();
    let kms = Kms::open(all(&place)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    add_and_verify(&session, SECOND).await;
    session.retire_root_key(1, &RetireOptions::default()).await.unwrap();
    session.create_key(NewKey::aes("since")).await.unwrap();
    let error = session.retire_root_key(1, &RetireOptions::default().compromised(true)).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::WrongState);
    assert!(error.message().contains("signing key") && error.message().contains("integrity key"), "{error}");
    let records = whole_log(&session).await;
    let last: Vec<_> = records.iter().rev().take(2).map(|row| (row.action.as_str(), row.status.as_str())).collect();
    assert_eq!(last, [("ROOT_KEY_RETIRE", "FAILURE"), ("ROOT_KEY_COMPROMISE", "SUCCESS")]);
    let again = session.retire_root_key(1, &RetireOptions::default()).await.unwrap();
    assert!(again.root_key.compromised_at.is_some() && again.root_key.state == RootKeyState::Retired);
    assert_eq!(again.rotate, ["k"], "what was made since was never wrapped under it");
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// Two concurrent retirements have the effect of one.
#[tokio::test(flavor = "multi_thread")]
async fn retired_twice_at_once() {
    let place = Place::new();
    let (one, two) = (Kms::open(all(&place)).await.unwrap(), Kms::open(all(&place)).await.unwrap());
    admin(&one).create_key(NewKey::aes("k")).await.unwrap();
    add_and_verify(&admin(&one), SECOND).await;
    let (a, b, options) = (admin(&one), admin(&two), RetireOptions::default());
    let (a, b) = tokio::join!(a.retire_root_key(1, &options), b.retire_root_key(1, &options));
    assert_eq!(a.unwrap().root_key.retired_at, b.unwrap().root_key.retired_at);
    let retired = whole_log(&admin(&one)).await.into_iter().filter(|row| row.action == "ROOT_KEY_RETIRE");
    let changing = retired.filter(|row| !row.details.as_ref().unwrap().contains("\"changed\":false"));
    assert_eq!(changing.count(), 1);
    for kms in [one, two] {
        check_usable(&kms).await;
        kms.close().await.unwrap();
    }
}

/// The future of every operation can be spawned.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_can_be_spawned() {
    let place = Place::new();
    let kms = Kms::open(all(&place)).await.unwrap();
    let spawned = admin(&kms);
    let done = tokio::spawn(async move {
        let job = RootKeyJob::default();
        spawned.verify_planned_root_key(&source(SECOND), &job).await.unwrap();
        spawned.add_root_key(&source(SECOND)).await.unwrap();
        assert_eq!(spawned.plan_rewrap().await.unwrap().materials, 0);
        spawned.rewrap(&job).await.unwrap();
        spawned.verify_root_key(2, &job).await.unwrap();
        spawned.retire_root_key(1, &RetireOptions::default()).await.unwrap();
        spawned.list_root_keys().await.unwrap()
    });
    assert_eq!(done.await.unwrap().len(), 2);
    kms.close().await.unwrap();
}

/// No rate setting makes a job panic.
#[tokio::test(flavor = "multi_thread")]
async fn any_rate() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    for rate in [0, 1_000_000_001, u32::MAX] {
        let job = RootKeyJob::default().rate(Some(rate));
        assert_eq!(session.verify_root_key(1, &job).await.unwrap().done, 3);
    }
    kms.close().await.unwrap();
}

/// An orphaned row of `wrappings` does not prevent the retirement of a generation. Verification reports it.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrapping_of_nothing() {
    let place = Place::new();
    let kms = Kms::open(all(&place)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    add_and_verify(&session, SECOND).await;
    let planted = "INSERT INTO wrappings (subject, generation, wrapped, verified, seal)
                   SELECT SUBSTR(seal, 1, 16), 1, wrapped, 1, seal FROM wrappings WHERE generation = 1 LIMIT 1";
    place.tamper(planted).await;
    let report = session.verify_audit().await.unwrap();
    assert!(report.faults.iter().any(|fault| fault.to_string().contains("1 rows of wrappings")), "{report:?}");
    let retired = session.retire_root_key(1, &RetireOptions::default()).await.unwrap();
    assert_eq!((retired.erased, retired.erasure_pending), (4, false), "with the row that belongs to nothing");
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// Root keys are added while the signing key is replaced repeatedly: neither call fails because of the other, and each
/// generation wraps all keys in use.
#[tokio::test(flavor = "multi_thread")]
async fn added_while_the_signing_key_is_replaced() {
    let place = Place::new();
    let kms = place.open().await;
    let (session, other) = (admin(&kms), admin(&kms));
    for round in 0..20u8 {
        let source = source([100 + round; 32]);
        let (added, replaced) = tokio::join!(session.add_root_key(&source), other.replace_signing_key());
        let added = added.unwrap();
        replaced.unwrap();
        let sql = format!(
            "SELECT COUNT(*) FROM wrappings w JOIN service_keys s ON s.id = w.subject
             WHERE s.state = 'CURRENT' AND w.generation = {}",
            added.generation
        );
        assert_eq!(place.number(&sql).await, 2, "round {round}");
    }
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// An attacker with write access to the database shifts the start of a service key's validity, or restores a former
/// key: no key is used, and verification names the altered row.
#[tokio::test(flavor = "multi_thread")]
async fn altered_service_keys() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    session.replace_signing_key().await.unwrap();
    kms.close().await.unwrap();
    for alteration in [
        "first_seq = 99 WHERE kind = 'integrity'",
        "state = 'RESEALING' WHERE kind = 'integrity'",
        "revision = 99 WHERE kind = 'integrity'",
        "public_key = seal WHERE kind = 'integrity'",
        "state = 'CURRENT' WHERE kind = 'signing' AND number = 1",
        "fingerprint = seal WHERE kind = 'signing' AND number = 1",
    ] {
        place.tamper("CREATE TABLE kept AS SELECT * FROM service_keys").await;
        place.tamper(&format!("UPDATE service_keys SET {alteration}")).await;
        let kms = place.open().await;
        let session = admin(&kms);
        let encrypted = session.encrypt("k", b"x", &Context::new()).await;
        assert_eq!(code(encrypted), ErrorCode::IntegrityFailure, "{alteration}");
        let report = session.verify_audit().await.unwrap();
        let is_named = report.faults.iter().any(|fault| fault.to_string().contains("of service_keys"));
        assert!(is_named, "{alteration}: {report:?}");
        kms.close().await.unwrap();
        place.tamper("DELETE FROM service_keys").await;
        place.tamper("INSERT INTO service_keys SELECT * FROM kept").await;
        place.tamper("DROP TABLE kept").await;
    }
    let kms = place.open().await;
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

//! Tests of replacing the integrity key: the service and other nodes continue, seals under the former key count only
//! where they should, and a leaked root key can be retired.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{Place, ROOT_KEY, actor, admin, check_usable, code, last_record, whole_log};
use crate::two_root_keys::{NEXT, both, next};
use kms_lib::{
    AuditContext, Context, ErrorCode, Kms, NewGrant, NewKey, NewToken, Permission, RetireOptions, Role, RootKeyJob,
    RootKeyState, Session,
};

/// Creates rows of every kind.
async fn fill(session: &Session) {
    for name in ["a", "b", "c"] {
        session.create_key(NewKey::aes(name)).await.unwrap();
    }
    session.create_key(NewKey::rsa_signing("s")).await.unwrap();
    session.rotate_key("a", None).await.unwrap();
    session.revoke_key("c").await.unwrap();
    let grant = NewGrant::new("app", Role::App).on_key("a").allow([Permission::Encrypt, Permission::Decrypt]);
    session.put_grant(grant).await.unwrap();
    session.create_token(NewToken::new("app", Role::App)).await.unwrap();
}

/// The number of integrity keys whose material is stored.
async fn integrity_keys(place: &Place) -> i64 {
    let sql = "SELECT COUNT(DISTINCT s.number) FROM service_keys s JOIN wrappings w ON w.subject = s.id
               WHERE s.kind = 'integrity'";
    place.number(sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_resealed() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    fill(&session).await;
    let sealed = session.encrypt("a", b"before", &Context::new()).await.unwrap();
    for number in 2..5 {
        let replaced = session.replace_integrity_key().await.unwrap();
        assert_eq!((replaced.number, replaced.left), (number, 0));
        // Four keys, five versions, a grant, a credential, a root key and the signing key; and seven wrappings.
        assert!(number > 2 || replaced.resealed == 20, "{replaced:?}");
        assert_eq!(last_record(&session).await.action, "INTEGRITY_KEY_ERASE");
        assert_eq!(integrity_keys(&place).await, 1, "the former key is erased");
        let report = session.verify_audit().await.unwrap();
        assert!(report.ok, "{report:?}");
        session.decrypt(&sealed.ciphertext, &Context::new()).await.unwrap();
        check_usable(&kms).await;
    }
    kms.close().await.unwrap();
    let kms = place.open().await;
    let session = admin(&kms);
    session.decrypt(&sealed.ciphertext, &Context::new()).await.unwrap();
    assert!(session.verify_audit_incrementally().await.unwrap().ok);
    assert!(session.rewrap(&RootKeyJob::default()).await.unwrap().is_complete());
    assert_eq!(session.rewrap(&RootKeyJob::default()).await.unwrap().done, 0, "wrappings have good seals");
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_admins_may_and_it_is_recorded() {
    let place = Place::new();
    let kms = place.open().await;
    for role in [Role::App, Role::Auditor] {
        let session = kms.session(actor("bob", role)).with_idempotency_key("once").unwrap();
        assert_eq!(code(session.replace_integrity_key().await), ErrorCode::AccessDenied);
        let record = last_record(&admin(&kms)).await;
        assert_eq!((record.action.as_str(), record.status.as_str()), ("INTEGRITY_KEY_REPLACE", "FAILURE"));
    }
    let once = admin(&kms).with_idempotency_key("once").unwrap();
    assert_eq!(code(once.replace_integrity_key().await), ErrorCode::InvalidArgument);
    admin(&kms).replace_integrity_key().await.unwrap();
    let log = whole_log(&admin(&kms)).await;
    let done = log.iter().filter(|row| row.status == "SUCCESS" && row.actor.contains("alice"));
    let actions: Vec<&str> = done.map(|row| row.action.as_str()).collect();
    assert_eq!(actions, ["INTEGRITY_KEY_REPLACE", "ROWS_RESEAL", "ROWS_RESEAL", "INTEGRITY_KEY_ERASE"]);
    kms.close().await.unwrap();
}

/// The HMACs by which equal contexts are found in the log do not change.
#[tokio::test(flavor = "multi_thread")]
async fn contexts_keep_their_hmac() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k").audit_context(AuditContext::Hmac)).await.unwrap();
    let context = Context::from([("table", "users")]);
    let mac = async || {
        session.encrypt("k", b"x", &context).await.unwrap();
        let record = last_record(&session).await;
        let details: serde_json::Value = serde_json::from_str(record.details.as_deref().unwrap()).unwrap();
        details["contextHmac"].as_str().unwrap().to_owned()
    };
    let before = mac().await;
    session.replace_integrity_key().await.unwrap();
    assert_eq!(mac().await, before);
    kms.close().await.unwrap();
}

/// Nodes that constantly use, change or verify the store follow without an error, and so does an idle one.
#[tokio::test(flavor = "multi_thread")]
async fn other_nodes_follow() {
    let place = Place::new();
    let nodes = [place.open().await, place.open().await, place.open().await, place.open().await];
    let session = admin(&nodes[0]);
    fill(&session).await;
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = nodes[..2]
        .iter()
        .enumerate()
        .map(|(n, kms)| {
            let (session, stop) = (admin(kms), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut made = 0;
                while !stop.load(Ordering::SeqCst) {
                    let key = session.create_key(NewKey::aes(format!("busy-{n}-{made}"))).await.unwrap();
                    session.encrypt(key.id, b"x", &Context::new()).await.unwrap();
                    session.disable_key(key.id).await.unwrap();
                    session.encrypt("a", b"x", &Context::new()).await.unwrap();
                    made += 1;
                }
                made
            })
        })
        .collect();
    let verifying = {
        let (session, stop) = (admin(&nodes[2]), Arc::clone(&stop));
        tokio::spawn(async move {
            let job = RootKeyJob::default();
            while !stop.load(Ordering::SeqCst) {
                let report = session.verify_audit().await.unwrap();
                assert!(report.ok, "{report:?}");
                let report = session.verify_root_key(1, &job).await.unwrap();
                assert!(report.is_complete(), "{report:?}");
                let report = session.rewrap(&job).await.unwrap();
                assert!(report.is_complete() && report.done == 0, "{report:?}");
            }
        })
    };
    for number in 2..5 {
        let other = admin(&nodes[1]);
        // Concurrent calls: one of them creates the key, and the other one completes the replacement or gets an error.
        let (a, b) = tokio::join!(session.replace_integrity_key(), other.replace_integrity_key());
        for done in [a, b] {
            match done {
                Ok(done) => assert!(done.number >= number),
                Err(error) => assert_eq!(error.code(), ErrorCode::Conflict, "{error}"),
            }
        }
    }
    stop.store(true, Ordering::SeqCst);
    verifying.await.unwrap();
    for task in load {
        assert!(task.await.unwrap() > 0);
    }
    for kms in &nodes {
        let report = admin(kms).verify_audit().await.unwrap();
        assert!(report.ok, "{report:?}");
        check_usable(kms).await;
    }
    for kms in nodes {
        kms.close().await.unwrap();
    }
    check_usable(&place.open().await).await;
}

/// A revoked row is restored with the seal of the former key: it counts neither during resealing nor later.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_row_sealed_under_the_former_key_is_not_used() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    fill(&session).await;
    let app = || kms.session(actor("app", Role::App));
    place.tamper("CREATE TABLE kept AS SELECT * FROM grants").await;
    let granted = session.list_grants(&kms_lib::GrantFilter::new(), &kms_lib::Paging::new(10)).await.unwrap();
    session.revoke_grant(granted.items[0].id).await.unwrap();
    session.replace_integrity_key().await.unwrap();
    assert_eq!(code(app().encrypt("a", b"x", &Context::new()).await), ErrorCode::AccessDenied);
    kms.close().await.unwrap();
    place.tamper("DELETE FROM grants").await;
    place.tamper("INSERT INTO grants SELECT * FROM kept").await;
    place.tamper("DROP TABLE kept").await;
    let kms = place.open().await;
    let app = kms.session(actor("app", Role::App));
    assert_eq!(code(app.encrypt("a", b"x", &Context::new()).await), ErrorCode::AccessDenied);
    assert!(!admin(&kms).verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// The replacement begins with a verification, so tampered rows are not resealed.
#[tokio::test(flavor = "multi_thread")]
async fn altered_rows_are_not_resealed() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    fill(&session).await;
    place.tamper("UPDATE grants SET principal = 'mallory'").await;
    assert_eq!(code(session.replace_integrity_key().await), ErrorCode::IntegrityFailure);
    assert_eq!(last_record(&session).await.action, "INTEGRITY_KEY_REPLACE");
    kms.close().await.unwrap();

    // After reopening, the row is in quarantine. It stays there, and can be released after its repair.
    let kms = place.open().await;
    let session = admin(&kms);
    assert_eq!(session.list_quarantine().await.unwrap().len(), 1);
    session.replace_integrity_key().await.unwrap();
    let app = kms.session(actor("app", Role::App));
    assert_eq!(code(app.encrypt("a", b"x", &Context::new()).await), ErrorCode::AccessDenied);
    place.tamper("UPDATE grants SET principal = 'app'").await;
    assert_eq!(session.release_quarantine().await.unwrap().len(), 1);
    app.encrypt("a", b"x", &Context::new()).await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();
    let kms = place.open().await;
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// A wrapping with an invalid seal is not resealed, and marks that the former key could have made are removed.
#[tokio::test(flavor = "multi_thread")]
async fn wrappings_and_their_marks() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("a")).await.unwrap();
    session.create_key(NewKey::aes("b")).await.unwrap();
    session.verify_root_key(1, &RootKeyJob::default()).await.unwrap();
    assert_eq!(session.list_root_keys().await.unwrap()[0].verified, 4);
    let of_a = "SELECT v.id FROM key_versions v JOIN \"keys\" k ON k.id = v.key_id WHERE k.name = 'a'";
    place.tamper(&format!("UPDATE wrappings SET wrapped = seal WHERE subject = ({of_a})")).await;
    let replaced = session.replace_integrity_key().await.unwrap();
    assert_eq!(replaced.left, 1);
    let report = session.verify_root_key(1, &RootKeyJob::default()).await.unwrap();
    assert_eq!((report.done, report.failed, report.failures[0].what.as_str()), (3, 1, "a v1"), "{report:?}");
    kms.close().await.unwrap();
}

/// An idempotent request from before the replacement is refused rather than executed a second time.
#[tokio::test(flavor = "multi_thread")]
async fn idempotency_keys_from_before_conflict() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let once = session.with_idempotency_key("once").unwrap();
    once.rotate_key("k", None).await.unwrap();
    session.replace_integrity_key().await.unwrap();
    assert_eq!(code(once.rotate_key("k", None).await), ErrorCode::IdempotencyConflict);
    assert_eq!(session.get_key("k").await.unwrap().current_version, 2);
    let later = session.with_idempotency_key("later").unwrap();
    later.rotate_key("k", None).await.unwrap();
    later.rotate_key("k", None).await.unwrap();
    assert_eq!(session.get_key("k").await.unwrap().current_version, 3);
    place.pass_days(2);
    once.rotate_key("k", None).await.unwrap();
    kms.close().await.unwrap();
}

/// Follows docs/operations.md, "Replacing a root key that leaked", from beginning to end.
#[tokio::test(flavor = "multi_thread")]
async fn a_leaked_root_key_is_retired() {
    let place = Place::new();
    let kms = Kms::open(both(&place)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("old")).await.unwrap();
    let sealed = session.encrypt("old", b"x", &Context::new()).await.unwrap();
    let job = RootKeyJob::default();
    session.add_root_key(&next()).await.unwrap();
    session.rewrap(&job).await.unwrap();
    let leaked = RetireOptions::default().compromised(true);
    let advice = session.retire_root_key(1, &leaked).await.unwrap_err();
    assert!(advice.message().contains("replace_signing_key"), "{advice}");
    assert!(advice.message().contains("replace_integrity_key"), "{advice}");
    session.create_key(NewKey::aes("new")).await.unwrap();
    session.replace_signing_key().await.unwrap();
    session.replace_integrity_key().await.unwrap();
    // Nothing is verified yet, which does not undo what meets the other conditions.
    for _ in 0..2 {
        let unverified = session.retire_root_key(1, &leaked).await.unwrap_err();
        assert!(unverified.message().contains("verified wrapping"), "{unverified}");
    }
    let under_both = "SELECT COUNT(*) FROM service_keys s JOIN wrappings w ON w.subject = s.id WHERE w.generation = 1";
    assert_eq!(place.number(under_both).await, 0, "the new keys were never wrapped under the leaked one");
    assert!(session.verify_root_key(2, &job).await.unwrap().is_complete());
    let retired = session.retire_root_key(1, &leaked).await.unwrap();
    assert_eq!(retired.root_key.state, RootKeyState::Retired);
    assert_eq!(retired.rotate, ["old"]);
    session.rotate_key("old", None).await.unwrap();
    kms.close().await.unwrap();
    assert_eq!(code(Kms::open(place.config().root_key_bytes(ROOT_KEY)).await), ErrorCode::WrongRootKey);
    let kms = Kms::open(place.config().root_key_bytes(NEXT)).await.unwrap();
    admin(&kms).decrypt(&sealed.ciphertext, &Context::new()).await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// With `verify_new`, which stops wrapping under the generation automatically, the conditions stay met.
#[tokio::test(flavor = "multi_thread")]
async fn a_leaked_root_key_on_a_busy_service() {
    let place = Place::new();
    let kms = Kms::open(both(&place)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    session.add_root_key(&next()).await.unwrap();
    let leaked = RetireOptions::default().compromised(true).verify_new(true);
    assert_eq!(code(session.retire_root_key(1, &leaked).await), ErrorCode::WrongState);
    session.replace_signing_key().await.unwrap();
    session.replace_integrity_key().await.unwrap();
    // One item is not rewrapped: the generation is RETIRING then, and a second call must not start over.
    let error = session.retire_root_key(1, &leaked).await.unwrap_err();
    assert!(error.message().contains("1 items"), "{error}");
    session.rewrap(&RootKeyJob::default()).await.unwrap();
    let retired = session.retire_root_key(1, &leaked).await.unwrap();
    assert_eq!(retired.root_key.state, RootKeyState::Retired);
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

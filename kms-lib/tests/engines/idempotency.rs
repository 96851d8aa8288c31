//! Tests that requests with an idempotency key take effect once: when repeated, sent concurrently, sent to another
//! process, or after a restart.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::log_indexes::undo_log_indexes;
use crate::common::Place;
use kms_lib::{
    Action, Actor, AuditQuery, Clock, ErrorCode, KeyUpdate, Kms, NewGrant, NewKey, NewToken, Paging, Permission, Role,
    Timestamp,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_its_effect_once() {
    let place = Place::new();
    let hours = Arc::new(AtomicU32::new(0));
    let clock = Clock::new({
        let hours = Arc::clone(&hours);
        move || Timestamp::now().plus_seconds(3600 * hours.load(Ordering::SeqCst))
    });
    let config = place.config().clock(clock.skip_skew_check());
    let kms = Kms::open(config.clone()).await.unwrap();
    let alice = kms.session(Actor::new("alice", Role::Admin).unwrap());
    let once = alice.with_idempotency_key("request-1").unwrap();
    let made = once.create_key(NewKey::aes("k")).await.unwrap();
    assert_eq!(once.create_key(NewKey::aes("k")).await.unwrap().id, made.id);
    // Without the idempotency key, the name is already taken.
    assert_eq!(alice.create_key(NewKey::aes("k")).await.unwrap_err().code(), ErrorCode::NameTaken);
    // Different content or a different operation with the same idempotency key is refused.
    let error = once.create_key(NewKey::aes("k").grace_period_days(1)).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::IdempotencyConflict);
    let error = once.rotate_key("k", None).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::IdempotencyConflict);
    // Idempotency keys are separate for each caller.
    let bob = kms.session(Actor::new("bob", Role::Admin).unwrap()).with_idempotency_key("request-1").unwrap();
    bob.create_key(NewKey::aes("bobs")).await.unwrap();

    // Many concurrent requests, through two services on the same store.
    let other = Kms::open(config.clone()).await.unwrap();
    let calls: Vec<_> = (0..20)
        .map(|i| {
            let kms = if i % 2 == 0 { kms.clone() } else { other.clone() };
            let session = kms.session(Actor::new("alice", Role::Admin).unwrap());
            let session = session.with_idempotency_key("rotate-once").unwrap();
            tokio::spawn(async move { session.rotate_key("k", None).await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().current_version, 2);
    }
    // After a restart.
    kms.close().await.unwrap();
    other.close().await.unwrap();
    let kms = Kms::open(config).await.unwrap();
    let alice = kms.session(Actor::new("alice", Role::Admin).unwrap());
    let again = alice.with_idempotency_key("rotate-once").unwrap();
    assert_eq!(again.rotate_key("k", None).await.unwrap().current_version, 2);

    let grant = alice.with_idempotency_key("grant").unwrap();
    let put = |permissions: &'static [Permission]| {
        let grant = grant.clone();
        async move {
            grant.put_grant(NewGrant::new("app", Role::App).on_all_keys().allow(permissions.iter().copied())).await
        }
    };
    let first = put(&[Permission::Read]).await.unwrap();
    assert_eq!(put(&[Permission::Read]).await.unwrap().id, first.id);
    assert_eq!(put(&[Permission::Encrypt]).await.unwrap_err().code(), ErrorCode::IdempotencyConflict);
    let withdraw = alice.with_idempotency_key("withdraw").unwrap();
    withdraw.revoke_grant(first.id).await.unwrap();
    withdraw.revoke_grant(first.id).await.unwrap();
    let disable = alice.with_idempotency_key("disable").unwrap();
    let disabled = disable.disable_key("k").await.unwrap();
    alice.enable_key("k").await.unwrap();
    assert_eq!(disable.disable_key("k").await.unwrap(), disabled);
    assert_eq!(alice.get_key("k").await.unwrap().state, kms_lib::KeyState::Enabled);

    // A day later, the idempotency record has expired and the request counts as new.
    hours.store(25, Ordering::SeqCst);
    assert_eq!(again.rotate_key("k", None).await.unwrap().current_version, 3);
    let query = AuditQuery::new().action(Action::KeyRotate);
    assert_eq!(alice.list_audit(&query, &Paging::default()).await.unwrap().items.len(), 2);
    assert!(alice.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

#[tokio::test]
async fn bad_keys_are_refused_and_failures_are_not_kept() {
    let place = Place::new();
    let config = place.config();
    let kms = Kms::open(config).await.unwrap();
    let alice = kms.session(Actor::new("alice", Role::Admin).unwrap());
    for bad in ["", "a\0b", "a\nb", &"x".repeat(10_000)] {
        assert_eq!(alice.with_idempotency_key(bad).unwrap_err().code(), ErrorCode::InvalidArgument);
    }
    let once = alice.with_idempotency_key("later").unwrap();
    assert_eq!(once.rotate_key("k", None).await.unwrap_err().code(), ErrorCode::KeyNotFound);
    alice.create_key(NewKey::aes("k")).await.unwrap();
    assert_eq!(once.rotate_key("k", None).await.unwrap().current_version, 2);
    let error = once.create_token(NewToken::new("x", Role::App)).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
    kms.close().await.unwrap();
}

/// A forged idempotency record does not make a request count as executed.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_never_came_is_not_taken_for_done() {
    let place = Place::new();
    let kms = place.open().await;
    let alice = kms.session(Actor::new("alice", Role::Admin).unwrap());
    for name in ["a", "b"] {
        alice.create_key(NewKey::aes(name)).await.unwrap();
    }
    alice.with_idempotency_key("first").unwrap().revoke_key("a").await.unwrap();
    // Copies the idempotency record under the key of a future request; below, changes its sequence number and its
    // answer.
    place
        .tamper(
            "INSERT INTO idempotency (principal, idempotency_key, request_digest, subject, answer, seq, expires_at) \
             SELECT principal, 'second', request_digest, subject, answer, seq, expires_at FROM idempotency",
        )
        .await;
    let is_refused = |key: &'static str| {
        let again = alice.with_idempotency_key(key).unwrap();
        async move {
            let error = again.revoke_key("a").await.unwrap_err();
            assert_eq!(error.code(), ErrorCode::IdempotencyConflict, "{key}");
        }
    };
    is_refused("second").await;
    for (column, value) in [("seq", "1"), ("answer", "'{}'"), ("answer", "NULL")] {
        alice.with_idempotency_key("first").unwrap().revoke_key("a").await.unwrap();
        place.tamper(&format!("UPDATE idempotency SET {column} = {value} WHERE idempotency_key = 'first'")).await;
        is_refused("first").await;
        place.tamper("DELETE FROM idempotency WHERE idempotency_key = 'first'").await;
        place.tamper("INSERT INTO idempotency (principal, idempotency_key, request_digest, subject, answer, seq, expires_at) \
             SELECT principal, 'first', request_digest, subject, answer, seq, expires_at FROM idempotency WHERE idempotency_key = 'second'").await;
    }
    alice.with_idempotency_key("third").unwrap().revoke_key("b").await.unwrap();
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_the_right_is_not_told_again() {
    let place = Place::new();
    let kms = Kms::open(place.config()).await.unwrap();
    let admin = kms.session(Actor::new("admin", Role::Admin).unwrap());
    let app = kms.session(Actor::new("app", Role::App).unwrap());
    let create = [Permission::Create];
    admin.put_grant(NewGrant::new("app", Role::App).on_all_keys().allow(create)).await.unwrap();
    let create = app.with_idempotency_key("create").unwrap();
    let made = create.create_key(NewKey::aes("k")).await.unwrap();
    let rotate = app.with_idempotency_key("rotate").unwrap();
    rotate.rotate_key("k", None).await.unwrap();
    assert_eq!(rotate.rotate_key("k", None).await.unwrap().current_version, 2);
    assert_eq!(create.create_key(NewKey::aes("k")).await.unwrap().id, made.id);
    // The permission to rotate is enough to get the stored result again.
    admin.put_grant(NewGrant::new("app", Role::App).on_key(made.id).allow([Permission::Rotate])).await.unwrap();
    assert_eq!(rotate.rotate_key("k", None).await.unwrap().current_version, 2);
    assert_eq!(create.create_key(NewKey::aes("k")).await.unwrap_err().code(), ErrorCode::AccessDenied);
    // Without the permission to rotate, the stored result is not returned either.
    let grant =
        admin.put_grant(NewGrant::new("app", Role::App).on_key(made.id).allow([Permission::Verify])).await.unwrap();
    assert_eq!(rotate.rotate_key("k", None).await.unwrap_err().code(), ErrorCode::AccessDenied);
    let refused = AuditQuery::new().action(Action::KeyRotate);
    let last = admin.list_audit(&refused, &Paging::new(1)).await.unwrap().items.remove(0);
    assert_eq!((last.actor.as_str(), last.status.as_str()), ("app", "FAILURE"));
    admin.revoke_grant(grant.id).await.unwrap();
    assert_eq!(admin.get_key("k").await.unwrap().current_version, 2);
    kms.close().await.unwrap();
}

/// The first result is returned again, whatever has happened to the key or grant since, also by another process and for
/// a subject that no longer exists.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_answer_is_given_again() {
    let place = Place::new();
    let kms = Kms::open(place.config()).await.unwrap();
    let alice = kms.session(Actor::new("alice", Role::Admin).unwrap());
    let with = |key: &str| alice.with_idempotency_key(key).unwrap();
    for new in [NewKey::aes("aes").metadata(serde_json::json!({"a": [1, 2.5]})), NewKey::rsa_encryption("rsa")] {
        let name = new.name.clone();
        let key = |what: &str| format!("{name} {what}");
        let made = with(&key("create")).create_key(new.clone()).await.unwrap();
        alice.encrypt(&name, b"x", &kms_lib::Context::new()).await.unwrap();
        let rotated = with(&key("rotate")).rotate_key(&name, None).await.unwrap();
        let revoked = with(&key("revoke")).revoke_version(&name, 1).await.unwrap();
        alice.rotate_key(&name, None).await.unwrap();
        let gone = with(&key("gone")).schedule_deletion(&name, Some(30)).await.unwrap();
        assert_eq!((made.current_version, rotated.current_version), (1, 2));
        assert_eq!(made.versions.as_ref().unwrap()[0].encryptions, Some(0));
        assert_eq!(rotated.versions.as_ref().unwrap()[1].encryptions, Some(1));
        let other = Kms::open(place.config()).await.unwrap();
        for kms in [&kms, &other] {
            let alice = kms.session(Actor::new("alice", Role::Admin).unwrap());
            let with = |what: &str| alice.with_idempotency_key(&key(what)).unwrap();
            assert_eq!(with("create").create_key(new.clone()).await.unwrap(), made);
            assert_eq!(with("rotate").rotate_key(&name, None).await.unwrap(), rotated);
            assert_eq!(with("revoke").revoke_version(&name, 1).await.unwrap(), revoked);
            assert_eq!(with("gone").schedule_deletion(&name, Some(30)).await.unwrap(), gone);
        }
        other.close().await.unwrap();
    }
    let put = |key: &'static str, permissions: &'static [Permission]| {
        let session = with(key);
        async move {
            session
                .put_grant(NewGrant::new("app", Role::App).on_all_keys().allow(permissions.iter().copied()))
                .await
                .unwrap()
        }
    };
    let first = put("first", &[Permission::Read]).await;
    let second = put("second", &[Permission::Read, Permission::Encrypt]).await;
    alice.revoke_grant(second.id).await.unwrap();
    assert_eq!(put("first", &[Permission::Read]).await, first);
    assert_eq!(put("second", &[Permission::Read, Permission::Encrypt]).await, second);
    kms.close().await.unwrap();
}

/// A store with the older schema, without stored results, is migrated.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_store_keeps_answers_from_now_on() {
    let place = Place::new();
    let kms = place.open().await;
    kms.close().await.unwrap();
    undo_log_indexes(&place).await;
    place.tamper("ALTER TABLE idempotency DROP COLUMN answer").await;
    place.tamper("UPDATE kms_schema SET version = 1").await;
    if place.is_a_file() {
        assert!(Kms::verify_backup(&place.config(), &place.file()).await.unwrap().verification.ok, "read as it is");
    }
    let kms = place.open().await;
    let alice = kms.session(Actor::new("alice", Role::Admin).unwrap()).with_idempotency_key("create").unwrap();
    let made = alice.create_key(NewKey::aes("k")).await.unwrap();
    assert_eq!(alice.create_key(NewKey::aes("k")).await.unwrap(), made);
    assert!(alice.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// Long results are not stored: the repeated request gets the current state. Expired records are deleted in steps, not
/// all at once.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_bounded() {
    let place = Place::new();
    let kms = place.open().await;
    let alice = kms.session(Actor::new("alice", Role::Admin).unwrap());
    alice.create_key(NewKey::aes("k")).await.unwrap();
    for i in 0..310 {
        let session =
            if i < 160 { alice.with_idempotency_key(&format!("rotation {i}")).unwrap() } else { alice.clone() };
        session.rotate_key("k", None).await.unwrap();
    }
    let disable = alice.with_idempotency_key("disable").unwrap();
    assert_eq!(disable.disable_key("k").await.unwrap().state, kms_lib::KeyState::Disabled);
    alice.enable_key("k").await.unwrap();
    assert_eq!(disable.disable_key("k").await.unwrap().state, kms_lib::KeyState::Enabled);
    let kept = |which: &'static str| {
        let place = &place;
        async move { place.number(&format!("SELECT COUNT(*) FROM idempotency WHERE {which}")).await }
    };
    assert_eq!(kept("LENGTH(answer) BETWEEN 100 AND 65536").await, 160);
    assert_eq!(kept("answer IS NULL").await, 1);
    place.pass_days(2);
    alice.with_idempotency_key("disable").unwrap().disable_key("k").await.unwrap();
    assert_eq!(kept("seq > 0").await, 61);
    for i in 0..5 {
        let change = KeyUpdate::new().grace_period_days(i);
        alice.with_idempotency_key(&format!("later {i}")).unwrap().update_key("k", change).await.unwrap();
    }
    assert_eq!(kept("seq > 0").await, 6);
    kms.close().await.unwrap();
}

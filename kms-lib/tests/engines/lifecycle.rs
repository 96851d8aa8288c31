//! Tests of the lifecycle of keys and versions through the public API, with an adjustable clock.

use crate::common::{Place, admin, check_usable, code, last_record};
use kms_lib::{
    Context, DisabledReason, ErrorCode, KeyDescription, KeyState, KeyUpdate, Kms, NewKey, SchedulerConfig,
    VersionDescription, VersionState,
};

#[tokio::test]
async fn rotation_and_windows() {
    let place = Place::new();
    let kms = Kms::open(place.config().grace_days(10)).await.unwrap();
    let session = admin(&kms);
    let none = Context::new();
    session.create_key(NewKey::aes("k")).await.unwrap();
    let sealed = session.encrypt("k", b"x", &none).await.unwrap();
    assert_eq!(code(session.rotate_key("k", Some(2)).await), ErrorCode::Conflict);
    let key = session.rotate_key("k", Some(1)).await.unwrap();
    let versions = key.versions.unwrap();
    assert_eq!((versions[0].version, versions[0].state), (2, VersionState::Enabled));
    assert_eq!((versions[1].state, versions[1].grace_period_days), (VersionState::Disabled, Some(10)));
    place.pass_days(9);
    session.decrypt(&sealed.ciphertext, &none).await.unwrap();
    place.pass_days(2);
    assert_eq!(code(session.decrypt(&sealed.ciphertext, &none).await), ErrorCode::VersionDisabled);
    // The window is extended, ended and removed.
    let later = kms_lib::Timestamp::now().plus_days(30);
    session.set_window("k", 1, Some(later)).await.unwrap();
    session.decrypt(&sealed.ciphertext, &none).await.unwrap();
    session.set_window("k", 1, Some(kms_lib::Timestamp::now())).await.unwrap();
    assert_eq!(code(session.decrypt(&sealed.ciphertext, &none).await), ErrorCode::VersionDisabled);
    session.set_window("k", 1, None).await.unwrap();
    place.pass_days(10_000);
    session.decrypt(&sealed.ciphertext, &none).await.unwrap();
    // The key's own grace period overrides the service's; without either, former versions work indefinitely.
    session.create_key(NewKey::aes("short").grace_period_days(0)).await.unwrap();
    let sealed = session.encrypt("short", b"x", &none).await.unwrap();
    session.rotate_key("short", None).await.unwrap();
    assert_eq!(code(session.decrypt(&sealed.ciphertext, &none).await), ErrorCode::VersionDisabled);
    kms.close().await.unwrap();

    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let sealed = session.encrypt("k", b"x", &none).await.unwrap();
    session.rotate_key("k", None).await.unwrap();
    place.pass_days(30_000);
    session.decrypt(&sealed.ciphertext, &none).await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

#[tokio::test]
async fn disabling_and_revoking() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let none = Context::new();
    session.create_key(NewKey::aes("k")).await.unwrap();
    let first = session.encrypt("k", b"1", &none).await.unwrap().ciphertext;
    session.rotate_key("k", None).await.unwrap();
    let second = session.encrypt("k", b"2", &none).await.unwrap().ciphertext;

    session.disable_key("k").await.unwrap();
    // Repeating a change has no effect, and the record says so.
    assert_eq!(session.disable_key("k").await.unwrap().state, KeyState::Disabled);
    assert!(last_record(&session).await.details.unwrap().contains("\"changed\":false"));
    assert_eq!(code(session.encrypt("k", b"x", &none).await), ErrorCode::KeyDisabled);
    assert_eq!(code(session.decrypt(&first, &none).await), ErrorCode::KeyDisabled);
    assert_eq!(code(session.rotate_key("k", None).await), ErrorCode::KeyDisabled);
    session.enable_key("k").await.unwrap();
    session.enable_key("k").await.unwrap();

    session.disable_version("k", 2).await.unwrap();
    session.disable_version("k", 2).await.unwrap();
    session.disable_version("k", 1).await.unwrap();
    assert_eq!(code(session.encrypt("k", b"x", &none).await), ErrorCode::VersionDisabled);
    session.decrypt(&second, &none).await.unwrap();
    assert_eq!(code(session.enable_version("k", 1).await), ErrorCode::VersionNotCurrent);
    session.enable_version("k", 2).await.unwrap();
    session.enable_version("k", 2).await.unwrap();
    session.encrypt("k", b"x", &none).await.unwrap();

    // With the current version revoked, the others still decrypt, and a rotation enables the key.
    let key = session.revoke_version("k", 2).await.unwrap();
    assert_eq!((key.state, key.disabled_reason), (KeyState::Disabled, Some(DisabledReason::CurrentVersionRevoked)));
    assert_eq!(code(session.encrypt("k", b"x", &none).await), ErrorCode::VersionRevoked);
    assert_eq!(code(session.decrypt(&second, &none).await), ErrorCode::VersionRevoked);
    // Revoking a version ends its window; revoking it again changes nothing.
    let ended = version(&key, 2).not_after;
    assert!(ended.is_some_and(|end| end <= place.now()));
    assert_eq!(version(&session.revoke_version("k", 2).await.unwrap(), 2).not_after, ended);
    assert_eq!(code(session.disable_version("k", 2).await), ErrorCode::VersionRevoked);
    session.decrypt(&first, &none).await.unwrap();
    assert_eq!(session.rotate_key("k", None).await.unwrap().state, KeyState::Enabled);
    session.encrypt("k", b"x", &none).await.unwrap();
    assert_eq!(code(session.decrypt(&second, &none).await), ErrorCode::VersionRevoked);

    // Disabled by a caller, then its current version revoked: enabling does not restore that version.
    session.disable_key("k").await.unwrap();
    session.revoke_version("k", 3).await.unwrap();
    assert_eq!(session.enable_key("k").await.unwrap().disabled_reason, Some(DisabledReason::CurrentVersionRevoked));
    session.revoke_key("k").await.unwrap();
    for refused in [
        code(session.encrypt("k", b"x", &none).await),
        code(session.decrypt(&first, &none).await),
        code(session.rotate_key("k", None).await),
        code(session.enable_key("k").await),
        code(session.disable_version("k", 1).await),
    ] {
        assert_eq!(refused, ErrorCode::KeyRevoked);
    }
    assert_eq!(session.revoke_key("k").await.unwrap().state, KeyState::Revoked);
    session.revoke_version("k", 1).await.unwrap();
    assert!(last_record(&session).await.details.unwrap().contains("\"changed\":false"));
    let versions = session.get_key("k").await.unwrap().versions.unwrap();
    assert!(versions.iter().all(|version| version.state == VersionState::Revoked));
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// Finds a version of a key by its number.
fn version(key: &KeyDescription, number: u32) -> VersionDescription {
    key.versions.iter().flatten().find(|version| version.version == number).cloned().unwrap()
}

#[tokio::test]
async fn a_pending_deletion_can_be_rescheduled_and_the_key_revoked() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    for name in ["k", "current"] {
        session.create_key(NewKey::aes(name)).await.unwrap();
    }
    let sealed = session.encrypt("k", b"x", &Context::new()).await.unwrap().ciphertext;
    assert_eq!(code(session.cancel_deletion("k").await), ErrorCode::WrongState);
    let date = session.schedule_deletion("k", Some(10)).await.unwrap().delete_at;
    place.pass_days(1);
    assert_eq!(session.schedule_deletion("k", Some(10)).await.unwrap().delete_at, date);
    assert_eq!(code(session.schedule_deletion("k", Some(11)).await), ErrorCode::KeyPendingDeletion);
    // Revoked while deletion is pending: the date stays, and cancelling does not restore the key.
    let key = session.revoke_key("k").await.unwrap();
    assert_eq!((key.state, key.delete_at), (KeyState::PendingDeletion, date));
    assert_eq!(version(&key, 1).state, VersionState::Revoked);
    session.revoke_key("k").await.unwrap();
    assert_eq!(session.cancel_deletion("k").await.unwrap().state, KeyState::Revoked);
    assert_eq!(code(session.decrypt(&sealed, &Context::new()).await), ErrorCode::KeyRevoked);
    // The same applies to the current version alone.
    session.schedule_deletion("current", None).await.unwrap();
    session.revoke_version("current", 1).await.unwrap();
    let key = session.cancel_deletion("current").await.unwrap();
    assert_eq!((key.state, key.disabled_reason), (KeyState::Disabled, Some(DisabledReason::CurrentVersionRevoked)));
    session.rotate_key("current", None).await.unwrap();
    session.encrypt("current", b"x", &Context::new()).await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// Revoking a key writes one row, however many versions it has; counts, lists and the scheduler show the versions as
/// revoked.
#[tokio::test]
async fn a_revoked_key_has_no_other_versions() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k").grace_period_days(1)).await.unwrap();
    for _ in 0..5 {
        session.rotate_key("k", None).await.unwrap();
    }
    let key = session.revoke_key("k").await.unwrap();
    let details = last_record(&session).await.details.unwrap();
    assert_eq!(details.matches("\"keys\"").count() + details.matches("\"key_versions\"").count(), 1, "{details}");
    assert!(key.versions.unwrap().iter().all(|version| version.state == VersionState::Revoked));
    place.pass_days(5);
    let jobs = SchedulerConfig::disabled().revoke_expired(true);
    let other = Kms::open(place.config().scheduler(jobs)).await.unwrap();
    let report = other.run_scheduler().await.unwrap();
    assert!(report.revoked.is_empty() && report.failed.is_empty(), "{report:?}");
    other.close().await.unwrap();
    kms.close().await.unwrap();
}

/// The current version has no window. Otherwise data encrypted today could not be decrypted after the next rotation.
#[tokio::test]
async fn the_current_version_has_no_grace_window() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    for end in [None, Some(place.now().minus_days(1)), Some(place.now().plus_days(1))] {
        assert_eq!(code(session.set_window("k", 1, end).await), ErrorCode::WrongState);
    }
    let sealed = session.encrypt("k", b"x", &Context::new()).await.unwrap().ciphertext;
    let key = session.rotate_key("k", None).await.unwrap();
    assert_eq!(version(&key, 1).not_after, None);
    session.decrypt(&sealed, &Context::new()).await.unwrap();
    session.set_window("k", 1, Some(place.now())).await.unwrap();
    assert_eq!(code(session.decrypt(&sealed, &Context::new()).await), ErrorCode::VersionDisabled);
    kms.close().await.unwrap();
}

/// The record of a change includes what the service decided itself.
#[tokio::test]
async fn records_of_changes_can_be_replayed() {
    let place = Place::new();
    let kms = Kms::open(place.config().grace_days(3)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let details =
        async || -> serde_json::Value { serde_json::from_str(&last_record(&session).await.details.unwrap()).unwrap() };
    let key = session.rotate_key("k", None).await.unwrap();
    let rotated = details().await;
    assert_eq!(rotated["graceDays"], 3);
    assert_eq!(rotated["formerNotAfter"], version(&key, 1).not_after.unwrap().to_string());
    session.update_key("k", KeyUpdate::new().grace_period_days(0)).await.unwrap();
    session.revoke_version("k", 2).await.unwrap();
    let revoked = details().await;
    assert_eq!(revoked["notAfter"], version(&session.get_key("k").await.unwrap(), 2).not_after.unwrap().to_string());
    kms.close().await.unwrap();
}

#[tokio::test]
async fn deletion_and_destruction() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let none = Context::new();
    for name in ["gone", "kept", "revoked"] {
        session.create_key(NewKey::aes(name)).await.unwrap();
    }
    let sealed = session.encrypt("gone", b"x", &none).await.unwrap().ciphertext;
    session.revoke_key("revoked").await.unwrap();
    for name in ["gone", "kept", "revoked"] {
        assert_eq!(session.schedule_deletion(name, Some(7)).await.unwrap().state, KeyState::PendingDeletion);
    }
    assert_eq!(code(session.schedule_deletion("gone", None).await), ErrorCode::KeyPendingDeletion);
    assert_eq!(code(session.decrypt(&sealed, &none).await), ErrorCode::KeyPendingDeletion);
    assert_eq!(session.cancel_deletion("kept").await.unwrap().state, KeyState::Enabled);
    assert_eq!(session.cancel_deletion("revoked").await.unwrap().state, KeyState::Revoked);
    assert_eq!(code(session.cancel_deletion("kept").await), ErrorCode::WrongState);
    place.pass_days(6);
    assert!(kms.run_scheduler().await.unwrap().destroyed.is_empty());
    place.pass_days(2);
    assert_eq!(kms.run_scheduler().await.unwrap().destroyed.len(), 1);
    let key = session.get_key("gone").await.unwrap();
    assert_eq!(key.state, KeyState::Destroyed);
    assert_eq!(code(session.decrypt(&sealed, &none).await), ErrorCode::KeyDestroyed);
    assert_eq!(code(session.cancel_deletion("gone").await), ErrorCode::KeyDestroyed);
    assert_eq!(code(session.create_key(NewKey::aes("gone")).await), ErrorCode::NameTaken);
    check_usable(&kms).await;
    kms.close().await.unwrap();
    let erased = place
        .number(
            "SELECT COUNT(*) FROM key_versions v JOIN \"keys\" k ON k.id = v.key_id
             WHERE k.name = 'gone' AND v.id NOT IN (SELECT subject FROM wrappings)",
        )
        .await;
    assert_eq!(erased, 1);
}

/// With thousands of versions, an encryption still loads only one.
#[tokio::test]
async fn many_versions() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let first = session.encrypt("k", b"first", &Context::new()).await.unwrap();
    for _ in 0..300 {
        session.rotate_key("k", None).await.unwrap();
    }
    session.encrypt("k", b"x", &Context::new()).await.unwrap();
    assert_eq!(session.decrypt(&first.ciphertext, &Context::new()).await.unwrap().plaintext.as_slice(), b"first");
    session.revoke_key("k").await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

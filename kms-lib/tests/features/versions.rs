//! Tests of keys with many versions: their number is limited, and unusable versions can be trimmed.

use crate::common::{Place, actor, admin, check_usable, code, last_record};
use kms_lib::{
    AuditQuery, AuditRecord, Context, ErrorCode, Kms, NewGrant, NewKey, Paging, Permission, Role, Session, VersionState,
};

/// Opens a service with at most five versions per key.
async fn limited(place: &Place) -> Kms {
    let file = place.folder.path().join("kms.toml");
    std::fs::write(&file, "[limits]\nversions = 5\n").unwrap();
    Kms::open(place.config().overlaid(Some(&file)).unwrap()).await.unwrap()
}

/// The states of a key's versions, oldest first.
async fn states(session: &Session, key: &str) -> Vec<VersionState> {
    let page = session.list_versions(key, &Paging::new(1_000)).await.unwrap();
    page.items.into_iter().map(|version| version.state).collect()
}

fn failures(records: &[AuditRecord]) -> usize {
    records.iter().filter(|row| row.status == "FAILURE").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_too_many_versions_is_rotated_once_it_is_trimmed() {
    let place = Place::new();
    let kms = limited(&place).await;
    let session = admin(&kms);
    let key = session.create_key(NewKey::aes("k").rotation_period_days(1).grace_period_days(3)).await.unwrap().id;
    let none = Context::new();
    let first = session.encrypt("k", b"first", &none).await.unwrap().ciphertext;
    for _ in 0..4 {
        session.rotate_key("k", None).await.unwrap();
    }
    let last = session.encrypt("k", b"last", &none).await.unwrap().ciphertext;
    session.revoke_version("k", 2).await.unwrap();
    assert_eq!(code(session.rotate_key("k", None).await), ErrorCode::LimitExceeded);
    assert!(last_record(&session).await.details.unwrap().contains("LimitExceeded"));
    let error = session.rotate_key("k", None).await.unwrap_err();
    assert!(error.message().contains("trim"), "{error}");

    // The scheduler records this once a day.
    let of_scheduler = AuditQuery::new().key(key).actor("scheduler");
    let recorded = async || failures(&session.list_audit(&of_scheduler, &Paging::new(100)).await.unwrap().items);
    place.pass_days(1);
    for _ in 0..3 {
        kms.run_scheduler().await.unwrap();
    }
    assert_eq!(recorded().await, 1);
    place.pass_days(1);
    kms.run_scheduler().await.unwrap();
    assert_eq!(recorded().await, 2);

    // Only the revoked version is trimmed, because the windows of the others have not ended.
    use VersionState::{Destroyed, Disabled, Enabled};
    session.trim_key("k").await.unwrap();
    assert_eq!(states(&session, "k").await, [Disabled, Destroyed, Disabled, Disabled, Enabled]);
    assert_eq!(session.decrypt(&first, &none).await.unwrap().plaintext.as_slice(), b"first");
    assert_eq!(code(session.revoke_version("k", 2).await), ErrorCode::VersionDestroyed);
    assert_eq!(kms.run_scheduler().await.unwrap().rotated, [key]);
    assert_eq!(code(session.rotate_key("k", None).await), ErrorCode::LimitExceeded);
    place.pass_days(2);
    let once = session.with_idempotency_key("trim").unwrap();
    once.trim_key("k").await.unwrap();
    let details = last_record(&session).await.details.unwrap();
    assert!(details.contains("\"versions\":[1,3,4]"), "{details}");
    assert_eq!(states(&session, "k").await, [Destroyed, Destroyed, Destroyed, Destroyed, Disabled, Enabled]);
    assert_eq!(code(session.decrypt(&first, &none).await), ErrorCode::VersionDestroyed);
    assert_eq!(session.decrypt(&last, &none).await.unwrap().plaintext.as_slice(), b"last");
    // Repeating the call changes nothing, and returns the first result under the same idempotency key.
    assert_eq!(once.trim_key("k").await.unwrap().versions.unwrap().len(), 6);
    session.trim_key("k").await.unwrap();
    assert!(last_record(&session).await.details.unwrap().contains("\"changed\":false"));
    check_usable(&kms).await;
    kms.close().await.unwrap();
    let left = "SELECT COUNT(*) FROM key_versions v JOIN wrappings w ON w.subject = v.id WHERE v.state = 'DESTROYED'";
    assert_eq!(place.number(left).await, 0);
    let kms = limited(&place).await;
    assert!(admin(&kms).verify_audit().await.unwrap().ok);
    admin(&kms).rotate_key("k", None).await.unwrap();
    kms.close().await.unwrap();
}

/// Trimming needs the `delete` permission and is done in steps, each with a record.
#[tokio::test(flavor = "multi_thread")]
async fn many_versions_are_trimmed_in_steps() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let key = session.create_key(NewKey::aes("k").grace_period_days(0)).await.unwrap().id;
    for _ in 0..230 {
        session.rotate_key("k", None).await.unwrap();
    }
    let app = kms.session(actor("app", Role::App));
    let grant = |permission| NewGrant::new("app", Role::App).on_key(key).allow([permission]);
    session.put_grant(grant(Permission::Revoke)).await.unwrap();
    assert_eq!(code(app.trim_key(key).await), ErrorCode::AccessDenied);
    assert!(states(&session, "k").await.iter().all(|state| *state != VersionState::Destroyed));
    session.put_grant(grant(Permission::Delete)).await.unwrap();
    app.trim_key(key).await.unwrap();
    let destroyed = states(&session, "k").await.iter().filter(|state| **state == VersionState::Destroyed).count();
    assert_eq!(destroyed, 230);
    let trims = AuditQuery::new().key(key).action(kms_lib::Action::KeyTrim);
    let records = session.list_audit(&trims, &Paging::new(100)).await.unwrap().items;
    assert_eq!((records.len(), failures(&records)), (4, 1));
    session.disable_key("k").await.unwrap();
    session.trim_key("k").await.unwrap();
    session.revoke_key("k").await.unwrap();
    assert_eq!(code(session.trim_key("k").await), ErrorCode::KeyRevoked);
    assert_eq!(code(session.trim_key("nobody").await), ErrorCode::KeyNotFound);
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

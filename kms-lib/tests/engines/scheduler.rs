//! Tests of the scheduler's jobs, and of the times at which they run.

use crate::common::{Place, admin, check_usable, code};
use kms_lib::{AuditQuery, Context, ErrorCode, KeyState, Kms, NewKey, Paging, SchedulerConfig, Status};

#[tokio::test]
async fn the_scheduler_rotates_and_revokes() {
    let place = Place::new();
    let scheduler = SchedulerConfig::disabled().revoke_expired(true);
    let kms = Kms::open(place.config().scheduler(scheduler)).await.unwrap();
    let session = admin(&kms);
    let none = Context::new();
    for name in ["due-1", "due-2", "due-3"] {
        session.create_key(NewKey::aes(name).rotation_period_days(30).grace_period_days(5)).await.unwrap();
    }
    session.create_key(NewKey::aes("never")).await.unwrap();
    session.create_key(NewKey::aes("disabled").rotation_period_days(30)).await.unwrap();
    session.disable_key("disabled").await.unwrap();
    let unused = session.encrypt("due-1", b"x", &none).await.unwrap().ciphertext;
    let used = session.encrypt("due-2", b"x", &none).await.unwrap().ciphertext;
    place.pass_days(31);
    assert_eq!(session.metrics().await.unwrap().keys.rotation_alerts.len(), 3);
    let report = kms.run_scheduler().await.unwrap();
    assert_eq!((report.rotated.len(), report.failed.len()), (3, 0));
    assert!(report.verification.unwrap().ok);
    assert_eq!(session.get_key("never").await.unwrap().current_version, 1);
    assert_eq!(kms.run_scheduler().await.unwrap().rotated.len(), 0);
    // One version is used after its replacement and the other is not; only the unused one is revoked when its window
    // ends.
    session.decrypt(&used, &none).await.unwrap();
    let ending = session.metrics().await.unwrap().keys.windows_ending;
    assert!(ending.len() == 1 && ending[0].name == "due-2", "{ending:?}");
    place.pass_days(6);
    let report = kms.run_scheduler().await.unwrap();
    assert_eq!(report.revoked.len(), 2, "{report:?}");
    assert_eq!(code(session.decrypt(&unused, &none).await), ErrorCode::VersionRevoked);
    assert_eq!(code(session.decrypt(&used, &none).await), ErrorCode::VersionDisabled);

    // A key whose row was tampered with does not affect the others.
    place.pass_days(31);
    kms.close().await.unwrap();
    place.tamper("UPDATE \"keys\" SET metadata = '{}' WHERE name = 'due-1'").await;
    let kms = place.open().await;
    let report = kms.run_scheduler().await.unwrap();
    assert_eq!((report.rotated.len(), report.failed.len()), (2, 1));
    assert_eq!(report.failed[0].1.code(), ErrorCode::IntegrityFailure);
    let query = AuditQuery::new().actor("scheduler").status(Status::Failure);
    assert!(!admin(&kms).list_audit(&query, &Paging::default()).await.unwrap().items.is_empty());
    kms.close().await.unwrap();
}

/// Two services with schedulers on one store: each due key is rotated once.
#[tokio::test(flavor = "multi_thread")]
async fn two_schedulers_rotate_each_key_once() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    for i in 0..20 {
        session.create_key(NewKey::aes(format!("key-{i}")).rotation_period_days(1)).await.unwrap();
    }
    let other = place.open().await;
    place.pass_days(2);
    let (first, second) = tokio::join!(kms.run_scheduler(), other.run_scheduler());
    assert_eq!(first.unwrap().rotated.len() + second.unwrap().rotated.len(), 20);
    for i in 0..20 {
        assert_eq!(session.get_key(format!("key-{i}")).await.unwrap().current_version, 2);
    }
    check_usable(&kms).await;
    kms.close().await.unwrap();
    other.close().await.unwrap();
}

/// The scheduler wakes up on its own.
#[tokio::test(flavor = "multi_thread")]
async fn the_scheduler_runs_at_its_time() {
    let place = Place::new();
    let scheduler = SchedulerConfig::new().cron("* * * * *");
    let kms = Kms::open(place.config().scheduler(scheduler)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k").rotation_period_days(1)).await.unwrap();
    session.create_key(NewKey::aes("doomed")).await.unwrap();
    session.schedule_deletion("doomed", None).await.unwrap();
    // The scheduler checks its clock at least twice a minute, and is waiting for the next minute now.
    place.pass_days(40);
    kms.close().await.unwrap();
    let scheduler = SchedulerConfig::new().cron("* * * * *");
    // Starts just before a full minute.
    let now = kms_lib::Timestamp::now().micros() / 1_000_000 % 60;
    place.pass_seconds(59 - now);
    let kms = Kms::open(place.config().scheduler(scheduler)).await.unwrap();
    let session = admin(&kms);
    for round in 0.. {
        if session.get_key("k").await.unwrap().current_version == 2 {
            break;
        }
        // A busy machine may have missed the minute; then the scheduler checks its clock within half a minute.
        if round == 30 {
            place.pass_seconds(60);
        }
        assert!(round < 1_200, "the scheduler did not wake up");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    // The clock was changed recently, so the scheduler erases nothing automatically. An explicit run does.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(session.get_key("doomed").await.unwrap().state, KeyState::PendingDeletion);
    assert_eq!(kms.run_scheduler().await.unwrap().destroyed.len(), 1);
    kms.close().await.unwrap();
}

//! Tests of closing: new calls are refused first, then running work ends, all within seconds.

use std::time::{Duration, Instant};

use crate::common::{Place, admin, code};
use kms_lib::{Context, ErrorCode, Kms, NewKey, SchedulerConfig, Session};

/// Number of keys that the scheduler needs seconds to rotate.
const KEYS: usize = 3_000;
/// The longest time that closing may take while the store responds.
const BOUND: Duration = Duration::from_secs(4);

/// Creates a closed store with keys whose rotation is due.
async fn with_due_keys() -> Place {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("used")).await.unwrap();
    let names: Vec<usize> = (0..KEYS).collect();
    for names in names.chunks(200) {
        let calls: Vec<_> = names
            .iter()
            .map(|n| {
                let session = session.clone();
                let new = NewKey::aes(format!("due-{n}")).rotation_period_days(1);
                tokio::spawn(async move { session.create_key(new).await })
            })
            .collect();
        for call in calls {
            call.await.unwrap().unwrap();
        }
    }
    kms.close().await.unwrap();
    place.pass_days(2);
    place
}

async fn rotated(place: &Place) -> usize {
    let sql = "SELECT COUNT(*) FROM \"keys\" WHERE current_version = 2";
    usize::try_from(place.number(sql).await).unwrap()
}

/// Waits until the scheduler has begun to rotate.
async fn wait_for_rotations(place: &Place) {
    for _ in 0..600 {
        if rotated(place).await > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the scheduler rotates nothing");
}

/// Encrypts until a call fails, and returns its error code.
async fn encrypt_on(session: Session) -> ErrorCode {
    loop {
        if let Err(error) = session.encrypt("used", b"x", &Context::new()).await {
            return error.code();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn jobs_that_were_asked_for_end_and_nothing_is_let_in() {
    let place = with_due_keys().await;
    let kms = place.open().await;
    let session = admin(&kms);
    let callers: Vec<_> = (0..8).map(|_| tokio::spawn(encrypt_on(session.clone()))).collect();
    let jobs = {
        let kms = kms.clone();
        tokio::spawn(async move { kms.run_scheduler().await.map(drop) })
    };
    wait_for_rotations(&place).await;
    let begun = Instant::now();
    kms.close().await.unwrap();
    assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
    for caller in callers {
        assert_eq!(caller.await.unwrap(), ErrorCode::Closed);
    }
    assert_eq!(code(jobs.await.unwrap()), ErrorCode::Closed);
    assert_eq!(code(session.get_key("used").await), ErrorCode::Closed);
    let rotated = rotated(&place).await;
    assert!(rotated < KEYS, "the jobs were over before the service was closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn jobs_of_the_schedule_end() {
    let place = with_due_keys().await;
    // Starts a few seconds before the next minute.
    let second = place.now().micros() / 1_000_000 % 60;
    place.pass_seconds(57 - second);
    let config = place.config().scheduler(SchedulerConfig::new().cron("* * * * *").verify(false));
    let kms = Kms::open(config).await.unwrap();
    wait_for_rotations(&place).await;
    let begun = Instant::now();
    kms.close().await.unwrap();
    assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
    assert!(rotated(&place).await < KEYS, "the jobs were over before the service was closed");
    // The next process does the remaining rotations.
    let kms = place.open().await;
    assert!(kms.run_scheduler().await.unwrap().failed.is_empty());
    assert_eq!(rotated(&place).await, KEYS);
    kms.close().await.unwrap();
}

/// Before a service is closed, verifications can be cancelled while all other operations continue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verifications_end_before_the_service_does() {
    let place = Place::in_a_file();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("used")).await.unwrap();
    assert!(session.verify_audit().await.unwrap().ok);
    kms.stop_verifying();
    assert_eq!(code(session.verify_audit().await), ErrorCode::Closed);
    assert_eq!(code(session.verify_audit_incrementally().await), ErrorCode::Closed);
    assert_eq!(code(session.backup(place.folder.path().join("backup.db")).await), ErrorCode::Closed);
    assert!(!place.folder.path().join("backup.db").exists());
    session.encrypt("used", b"x", &Context::new()).await.unwrap();
    kms.close().await.unwrap();
}

//! Tests of the scheduler with several nodes on one store: one node does the jobs of a period.

use std::time::Duration;

use crate::common::{Place, admin, whole_log};
use kms_lib::{Action, Context, Kms, NewKey, SchedulerConfig, Status, VersionState};

const NODES: usize = 3;
const KEYS: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_node_does_the_jobs_of_a_period() {
    let place = Place::new();
    let kms = place.open().await;
    for n in 0..KEYS {
        admin(&kms).create_key(NewKey::aes(format!("due-{n}")).rotation_period_days(30)).await.unwrap();
    }
    kms.close().await.unwrap();
    place.pass_days(31);
    // Starts a few seconds before the next minute.
    let second = place.now().micros() / 1_000_000 % 60;
    place.pass_seconds(56 - second);
    let mut nodes = Vec::new();
    for _ in 0..NODES {
        let config = place.config().scheduler(SchedulerConfig::new().cron("* * * * *"));
        nodes.push(Kms::open(config).await.unwrap());
    }
    // Waits for the jobs of one period, which end with a verification.
    let session = admin(&nodes[0]);
    let verifications = || async {
        let log = whole_log(&session).await;
        log.iter().filter(|row| row.action == Action::AuditVerify.as_str()).count()
    };
    for _ in 0..400 {
        if verifications().await > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // By then, the standby nodes have checked once more.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let log = whole_log(&session).await;
    let rotations: Vec<_> = log.iter().filter(|row| row.action == Action::KeyRotate.as_str()).collect();
    assert_eq!(rotations.len(), KEYS);
    assert!(rotations.iter().all(|row| row.status == Status::Success.as_str()), "lost races are in the log");
    assert_eq!(verifications().await, 1);
    // The jobs of the next period are done too, by any node.
    place.pass_seconds(60);
    for _ in 0..800 {
        if verifications().await > 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(verifications().await, 2);
    for node in nodes {
        node.close().await.unwrap();
    }
}

/// Versions past their window are examined page by page: those that are kept, because they were used after their
/// replacement, do not block the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn versions_past_their_window_are_revoked_page_by_page() {
    const VERSIONS: u32 = 250;
    let place = Place::new();
    let config = place.config().scheduler(SchedulerConfig::new().revoke_expired(true));
    let kms = Kms::open(config).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k").grace_period_days(1)).await.unwrap();
    let mut sealed = Vec::new();
    for _ in 0..VERSIONS {
        sealed.push(session.encrypt("k", b"x", &Context::new()).await.unwrap().ciphertext);
        session.rotate_key("k", None).await.unwrap();
    }
    // The first versions were used after their replacement. Many windows end at the same time.
    for ciphertext in &sealed[..150] {
        session.decrypt(ciphertext, &Context::new()).await.unwrap();
    }
    let end = place.now().plus_seconds(3_600);
    for version in 200..VERSIONS {
        session.set_window("k", version, Some(end)).await.unwrap();
    }
    place.pass_days(3);
    let report = kms.run_scheduler().await.unwrap();
    assert_eq!((report.revoked.len(), report.failed.len()), (VERSIONS as usize - 150, 0));
    let state = async |version| session.get_version("k", version).await.unwrap().state;
    assert_eq!((state(150).await, state(151).await), (VersionState::Disabled, VersionState::Revoked));
    assert_eq!((state(VERSIONS).await, state(VERSIONS + 1).await), (VersionState::Revoked, VersionState::Enabled));
    assert!(kms.run_scheduler().await.unwrap().revoked.is_empty());
    kms.close().await.unwrap();
}

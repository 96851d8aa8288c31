//! Several nodes on one store: one of them does the scheduler's jobs of a period.

use std::time::Duration;

use crate::common::{Place, admin, whole_log};
use kms_lib::{Action, Kms, NewKey, SchedulerConfig, Status};

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
    // A few seconds before the next minute.
    let second = place.now().micros() / 1_000_000 % 60;
    place.pass_seconds(56 - second);
    let mut nodes = Vec::new();
    for _ in 0..NODES {
        let config = place.config().scheduler(SchedulerConfig::new().cron("* * * * *"));
        nodes.push(Kms::open(config).await.unwrap());
    }
    // The jobs of one period, which end with a verification.
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
    // Those who stand by have looked once more by then.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let log = whole_log(&session).await;
    let rotations: Vec<_> = log.iter().filter(|row| row.action == Action::KeyRotate.as_str()).collect();
    assert_eq!(rotations.len(), KEYS);
    assert!(rotations.iter().all(|row| row.status == Status::Success.as_str()), "lost races are in the log");
    assert_eq!(verifications().await, 1);
    // The next period is done too, by whichever node.
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

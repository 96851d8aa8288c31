//! Many tasks and several processes on one store: a rotation causes no errors, nothing succeeds after a revocation, and
//! the log never forks.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Place, admin, whole_log};

use kms_lib::{
    Action, Actor, AuditAck, AuditQuery, AuditRecord, Config, Context, ErrorCode, Kms, NewKey, Paging, Role, Status,
};

fn config(file: &Path) -> Config {
    Config::new(format!("sqlite:{}", file.display())).root_key_bytes([7; 32])
}

/// Checks that records are numbered without gaps, and that no record uses a version after its revocation.
fn check_log(rows: &[AuditRecord]) {
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(row.seq, i as u64 + 1);
    }
    let mut revoked = Vec::new();
    for row in rows.iter().filter(|row| row.status == Status::Success.as_str()) {
        let used = (row.key_id, row.key_version);
        if row.action == Action::KeyRevoke.as_str() {
            revoked.push(used);
        } else if row.action == Action::Encrypt.as_str() || row.action == Action::Decrypt.as_str() {
            assert!(!revoked.contains(&used), "record {} uses a revoked version", row.seq);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rotation_under_load_causes_no_errors() {
    let folder = tempfile::tempdir().unwrap();
    let kms = Kms::open(config(&folder.path().join("kms.db"))).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("busy")).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..64 {
        let (session, stop, done) = (session.clone(), Arc::clone(&stop), Arc::clone(&done));
        tasks.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let sealed = session.encrypt("busy", b"payload", &Context::new()).await.unwrap();
                session.decrypt(&sealed.ciphertext, &Context::new()).await.unwrap();
                done.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let begun = Instant::now();
    let mut rotations = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        session.rotate_key("busy", None).await.unwrap();
        rotations += 1;
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    assert!(rotations > 10 && done.load(Ordering::Relaxed) > 100, "{rotations} rotations, {done:?} rounds");
    assert_eq!(session.get_key("busy").await.unwrap().current_version, rotations + 1);
    assert!(session.verify_audit().await.unwrap().ok);
    check_log(&whole_log(&session).await);
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_succeeds_after_a_revocation() {
    let folder = tempfile::tempdir().unwrap();
    for ack in [AuditAck::Durable, AuditAck::Queued] {
        let kms = Kms::open(config(&folder.path().join(format!("{ack:?}.db"))).audit_ack(ack)).await.unwrap();
        let session = admin(&kms);
        session.create_key(NewKey::aes("doomed")).await.unwrap();
        for _ in 0..20 {
            let revoked = Arc::new(AtomicBool::new(false));
            let mut tasks = Vec::new();
            for _ in 0..32 {
                let (session, revoked) = (session.clone(), Arc::clone(&revoked));
                tasks.push(tokio::spawn(async move {
                    loop {
                        let after = revoked.load(Ordering::SeqCst);
                        match session.encrypt("doomed", b"payload", &Context::new()).await {
                            Ok(_) => assert!(!after, "an encryption that began after the revocation succeeded"),
                            Err(error) => {
                                assert_eq!(error.code(), ErrorCode::VersionRevoked);
                                return;
                            }
                        }
                    }
                }));
            }
            let current = session.get_key("doomed").await.unwrap().current_version;
            tokio::time::sleep(Duration::from_millis(20)).await;
            session.revoke_version("doomed", current).await.unwrap();
            revoked.store(true, Ordering::SeqCst);
            for task in tasks {
                task.await.unwrap();
            }
            session.rotate_key("doomed", None).await.unwrap();
        }
        // Records of released results may be written a moment later.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(session.verify_audit().await.unwrap().ok);
        check_log(&whole_log(&session).await);
        kms.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_queue_lets_a_revocation_through() {
    let folder = tempfile::tempdir().unwrap();
    let kms = Kms::open(config(&folder.path().join("kms.db")).limits(4, 1 << 20)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("full")).await.unwrap();
    let calls: Vec<_> = (0..64)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move { session.encrypt("full", b"x", &Context::new()).await })
        })
        .collect();
    session.revoke_key("full").await.unwrap();
    let mut refused = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => {}
            Err(error) if matches!(error.code(), ErrorCode::Overloaded | ErrorCode::CallerOverloaded) => refused += 1,
            Err(error) => assert_eq!(error.code(), ErrorCode::KeyRevoked),
        }
    }
    assert!(refused > 0, "64 operations fit where 4 are allowed");
    // More bytes than the queue can ever hold are refused before any work is done, and the error is not retryable.
    session.create_key(NewKey::aes("large")).await.unwrap();
    let error = session.encrypt("large", &vec![0; 2 << 20], &Context::new()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
    kms.close().await.unwrap();
}

/// A dropped future cancels no operation that was submitted, and the service stays usable.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn dropped_callers_leave_only_their_records() {
    let folder = tempfile::tempdir().unwrap();
    let kms = Kms::open(config(&folder.path().join("kms.db"))).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("dropped")).await.unwrap();
    for i in 0..200u64 {
        let none = Context::new();
        let call = session.encrypt("dropped", b"x", &none);
        let _ = tokio::time::timeout(Duration::from_micros(i * 10), call).await;
        let change = session.rotate_key("dropped", None);
        let _ = tokio::time::timeout(Duration::from_micros(i * 10), change).await;
    }
    session.encrypt("dropped", b"x", &Context::new()).await.unwrap();
    assert!(session.verify_audit().await.unwrap().ok);
    check_log(&whole_log(&session).await);
    kms.close().await.unwrap();
}

const CHILD: &str = "KMS_TEST_CHILD_FILE";

fn spawn_child(file: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_process", "--nocapture", "--test-threads=1"])
        .env(CHILD, file)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Not a test: the code of the child processes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_process() {
    let Some(file) = std::env::var_os(CHILD) else { return };
    let kms = Kms::open(config(Path::new(&file))).await.unwrap();
    let session = kms.session(Actor::new(format!("process-{}", std::process::id()), Role::Admin).unwrap());
    let begun = Instant::now();
    let mut round = 0u32;
    while begun.elapsed() < Duration::from_secs(4) {
        round += 1;
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let session = session.clone();
                tokio::spawn(async move {
                    let sealed = session.encrypt("shared", b"payload", &Context::new()).await?;
                    session.decrypt(&sealed.ciphertext, &Context::new()).await.map(drop)
                })
            })
            .collect();
        for task in tasks {
            // Between the two calls, the other process may have revoked the version.
            if let Err(error) = task.await.unwrap() {
                assert!(matches!(error.code(), ErrorCode::VersionRevoked), "{error}");
            }
        }
        session.rotate_key("shared", None).await.unwrap();
        if round.is_multiple_of(5) {
            let current = session.get_key("shared").await.unwrap().current_version;
            session.revoke_version("shared", current - 1).await.map(drop).unwrap_or_else(|error| {
                assert_eq!(error.code(), ErrorCode::VersionRevoked);
            });
        }
        let own = session.create_key(NewKey::aes(format!("{}-{round}", std::process::id()))).await.unwrap();
        // A key is usable at once in the process that created it, and the other process finds it when it asks.
        assert_eq!(session.get_key(own.id).await.unwrap().name, own.name);
    }
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_processes_write_one_log() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let kms = Kms::open(config(&file)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("shared")).await.unwrap();
    let mut children = [spawn_child(&file), spawn_child(&file), spawn_child(&file)];
    // One process is killed while it works. The others continue.
    tokio::time::sleep(Duration::from_secs(2)).await;
    children[0].kill().unwrap();
    children[0].wait().unwrap();
    let ids: Vec<u32> = children[1..].iter().map(Child::id).collect();
    for child in &mut children[1..] {
        assert!(child.wait().unwrap().success(), "a process saw an unexpected error");
    }
    let report = session.verify_audit().await.unwrap();
    assert!(report.ok, "{:?}", report.faults);
    let rows = whole_log(&session).await;
    check_log(&rows);
    // No process starved.
    let shares: Vec<usize> =
        ids.iter().map(|id| rows.iter().filter(|row| row.actor == format!("process-{id}")).count()).collect();
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(*least > 100 && most / least < 10, "{shares:?}");
    // Every rotation created a different version.
    let rotations = rows
        .iter()
        .filter(|row| row.action == Action::KeyRotate.as_str() && row.status == Status::Success.as_str())
        .map(|row| row.key_version.unwrap());
    let expected: Vec<u32> = (2..=session.get_key("shared").await.unwrap().current_version).collect();
    assert_eq!(rotations.collect::<Vec<_>>(), expected);
    kms.close().await.unwrap();
}

/// The service is closed while callers work: each operation is completed or refused, and none hangs.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn closing_under_load() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let kms = Kms::open(config(&file)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move {
                let mut last = 0;
                loop {
                    match session.encrypt("k", b"x", &Context::new()).await {
                        Ok(sealed) => last = sealed.receipt.seq,
                        Err(error) => {
                            assert_eq!(error.code(), ErrorCode::Closed);
                            return last;
                        }
                    }
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    kms.close().await.unwrap();
    kms.close().await.unwrap();
    let mut last = 0;
    for task in tasks {
        last = last.max(tokio::time::timeout(Duration::from_secs(10), task).await.unwrap().unwrap());
    }
    for refused in [
        session.get_key("k").await.unwrap_err(),
        session.rotate_key("k", None).await.unwrap_err(),
        session.verify_audit().await.unwrap_err(),
        session.metrics().await.unwrap_err(),
    ] {
        assert_eq!(refused.code(), ErrorCode::Closed);
    }
    let kms = Kms::open(config(&file)).await.unwrap();
    let rows = whole_log(&admin(&kms)).await;
    assert!(last > 0 && rows.len() as u64 >= last);
    kms.close().await.unwrap();
}

/// A cancelled `close` continues. The next `close` waits for its end, after which the file can be opened exclusively.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_close_is_completed_by_the_next() {
    let place = Place::new();
    for _ in 0..10 {
        let kms = Kms::open(place.config().audit_ack(AuditAck::Queued)).await.unwrap();
        let session = admin(&kms);
        if session.get_key("k").await.is_err() {
            session.create_key(NewKey::aes("k")).await.unwrap();
        }
        for _ in 0..100 {
            session.encrypt("k", b"x", &Context::new()).await.unwrap();
        }
        let waited = tokio::time::timeout(Duration::from_micros(200), kms.close()).await;
        drop(waited);
        kms.close().await.unwrap();
        assert_eq!(session.encrypt("k", b"x", &Context::new()).await.unwrap_err().code(), ErrorCode::Closed);
    }
    let kms = Kms::open(place.config()).await.unwrap();
    let query = AuditQuery::new().action(Action::Encrypt);
    assert_eq!(admin(&kms).list_audit(&query, &Paging::new(1_000)).await.unwrap().items.len(), 1_000);
    kms.close().await.unwrap();
}

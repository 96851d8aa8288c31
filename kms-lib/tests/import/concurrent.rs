//! Tests of concurrent importers, and of an importer that continues after another one has begun.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kms_lib::{ErrorCode, GrantFilter, ImportJob, ImportSource, KeyState, Kms, Paging};
use kms_test_support::{Bound, Server, bounded_proxy};

use crate::common::{admin, code, whole_log};
use crate::runs::multiply;
use crate::{Original, import, locked, original, place, server};

/// A source with some hundred keys, and an empty store. Returns from the test if there is no server.
macro_rules! large {
    () => {{
        let original = original!("clean");
        multiply(&original, 300);
        let place = place();
        let kms = place.open().await;
        (original, place, kms)
    }};
}

/// An import that waits halfway.
struct Stale {
    is_closed: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Result<kms_lib::ImportReport, kms_lib::Error>>,
}

impl Stale {
    /// Begins an import that waits after this many bytes of its source while it is closed.
    fn start(kms: &Kms, original: &Original, is_closed: bool, open_bytes: usize) -> Self {
        let is_closed = Arc::new(AtomicBool::new(is_closed));
        let port = locked(server().unwrap()).port();
        let held = bounded_proxy(port, Bound::Hold(open_bytes, Arc::clone(&is_closed)));
        let url = original.url.replace(&format!(":{port}/"), &format!(":{held}/"));
        let source = ImportSource::parse(&url).unwrap().master_secret(original.secret());
        let session = admin(kms);
        let task = tokio::spawn(async move { session.import_mini_kms(&source, &ImportJob::default()).await });
        Self { is_closed, task }
    }

    /// Begins an import of a source with some hundred keys, some of which are imported.
    async fn begin(kms: &Kms, original: &Original) -> Self {
        let stale = Self::start(kms, original, false, 0);
        let session = admin(kms);
        while session.list_keys(&Default::default(), &Paging::new(10)).await.unwrap().items.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stale.is_closed.store(true, Ordering::SeqCst);
        stale
    }

    /// Lets the import continue and returns its result.
    async fn end(self) -> ErrorCode {
        assert!(!self.task.is_finished(), "it did not wait");
        self.is_closed.store(false, Ordering::SeqCst);
        code(self.task.await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_superseded_run_writes_nothing_more() {
    let (original, _place, kms) = large!();
    let session = admin(&kms);
    let stale = Stale::begin(&kms, &original).await;
    // The superseded run read the source before this change.
    original.sql(
        "UPDATE `keys` SET state = 'DISABLED' WHERE name = 'minted-1'; DELETE FROM grants WHERE principal = 'svc-any'",
    );
    let report = import(&kms, &original, &ImportJob::default()).await;
    assert!(report.is_complete() && report.keys.imported > 100, "{report:?}");
    let before = whole_log(&session).await.len();
    assert_eq!(stale.end().await, ErrorCode::ImportSuperseded);
    assert_eq!(session.get_key("minted-1").await.unwrap().state, KeyState::Disabled);
    let grants = session.list_grants(&GrantFilter::new(), &Paging::new(10)).await.unwrap().items;
    assert!(grants.iter().all(|grant| grant.principal != "svc-any"), "{grants:?}");
    let records = whole_log(&session).await.split_off(before);
    let changed = records.iter().filter(|record| record.status == "SUCCESS" && record.action != "IMPORT_END").count();
    assert_eq!(changed, 0, "{records:?}");
    // The completed run is still the latest, and the next one finds nothing to do.
    let again = import(&kms, &original, &ImportJob::default()).await;
    assert_eq!((again.keys.updated, again.grants.imported), (0, 0), "{again:?}");
    assert!(session.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// A run that read the source before another run, and begins to write after it, reads the source again.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_begins_last_reads_the_latest_state() {
    let (original, _place, kms) = large!();
    let session = admin(&kms);
    // The run waits during the check of the master secret: in its first snapshot, before it begins.
    let stale = Stale::start(&kms, &original, true, 12_000);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(whole_log(&session).await.iter().all(|record| record.action != "IMPORT_START"));
    original.sql(
        "UPDATE `keys` SET state = 'DISABLED' WHERE name = 'minted-1'; DELETE FROM grants WHERE principal = 'svc-any'",
    );
    import(&kms, &original, &ImportJob::default()).await;
    stale.is_closed.store(false, Ordering::SeqCst);
    let report = stale.task.await.unwrap().unwrap();
    assert_eq!((report.keys.unchanged, report.keys.total, report.grants.unchanged), (305, 305, 3), "{report:?}");
    assert_eq!(session.get_key("minted-1").await.unwrap().state, KeyState::Disabled);
    kms.close().await.unwrap();
}

/// A run reads one state of the source, whatever changes there in the meantime; the next run imports the changes.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_reads_one_snapshot() {
    let (original, _place, kms) = large!();
    let session = admin(&kms);
    let stale = Stale::begin(&kms, &original).await;
    original.sql(
        "INSERT INTO grants SELECT '00000000-0000-4000-a000-000000000001', 'svc-late', role, key_id, allowed_ops, \
           NULL, created_at FROM grants WHERE principal = 'svc-any'; \
         DELETE FROM grants WHERE principal = 'svc-any'; UPDATE `keys` SET state = 'REVOKED' WHERE name = 'minted-1'; \
         DELETE FROM audit_logs WHERE timestamp > '2026-11-23 18:27:00'",
    );
    assert!(!stale.task.is_finished(), "it did not wait");
    stale.is_closed.store(false, Ordering::SeqCst);
    let report = stale.task.await.unwrap().unwrap();
    assert!(report.is_complete() && report.keys.total == 305 && report.grants.imported == 4, "{report:?}");
    assert_eq!(report.log.as_ref().unwrap().rows, 30);
    assert_eq!(session.get_key("minted-1").await.unwrap().state, KeyState::Enabled);
    let next = import(&kms, &original, &ImportJob::default()).await;
    assert_eq!((next.grants.imported, next.grants.withdrawn, next.keys.updated), (1, 1, 1), "{next:?}");
    assert!(next.log.as_ref().unwrap().gone.count > 0, "{next:?}");
    assert_eq!(session.get_key("minted-1").await.unwrap().state, KeyState::Revoked);
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_once_the_import_is_finalized() {
    let (original, _place, kms) = large!();
    let session = admin(&kms);
    let stale = Stale::begin(&kms, &original).await;
    original.sql("DELETE FROM grants WHERE principal = 'svc-any'");
    let report = import(&kms, &original, &ImportJob::default().finalize(true)).await;
    assert!(report.finalized, "{report:?}");
    // The key belongs to this store now.
    session.disable_key("minted-1").await.unwrap();
    assert_eq!(stale.end().await, ErrorCode::ImportSuperseded);
    assert_eq!(session.get_key("minted-1").await.unwrap().state, KeyState::Disabled);
    let grants = session.list_grants(&GrantFilter::new(), &Paging::new(10)).await.unwrap().items;
    assert!(grants.iter().all(|grant| grant.principal != "svc-any"), "{grants:?}");
    kms.close().await.unwrap();
}

/// Of many concurrent importers, at most one succeeds each time, and the store has the state of the source.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_importers_leave_the_state_of_the_source() {
    let original = original!("forked");
    let place = place();
    let kms = place.open().await;
    let job = ImportJob::default().rotate(true);
    let runs = (0..4).map(|_| {
        let (session, source, job) = (admin(&kms), original.source(), job.clone());
        tokio::spawn(async move { session.import_mini_kms(&source, &job).await })
    });
    let mut ended = Vec::new();
    for run in runs.collect::<Vec<_>>() {
        ended.push(run.await.unwrap().map_err(|error| error.code()));
    }
    assert!(ended.iter().any(Result::is_ok), "{ended:?}");
    let is_expected = |run: &Result<_, ErrorCode>| run.as_ref().err().is_none_or(|e| *e == ErrorCode::ImportSuperseded);
    assert!(ended.iter().all(is_expected), "{ended:?}");
    let report = import(&kms, &original, &job).await;
    assert_eq!((report.keys.unchanged, report.versions.unchanged, report.grants.unchanged), (5, 8, 4), "{report:?}");
    assert_eq!((report.keys_rotated, report.log.unwrap().rows), (0, 30));
    assert!(admin(&kms).verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// An import of a log without keys can be finalized.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_alone_is_finalized() {
    let log = crate::legacy("format0.json");
    let source = ImportSource::parse(log.to_str().unwrap()).unwrap();
    let place = place();
    let kms = place.open().await;
    let session = admin(&kms);
    let report = session.import_mini_kms(&source, &ImportJob::default().finalize(true)).await.unwrap();
    assert!(report.finalized && report.log.unwrap().rows == 15);
    assert_eq!(code(session.import_mini_kms(&source, &ImportJob::default()).await), ErrorCode::WrongState);
    kms.close().await.unwrap();
}

/// An attacker with write access to the database puts back the sealed state of the import from before its end. The
/// keys still show that the import is finalized, so no run imports anything.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_state_does_not_reopen_a_finalized_import() {
    let original = original!("clean");
    let place = place();
    let kms = place.open().await;
    import(&kms, &original, &ImportJob::default()).await;
    place.tamper("INSERT INTO meta (name, value) SELECT 'kept', value FROM meta WHERE name = 'import.mini-kms'").await;
    import(&kms, &original, &ImportJob::default().finalize(true)).await;
    let former = "(SELECT value FROM meta WHERE name = 'kept')";
    place.tamper(&format!("UPDATE meta SET value = {former} WHERE name = 'import.mini-kms'")).await;
    original
        .sql("INSERT INTO grants SELECT UUID(), 'intruder', role, key_id, allowed_ops, NULL, created_at FROM grants");
    let session = admin(&kms);
    for job in [ImportJob::default(), ImportJob::default().dry_run(true)] {
        assert_eq!(code(session.import_mini_kms(&original.source(), &job).await), ErrorCode::WrongState);
    }
    let filter = GrantFilter::default().principal("intruder");
    assert!(session.list_grants(&filter, &Paging::new(10)).await.unwrap().items.is_empty());
    kms.close().await.unwrap();
}

//! Tests of kills, progress and rollbacks of the source between the phases of a run, and of the operations that an open
//! import refuses.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::{Place, admin, code};
use crate::runs::{multiply, start_child};
use crate::{Original, import, original, place};
use kms_lib::{
    Context, ErrorCode, ImportFindingKind, ImportJob, ImportProgress, ImportSource, ImportStage, KeyState, KeyUpdate,
    VersionState,
};

/// The number of keys added to those of the dump.
const COPIES: u32 = 250;
/// The number of grants added to those of the dump.
const GRANTS: u32 = 1_200;
/// A key of `clean.sql` with one version.
const MINTED: &str = "7dcc8c2b-e9a3-46ae-8d2e-05acb48fd9dc";

fn add_grants(original: &Original) {
    original.sql(&format!(
        "INSERT INTO grants SELECT CONCAT('00000000-0000-4000-a000-', LPAD(seq, 12, '0')), CONCAT('app-', seq), 'app', \
         '{MINTED}', '[\"read\"]', NULL, '2026-11-23 18:27:07' FROM seq_1_to_{GRANTS}"
    ));
}

/// A place whose store is a copy of another place's store.
fn copied(store: &Place) -> Place {
    let copy = place();
    let file = |place: &Place, suffix: &str| PathBuf::from(format!("{}{suffix}", place.file().display()));
    for suffix in ["", "-wal"] {
        if file(store, suffix).exists() {
            std::fs::copy(file(store, suffix), file(&copy, suffix)).unwrap();
        }
    }
    copy
}

/// Runs an import in a process that is killed as soon as `count` has increased. Returns whether the run was incomplete,
/// that is, whether `count` was below `whole`.
async fn killed(original: &Original, place: &Place, job: &str, count: &str, whole: u32) -> bool {
    let before = place.number(count).await;
    let mut child = start_child(original, place, job);
    while place.number(count).await <= before {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    place.number(count).await < i64::from(whole)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_killed_in_any_phase_is_continued() {
    let original = original!("clean");
    multiply(&original, COPIES);
    add_grants(&original);
    let mut here = place();
    let kms = here.open().await;
    kms.close().await.unwrap();
    for (job, count, whole) in [
        ("", "SELECT COUNT(*) FROM keys", COPIES + 5),
        ("", "SELECT COUNT(*) FROM grants", GRANTS + 4),
        ("rotate", "SELECT COUNT(*) FROM key_versions WHERE origin = 'GENERATED'", COPIES + 4),
        ("finalize", "SELECT COUNT(*) FROM keys WHERE import_final = 1", COPIES + 5),
    ] {
        if job == "finalize" {
            // An import does not rotate keys that belong to this store.
            let kms = here.open().await;
            let report = import(&kms, &original, &ImportJob::default().rotate(true)).await;
            assert!(report.keys_rotated > 0 && report.keys_to_rotate == 0, "{report:?}");
            kms.close().await.unwrap();
        }
        // The phase may end before the kill. Then it is tried again on a copy.
        let mut tries = 0;
        loop {
            let copy = copied(&here);
            tries += 1;
            if killed(&original, &copy, job, count, whole).await {
                here = copy;
                break;
            }
            assert!(tries < 20, "{job}: {count}");
        }
    }
    let kms = here.open().await;
    let job = ImportJob::default().rotate(true).finalize(true);
    let report = import(&kms, &original, &job).await;
    assert!(report.is_complete() && report.finalized && report.keys_to_rotate == 0, "{report:?}");
    assert_eq!((report.keys.total, report.grants.total), (u64::from(COPIES) + 5, u64::from(GRANTS) + 4));
    let numbers = [
        ("SELECT COUNT(*) FROM keys WHERE import_final = 1", COPIES + 5),
        ("SELECT COUNT(*) FROM grants", GRANTS + 4),
        // Each key was rotated once, however often the runs were killed.
        ("SELECT COUNT(*) FROM key_versions WHERE origin = 'GENERATED'", COPIES + 4),
        ("SELECT COUNT(*) FROM key_versions WHERE origin = 'IMPORTED'", COPIES + 8),
    ];
    for (count, whole) in numbers {
        assert_eq!(here.number(count).await, i64::from(whole), "{count}");
    }
    let session = admin(&kms);
    assert!(session.verify_audit().await.unwrap().ok);
    assert_eq!(code(session.import_mini_kms(&original.source(), &job).await), ErrorCode::WrongState);
    kms.close().await.unwrap();
}

/// Creates a store in which a run of `job` was killed as soon as `count` had increased, and before it reached `whole`.
async fn cut_off(original: &Original, here: &Place, job: &str, count: &str, whole: u32) -> Place {
    for _ in 0..20 {
        let copy = copied(here);
        if killed(original, &copy, job, count, whole).await {
            return copy;
        }
    }
    panic!("{job}: no run was killed halfway");
}

/// A run was killed while it finalized the import. A revocation at the source afterwards is imported by the next run.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_after_an_interrupted_finalization_is_imported() {
    let original = original!("clean");
    multiply(&original, COPIES);
    let id = |n: u32| format!("00000000-0000-4000-8000-{n:012x}");
    let here = place();
    here.open().await.close().await.unwrap();
    let finals = "SELECT COUNT(*) FROM keys WHERE import_final = 1";
    let rotated = "SELECT COUNT(*) FROM key_versions WHERE origin = 'GENERATED'";
    let first = cut_off(&original, &here, "rotate finalize", rotated, COPIES + 4).await;
    assert_eq!(first.number(finals).await, 0, "a rotation does not end the import of its key");
    let kms = first.open().await;
    import(&kms, &original, &ImportJob::default().rotate(true)).await;
    kms.close().await.unwrap();
    let second = cut_off(&original, &first, "finalize", finals, COPIES + 5).await;
    // By name, the copies 1, 10, 100 and so on are among the first hundred keys.
    let (revoked, disabled, of_version, gone) = (1, 10, 100, 101);
    original.sql(&format!(
        "UPDATE `keys` SET state = 'REVOKED' WHERE id = '{}'; UPDATE `keys` SET state = 'DISABLED' WHERE id = '{}'; \
         UPDATE key_versions SET state = 'REVOKED' WHERE key_id = '{}'; \
         DELETE FROM key_versions WHERE key_id = '{gone}'; DELETE FROM `keys` WHERE id = '{gone}'",
        id(revoked),
        id(disabled),
        id(of_version),
        gone = id(gone),
    ));
    for place in [first, second] {
        let kms = place.open().await;
        let session = admin(&kms);
        let is_held = session.get_key(&*id(gone)).await.unwrap().open_import.is_some();
        let dry = import(&kms, &original, &ImportJob::default().dry_run(true)).await;
        let mut report = import(&kms, &original, &ImportJob::default()).await;
        report.dry_run = true;
        assert_eq!(report, dry);
        assert!(report.is_complete() && report.keys.withdrawn == 1 && report.keys.updated >= 2, "{report:?}");
        let missing = report.findings.iter().filter(|it| it.kind == ImportFindingKind::KeyMissing);
        assert_eq!(missing.map(|it| it.id.clone()).collect::<Vec<_>>(), [id(gone)]);
        let told = report.findings.iter().any(|it| it.text.contains("was interrupted while"));
        assert_ne!(told, is_held, "{report:?}");
        assert_eq!(session.get_key(&*id(revoked)).await.unwrap().state, KeyState::Revoked);
        assert_eq!(session.get_key(&*id(disabled)).await.unwrap().state, KeyState::Disabled);
        assert_eq!(session.get_key(&*id(gone)).await.unwrap().state, KeyState::Disabled);
        assert_eq!(session.get_version(&*id(of_version), 1).await.unwrap().state, VersionState::Revoked);
        let report = import(&kms, &original, &ImportJob::default().finalize(true)).await;
        assert_eq!((report.keys.updated, report.versions.updated), (0, 0), "{report:?}");
        assert!(report.finalized && session.verify_audit().await.unwrap().ok);
        assert_eq!(place.number(finals).await, i64::from(COPIES) + 5);
        assert_eq!(
            code(session.import_mini_kms(&original.source(), &ImportJob::default()).await),
            ErrorCode::WrongState
        );
        kms.close().await.unwrap();
    }
}

/// Gives every copied key a second version at the source.
fn rotate_copies(original: &Original) {
    original.sql(
        "INSERT INTO key_versions SELECT INSERT(id, 1, 1, '1'), key_id, 2, 'ENABLED', created_at, NULL, NULL, \
           REPLACE(wrapped_material, '\"version\":\"1\"', '\"version\":\"2\"'), NULL, NULL FROM key_versions \
           WHERE key_id LIKE '00000000-%'; \
         UPDATE key_versions SET state = 'DISABLED' WHERE key_id LIKE '00000000-%' AND version = 1; \
         UPDATE `keys` SET current_version = 2 WHERE name LIKE 'copy-%'",
    );
}

/// A run that rotates and finalizes is killed after some rotations, or after some keys are this store's own, and then
/// the source rotates the same keys: the versions of both sides are kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_after_an_interrupted_finalization_is_imported() {
    let original = original!("clean");
    multiply(&original, COPIES);
    let here = place();
    here.open().await.close().await.unwrap();
    let rotated = "SELECT COUNT(*) FROM key_versions WHERE origin = 'GENERATED'";
    let finals = "SELECT COUNT(*) FROM keys WHERE import_final = 1";
    let first = cut_off(&original, &here, "rotate finalize", rotated, COPIES + 4).await;
    let kms = first.open().await;
    import(&kms, &original, &ImportJob::default().rotate(true)).await;
    kms.close().await.unwrap();
    let second = cut_off(&original, &first, "finalize", finals, COPIES + 5).await;
    rotate_copies(&original);
    for here in [first, second] {
        let kms = here.open().await;
        let session = admin(&kms);
        let job = ImportJob::default().rotate(true).finalize(true);
        let mut dry = import(&kms, &original, &job.clone().dry_run(true)).await;
        dry.dry_run = false;
        let report = import(&kms, &original, &job).await;
        assert_eq!(report, dry);
        assert!(report.is_complete() && report.finalized && report.keys_to_rotate == 0, "{report:?}");
        assert_eq!(report.versions.imported, u64::from(COPIES), "{report:?}");
        let seconds = "SELECT COUNT(*) FROM key_versions WHERE origin = 'IMPORTED' AND version = 2";
        assert_eq!(here.number(seconds).await, i64::from(COPIES) + 3);
        for name in ["copy-1", &format!("copy-{COPIES}")] {
            let second = session.get_version(name, 2).await.unwrap();
            assert_eq!((second.state, second.not_after), (VersionState::Disabled, None), "it decrypts for ever");
            session.encrypt(name, b"x", &Context::new()).await.unwrap();
            assert_eq!(session.rotate_key(name, None).await.unwrap().current_version, 1_003);
        }
        assert!(session.verify_audit().await.unwrap().ok);
        kms.close().await.unwrap();
    }
}

/// If the keys were not rotated, their next versions here would have the numbers of the source's: these are refused,
/// and the import ends without them only if the caller says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_at_the_source_that_has_no_place_here_is_refused() {
    let original = original!("clean");
    multiply(&original, COPIES);
    let here = place();
    here.open().await.close().await.unwrap();
    let finals = "SELECT COUNT(*) FROM keys WHERE import_final = 1";
    let here = cut_off(&original, &here, "finalize", finals, COPIES + 5).await;
    let count = u64::try_from(here.number(finals).await).unwrap();
    rotate_copies(&original);
    let kms = here.open().await;
    let session = admin(&kms);
    let end = ImportJob::default().finalize(true);
    let refused = session.import_mini_kms(&original.source(), &end).await;
    assert_eq!(code(refused), ErrorCode::WrongState);
    let report = import(&kms, &original, &ImportJob::default()).await;
    let texts = report.findings.iter().filter(|it| it.kind == ImportFindingKind::KeyRefused);
    assert!(texts.clone().all(|it| it.version == Some(2) && it.text.contains("into a new store")), "{report:?}");
    // The keys of the dump have no new version.
    assert!(texts.count() as u64 == report.versions.refused && (1..=count).contains(&report.versions.refused));
    let report = import(&kms, &original, &end.allow_incomplete(true)).await;
    assert!(report.finalized && !report.is_complete(), "{report:?}");
    assert_eq!(session.rotate_key("copy-1", None).await.unwrap().current_version, 2);
    assert!(session.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_reported_by_stage_and_row() {
    let original = original!("clean");
    multiply(&original, 150);
    let place = place();
    let kms = place.open().await;
    let (progress, is_done) = (Arc::<ImportProgress>::default(), Arc::new(AtomicBool::new(false)));
    let watching = {
        let (progress, is_done) = (Arc::clone(&progress), Arc::clone(&is_done));
        std::thread::spawn(move || {
            let mut told: Vec<(ImportStage, u64, u64)> = Vec::new();
            while !is_done.load(Ordering::SeqCst) {
                let now = (progress.stage(), progress.done(), progress.total());
                if told.last() != Some(&now) {
                    told.push(now);
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            told
        })
    };
    let job = ImportJob::default().rotate(true).finalize(true).progress(Arc::clone(&progress));
    import(&kms, &original, &job).await;
    is_done.store(true, Ordering::SeqCst);
    let told = watching.join().unwrap();
    let stages: Vec<usize> = told.iter().map(|(stage, ..)| *stage as usize).collect();
    assert!(stages.is_sorted(), "{told:?}");
    assert!(told.contains(&(ImportStage::Keys, 100, 155)), "{told:?}");
    assert!(told.iter().any(|it| it.0 == ImportStage::Finish && it.1 > 0 && it.1 < it.2), "{told:?}");
    assert_eq!(progress.stage(), ImportStage::Finish);
    kms.close().await.unwrap();
}

/// The import only needs to read the four tables of the original.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_select_suffices() {
    let original = original!("clean");
    let name = &original.database;
    let mut rights = format!("CREATE USER 'only-{name}'@'%' IDENTIFIED BY 'only-reads'");
    for table in ["audit_logs", "grants", "key_versions", "`keys`"] {
        rights += &format!("; GRANT SELECT ON {name}.{table} TO 'only-{name}'@'%'");
    }
    original.sql(&rights);
    let (_, host) = original.url.split_once('@').unwrap();
    let url = format!("mysql://only-{name}@{host}");
    let source = ImportSource::with_password(&url, "only-reads").unwrap().master_secret(original.secret());
    let place = place();
    let kms = place.open().await;
    let session = admin(&kms);
    let report = session.import_mini_kms(&source, &ImportJob::default().rotate(true).finalize(true)).await.unwrap();
    assert!(report.is_complete() && report.finalized && report.keys.imported == 5, "{report:?}");
    assert_eq!(report.log.unwrap().rows, 30);
    kms.close().await.unwrap();
    // Without a right on one of them, the message names the table.
    original.sql(&format!("REVOKE SELECT ON {name}.grants FROM 'only-{name}'@'%'"));
    let other = crate::place();
    let kms = other.open().await;
    let refused = admin(&kms).import_mini_kms(&source, &ImportJob::default()).await.unwrap_err();
    assert!(refused.message().contains("grants"), "{refused}");
    kms.close().await.unwrap();
}

/// The source was rolled back to an older state: no imported row is lost, and no revoked one is restored.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_back_source_restores_nothing() {
    let original = original!("clean");
    let place = place();
    let kms = place.open().await;
    let session = admin(&kms);
    multiply(&original, 1);
    original.sql(&format!(
        "UPDATE `keys` SET state = 'REVOKED' WHERE name = 'aes256_gcm-1-2'; \
         UPDATE key_versions SET state = 'REVOKED' WHERE key_id = '{MINTED}'; \
         INSERT INTO grants VALUES ('00000000-0000-4000-8000-000000000001', 'app', 'app', '{MINTED}', '[\"read\"]', \
           NULL, '2026-11-23 18:27:07')"
    ));
    import(&kms, &original, &ImportJob::default()).await;
    let copy = session.get_key("copy-1").await.unwrap();
    let dump = std::fs::read_to_string(crate::legacy("clean.sql")).unwrap();
    original.sql(&format!(
        "SET FOREIGN_KEY_CHECKS = 0; DROP TABLE audit_logs, grants, key_versions, `keys`; {dump}; \
         DELETE FROM audit_logs ORDER BY timestamp DESC LIMIT 5; \
         DELETE FROM key_versions WHERE key_id = '1ebf2c27-a1cd-4343-acb7-7f8f601ac7da' AND version = 2; \
         UPDATE `keys` SET current_version = 1 WHERE id = '1ebf2c27-a1cd-4343-acb7-7f8f601ac7da'"
    ));
    let mut dry = import(&kms, &original, &ImportJob::default().dry_run(true)).await;
    let report = import(&kms, &original, &ImportJob::default()).await;
    dry.dry_run = false;
    assert_eq!(report, dry);
    let kinds: Vec<ImportFindingKind> = report.findings.iter().map(|finding| finding.kind).collect();
    assert!(kinds.contains(&ImportFindingKind::KeyMissing) && kinds.contains(&ImportFindingKind::VersionMissing));
    assert_eq!((report.grants.withdrawn, report.keys.withdrawn), (1, 1), "{report:?}");
    assert_eq!(report.log.as_ref().unwrap().gone.count, 5, "{report:?}");
    assert_eq!(session.get_key(copy.id).await.unwrap().state, KeyState::Disabled);
    assert_eq!(session.get_key("aes256_gcm-1-2").await.unwrap().state, KeyState::Revoked);
    assert_eq!(session.get_version(MINTED, 1).await.unwrap().state, VersionState::Revoked);
    let rsa = session.get_key("rsa_2048-1-1").await.unwrap();
    assert_eq!(rsa.current_version, 1);
    assert_eq!(session.get_version("rsa_2048-1-1", 2).await.unwrap().state, VersionState::Disabled);
    assert!(session.verify_audit().await.unwrap().ok);
    // Another run changes nothing.
    let again = import(&kms, &original, &ImportJob::default()).await;
    assert_eq!((again.keys.updated, again.keys.withdrawn, again.versions.updated), (0, 0, 0), "{again:?}");
    kms.close().await.unwrap();
}

/// Until the import is finalized, its source controls the keys. Here they can only be revoked.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_an_open_import_can_only_be_revoked() {
    let original = original!("clean");
    let place = place();
    let kms = place.open().await;
    let session = admin(&kms);
    import(&kms, &original, &ImportJob::default().rotate(true)).await;
    let key = "aes256_gcm-1-0";
    let edit = || KeyUpdate::new().rotation_period_days(30);
    let refused = [
        code(session.rotate_key(key, None).await),
        code(session.enable_key(key).await),
        code(session.disable_key(key).await),
        code(session.update_key(key, edit()).await),
        code(session.enable_version(key, 1).await),
        code(session.disable_version(key, 1).await),
        code(session.set_window(key, 1, None).await),
        code(session.schedule_deletion(key, None).await),
    ];
    assert_eq!(refused, [ErrorCode::ImportOpen; 8]);
    assert_eq!(session.revoke_version(key, 1).await.unwrap().open_import.as_deref(), Some("mini-kms"));
    assert_eq!(session.revoke_key("minted-1").await.unwrap().state, KeyState::Revoked);
    // A key that was revoked here stays revoked, whatever its state at the source, and the other operations work again.
    let report = import(&kms, &original, &ImportJob::default().finalize(true)).await;
    assert!(report.finalized && report.versions.updated == 0, "{report:?}");
    assert_eq!(session.get_version(key, 1).await.unwrap().state, VersionState::Revoked);
    assert_eq!(session.get_key("minted-1").await.unwrap().state, KeyState::Revoked);
    session.update_key(key, edit()).await.unwrap();
    session.disable_key(key).await.unwrap();
    session.enable_key(key).await.unwrap();
    session.rotate_key(key, None).await.unwrap();
    session.schedule_deletion(key, None).await.unwrap();
    kms.close().await.unwrap();
}

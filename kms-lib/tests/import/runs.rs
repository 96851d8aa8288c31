//! Tests of repeated and interrupted runs, and of changes between two runs.

use kms_lib::{
    Actor, AuditQuery, Context, ErrorCode, GrantFilter, ImportFindingKind, ImportJob, KeyState, NewGrant, NewKey,
    Paging, Permission, Role, SignatureAlgorithm, VersionState,
};
use std::process::{Child, Command};
use std::time::Duration;

use kms_test_support::{Bound, Server, bounded_proxy};

use crate::common::{Place, admin, code, whole_log};
use crate::{Original, import, locked, original, place, server};

/// Adds this many copies of a key of the original, with different ids and names.
pub fn multiply(original: &Original, copies: u32) {
    let id = "CONCAT('00000000-0000-4000-8000-', LPAD(LOWER(HEX(seq)), 12, '0'))";
    original.sql(&format!(
        "INSERT INTO `keys` SELECT {id}, CONCAT('copy-', seq), type, purpose, state, rotation_period_days, \
           grace_period_days, created_at, metadata, current_version FROM `keys`, seq_1_to_{copies} \
           WHERE name = 'minted-1'; \
         INSERT INTO key_versions SELECT CONCAT('00000000-0000-4000-9000-', LPAD(LOWER(HEX(seq)), 12, '0')), {id}, \
           version, state, created_at, not_before, not_after, REPLACE(wrapped_material, key_id, {id}), public_key_pem, \
           grace_period_days FROM key_versions, seq_1_to_{copies} \
           WHERE key_id = '7dcc8c2b-e9a3-46ae-8d2e-05acb48fd9dc'"
    ));
}

/// The variable that gives a child process its source, its store and its job.
const CHILD: [&str; 4] =
    ["KMS_TEST_IMPORT_URL", "KMS_TEST_IMPORT_SECRET", "KMS_TEST_IMPORT_STORE", "KMS_TEST_IMPORT_JOB"];

/// Starts a process that imports into a store. `job` may contain the words `rotate` and `finalize`.
pub fn start_child(original: &Original, place: &Place, job: &str) -> Child {
    let store = place.file().display().to_string();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "runs::child_that_imports", "--test-threads=1"]);
    for (name, value) in CHILD.iter().zip([original.url.as_str(), original.secret(), store.as_str(), job]) {
        child.env(name, value);
    }
    child.spawn().unwrap()
}

/// Not a test: the child process, which imports until it is killed.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_imports() {
    let [Ok(url), Ok(secret), Ok(store), Ok(job)] = CHILD.map(std::env::var) else { return };
    let config = place().config().store_url(format!("sqlite:{store}"));
    let kms = kms_lib::Kms::open(config).await.unwrap();
    let source = kms_lib::ImportSource::parse(&url).unwrap().master_secret(&secret);
    let job = ImportJob::default().rotate(job.contains("rotate")).finalize(job.contains("finalize"));
    admin(&kms).import_mini_kms(&source, &job).await.unwrap();
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_is_continued() {
    const COPIES: u32 = 400;
    let original = original!("clean");
    multiply(&original, COPIES);
    let place = place();
    place.open().await.close().await.unwrap();
    let mut halfway = 0;
    let mut present = 0;
    for _ in 0..20 {
        let mut child = start_child(&original, &place, "");
        // Killed once it has imported some more keys.
        let ended = loop {
            let keys = place.number("SELECT COUNT(*) FROM keys").await;
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if keys >= present + 60 {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        present = place.number("SELECT COUNT(*) FROM keys").await;
        match ended {
            Some(status) => {
                assert!(status.success());
                break;
            }
            None => halfway += i32::from(present < i64::from(COPIES)),
        }
    }
    assert!(halfway >= 2, "it was killed {halfway} times");
    let kms = place.open().await;
    let report = import(&kms, &original, &ImportJob::default()).await;
    assert!(report.is_complete() && report.keys.total == u64::from(COPIES) + 5, "{report:?}");
    assert_eq!(report.keys.imported + report.keys.unchanged, report.keys.total);
    let session = admin(&kms);
    let keys = place.number("SELECT COUNT(*) FROM keys").await;
    let versions = place.number("SELECT COUNT(*) FROM key_versions").await;
    assert_eq!((keys, versions), (i64::from(COPIES) + 5, i64::from(COPIES) + 8));
    assert!(session.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_changes_nothing_and_a_dry_run_writes_nothing() {
    let original = original!("clean");
    let place = place();
    let kms = place.open().await;
    let session = admin(&kms);
    let job = ImportJob::default().rotate(true);
    let mut dry = import(&kms, &original, &job.clone().dry_run(true)).await;
    assert_eq!(code(session.get_key("minted-1").await), ErrorCode::KeyNotFound);
    let first = import(&kms, &original, &job).await;
    dry.dry_run = false;
    assert_eq!(first, dry, "a dry run gives the same report");
    assert_eq!(first.keys_rotated, 4);
    let records = whole_log(&session).await;
    let second = import(&kms, &original, &ImportJob::default()).await;
    assert_eq!((second.keys.imported, second.keys.updated, second.keys.unchanged), (0, 0, 5));
    assert_eq!((second.versions.imported, second.versions.updated, second.versions.unchanged), (0, 0, 8));
    assert_eq!((second.grants.imported, second.grants.updated, second.grants.unchanged), (0, 0, 4));
    let new: Vec<String> = whole_log(&session).await.split_off(records.len()).into_iter().map(|it| it.action).collect();
    assert_eq!(new, ["IMPORT_START", "IMPORT_END"]);
    // Every key has a record that names its rows.
    let imported: Vec<_> = records.iter().filter(|record| record.action == "KEY_IMPORT").collect();
    assert_eq!(imported.len(), 5);
    assert!(imported.iter().all(|it| it.key_id.is_some() && it.details.as_ref().unwrap().contains("\"rows\"")));
    assert!(session.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// Revocation wins even if the rest of the row at the source can no longer be imported.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_row_is_refused_is_still_revoked() {
    let original = original!("clean");
    let place = place();
    let kms = place.open().await;
    let session = admin(&kms);
    import(&kms, &original, &ImportJob::default().rotate(true)).await;
    let sealed = session.encrypt("minted-1", b"x", &Context::new()).await.unwrap();
    original.sql(
        "UPDATE `keys` SET type = 'RSA_4096', state = 'REVOKED' WHERE name = 'minted-1'; \
         UPDATE `keys` SET purpose = 'NOTHING', state = 'DISABLED' WHERE name = 'rsa_2048-1-3'",
    );
    let report = import(&kms, &original, &ImportJob::default()).await;
    assert_eq!(report.keys.refused, 2, "{report:?}");
    assert_eq!(session.get_key("minted-1").await.unwrap().state, KeyState::Revoked);
    assert!(session.decrypt(&sealed.ciphertext, &Context::new()).await.is_err());
    assert_eq!(session.get_key("rsa_2048-1-3").await.unwrap().state, KeyState::Disabled);
    let count = session.list_audit(&AuditQuery::new(), &Paging::new(1)).await.unwrap().items[0].seq;
    import(&kms, &original, &ImportJob::default()).await;
    let again = session.list_audit(&AuditQuery::new(), &Paging::new(1)).await.unwrap().items[0].seq;
    assert_eq!(again - count, 2, "the second run has its begin and end only");
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_at_the_source_are_imported_until_the_import_is_finalized() {
    let original = original!("clean");
    let place = place();
    let kms = place.open().await;
    let session = admin(&kms);
    import(&kms, &original, &ImportJob::default().rotate(true)).await;
    // Clients that were switched already use versions created in this store.
    let sealed = session.encrypt("minted-1", b"x", &Context::new()).await.unwrap();
    original.sql(
        "UPDATE key_versions SET state = 'REVOKED', not_after = '2026-11-24 00:00:00' \
           WHERE key_id = '929e82de-2672-4d8b-9dc1-f27306950259' AND version = 1; \
         UPDATE key_versions SET not_after = '2026-12-30 00:00:00' \
           WHERE key_id = '1ebf2c27-a1cd-4343-acb7-7f8f601ac7da' AND version = 1; \
         UPDATE `keys` SET state = 'DISABLED' WHERE name = 'rsa_2048-1-3'; \
         UPDATE `keys` SET rotation_period_days = 99 WHERE name = 'aes256_gcm-1-2'; \
         DELETE FROM grants WHERE principal = 'svc-any'; \
         UPDATE grants SET allowed_ops = '[\"read\"]' WHERE principal = 'svc-new' AND key_id <> '*'",
    );
    let report = import(&kms, &original, &ImportJob::default()).await;
    assert_eq!((report.versions.updated, report.grants.updated, report.grants.withdrawn), (2, 1, 1), "{report:?}");
    let version = |key: &'static str, number| session.get_version(key, number);
    assert_eq!(version("aes256_gcm-1-0", 1).await.unwrap().state, VersionState::Revoked);
    assert_eq!(session.get_key("aes256_gcm-1-0").await.unwrap().open_import.as_deref(), Some("mini-kms"));
    assert_eq!(version("rsa_2048-1-1", 1).await.unwrap().not_after.unwrap().to_string(), "2026-12-30T00:00:00.000000Z");
    assert_eq!(code(session.encrypt("rsa_2048-1-3", b"x", &Context::new()).await), ErrorCode::KeyDisabled);
    assert_eq!(session.get_key("aes256_gcm-1-2").await.unwrap().rotation_period_days, Some(99));
    let grants = session.list_grants(&GrantFilter::new(), &Paging::new(10)).await.unwrap().items;
    assert!(grants.iter().all(|grant| grant.principal != "svc-any"), "{grants:?}");
    // Data that a client encrypted here is not affected.
    assert_eq!(session.decrypt(&sealed.ciphertext, &Context::new()).await.unwrap().plaintext.as_slice(), b"x");
    // Revocation wins: the source cannot undo it.
    original.sql("UPDATE key_versions SET state = 'ENABLED', not_after = NULL WHERE version = 1");
    import(&kms, &original, &ImportJob::default()).await;
    assert_eq!(version("aes256_gcm-1-0", 1).await.unwrap().state, VersionState::Revoked);
    // A key that was revoked here is not restored either.
    session.revoke_version("minted-1", 1).await.unwrap();
    session.revoke_key("aes256_gcm-1-2").await.unwrap();
    let report = import(&kms, &original, &ImportJob::default().finalize(true)).await;
    assert!(report.finalized);
    assert_eq!(version("minted-1", 1).await.unwrap().state, VersionState::Revoked);
    assert_eq!(code(session.encrypt("aes256_gcm-1-2", b"x", &Context::new()).await), ErrorCode::KeyRevoked);
    // From now on, the keys belong to this store.
    let again = session.import_mini_kms(&original.source(), &ImportJob::default()).await;
    assert_eq!(code(again), ErrorCode::WrongState);
    let rotated = session.rotate_key("aes256_gcm-1-0", None).await.unwrap();
    assert_eq!(rotated.open_import, None);
    session.disable_key("minted-1").await.unwrap();
    assert!(session.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
    // Another process has the same results.
    let kms = place.open().await;
    assert_eq!(
        code(admin(&kms).import_mini_kms(&original.source(), &ImportJob::default()).await),
        ErrorCode::WrongState
    );
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rotations_at_the_source_and_here_do_not_collide() {
    let original = original!("clean");
    let place = place();
    let kms = place.open().await;
    let session = admin(&kms);
    import(&kms, &original, &ImportJob::default().rotate(true)).await;
    let here = session.get_key("minted-1").await.unwrap().current_version;
    // The source adds a second version. The test reuses the material of another key for it.
    let wrapped = original.sql(
        "SELECT wrapped_material FROM key_versions WHERE key_id = \
        '7dcc8c2b-e9a3-46ae-8d2e-05acb48fd9dc'",
    );
    let other = rewrapped(&wrapped, original.secret());
    original.sql(&format!(
        "UPDATE key_versions SET state = 'DISABLED', not_after = '2026-12-30 00:00:00' \
           WHERE key_id = '7dcc8c2b-e9a3-46ae-8d2e-05acb48fd9dc'; \
         INSERT INTO key_versions VALUES ('00000000-0000-4000-8000-000000000002', \
           '7dcc8c2b-e9a3-46ae-8d2e-05acb48fd9dc', 2, 'ENABLED', '2026-11-24 00:00:00', NULL, NULL, '{other}', \
           NULL, 7); \
         UPDATE `keys` SET current_version = 2 WHERE name = 'minted-1'"
    ));
    let report = import(&kms, &original, &ImportJob::default().rotate(true)).await;
    assert_eq!((report.versions.imported, report.keys_rotated), (1, 0), "{report:?}");
    let key = session.get_key("minted-1").await.unwrap();
    assert_eq!(key.current_version, here, "clients go on with the version that they have here");
    let second = session.get_version("minted-1", 2).await.unwrap();
    assert_eq!((second.state, second.not_after), (VersionState::Disabled, None), "it decrypts for ever");
    session.encrypt("minted-1", b"x", &Context::new()).await.unwrap();
    let report = import(&kms, &original, &ImportJob::default().finalize(true).rotate(true)).await;
    assert!(report.finalized && report.keys_to_rotate == 0, "{report:?}");
    assert!(session.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// The same material, wrapped again for version 2.
fn rewrapped(wrapped: &str, _secret: &str) -> String {
    wrapped.replace("\"version\":\"1\"", "\"version\":\"2\"")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unrelated_database_needs_another_name() {
    let (clean, forked) = (original!("clean"), original!("forked"));
    forked.sql("UPDATE `keys` SET name = REPLACE(name, '-5', '-1')");
    let place = place();
    let kms = place.open().await;
    let session = admin(&kms);
    import(&kms, &clean, &ImportJob::default()).await;
    let other = session.import_mini_kms(&forked.source(), &ImportJob::default()).await;
    assert_eq!(code(other), ErrorCode::Conflict);
    let report = import(&kms, &forked, &ImportJob::default().name("second")).await;
    assert!(report.is_complete() && report.keys.imported == 5, "{report:?}");
    // Keys with names that are taken got other names, which the report lists.
    let renamed = report.findings.iter().filter(|it| it.kind == ImportFindingKind::KeyRenamed).count();
    assert_eq!(renamed, 5, "{report:?}");
    // Under a second name, the same database has ids that are already here.
    let twice = import(&kms, &clean, &ImportJob::default().name("third")).await;
    assert_eq!((twice.keys.refused, twice.keys.imported, twice.is_complete()), (5, 0, false));
    assert!(twice.findings.iter().any(|it| it.code == Some(ErrorCode::Conflict)), "{twice:?}");
    let third = ImportJob::default().name("third").finalize(true);
    assert_eq!(code(session.import_mini_kms(&clean.source(), &third).await), ErrorCode::WrongState);
    assert!(session.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_continued_after_its_connection_was_cut() {
    let original = original!("clean");
    let port = locked(server().unwrap()).port();
    let place = place();
    let kms = place.open().await;
    let session = admin(&kms);
    let mut cut = 0;
    // The connection is cut after different numbers of bytes, so that every stage is interrupted.
    for bytes in (2_000..60_000).step_by(4_000) {
        let url = original.url.replace(&format!(":{port}/"), &format!(":{}/", bounded_proxy(port, Bound::Cut(bytes))));
        let source = kms_lib::ImportSource::parse(&url).unwrap().master_secret(original.secret());
        match session.import_mini_kms(&source, &ImportJob::default()).await {
            Ok(_) => break,
            Err(error) => {
                assert!(error.is_retryable(), "{error:?}");
                cut += 1;
            }
        }
    }
    assert!(cut > 3, "the connection was cut {cut} times");
    let report = import(&kms, &original, &ImportJob::default()).await;
    assert!(report.is_complete() && report.keys.total == 5, "{report:?}");
    assert!(session.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_admins_import() {
    let original = original!("clean");
    let place = place();
    let kms = place.open().await;
    let everything = [Permission::Create, Permission::Manage, Permission::Grant];
    admin(&kms).put_grant(NewGrant::new("app", Role::App).on_all_keys().allow(everything)).await.unwrap();
    for (name, role) in [("app", Role::App), ("auditor", Role::Auditor)] {
        let session = kms.session(Actor::new(name, role).unwrap());
        let refused = session.import_mini_kms(&original.source(), &ImportJob::default()).await;
        assert_eq!(code(refused), ErrorCode::AccessDenied);
    }
    kms.close().await.unwrap();
}

#[test]
fn the_blocking_interface_imports() {
    let original = original!("clean");
    let place = place();
    let kms = kms_lib::blocking::Kms::open(place.config()).unwrap();
    let session = kms.session(Actor::new("alice", Role::Admin).unwrap());
    session.create_key(NewKey::rsa_signing("minted-1")).unwrap();
    let report = session.import_mini_kms(&original.source(), &ImportJob::default().rotate(true)).unwrap();
    assert!(report.is_complete() && report.finding_count > 0, "{report:?}");
    assert!(session.get_key("minted-1-imported-7dcc8c2b").is_ok());
    session.sign("rsa_2048-1-1", b"x", SignatureAlgorithm::RsaPkcs1Sha256).unwrap();
    kms.close().unwrap();
}

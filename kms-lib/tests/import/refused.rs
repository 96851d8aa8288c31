//! Tests of rows that are refused, repeated, too long or missing, and of their findings in the report.

use kms_lib::{Context, DecryptItem, ErrorCode, ImportFindingKind, ImportJob, ImportReport, KeyState, VersionState};

use crate::common::{admin, code};
use crate::runs::multiply;
use crate::{Memory, Original, import, is_alone, original, place};

/// Keys of `clean.sql`: one of each kind with two versions, the second of which is the current one.
const AES: &str = "929e82de-2672-4d8b-9dc1-f27306950259";
const RSA: &str = "1ebf2c27-a1cd-4343-acb7-7f8f601ac7da";
/// A key with one version.
const MINTED: &str = "7dcc8c2b-e9a3-46ae-8d2e-05acb48fd9dc";

/// The findings of a kind: id and version.
fn found(report: &ImportReport, kind: ImportFindingKind) -> Vec<(&str, Option<i64>)> {
    report.findings.iter().filter(|it| it.kind == kind).map(|it| (it.id.as_str(), it.version)).collect()
}

/// The report that a dry run would have given.
fn as_dry(mut report: ImportReport) -> ImportReport {
    report.dry_run = true;
    report
}

/// Adds this many versions with the same material to the key with one version.
fn add_versions(original: &Original, last: u32) {
    original.sql(&format!(
        "INSERT INTO key_versions SELECT CONCAT('00000000-0000-4000-9000-', LPAD(seq, 12, '0')), key_id, seq, \
           'DISABLED', created_at, NULL, NULL, \
           REPLACE(wrapped_material, '\"version\":\"1\"', CONCAT('\"version\":\"', seq, '\"')), \
           NULL, NULL FROM key_versions, seq_2_to_{last} WHERE key_id = '{MINTED}'; \
         UPDATE key_versions SET state = IF(version = {last}, 'ENABLED', 'DISABLED') WHERE key_id = '{MINTED}'; \
         UPDATE `keys` SET current_version = {last} WHERE id = '{MINTED}'"
    ));
}

/// Revocation wins even if the rest of a version's row, or its key's row, cannot be imported.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_whose_row_is_refused_is_still_revoked() {
    let original = original!("clean");
    let place = place();
    let kms = place.open().await;
    let session = admin(&kms);
    import(&kms, &original, &ImportJob::default().rotate(true)).await;
    original.sql(&format!(
        "SET sql_mode = ''; \
         UPDATE key_versions SET state = 'REVOKED', not_after = '0000-00-00 00:00:00' \
           WHERE key_id = '{AES}' AND version = 1; \
         UPDATE key_versions SET state = 'REVOKED', id = 'ffffffff-0000-4000-8000-000000000001' \
           WHERE key_id = '{RSA}' AND version = 2; \
         UPDATE `keys` SET state = 'PAUSED' WHERE name = 'aes256_gcm-1-2'; \
         UPDATE key_versions SET state = 'REVOKED' WHERE key_id = 'e104b330-b119-47ca-9b47-72fd487f23e4'; \
         UPDATE key_versions SET state = 'REVOKED', created_at = '0000-00-00 00:00:00' WHERE key_id = '{MINTED}'"
    ));
    let dry = import(&kms, &original, &ImportJob::default().dry_run(true)).await;
    let report = import(&kms, &original, &ImportJob::default()).await;
    assert_eq!(as_dry(report.clone()), dry);
    let refused = found(&report, ImportFindingKind::KeyRefused);
    assert!(refused.contains(&(AES, Some(1))) && refused.contains(&(RSA, None)), "{report:?}");
    for (key, number) in [(AES, 1), (RSA, 2), ("aes256_gcm-1-2", 1), (MINTED, 1)] {
        let version = session.get_version(key, number).await.unwrap();
        assert_eq!(version.state, VersionState::Revoked, "{key} {number}");
    }
    // A key with an unknown state is disabled.
    assert_eq!(session.get_key("aes256_gcm-1-2").await.unwrap().state, KeyState::Disabled);
    assert_eq!(session.get_version(AES, 2).await.unwrap().state, VersionState::Disabled);
    assert_eq!(session.get_key(AES).await.unwrap().state, KeyState::Enabled);
    let again = import(&kms, &original, &ImportJob::default()).await;
    assert!(found(&again, ImportFindingKind::KeyChanged).is_empty(), "{again:?}");
    assert!(session.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// A dry run reports what the run does: on all shared data, with many versions, with and without finalization.
#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_reports_what_the_run_does() {
    for (name, versions) in [("clean", 0), ("forked", 0), ("clean", 250)] {
        for job in [ImportJob::default(), ImportJob::default().rotate(true), ImportJob::default().finalize(true)] {
            let original = original!(name);
            if versions > 0 {
                add_versions(&original, versions);
            }
            let place = place();
            let kms = place.open().await;
            let dry = import(&kms, &original, &job.clone().dry_run(true)).await;
            let report = import(&kms, &original, &job).await;
            assert!(report.is_complete() && report.versions.imported == 7 + u64::from(versions.max(1)), "{report:?}");
            assert_eq!(report.versions.total, report.versions.imported);
            assert_eq!(as_dry(report), dry, "{name} {versions} {job:?}");
            if job.finalize {
                kms.close().await.unwrap();
                continue;
            }
            let again = import(&kms, &original, &ImportJob::default()).await;
            assert_eq!(again.versions.unchanged, 7 + u64::from(versions.max(1)), "{again:?}");
            let next = import(&kms, &original, &ImportJob::default().dry_run(true)).await;
            assert_eq!(as_dry(again), next);
            kms.close().await.unwrap();
        }
    }
}

/// The report lists two versions with equal material, because revoking one leaves the other. Both are imported.
#[tokio::test(flavor = "multi_thread")]
async fn repeated_material_is_listed() {
    let original = original!("clean");
    add_versions(&original, 3);
    let place = place();
    let kms = place.open().await;
    for _ in 0..2 {
        let report = import(&kms, &original, &ImportJob::default()).await;
        let expected = [(MINTED, Some(2)), (MINTED, Some(3))];
        assert_eq!(found(&report, ImportFindingKind::MaterialRepeated), expected, "{report:?}");
        assert!(report.is_complete());
    }
    // Material that has changed at the source is not imported, but listed.
    original.sql(&format!(
        "UPDATE key_versions v SET wrapped_material = (SELECT REPLACE(REPLACE(wrapped_material, '{AES}', '{MINTED}'), \
           '\"version\":\"2\"', '\"version\":\"3\"') FROM (SELECT * FROM key_versions) o WHERE o.key_id = '{AES}' \
           AND o.version = 2) WHERE v.key_id = '{MINTED}' AND v.version = 3"
    ));
    let dry = import(&kms, &original, &ImportJob::default().dry_run(true)).await;
    let report = import(&kms, &original, &ImportJob::default()).await;
    assert_eq!(as_dry(report.clone()), dry);
    assert_eq!(found(&report, ImportFindingKind::KeyRefused), [(MINTED, Some(3))], "{report:?}");
    assert_eq!((report.versions.refused, report.versions.unchanged, report.keys.refused), (1, 9, 0), "{report:?}");
    assert!(!report.is_complete());
    let session = admin(&kms);
    let end = session.import_mini_kms(&original.source(), &ImportJob::default().finalize(true)).await;
    assert_eq!(code(end), ErrorCode::WrongState);
    // The rest of the row is imported.
    original.sql(&format!("UPDATE key_versions SET state = 'REVOKED' WHERE key_id = '{MINTED}' AND version = 3"));
    import(&kms, &original, &ImportJob::default()).await;
    assert_eq!(session.get_version(MINTED, 3).await.unwrap().state, VersionState::Revoked);
    kms.close().await.unwrap();
}

/// Of several rows with one id, none is imported, and all are counted.
#[tokio::test(flavor = "multi_thread")]
async fn rows_with_one_id_are_refused_and_counted() {
    let original = original!("clean");
    let grant = "aef7ca1f-0a6a-4c68-a56b-0f4c62de3f30";
    let place = place();
    let kms = place.open().await;
    let session = admin(&kms);
    import(&kms, &original, &ImportJob::default()).await;
    original.sql(&format!(
        "SET FOREIGN_KEY_CHECKS = 0; ALTER TABLE key_versions DROP FOREIGN KEY fk_key_versions_keys; \
         ALTER TABLE key_versions DROP PRIMARY KEY, DROP KEY uq_key_version; \
         ALTER TABLE `keys` DROP PRIMARY KEY, DROP KEY name; ALTER TABLE grants DROP PRIMARY KEY; \
         ALTER TABLE audit_logs DROP PRIMARY KEY; \
         INSERT INTO `keys` SELECT id, name, type, purpose, 'REVOKED', rotation_period_days, grace_period_days, \
           created_at, metadata, current_version FROM `keys` WHERE id = '{MINTED}'; \
         INSERT INTO key_versions SELECT * FROM key_versions WHERE key_id = '{AES}' AND version = 1; \
         INSERT INTO key_versions SELECT * FROM key_versions WHERE key_id = '{AES}' AND version = 1; \
         UPDATE key_versions SET id = (SELECT id FROM (SELECT * FROM key_versions) o WHERE key_id = '{RSA}' \
           AND version = 1) WHERE key_id = '{RSA}' AND version = 2; \
         INSERT INTO grants SELECT id, 'mallory', role, key_id, allowed_ops, NULL, created_at FROM grants \
           WHERE id = '{grant}'; \
         INSERT INTO audit_logs SELECT a.* FROM audit_logs a, seq_1_to_1200 \
           WHERE id = (SELECT MIN(id) FROM audit_logs)"
    ));
    let dry = import(&kms, &original, &ImportJob::default().dry_run(true)).await;
    let report = import(&kms, &original, &ImportJob::default()).await;
    assert_eq!(as_dry(report.clone()), dry);
    let refused = found(&report, ImportFindingKind::KeyRefused);
    for expected in [(MINTED, None), (AES, Some(1)), (RSA, None)] {
        assert!(refused.contains(&expected), "{expected:?} {report:?}");
    }
    assert_eq!(session.get_key(MINTED).await.unwrap().state, KeyState::Revoked, "one of the rows says so");
    assert_eq!((report.grants.refused, report.grants.withdrawn), (2, 1), "{report:?}");
    assert_eq!(found(&report, ImportFindingKind::SourceIncomplete), [("audit_logs", None)], "{report:?}");
    assert!(report.log.as_ref().unwrap().unread > 200 && !report.is_complete(), "{report:?}");
    let end = session.import_mini_kms(&original.source(), &ImportJob::default().finalize(true)).await;
    assert_eq!(code(end), ErrorCode::WrongState);
    assert!(session.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// Of thousands of repeated ids, no row is imported, and all rows are counted.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_repeated_ids_are_refused_and_counted() {
    const COPIES: u32 = 1_500;
    let original = original!("clean");
    multiply(&original, COPIES);
    original.sql(&format!(
        "INSERT INTO grants SELECT CONCAT('00000000-0000-4000-a000-', LPAD(seq, 12, '0')), CONCAT('app-', seq), 'app', \
           '{MINTED}', '[\"read\"]', NULL, '2026-11-23 18:27:07' FROM seq_1_to_{COPIES}; \
         SET FOREIGN_KEY_CHECKS = 0; ALTER TABLE key_versions DROP FOREIGN KEY fk_key_versions_keys; \
         ALTER TABLE key_versions DROP PRIMARY KEY, DROP KEY uq_key_version; \
         ALTER TABLE `keys` DROP PRIMARY KEY, DROP KEY name; ALTER TABLE grants DROP PRIMARY KEY; \
         INSERT INTO `keys` SELECT * FROM `keys` WHERE name LIKE 'copy-%'; \
         INSERT INTO grants SELECT * FROM grants WHERE principal LIKE 'app-%'"
    ));
    let place = place();
    let kms = place.open().await;
    let dry = import(&kms, &original, &ImportJob::default().dry_run(true)).await;
    let report = import(&kms, &original, &ImportJob::default()).await;
    assert_eq!(as_dry(report.clone()), dry);
    let twice = 2 * u64::from(COPIES);
    assert_eq!((report.keys.total, report.keys.refused, report.keys.imported), (twice + 5, twice, 5));
    assert_eq!((report.grants.total, report.grants.refused, report.grants.imported), (twice + 4, twice, 4));
    let listed = |kind| found(&report, kind).len();
    assert_eq!((listed(ImportFindingKind::KeyRefused), listed(ImportFindingKind::GrantRefused)), (1_000, 1_000));
    assert!(report.finding_count >= 2 * twice, "{}", report.finding_count);
    // The same for versions.
    original.sql(
        "CREATE TABLE other AS SELECT DISTINCT * FROM `keys`; DELETE FROM `keys`; \
         INSERT INTO `keys` SELECT * FROM other; DROP TABLE other; \
         INSERT INTO key_versions SELECT * FROM key_versions WHERE key_id LIKE '00000000-%'",
    );
    let report = import(&kms, &original, &ImportJob::default()).await;
    assert_eq!((report.keys.refused, report.keys.imported), (u64::from(COPIES), 0));
    assert_eq!((report.versions.refused, report.versions.imported), (twice, 0));
    assert!(admin(&kms).verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// A table without snapshots is imported and listed. A grant whose id belongs to another grant here is refused.
#[tokio::test(flavor = "multi_thread")]
async fn tables_without_snapshots_and_ids_of_other_grants_are_listed() {
    let original = original!("clean");
    original.sql("ALTER TABLE grants ENGINE = MyISAM");
    let place = place();
    let kms = place.open().await;
    let session = admin(&kms);
    let report = import(&kms, &original, &ImportJob::default()).await;
    assert_eq!(found(&report, ImportFindingKind::SourceIncomplete), [("grants", None)], "{report:?}");
    assert!(report.is_complete());
    let others = original!("forked");
    others.sql(&format!(
        "UPDATE grants SET id = (SELECT id FROM {}.grants WHERE principal = 'svc-any') WHERE principal = 'svc-any'",
        original.database
    ));
    let report = import(&kms, &others, &ImportJob::default().name("other")).await;
    assert_eq!((report.grants.refused, report.grants.imported), (1, 3), "{report:?}");
    assert!(session.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// Versions that belong to no key are counted, but not imported.
#[tokio::test(flavor = "multi_thread")]
async fn versions_without_a_key_are_counted() {
    let original = original!("clean");
    original.sql(&format!("SET FOREIGN_KEY_CHECKS = 0; DELETE FROM `keys` WHERE id = '{AES}'"));
    let place = place();
    let kms = place.open().await;
    let report = import(&kms, &original, &ImportJob::default()).await;
    assert_eq!(found(&report, ImportFindingKind::SourceIncomplete), [("key_versions", None)], "{report:?}");
    assert_eq!((report.versions.total, report.versions.refused, report.is_complete()), (8, 2, false), "{report:?}");
    kms.close().await.unwrap();
}

/// Rows that are too long are listed, but not loaded. Rows of the maximum length are not all loaded at once.
#[tokio::test(flavor = "multi_thread")]
async fn long_rows_do_not_fill_the_memory() {
    if !is_alone("refused::long_rows_do_not_fill_the_memory") {
        return;
    }
    let original = original!("clean");
    let text = |bytes: u32| format!("CONCAT('{{\"a\":\"', REPEAT('x', {bytes}), '\"}}')");
    original.sql(&format!(
        "UPDATE `keys` SET metadata = {} WHERE id = '{MINTED}'; \
         UPDATE key_versions SET wrapped_material = {} WHERE key_id = '{AES}' AND version = 1; \
         UPDATE grants SET conditions = {} WHERE principal = 'svc-any'; \
         UPDATE audit_logs SET details = {} WHERE id = '89f56f95-75dc-4e81-8639-e059b615285d'; \
         INSERT INTO audit_logs SELECT CONCAT('00000000-0000-4000-8000-', LPAD(seq, 12, '0')), timestamp, actor, role, \
           action, request_id, {}, key_id, key_version, prev_hash, hash, status FROM audit_logs, seq_1_to_12 \
           WHERE id = '25f72f99-49f1-4191-b26d-07112ec9dfac'",
        text(8_000_000),
        text(8_000_000),
        text(8_000_000),
        text(8_000_000),
        text(3_000_000),
    ));
    let place = place();
    let kms = place.open().await;
    let memory = Memory::measure();
    let report = import(&kms, &original, &ImportJob::default()).await;
    let grown = memory.grown();
    // Loaded at once, the rows would take at least twice their size.
    assert!(grown < 120 * 1_024, "{grown} KiB for rows of 68 MB");
    assert_eq!(found(&report, ImportFindingKind::KeyRefused), [(AES, Some(1))], "{report:?}");
    assert_eq!(found(&report, ImportFindingKind::KeyChanged), [(MINTED, None)], "{report:?}");
    assert_eq!((report.grants.refused, report.grants.imported), (1, 3), "{report:?}");
    let log = report.log.as_ref().unwrap();
    assert_eq!((log.oversized.count, log.rows, log.altered.count), (1, 41, 12));
    assert!(log.unsearched.count == 12 && !report.is_complete());
    assert!(admin(&kms).verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// Missing rows are listed. Keys are disabled until they reappear at the source, and versions are kept.
#[tokio::test(flavor = "multi_thread")]
async fn missing_keys_and_versions_are_listed_and_nothing_is_destroyed() {
    let original = original!("clean");
    let place = place();
    let kms = place.open().await;
    let session = admin(&kms);
    import(&kms, &original, &ImportJob::default().rotate(true)).await;
    let sealed = session.encrypt(MINTED, b"x", &Context::new()).await.unwrap();
    original.sql(&format!(
        "SET FOREIGN_KEY_CHECKS = 0; CREATE TABLE gone_keys AS SELECT * FROM `keys` WHERE id = '{MINTED}'; \
         CREATE TABLE gone_versions AS SELECT * FROM key_versions WHERE key_id = '{MINTED}' OR (key_id = '{AES}' \
           AND version = 1); DELETE FROM `keys` WHERE id = '{MINTED}'; \
         DELETE FROM key_versions WHERE id IN (SELECT id FROM gone_versions)"
    ));
    for (dry_run, withdrawn) in [(true, 1), (false, 1), (false, 0)] {
        let report = import(&kms, &original, &ImportJob::default().dry_run(dry_run)).await;
        assert_eq!(report.keys.withdrawn, withdrawn, "{report:?}");
        assert_eq!(found(&report, ImportFindingKind::KeyMissing), [(MINTED, None)], "{report:?}");
        assert_eq!(found(&report, ImportFindingKind::VersionMissing), [(AES, Some(1))], "{report:?}");
    }
    let refused = session.decrypt(&sealed.ciphertext, &Context::new()).await;
    assert_eq!(code(refused), ErrorCode::KeyDisabled);
    session.get_version(AES, 1).await.unwrap();
    original.sql("INSERT INTO `keys` SELECT * FROM gone_keys; INSERT INTO key_versions SELECT * FROM gone_versions");
    let report = import(&kms, &original, &ImportJob::default()).await;
    assert!(report.is_complete() && report.keys.updated == 1, "{report:?}");
    assert_eq!(session.decrypt(&sealed.ciphertext, &Context::new()).await.unwrap().plaintext.as_slice(), b"x");
    kms.close().await.unwrap();
}

/// Refused grants prevent finalization, except those that allow nothing at the source either.
#[tokio::test(flavor = "multi_thread")]
async fn grants_that_allow_nothing_do_not_prevent_finalization() {
    let original = original!("clean");
    for (n, (key, ops)) in [("gone", "[\"read\"]"), (MINTED, "[]"), (MINTED, "{}")].into_iter().enumerate() {
        original.sql(&format!(
            "INSERT INTO grants VALUES ('00000000-0000-4000-8000-0000000000{n:02}', 'app-{n}', 'app', '{key}', \
             '{ops}', NULL, '2026-11-23 18:27:07')"
        ));
    }
    let place = place();
    let kms = place.open().await;
    let session = admin(&kms);
    let end = session.import_mini_kms(&original.source(), &ImportJob::default().finalize(true)).await;
    assert_eq!(code(end), ErrorCode::WrongState);
    original.sql("DELETE FROM grants WHERE principal = 'app-2'");
    let report = import(&kms, &original, &ImportJob::default().finalize(true)).await;
    assert!(report.finalized && report.grants.ignored == 2, "{report:?}");
    assert_eq!(found(&report, ImportFindingKind::GrantRefused).len(), 2);
    kms.close().await.unwrap();
}

/// A grant on a key that could not be imported is refused. It does not count as a grant that allows nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_on_a_refused_key_is_refused_until_its_key_is_imported() {
    let original = original!("clean");
    original.sql(&format!("UPDATE `keys` SET state = 'PAUSED' WHERE id = '{MINTED}'"));
    let place = place();
    let kms = place.open().await;
    let dry = import(&kms, &original, &ImportJob::default().dry_run(true)).await;
    let report = import(&kms, &original, &ImportJob::default()).await;
    assert_eq!(as_dry(report.clone()), dry);
    assert_eq!((report.grants.refused, report.grants.ignored, report.grants.imported), (1, 0, 3), "{report:?}");
    original.sql(&format!("UPDATE `keys` SET state = 'ENABLED' WHERE id = '{MINTED}'"));
    let report = import(&kms, &original, &ImportJob::default()).await;
    assert!(report.is_complete(), "{report:?}");
    assert_eq!((report.keys.imported, report.grants.imported), (1, 1), "{report:?}");
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_rsa_ciphertext_decrypts_until_its_version_is_revoked() {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let original = original!("clean");
    let sent = original.list("ciphertexts").iter().find(|it| it["keyType"] == "RSA_2048").unwrap();
    let (key, plaintext) = (sent["keyId"].as_str().unwrap(), sent["plaintext"].as_str().unwrap());
    let ciphertext = STANDARD.decode(sent["ciphertext"].as_str().unwrap()).unwrap();
    let state = "UPDATE key_versions SET state =";
    original.sql(&format!("{state} 'DISABLED', not_after = NULL WHERE key_id = '{key}' AND version = 1"));
    let place = place();
    let kms = place.open().await;
    let session = admin(&kms);
    import(&kms, &original, &ImportJob::default().rotate(true)).await;
    let item = || DecryptItem::imported(key, &ciphertext, None).version(1);
    assert_eq!(session.decrypt_item(item()).await.unwrap().plaintext.as_slice(), plaintext.as_bytes());
    original.sql(&format!("{state} 'REVOKED' WHERE key_id = '{key}' AND version = 1"));
    import(&kms, &original, &ImportJob::default()).await;
    assert_eq!(code(session.decrypt_item(item()).await), ErrorCode::VersionRevoked);
    kms.close().await.unwrap();
}

//! Tests of sources that are malformed, inaccessible or not of Mini KMS on Node.

use kms_lib::{ErrorCode, ImportJob, ImportSource, Paging};

use serde_json::{Value, json};

use crate::common::{admin, code, whole_log};
use crate::{import, original, place};

/// Tries to import. This must fail and write nothing. Returns the code of the error.
async fn refused(source: &ImportSource) -> ErrorCode {
    let place = place();
    let kms = place.open().await;
    let session = admin(&kms);
    let before = whole_log(&session).await.len();
    let found = code(session.import_mini_kms(source, &ImportJob::default()).await);
    let listed = session.list_keys(&Default::default(), &Paging::new(10)).await.unwrap();
    assert!(listed.items.is_empty(), "keys were written");
    let records = whole_log(&session).await;
    assert!(records[before..].iter().all(|record| !record.action.contains("IMPORT")), "{records:?}");
    kms.close().await.unwrap();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_master_secret_is_checked_before_anything_is_written() {
    let original = original!("clean");
    let from = || ImportSource::parse(&original.url).unwrap();
    assert_eq!(refused(&from().master_secret("another secret")).await, ErrorCode::WrongRootKey);
    // With the line end of its file, the secret is another one.
    let longer = format!("{}\n", original.secret());
    assert_eq!(refused(&from().master_secret(&longer)).await, ErrorCode::WrongRootKey);
    assert_eq!(refused(&from()).await, ErrorCode::InvalidRootKey);
}

/// Which of two secrets is meant is not guessed.
#[test]
fn a_second_master_secret_is_refused() {
    let source = ImportSource::parse("older").unwrap().master_secret("a secret");
    assert_eq!(source.master_secret_file("another").unwrap_err().code(), ErrorCode::InvalidConfiguration);
}

/// Any version that the original's root key wrapped reveals a wrong secret. The right secret is recognized after any
/// number of damaged versions.
#[tokio::test(flavor = "multi_thread")]
async fn the_master_secret_is_tried_with_every_version() {
    let original = original!("clean");
    original.sql(
        "UPDATE key_versions SET wrapped_material = REPLACE(wrapped_material, 'AES-256-GCM', 'AWS-KMS') \
                  WHERE version = 1",
    );
    let from = || ImportSource::parse(&original.url).unwrap();
    assert_eq!(refused(&from().master_secret("another secret")).await, ErrorCode::WrongRootKey);
    assert_eq!(refused(&from()).await, ErrorCode::InvalidRootKey);

    let original = original!("clean");
    let id = "CONCAT('00000000-0000-4000-8000-', LPAD(seq, 12, '0'))";
    original.sql(&format!(
        "INSERT INTO `keys` SELECT {id}, CONCAT('low-', seq), type, purpose, state, rotation_period_days, \
           grace_period_days, created_at, metadata, current_version FROM `keys`, seq_1_to_20 WHERE name = 'minted-1'; \
         INSERT INTO key_versions SELECT {id}, {id}, version, state, created_at, not_before, not_after, \
           wrapped_material, public_key_pem, grace_period_days FROM key_versions, seq_1_to_20 \
           WHERE key_id = (SELECT id FROM `keys` WHERE name = 'minted-1')"
    ));
    let place = place();
    let kms = place.open().await;
    let report = import(&kms, &original, &ImportJob::default()).await;
    assert_eq!((report.keys.imported, report.keys.refused), (5, 20), "{report:?}");
    kms.close().await.unwrap();
}

/// A file named as the source by mistake may contain a secret, so no message quotes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_from_elsewhere_is_not_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.key");
    let from = ImportSource::parse(path.to_str().unwrap()).unwrap();
    let place = place();
    let kms = place.open().await;
    let session = admin(&kms);
    for text in [
        "hunter2",
        "\"hunter2\"",
        "[\"hunter2\"]",
        "[{\"hunter2\": 1}]",
        "[{\"id\": \"x\", \"keyId\": {\"hunter2\": 1}}]",
    ] {
        std::fs::write(&path, text).unwrap();
        let error = session.import_mini_kms(&from, &ImportJob::default()).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidConfiguration, "{text}");
        assert!(error.message().contains("line 1 column"), "{error}");
        let shown = format!("{error} {error:?} {:?}", whole_log(&session).await);
        assert!(!shown.contains("hunter2"), "{text}: {shown}");
    }
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_another_application_is_refused() {
    for (statement, expected) in [
        ("DROP TABLE grants", ErrorCode::InvalidConfiguration),
        ("ALTER TABLE key_versions DROP COLUMN not_after", ErrorCode::InvalidConfiguration),
        ("ALTER TABLE `keys` ADD COLUMN tenant VARCHAR(64)", ErrorCode::SchemaTooNew),
    ] {
        let original = original!("clean");
        original.sql(statement);
        assert_eq!(refused(&original.source()).await, expected, "{statement}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_sources_are_refused_with_advice() {
    let dump = ImportSource::parse("/tmp/old.sql").unwrap_err();
    assert_eq!(dump.code(), ErrorCode::InvalidConfiguration);
    assert!(dump.message().contains("load it into an empty database"), "{dump}");
    // The original's dump names a table before it creates it.
    assert!(dump.message().contains("FOREIGN_KEY_CHECKS=0"), "{dump}");
    for from in ["postgres://u:hunter2@h/d", "sqlite://kms.db", "mysql://u:hunter2@h"] {
        let error = ImportSource::parse(from).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidConfiguration, "{from}");
        assert!(!error.message().contains("hunter2"), "{error}");
    }
    // No message is about the store.
    for error in [
        ImportSource::with_password("/srv/older", "hunter2").unwrap_err(),
        ImportSource::with_password("mysql://u:hunter2@h/d", "hunter2").unwrap_err(),
        ImportSource::parse("mysql://u:hunter2@h/d?tls=on").unwrap_err(),
        ImportSource::parse("mysql://u:hunter2@h:x/d").unwrap_err(),
    ] {
        assert_eq!(error.code(), ErrorCode::InvalidConfiguration, "{error}");
        assert!(error.message().contains("source's") && !error.message().contains("store_"), "{error}");
        assert!(!error.message().contains("hunter2"), "{error}");
    }
    let nowhere = ImportSource::parse("/nonexistent/audit.json").unwrap();
    assert_eq!(refused(&nowhere).await, ErrorCode::InvalidConfiguration);
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_the_character_set_nor_the_time_zone_of_the_server_matters() {
    let original = original!("clean");
    // Another installation could have other text columns, and times that the server converts.
    original.sql(
        "SET time_zone = '+00:00'; SET FOREIGN_KEY_CHECKS = 0; \
         UPDATE `keys` SET name = 'schl\u{fc}ssel' WHERE name = 'minted-1'; \
         ALTER TABLE key_versions DROP FOREIGN KEY fk_key_versions_keys; \
         ALTER TABLE `keys` CONVERT TO CHARACTER SET latin1; \
         ALTER TABLE grants CONVERT TO CHARACTER SET latin1; \
         ALTER TABLE key_versions MODIFY created_at TIMESTAMP NOT NULL, MODIFY not_after TIMESTAMP NULL",
    );
    original.sql("SET GLOBAL time_zone = '+05:30'");
    let place = place();
    let kms = place.open().await;
    let report = import(&kms, &original, &ImportJob::default()).await;
    original.sql("SET GLOBAL time_zone = 'SYSTEM'");
    assert!(report.is_complete() && report.versions.imported == 8, "{report:?}");
    let session = admin(&kms);
    session.get_key("schl\u{fc}ssel").await.unwrap();
    let version = session.get_version("aes256_gcm-1-0", 1).await.unwrap();
    assert_eq!(version.not_after.unwrap().to_string(), "2026-11-30T18:27:02.000000Z");
    assert_eq!(version.created_at.to_string(), "2026-11-23T18:26:46.000000Z");
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_an_older_version_are_imported() {
    let known = std::fs::read_to_string(crate::legacy("clean.json")).unwrap();
    let known: Value = serde_json::from_str(&known).unwrap();
    let folder = crate::legacy("older");
    let from = ImportSource::parse(folder.to_str().unwrap()).unwrap();
    let from = from.master_secret(known["masterKey"].as_str().unwrap());
    let place = place();
    let kms = place.open().await;
    let session = admin(&kms);
    let report = session.import_mini_kms(&from, &ImportJob::default().rotate(true)).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    assert_eq!((report.keys.imported, report.versions.imported, report.grants.imported), (5, 8, 4));
    let again = session.import_mini_kms(&from, &ImportJob::default()).await.unwrap();
    assert_eq!((again.keys.unchanged, again.versions.unchanged, again.grants.unchanged), (5, 8, 4));
    assert!(session.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// A malformed row of the source is not a fault of the store. The message names the source's table.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_cannot_be_read_are_faults_of_the_source() {
    for (table, statements) in [
        ("keys", "ALTER TABLE `keys` MODIFY name VARBINARY(255); UPDATE `keys` SET name = x'ff' LIMIT 1"),
        ("keys", "ALTER TABLE `keys` MODIFY state VARCHAR(9) NULL; UPDATE `keys` SET state = NULL LIMIT 1"),
        ("key_versions", "ALTER TABLE key_versions MODIFY state VARBINARY(9); UPDATE key_versions SET state = x'ff'"),
        ("grants", "ALTER TABLE grants MODIFY role VARCHAR(9) NULL; UPDATE grants SET role = NULL LIMIT 1"),
        ("audit_logs", "ALTER TABLE audit_logs MODIFY actor VARBINARY(255); UPDATE audit_logs SET actor = x'ff'"),
    ] {
        let original = original!("clean");
        original.sql(&format!("SET FOREIGN_KEY_CHECKS = 0; {statements}"));
        let place = place();
        let kms = place.open().await;
        let session = admin(&kms);
        let error = session.import_mini_kms(&original.source(), &ImportJob::default()).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidConfiguration, "{statements}: {error}");
        assert!(error.message().contains("source") && error.message().contains(&format!("in {table}:")), "{error}");
        assert!(session.verify_audit().await.unwrap().ok);
        kms.close().await.unwrap();
    }
}

/// Texts in files have the same limits as in a database, and findings do not grow with them.
#[tokio::test(flavor = "multi_thread")]
async fn long_texts_of_files_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, rows: Value| std::fs::write(folder.path().join(name), rows.to_string()).unwrap();
    let long = "x".repeat(100_000);
    let (id, time) = ("7b0f6a51-3b0c-4d6d-8f0a-5d1f9f3a2c44", "2025-10-06T13:10:50.484Z");
    let key = |id: &str| {
        json!({"id": id, "name": long, "type": "AES256_GCM", "purpose": "ENCRYPTION", "state": long,
            "createdAt": time, "currentVersion": 1})
    };
    let wrapped = json!({"algorithm": "y".repeat(50_000), "ciphertext": ""});
    write("keys.json", json!([key(id)]));
    write(
        "key_versions.json",
        json!([{"id": long, "keyId": id, "version": 1, "state": long, "createdAt": time, "wrappedMaterial": wrapped}]),
    );
    let grant = |n: u32, ops: Value| {
        json!({"id": format!("00000000-0000-4000-8000-00000000000{n}"), "principal": long, "role": long, "keyId": long,
            "allowedOps": ops, "createdAt": time})
    };
    write("grants.json", json!([grant(1, json!(["read"])), grant(2, json!([long]))]));
    write("audit_logs.json", json!([]));
    let from = ImportSource::parse(folder.path().to_str().unwrap()).unwrap();
    let place = place();
    let kms = place.open().await;
    let report = admin(&kms).import_mini_kms(&from, &ImportJob::default()).await.unwrap();
    assert_eq!((report.keys.refused, report.grants.refused, report.grants.ignored), (1, 1, 1), "{report:?}");
    assert!(report.findings.iter().all(|it| it.text.len() <= 1_003 && it.id.len() <= 254), "{report:?}");
    // A word that was cut is not a known word.
    for name in ["keys.json", "key_versions.json", "grants.json"] {
        std::fs::copy(crate::legacy("older").join(name), folder.path().join(name)).unwrap();
    }
    let mut grants: Value = serde_json::from_slice(&std::fs::read(folder.path().join("grants.json")).unwrap()).unwrap();
    grants[0]["role"] = json!(long);
    write("grants.json", grants);
    let known: Value = serde_json::from_slice(&std::fs::read(crate::legacy("clean.json")).unwrap()).unwrap();
    let right = from.clone().master_secret(known["masterKey"].as_str().unwrap());
    let report = admin(&kms).import_mini_kms(&right, &ImportJob::default().name("other")).await.unwrap();
    let role = format!("{:?}", "x".repeat(64));
    assert!(report.findings.iter().any(|it| it.text.contains(&role)), "{report:?}");
    kms.close().await.unwrap();
    write("keys.json", json!([key(&"0".repeat(255))]));
    assert_eq!(refused(&from).await, ErrorCode::InvalidConfiguration);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_from_elsewhere_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let begin = r#"{"id":"a","timestamp":"t","actor":"a","role":"r","action":"A","requestId":"q""#;
    let record = &format!(r#"{begin},"prevHash":"p","hash":"h","status":"S"}}"#);
    for (name, text) in [
        ("empty", "{}"),
        ("another", r#"[{"id": 1}]"#),
        ("twice", &format!("[{record},{record}]")),
        ("cut", &record[..40]),
        ("unknown", r#"[{"id":"a","tenant":"t"}]"#),
    ] {
        std::fs::write(path(name), text).unwrap();
        let from = ImportSource::parse(path(name).to_str().unwrap()).unwrap();
        assert_eq!(refused(&from).await, ErrorCode::InvalidConfiguration, "{name}");
    }
    // Without waiting for the other end of a FIFO.
    let fifo = path("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for special in [fifo.to_str().unwrap(), "/dev/zero"] {
        assert_eq!(refused(&ImportSource::parse(special).unwrap()).await, ErrorCode::InvalidConfiguration, "{special}");
    }
    let bare = tempfile::tempdir().unwrap();
    let from = ImportSource::parse(bare.path().to_str().unwrap()).unwrap();
    assert_eq!(refused(&from).await, ErrorCode::InvalidConfiguration);
    std::fs::write(bare.path().join("keys.json"), "[]").unwrap();
    assert_eq!(refused(&from).await, ErrorCode::InvalidConfiguration);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_versions_are_listed_and_the_rest_is_imported() {
    let original = original!("clean");
    let key = "929e82de-2672-4d8b-9dc1-f27306950259";
    let other = "e104b330-b119-47ca-9b47-72fd487f23e4";
    original.sql(&format!(
        // One former version does not unwrap, and another one has the material of another key.
        "UPDATE key_versions SET wrapped_material = REPLACE(wrapped_material, 'authTag\":\"', 'authTag\":\"A') \
           WHERE key_id = '{key}' AND version = 1; \
         UPDATE key_versions v SET wrapped_material = (SELECT wrapped_material FROM (SELECT * FROM key_versions) o \
           WHERE o.key_id = '{key}' AND o.version = 2) WHERE v.key_id = '{other}'; \
         UPDATE `keys` SET state = 'PAUSED' WHERE name = 'minted-1'; \
         UPDATE `keys` SET metadata = '[1]', rotation_period_days = -5 WHERE name = 'rsa_2048-1-1'"
    ));
    let place = place();
    let kms = place.open().await;
    let session = admin(&kms);
    let report = import(&kms, &original, &ImportJob::default()).await;
    assert_eq!((report.keys.imported, report.keys.refused), (3, 2), "{report:?}");
    let found: Vec<(&str, Option<i64>)> = report
        .findings
        .iter()
        .filter(|it| it.kind == kms_lib::ImportFindingKind::KeyRefused)
        .map(|it| (it.id.as_str(), it.version))
        .collect();
    assert!(found.contains(&(key, Some(1))) && found.contains(&(other, None)), "{found:?}");
    let changed = report.findings.iter().filter(|it| it.kind == kms_lib::ImportFindingKind::KeyChanged).count();
    assert_eq!(changed, 2, "{report:?}");
    assert_eq!(code(session.get_version(key, 1).await), ErrorCode::VersionNotFound);
    let finalized = session.import_mini_kms(&original.source(), &ImportJob::default().finalize(true)).await;
    assert_eq!(code(finalized), ErrorCode::WrongState, "what was refused would be lost");
    assert!(session.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

//! Tests of missing tables and impossible schema versions: the store is reported as corrupt when it is opened or used.

use crate::common::{Place, admin, check_usable, code};
use kms_lib::{ErrorCode, Kms, NewKey};

const TABLES: [&str; 16] = [
    "kms_schema",
    "\"keys\"",
    "key_versions",
    "version_usage",
    "grants",
    "credentials",
    "quarantine",
    "audit_logs",
    "audit_head",
    "audit_checkpoints",
    "usage_hourly",
    "root_keys",
    "wrappings",
    "service_keys",
    "idempotency",
    "meta",
];
/// The indexes of the log, where the engine does not keep them.
const INDEX_TABLES: [&str; 2] = ["audit_keys", "audit_actors"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_gone() {
    let place = Place::new();
    let kms = place.open().await;
    check_usable(&kms).await;
    kms.close().await.unwrap();
    let whole = place.folder.path().join("whole.db");
    if place.is_a_file() {
        std::fs::copy(place.file(), &whole).unwrap();
    }
    for table in TABLES.into_iter().chain(INDEX_TABLES.into_iter().filter(|_| place.is_a_file())) {
        place.tamper(&format!("ALTER TABLE {table} RENAME TO elsewhere")).await;
        assert_eq!(code(Kms::open(place.config()).await), ErrorCode::StoreCorrupt, "{table}");
        if place.is_a_file() {
            // Renaming the table back would change the spelling of its statement, so the file is copied.
            std::fs::copy(&whole, place.file()).unwrap();
        } else {
            place.tamper(&format!("ALTER TABLE elsewhere RENAME TO {table}")).await;
        }
    }
    let kms = place.open().await;
    check_usable(&kms).await;
    // While the service is running.
    place.tamper("DROP TABLE key_versions").await;
    let session = admin(&kms);
    assert_eq!(code(session.create_key(NewKey::aes("late")).await), ErrorCode::StoreCorrupt);
    place.tamper("DROP TABLE audit_logs").await;
    assert_eq!(code(session.create_key(NewKey::aes("late")).await), ErrorCode::StoreCorrupt);
    assert!(!session.verify_audit().await.is_ok_and(|report| report.ok));
    let _ = kms.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_cannot_be() {
    let place = Place::new();
    place.open().await.close().await.unwrap();
    let newest = place.number("SELECT version FROM kms_schema").await;
    for (version, expected) in [
        (0, ErrorCode::StoreCorrupt),
        (-1, ErrorCode::StoreCorrupt),
        (i64::MIN, ErrorCode::StoreCorrupt),
        (newest + 1, ErrorCode::SchemaTooNew),
        (i64::MAX, ErrorCode::SchemaTooNew),
    ] {
        place.tamper(&format!("UPDATE kms_schema SET version = {version}")).await;
        assert_eq!(code(Kms::open(place.config()).await), expected, "{version}");
    }
    // The version is older than the tables, or missing. Where schema changes cannot be rolled back, such a store counts
    // as incomplete and is completed.
    for sql in ["UPDATE kms_schema SET version = 1", "DELETE FROM kms_schema"] {
        place.tamper(sql).await;
        match Kms::open(place.config()).await {
            Ok(kms) => {
                check_usable(&kms).await;
                kms.close().await.unwrap();
            }
            Err(error) => assert_eq!(error.code(), ErrorCode::StoreCorrupt, "{sql}: {error}"),
        }
    }
    if place.is_a_file() {
        place.tamper("DELETE FROM kms_schema; INSERT INTO kms_schema VALUES ('two')").await;
        assert_eq!(code(Kms::open(place.config()).await), ErrorCode::StoreCorrupt);
    }
}

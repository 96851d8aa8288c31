//! Tests that tampering with any column of any table is detected when the store is opened or verified, unless
//! ARCHITECTURE.md lists the column as unprotected; and tests of rollbacks as a whole.

use std::collections::BTreeSet;

use crate::common::{Place, actor, admin, code};
use kms_lib::{
    Context, ErrorCode, Finding, ImportJob, ImportSource, Kms, NewGrant, NewKey, NewToken, Permission, Role,
};
use sqlx::{Connection, Row, SqliteConnection};

/// Counters and notes for the metrics. Idempotency records are sealed, but only checked when a request uses them
/// (tests/engines/idempotency.rs).
const UNPROTECTED: [(&str, &str); 17] = [
    ("audit_head", "tallies"),
    ("idempotency", "answer"),
    ("idempotency", "expires_at"),
    ("idempotency", "idempotency_key"),
    ("idempotency", "principal"),
    ("idempotency", "request_digest"),
    ("idempotency", "seq"),
    ("idempotency", "subject"),
    ("meta", "name"),
    ("meta", "value"),
    ("usage_hourly", "action"),
    ("usage_hourly", "count"),
    ("usage_hourly", "hour"),
    ("usage_hourly", "status"),
    ("version_usage", "encryptions"),
    ("version_usage", "last_used_at"),
    ("version_usage", "near_limit"),
];

/// Creates a closed store with rows of every kind in every table.
async fn prepared() -> Place {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    for name in ["a", "b", "c"] {
        session.create_key(NewKey::aes(name).grace_period_days(5).rotation_period_days(90)).await.unwrap();
    }
    session.create_key(NewKey::rsa_signing("s")).await.unwrap();
    session.rotate_key("a", None).await.unwrap();
    // The indexes of the log get their entries after 128 records, and some counters their rows after 1,024.
    let none = Context::new();
    for _ in 0..18 {
        let encryptions = (0..60).map(|_| session.encrypt("a", b"x", &none));
        assert!(futures_util::future::join_all(encryptions).await.iter().all(Result::is_ok));
    }
    session.disable_key("b").await.unwrap();
    session.schedule_deletion("c", None).await.unwrap();
    let granted = [Permission::Read];
    session.put_grant(NewGrant::new("app", Role::App).on_all_keys().allow(granted)).await.unwrap();
    session.create_token(NewToken::new("app", Role::App).label("a label")).await.unwrap();
    session.with_idempotency_key("once").unwrap().revoke_version("a", 1).await.unwrap();
    session.replace_signing_key().await.unwrap();
    let log = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/legacy/format0.json");
    let source = ImportSource::parse(log.to_str().unwrap()).unwrap();
    session.import_mini_kms(&source, &ImportJob::default()).await.unwrap();
    kms.close().await.unwrap();
    quarantine_and_release(&place).await;
    place
}

/// Quarantines and releases a row, which leaves an entry in the quarantine table.
async fn quarantine_and_release(place: &Place) {
    place.tamper("UPDATE grants SET principal = 'mallory' WHERE principal = 'app'").await;
    place.open().await.close().await.unwrap();
    place.tamper("UPDATE grants SET principal = 'app' WHERE principal = 'mallory'").await;
    let kms = place.open().await;
    let session = admin(&kms);
    assert_eq!(session.release_quarantine().await.unwrap().len(), 1);
    assert!(session.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// The error code with which the store does not open, or the first finding of a verification.
async fn find(place: &Place) -> Option<String> {
    let kms = match Kms::open(place.config()).await {
        Ok(kms) => kms,
        Err(error) => return Some(error.code().to_string()),
    };
    let report = admin(&kms).verify_audit().await;
    kms.close().await.unwrap();
    match report {
        Ok(report) => report.faults.first().map(ToString::to_string),
        Err(error) => Some(error.code().to_string()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_column_of_every_table() {
    let original = prepared().await;
    assert_eq!(find(&original.copy()).await, None);
    let mut raw = SqliteConnection::connect(&original.url()).await.unwrap();
    let columns =
        "SELECT m.name, c.name, c.type FROM sqlite_schema m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'";
    let columns = sqlx::query(columns).fetch_all(&mut raw).await.unwrap();
    let mut unnoticed = BTreeSet::new();
    let mut altered = 0;
    for column in &columns {
        let (table, name, kind): (String, String, String) = (column.get(0), column.get(1), column.get(2));
        let label = match table.as_str() {
            "service_keys" => "'service_keys ' || kind || ' ' || number".to_owned(),
            other => format!("'{other}'"),
        };
        // The indexes of the log have no row numbers.
        let number = if ["audit_keys", "audit_actors"].contains(&table.as_str()) { "seq" } else { "rowid" };
        // All rows of most tables; the first and the last row of long ones.
        let sql = format!(
            "SELECT {number}, {label} FROM \"{table}\"
             WHERE {number} IN (SELECT {number} FROM \"{table}\" ORDER BY {number} LIMIT 4)
             OR {number} = (SELECT MAX({number}) FROM \"{table}\")"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut raw).await.unwrap();
        assert!(!rows.is_empty(), "{table} has no rows");
        for row in rows {
            let (id, label): (i64, String) = (row.get(0), row.get(1));
            let absent = match kind.as_str() {
                "BLOB" => "randomblob(32)",
                "TEXT" => "'x'",
                _ => "5",
            };
            let place = original.copy();
            // Another number: bytes without a meaning are noticed.
            let blob = match name.as_str() {
                "tallies" => "CAST(substr(tallies, 1, length(tallies) - 1) || x'07' AS BLOB)".to_owned(),
                _ => format!("randomblob(MAX(length({name}), 1))"),
            };
            let sql = format!(
                "UPDATE \"{table}\" SET {name} = CASE typeof({name}) WHEN 'integer' THEN {name} + 1
                 WHEN 'text' THEN {name} || 'x' WHEN 'blob' THEN {blob} ELSE {absent} END
                 WHERE {number} = {id}"
            );
            // The database itself refuses two rows with one name or version.
            if !place.try_tamper(&sql).await {
                continue;
            }
            altered += 1;
            if find(&place).await.is_none() {
                unnoticed.insert((label, name.clone()));
            }
        }
    }
    assert!(altered > 200, "{altered}");
    let expected: BTreeSet<(String, String)> =
        UNPROTECTED.iter().map(|(table, column)| ((*table).to_owned(), (*column).to_owned())).collect();
    assert_eq!(unnoticed, expected);
}

/// Every byte of the counters in the head, altered: either they are unreadable, which verification finds, or they
/// mislead, and a huge counter makes its own version refuse to encrypt. Everything else works.
#[tokio::test(flavor = "multi_thread")]
async fn every_byte_of_the_counters_in_the_head() {
    let original = Place::new();
    let kms = original.open().await;
    let (session, none) = (admin(&kms), Context::new());
    for name in ["a", "b"] {
        session.create_key(NewKey::aes(name)).await.unwrap();
    }
    let sealed = session.encrypt("a", b"x", &none).await.unwrap();
    kms.close().await.unwrap();
    let mut raw = SqliteConnection::connect(&original.url()).await.unwrap();
    let tallies: Vec<u8> =
        sqlx::query("SELECT tallies FROM audit_head").fetch_one(&mut raw).await.unwrap().get("tallies");
    assert!(tallies.len() > 70, "an hour and a version: {tallies:?}");
    let (mut unreadable, mut exhausted) = (0, 0);
    for place in 0..tallies.len() {
        let mut altered = tallies.clone();
        altered[place] ^= 0x80 >> (place % 8);
        let hex: String = altered.iter().map(|byte| format!("{byte:02x}")).collect();
        let copied = original.copy();
        copied.tamper(&format!("UPDATE audit_head SET tallies = x'{hex}'")).await;
        let kms = copied.open().await;
        let session = admin(&kms);
        let faults = session.verify_audit().await.unwrap().faults;
        assert!(faults.iter().all(|fault| matches!(&fault.finding, Finding::Damaged { .. })), "{place}: {faults:?}");
        unreadable += usize::from(!faults.is_empty());
        session.metrics().await.unwrap();
        session.get_version("a", 1).await.unwrap();
        match session.encrypt("a", b"x", &none).await {
            Err(error) if error.code() == ErrorCode::KeyExhausted => exhausted += 1,
            other => drop(other.unwrap()),
        }
        session.encrypt("b", b"x", &none).await.unwrap();
        session.decrypt(&sealed.ciphertext, &none).await.unwrap();
        session.revoke_key("a").await.unwrap();
        assert!(session.verify_audit().await.unwrap().ok, "{place}: the ledger has written good counters");
        kms.close().await.unwrap();
    }
    assert!(unreadable > 2 && exhausted > 2, "{unreadable} {exhausted}");
}

/// The head is rolled back with its former signature; whatever else is left reveals it.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_head_with_its_older_signature() {
    let place = Place::new();
    let water = place.folder.path().join("high-water");
    let config = place.config().high_water(&water);
    let kms = Kms::open(config.clone()).await.unwrap();
    let session = admin(&kms);
    for name in ["a", "b"] {
        session.create_key(NewKey::aes(name)).await.unwrap();
    }
    let anchor = session.checkpoint().await.unwrap();
    let old = place.folder.path().join("old.db");
    kms.session(actor("alice", Role::Admin)).backup(&old).await.unwrap();
    session.encrypt("a", b"x", &Context::new()).await.unwrap();
    session.revoke_key("a").await.unwrap();
    kms.close().await.unwrap();
    let attach = format!("ATTACH '{}' AS old;", old.display());
    let head = "DELETE FROM audit_head; INSERT INTO audit_head SELECT * FROM old.audit_head;";
    let log = "DELETE FROM audit_logs WHERE seq > (SELECT seq FROM old.audit_head);";
    let rows = "DELETE FROM \"keys\"; INSERT INTO \"keys\" SELECT * FROM old.\"keys\"; DELETE FROM key_versions;
                INSERT INTO key_versions SELECT * FROM old.key_versions;";

    // Only the head is rolled back: records exist after it.
    let put_back = place.copy();
    put_back.tamper(&format!("{attach}{head}")).await;
    let kms = put_back.open().await;
    let report = admin(&kms).verify_audit().await.unwrap();
    assert!(report.faults[0].finding == Finding::BeyondHead && report.broken_at == Some(4), "{report:?}");
    kms.close().await.unwrap();
    // The log is rolled back too: the rows show that they are newer, and are not used.
    let put_back = place.copy();
    put_back.tamper(&format!("{attach}{head}{log}")).await;
    let kms = put_back.open().await;
    assert_eq!(code(admin(&kms).encrypt("a", b"x", &Context::new()).await), ErrorCode::IntegrityFailure);
    let report = admin(&kms).verify_audit().await.unwrap();
    assert!(!report.ok && report.faults[0].to_string().contains("of keys"), "{report:?}");
    kms.close().await.unwrap();
    // Everything is rolled back: nothing in the store reveals it, and the revoked key is usable again ...
    let put_back = place.copy();
    put_back.tamper(&format!("{attach}{head}{log}{rows}")).await;
    let kms = put_back.open().await;
    assert!(admin(&kms).verify_audit().await.unwrap().ok);
    admin(&kms).encrypt("a", b"x", &Context::new()).await.unwrap();
    kms.close().await.unwrap();
    // ... but the high-water file reveals it, and so does a checkpoint kept elsewhere that is larger.
    put_back.tamper(&format!("{attach}{head}{log}{rows}")).await;
    let error = Kms::open(put_back.config().high_water(&water)).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::RestoreDetected);
    assert!(std::fs::read_to_string(&water).unwrap().lines().nth(1) > anchor.lines().nth(1));
}

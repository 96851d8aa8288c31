//! Tests of tampering with the database: verification reports the right place, and tampered rows are not used.

use crate::common::{Place, actor, admin, code};
use kms_lib::LogId;
use kms_lib::audit::record::{Body, record_hash};
use kms_lib::audit::tree::Frontier;
use kms_lib::{
    Action, AuditAck, AuditQuery, Context, ErrorCode, Finding, KeyId, Kms, NewGrant, NewKey, Paging, Permission,
    Report, Role, Status, Timestamp, VerifyOptions,
};
use sqlx::{Connection, Row, SqliteConnection};

/// Creates a closed store with some three hundred records, including changes.
async fn prepared() -> Place {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    for name in ["a", "b"] {
        session.create_key(NewKey::aes(name).grace_period_days(5)).await.unwrap();
    }
    session.create_key(NewKey::rsa_signing("s")).await.unwrap();
    let granted = [Permission::Read];
    session.put_grant(NewGrant::new("app", Role::App).on_all_keys().allow(granted)).await.unwrap();
    session.rotate_key("a", None).await.unwrap();
    let tagged = kms.session(actor("tagged", Role::Admin).with_request_id("request-1").unwrap());
    for i in 0..280 {
        let session = if i % 2 == 0 { &session } else { &tagged };
        session.encrypt("a", b"x", &Context::from([("i", i.to_string())])).await.unwrap();
    }
    session.revoke_version("a", 1).await.unwrap();
    kms.close().await.unwrap();
    place
}

/// The report of a verification, or the error code with which the store does not open.
async fn verify(place: &Place) -> Result<Report, ErrorCode> {
    let kms = match Kms::open(place.config()).await {
        Ok(kms) => kms,
        Err(error) => return Err(error.code()),
    };
    let report = admin(&kms).verify_audit().await.map_err(|error| error.code());
    kms.close().await.unwrap();
    report
}

async fn expect_at(original: &Place, sql: &str, seq: u64, kind: &str) {
    let place = original.copy();
    place.tamper(sql).await;
    let report = verify(&place).await.unwrap_or_else(|code| panic!("{sql}: does not open: {code}"));
    assert_eq!(report.broken_at, Some(seq), "{sql}: {:?}", report.faults);
    let finding = serde_json::to_value(&report.faults[0]).unwrap()["kind"].as_str().unwrap().to_owned();
    assert_eq!(finding, kind, "{sql}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_column_of_a_record() {
    let original = prepared().await;
    assert!(verify(&original.copy()).await.unwrap().ok);
    for seq in [2u64, 7, 150, 285] {
        for column in [
            "timestamp = timestamp + 1",
            "actor = 'mallory'",
            "role = 'app'",
            "action = 'VERIFY'",
            "status = 'FAILURE'",
            "request_id = 'other'",
            "key_id = x'00000000000000000000000000000000'",
            "key_version = 77",
            "details = '{}'",
            "details = NULL",
            "hash = zeroblob(32)",
        ] {
            let sql = format!("UPDATE audit_logs SET {column} WHERE seq = {seq}");
            expect_at(&original, &sql, seq, "hashMismatch").await;
        }
        expect_at(&original, &format!("UPDATE audit_logs SET format = 1 WHERE seq = {seq}"), seq, "unknownFormat")
            .await;
        for unreadable in ["timestamp = 'soon'", "hash = 'x'", "actor = x'ff'", "format = 300", "timestamp = -5"] {
            let sql = format!("UPDATE audit_logs SET {unreadable} WHERE seq = {seq}");
            expect_at(&original, &sql, seq, "unreadable").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_insertion_swap_and_a_cut_tail() {
    let original = prepared().await;
    let size = verify(&original.copy()).await.unwrap().size;
    for seq in [1u64, 2, 150] {
        expect_at(&original, &format!("DELETE FROM audit_logs WHERE seq = {seq}"), seq, "gap").await;
    }
    expect_at(&original, "DELETE FROM audit_logs WHERE seq BETWEEN 100 AND 199", 100, "gap").await;
    expect_at(&original, &format!("DELETE FROM audit_logs WHERE seq = {size}"), size, "tailMissing").await;
    expect_at(&original, "DELETE FROM audit_logs", 1, "tailMissing").await;
    // A record is removed and the following ones are renumbered.
    let close = "DELETE FROM audit_logs WHERE seq = 100; UPDATE audit_logs SET seq = -seq WHERE seq > 100;
                 UPDATE audit_logs SET seq = -seq - 1 WHERE seq < 0";
    expect_at(&original, close, 100, "hashMismatch").await;
    let swap = "UPDATE audit_logs SET seq = -1 WHERE seq = 50; UPDATE audit_logs SET seq = 50 WHERE seq = 51;
                UPDATE audit_logs SET seq = 51 WHERE seq = -1";
    expect_at(&original, swap, 50, "hashMismatch").await;
    let insert = format!(
        "INSERT INTO audit_logs SELECT {}, timestamp, actor, role, action, status, request_id, key_id, key_version,
         details, hash, format FROM audit_logs WHERE seq = {size}",
        size + 1
    );
    expect_at(&original, &insert, size + 1, "beyondHead").await;
    let renumber = "UPDATE audit_logs SET seq = 0 WHERE seq = 1";
    expect_at(&original, renumber, 1, "gap").await;
}

/// Everything after record 99 is rewritten with recomputed hashes, and the head is adapted as far as that is possible
/// without the key.
#[tokio::test(flavor = "multi_thread")]
async fn rewriting_with_recomputed_hashes() {
    let original = prepared().await;
    for with_head in [false, true] {
        let place = original.copy();
        let mut raw = SqliteConnection::connect(&place.url()).await.unwrap();
        let head = sqlx::query("SELECT log_id, seq FROM audit_head").fetch_one(&mut raw).await.unwrap();
        let log = LogId::from_slice(head.get::<&[u8], _>(0)).unwrap();
        let rows = sqlx::query("SELECT * FROM audit_logs ORDER BY seq").fetch_all(&mut raw).await.unwrap();
        let mut tree = Frontier::new();
        let mut last = [0; 32];
        for row in rows {
            let mut record = read(&row);
            if record.seq >= 100 {
                if record.seq == 100 {
                    record.actor = "mallory".into();
                }
                let body = body(&record).digest();
                record.hash = record_hash(log, record.seq, record.timestamp, &last, &body);
                sqlx::query("UPDATE audit_logs SET actor = ?, hash = ? WHERE seq = ?")
                    .bind(&record.actor)
                    .bind(&record.hash[..])
                    .bind(i64::try_from(record.seq).unwrap())
                    .execute(&mut raw)
                    .await
                    .unwrap();
            }
            last = record.hash;
            tree.push(record.hash);
        }
        if with_head {
            sqlx::query("UPDATE audit_head SET hash = ?, frontier = ?")
                .bind(&last[..])
                .bind(tree.roots().concat())
                .execute(&mut raw)
                .await
                .unwrap();
        }
        raw.close().await.unwrap();
        if with_head {
            // The signature does not match the head, so the service does not continue from it.
            assert_eq!(verify(&place).await.unwrap_err(), ErrorCode::IntegrityFailure);
        } else {
            let report = verify(&place).await.unwrap();
            assert!(!report.ok && report.broken_at.unwrap() <= 100, "{:?}", report.faults);
            assert!(report.faults[0].to_string().contains("rewritten"), "{:?}", report.faults);
        }
    }
}

/// The columns of a row of `audit_logs`.
struct Stored {
    seq: u64,
    timestamp: Timestamp,
    actor: String,
    role: String,
    action: String,
    status: String,
    request_id: Option<String>,
    key_id: Option<KeyId>,
    key_version: Option<u32>,
    details: Option<String>,
    hash: [u8; 32],
}

fn body(record: &Stored) -> Body<'_> {
    Body {
        actor: &record.actor,
        role: &record.role,
        action: &record.action,
        status: &record.status,
        request_id: record.request_id.as_deref(),
        key_id: record.key_id,
        key_version: record.key_version,
        details: record.details.as_deref(),
    }
}

fn read(row: &sqlx::sqlite::SqliteRow) -> Stored {
    let hash = |name: &str| row.get::<Vec<u8>, _>(name).try_into().unwrap();
    Stored {
        seq: u64::try_from(row.get::<i64, _>("seq")).unwrap(),
        timestamp: Timestamp::from_micros(row.get("timestamp")),
        actor: row.get("actor"),
        role: row.get("role"),
        action: row.get("action"),
        status: row.get("status"),
        request_id: row.get("request_id"),
        key_id: row.get::<Option<Vec<u8>>, _>("key_id").map(|id| KeyId::from_slice(&id).unwrap()),
        key_version: row.get::<Option<i64>, _>("key_version").map(|v| u32::try_from(v).unwrap()),
        details: row.get("details"),
        hash: hash("hash"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head() {
    let original = prepared().await;
    for column in [
        "seq = seq - 1",
        "seq = seq + 1",
        "revision = revision - 1",
        "frontier = zeroblob(length(frontier))",
        "frontier = x''",
        "checkpoint = ''",
        "checkpoint = replace(checkpoint, 'mini-kms', 'maxi-kms')",
        "log_id = zeroblob(16)",
        "frontier = x'00'",
        "log_id = x'00'",
    ] {
        let place = original.copy();
        place.tamper(&format!("UPDATE audit_head SET {column}")).await;
        let code = verify(&place).await.expect_err(column);
        assert!(matches!(code, ErrorCode::IntegrityFailure | ErrorCode::StoreCorrupt), "{column}: {code}");
    }
    // Data outside the signature is checked when it is used or verified.
    let place = original.copy();
    place.tamper("UPDATE audit_head SET hash = zeroblob(32)").await;
    assert!(!verify(&place).await.unwrap().ok);
    for time in ["timestamp - 1", "timestamp + 1"] {
        let place = original.copy();
        place.tamper(&format!("UPDATE audit_head SET timestamp = {time}")).await;
        let report = verify(&place).await.unwrap();
        assert!(report.broken_at == Some(report.size) && report.faults[0].finding == Finding::HeadTime, "{report:?}");
    }
    let place = original.copy();
    place.tamper("DELETE FROM audit_head").await;
    assert!(verify(&place).await.is_err());
    // A running service notices tampering and stops writing.
    let place = original.copy();
    let kms = place.open().await;
    let session = admin(&kms);
    place.tamper("UPDATE audit_head SET seq = seq - 1").await;
    let refused = session.encrypt("a", b"x", &Context::new()).await;
    assert_eq!(code(refused), ErrorCode::IntegrityFailure);
    assert_eq!(code(session.encrypt("a", b"x", &Context::new()).await), ErrorCode::IntegrityFailure);
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_held_against_their_seals_and_records() {
    let original = prepared().await;
    for sql in [
        "UPDATE \"keys\" SET name = 'c' WHERE name = 'a'",
        "UPDATE \"keys\" SET purpose = 'SIGNING' WHERE name = 'a'",
        "UPDATE \"keys\" SET type = 'RSA_2048' WHERE name = 'a'",
        "UPDATE \"keys\" SET state = 'DISABLED' WHERE name = 'a'",
        "UPDATE \"keys\" SET state = 'BANANA' WHERE name = 'a'",
        "UPDATE \"keys\" SET grace_period_days = 500 WHERE name = 'a'",
        "UPDATE \"keys\" SET rotation_period_days = 5 WHERE name = 'a'",
        "UPDATE \"keys\" SET current_version = 1 WHERE name = 'a'",
        "UPDATE \"keys\" SET delete_at = 5 WHERE name = 'a'",
        "UPDATE \"keys\" SET metadata = '{}' WHERE name = 'a'",
        "UPDATE \"keys\" SET audit_context = 'hmac' WHERE name = 'a'",
        "UPDATE \"keys\" SET created_at = 5 WHERE name = 'a'",
        "UPDATE \"keys\" SET revision = 0 WHERE name = 'a'",
        "UPDATE \"keys\" SET seal = zeroblob(32) WHERE name = 'a'",
        "DELETE FROM \"keys\" WHERE name = 'a'",
        "UPDATE key_versions SET state = 'ENABLED' WHERE state = 'REVOKED'",
        "UPDATE key_versions SET not_after = 9000000000000000 WHERE state = 'REVOKED'",
        "UPDATE key_versions SET origin = 'IMPORTED' WHERE version = 2",
        "UPDATE key_versions SET fingerprint = zeroblob(32) WHERE version = 2",
        "UPDATE key_versions SET version = 9 WHERE version = 2",
        "UPDATE wrappings SET seal = zeroblob(32) WHERE subject = (SELECT id FROM key_versions WHERE version = 2)",
        "DELETE FROM key_versions WHERE version = 2",
        "UPDATE grants SET principal = 'mallory'",
        "UPDATE grants SET allowed_ops = 'decrypt,read'",
        "UPDATE grants SET conditions = '{\"notAfter\":\"2030-01-01T00:00:00Z\"}'",
        "UPDATE grants SET role = 'admin'",
        "UPDATE grants SET withdrawn_at = 5",
        "UPDATE grants SET grantor = 'mallory'",
        "UPDATE grants SET grantor_role = 'app'",
        "UPDATE grants SET granted_through = id",
        "UPDATE grants SET cascaded = 1",
        "DELETE FROM grants",
        "INSERT INTO grants SELECT randomblob(16), 'mallory', role, key_id, allowed_ops, conditions, created_at, NULL,
         grantor, grantor_role, granted_through, cascaded, revision, seal FROM grants",
        "UPDATE wrappings SET wrapped = (SELECT wrapped FROM wrappings JOIN key_versions v ON v.id = subject
         JOIN \"keys\" k ON k.id = v.key_id WHERE k.name = 'b')
         WHERE subject = (SELECT id FROM key_versions WHERE version = 2)",
        "UPDATE wrappings SET wrapped = 'text' WHERE subject = (SELECT id FROM key_versions WHERE version = 2)",
        "DELETE FROM wrappings WHERE subject = (SELECT id FROM key_versions WHERE version = 2)",
        "UPDATE key_versions SET public_key_pem = 'other' WHERE public_key_pem IS NOT NULL",
    ] {
        let place = original.copy();
        place.tamper(sql).await;
        let report = verify(&place).await.unwrap_or_else(|code| panic!("{sql}: does not open: {code}"));
        assert!(!report.ok, "{sql}: not found");
        let text = report.faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let names = sql.contains("grants") && text.contains("grants")
            || sql.contains("\"keys\" SET") && text.contains("of keys")
            || sql.contains("key_versions") && (text.contains("key_versions") || text.contains("material"))
            || sql.starts_with("DELETE FROM \"keys\"") && text.contains("of keys");
        assert!(names, "{sql}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_altered_is_not_used() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let key = session.create_key(NewKey::aes("a")).await.unwrap();
    session.create_key(NewKey::aes("b")).await.unwrap();
    let sealed = session.encrypt("a", b"secret", &Context::new()).await.unwrap();
    session.rotate_key("a", None).await.unwrap();
    session.revoke_version("a", 1).await.unwrap();
    let granted = [Permission::Read];
    session.put_grant(NewGrant::new("app", Role::App).on_key(key.id).allow(granted)).await.unwrap();
    kms.close().await.unwrap();

    // A revoked version is enabled, a grant is forged, a grant is extended.
    let revived = place.copy();
    revived.tamper("UPDATE key_versions SET state = 'ENABLED' WHERE state = 'REVOKED'").await;
    let kms = revived.open().await;
    let refused = admin(&kms).decrypt(&sealed.ciphertext, &Context::new()).await;
    assert_eq!(code(refused), ErrorCode::IntegrityFailure);
    // Other keys are not affected.
    admin(&kms).encrypt("b", b"x", &Context::new()).await.unwrap();
    kms.close().await.unwrap();

    for sql in [
        "UPDATE grants SET allowed_ops = 'encrypt,read'",
        "INSERT INTO grants SELECT randomblob(16), 'mallory', role, '*', 'encrypt', conditions, created_at, NULL,
         grantor, grantor_role, granted_through, cascaded, revision, seal FROM grants",
    ] {
        let extended = place.copy();
        extended.tamper(sql).await;
        let kms = extended.open().await;
        for principal in ["app", "mallory"] {
            let session = kms.session(actor(principal, Role::App));
            assert_eq!(code(session.encrypt("a", b"x", &Context::new()).await), ErrorCode::AccessDenied);
        }
        kms.close().await.unwrap();
    }

    // Material is replaced by another key's, also while the service runs and has not loaded it yet.
    let swapped = place.copy();
    let kms = swapped.open().await;
    swapped
        .tamper(
            "UPDATE wrappings SET wrapped = (SELECT wrapped FROM wrappings JOIN key_versions v ON v.id = subject
             JOIN \"keys\" k ON k.id = v.key_id WHERE k.name = 'b')
             WHERE subject = (SELECT id FROM key_versions WHERE version = 2)",
        )
        .await;
    assert_eq!(code(admin(&kms).encrypt("a", b"x", &Context::new()).await), ErrorCode::IntegrityFailure);
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_key_and_kept_checkpoints() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("a")).await.unwrap();
    // Writes records past the first stored checkpoint.
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move {
                for _ in 0..270 {
                    session.encrypt("a", b"x", &Context::new()).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let pinned = session.audit_public_key().await.unwrap();
    let options = |pinned: &str| VerifyOptions::new().pinned_key(pinned);
    assert!(session.verify_audit_with(&options(&pinned)).await.unwrap().ok);
    assert_eq!(code(session.verify_audit_with(&options("a+b+c")).await), ErrorCode::InvalidArgument);
    let incremental = session.verify_audit_incrementally().await.unwrap();
    assert!(incremental.ok && incremental.from > 8_000, "{incremental:?}");
    kms.close().await.unwrap();

    // Incremental verification trusts what was verified before; full verification does not.
    let altered = place.copy();
    altered.tamper("UPDATE audit_logs SET actor = 'mallory' WHERE seq = 50").await;
    let kms = altered.open().await;
    assert!(admin(&kms).verify_audit_incrementally().await.unwrap().ok);
    assert_eq!(admin(&kms).verify_audit().await.unwrap().broken_at, Some(50));
    kms.close().await.unwrap();
    for sql in [
        "UPDATE audit_checkpoints SET note = replace(note, 'mini', 'maxi')",
        "UPDATE audit_checkpoints SET size = size - 1",
        "UPDATE audit_checkpoints SET note = (SELECT checkpoint FROM audit_head)",
    ] {
        let altered = place.copy();
        altered.tamper(sql).await;
        let report = verify(&altered).await.unwrap();
        assert!(!report.ok, "{sql}");
    }
}

/// If the row of a version is deleted while the service runs, only that version fails: no operation hangs, and other
/// keys work.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_deleted_holds_nobody_up() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("b")).await.unwrap();
    let key = session.create_key(NewKey::aes("a")).await.unwrap();
    let sealed = session.encrypt("a", b"secret", &Context::new()).await.unwrap().ciphertext;
    place.tamper("DELETE FROM key_versions WHERE key_id = (SELECT id FROM \"keys\" WHERE name = 'a')").await;
    let context = Context::new();
    let work = async {
        for _ in 0..2 {
            let (decrypted, other) =
                tokio::join!(session.decrypt(&sealed, &context), session.encrypt("b", b"x", &context));
            assert_eq!(code(decrypted), ErrorCode::StoreCorrupt);
            other.unwrap();
            // The cause is not that the version has reached its encryption limit.
            let encrypted = session.encrypt(key.id, b"x", &Context::new()).await;
            assert_eq!(code(encrypted), ErrorCode::StoreCorrupt);
            let (revoked, other) =
                tokio::join!(session.revoke_version(key.id, 1), session.encrypt("b", b"x", &context));
            assert_eq!(code(revoked), ErrorCode::StoreCorrupt);
            other.unwrap();
        }
        session.revoke_key(key.id).await.unwrap();
        kms.close().await.unwrap();
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), work).await.unwrap();
}

/// The same with early release of results: released results are in the log, and the ledger does not retry counting them
/// indefinitely.
#[tokio::test]
async fn released_uses_of_a_deleted_version_hold_nobody_up() {
    let place = Place::in_a_file();
    let kms = Kms::open(place.config().audit_ack(AuditAck::Queued)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("a")).await.unwrap();
    session.create_key(NewKey::aes("b")).await.unwrap();
    let sealed = session.encrypt("a", b"secret", &Context::new()).await.unwrap().ciphertext;
    place.tamper("DELETE FROM key_versions WHERE key_id = (SELECT id FROM \"keys\" WHERE name = 'a')").await;
    let work = async {
        let mut released = 0;
        for _ in 0..50 {
            match session.decrypt(&sealed, &Context::new()).await {
                Ok(_) => released += 1,
                Err(error) => assert_eq!(error.code(), ErrorCode::StoreCorrupt),
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        session.revoke_key("b").await.unwrap();
        session.revoke_key("a").await.unwrap();
        assert!(released > 0);
        let decryptions = AuditQuery::new().action(Action::Decrypt).status(Status::Success);
        let recorded = session.list_audit(&decryptions, &Paging::new(1_000)).await.unwrap().items.len();
        assert_eq!(recorded, released);
        kms.close().await.unwrap();
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), work).await.unwrap();
}

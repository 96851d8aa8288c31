//! Tests of verification during use: old records are read again within a bounded time, and a store that was rolled back
//! meanwhile does not pass.

use crate::common::{Place, actor, admin};
use kms_lib::{Context, Finding, Kms, NewKey, Role, Session, VerifyOptions};

async fn encrypt(session: &Session, count: usize) {
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move {
                for _ in 0..count / 64 {
                    session.encrypt("k", b"x", &Context::new()).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// Creates a closed, verified store with two stored checkpoints.
async fn verified() -> Place {
    let place = Place::in_a_file();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    encrypt(&session, 17_000).await;
    assert!(session.verify_audit().await.unwrap().ok);
    let report = session.verify_audit_incrementally().await.unwrap();
    assert!(report.ok && report.from > 16_000 && report.reread.is_none(), "{report:?}");
    kms.close().await.unwrap();
    place
}

fn copy(place: &Place) -> Place {
    let new = Place::in_a_file();
    std::fs::copy(place.file(), new.file()).unwrap();
    new
}

const HOUR: i64 = 3_600;

/// The hours until the scheduler finds a fault, if it runs every six hours; an attacker executes `before_run` before
/// each run.
async fn found_after(place: &Place, before_run: Option<&str>) -> Option<i64> {
    let kms = place.open().await;
    for hour in (6..=7 * 24 + 6).step_by(6) {
        place.pass_seconds(6 * HOUR);
        if let Some(sql) = before_run {
            place.tamper(sql).await;
        }
        let report = kms.run_scheduler().await.unwrap().verification.unwrap();
        if !report.ok {
            kms.close().await.unwrap();
            return Some(hour);
        }
        assert!(report.faults.is_empty());
    }
    kms.close().await.unwrap();
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_record_is_read_again_within_the_time() {
    let original = verified().await;
    assert_eq!(found_after(&copy(&original), None).await, None);
    for seq in [2, 5_000, 12_000] {
        let place = copy(&original);
        place.tamper(&format!("UPDATE audit_logs SET actor = 'mallory' WHERE seq = {seq}")).await;
        let hours = found_after(&place, None).await.unwrap();
        assert!(hours <= 7 * 24, "record {seq} was found after {hours} hours");
    }
    // A missing index entry for an old record is found in the same way.
    let place = copy(&original);
    place.tamper("DELETE FROM audit_actors WHERE seq = 5000").await;
    assert!(found_after(&place, None).await.is_some());
}

/// An attacker with write access to the database cannot keep the window away from a record.
#[tokio::test(flavor = "multi_thread")]
async fn the_position_of_the_window_cannot_be_set() {
    let original = verified().await;
    let place = copy(&original);
    let kms = place.open().await;
    place.pass_days(2);
    let report = admin(&kms).verify_audit_incrementally().await.unwrap();
    let (after, end) = report.reread.unwrap();
    assert!(report.ok && after == 0 && end >= 8_192, "{report:?}");
    kms.close().await.unwrap();
    // The attacker restores a window position after the record before every run.
    place
        .tamper("CREATE TABLE kept AS SELECT * FROM meta; UPDATE audit_logs SET actor = 'mallory' WHERE seq = 50")
        .await;
    let again = "DELETE FROM meta; INSERT INTO meta SELECT * FROM kept";
    let hours = found_after(&place, Some(again)).await.unwrap();
    assert!(hours <= 5 * 24 + 6, "found after {hours} hours");

    // If the position is missing or forged, everything is verified.
    for sql in [
        "DELETE FROM meta WHERE name = 'audit.reverify_window'",
        "UPDATE meta SET value = replace(value, ' 0 ', ' 8192 ') WHERE name = 'audit.reverify_window'",
    ] {
        let place = copy(&original);
        place.tamper(sql).await;
        let kms = place.open().await;
        let report = admin(&kms).verify_audit_incrementally().await.unwrap();
        assert!(report.ok && report.from == 0, "{sql}: {report:?}");
        kms.close().await.unwrap();
    }
    let place = copy(&original);
    let kms = Kms::open(place.config().reverify_days(0)).await.unwrap();
    assert_eq!(admin(&kms).verify_audit_incrementally().await.unwrap().from, 0);
    kms.close().await.unwrap();
}

/// A verification that starts at a size given by the caller does not move the point from which later ones continue.
#[tokio::test(flavor = "multi_thread")]
async fn a_verification_with_a_gap_does_not_count() {
    let place = Place::in_a_file();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    encrypt(&session, 9_000).await;
    place.tamper("UPDATE audit_logs SET actor = 'mallory' WHERE seq = 100").await;
    let options = VerifyOptions::new().trusted_size(u64::MAX);
    let report = session.verify_audit_with(&options).await.unwrap();
    assert!(report.ok && report.from > 8_000, "{report:?}");
    let report = session.verify_audit_incrementally().await.unwrap();
    assert_eq!((report.from, report.broken_at), (0, Some(100)));
    kms.close().await.unwrap();
}

/// Rolls the whole store back to its state in another file while it is open.
async fn roll_back(place: &Place, old: &std::path::Path) {
    let mut sql = format!("ATTACH '{}' AS old; BEGIN;", old.display());
    for table in [
        "keys",
        "key_versions",
        "version_usage",
        "grants",
        "credentials",
        "audit_logs",
        "audit_head",
        "audit_checkpoints",
        "meta",
    ] {
        sql.push_str(&format!("DELETE FROM \"{table}\"; INSERT INTO \"{table}\" SELECT * FROM old.\"{table}\";"));
    }
    place.tamper(&format!("{sql} COMMIT")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_rolled_back_under_a_service_is_not_good() {
    let place = Place::in_a_file();
    let water = place.folder.path().join("high-water");
    let kms = Kms::open(place.config().high_water(&water)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let old = place.folder.path().join("old.db");
    kms.session(actor("alice", Role::Admin)).backup(&old).await.unwrap();
    encrypt(&session, 64).await;
    roll_back(&place, &old).await;
    for incremental in [false, true] {
        let report = match incremental {
            false => session.verify_audit().await.unwrap(),
            true => session.verify_audit_incrementally().await.unwrap(),
        };
        assert!(!report.ok, "{report:?}");
        let finding = &report.faults[0].finding;
        assert!(matches!(finding, Finding::RolledBack { size, seen } if size < seen && *seen >= 66), "{finding:?}");
    }
    // Another process continues from the rolled-back state until the log is longer than before.
    let other = place.open().await;
    encrypt(&admin(&other), 128).await;
    assert!(admin(&other).verify_audit().await.unwrap().ok);
    let report = session.verify_audit().await.unwrap();
    assert!(matches!(report.faults[0].finding, Finding::RolledBack { .. }), "{report:?}");
    other.close().await.unwrap();
    // The next process still detects the rollback after closing.
    kms.close().await.unwrap();
    let error = Kms::open(place.config().high_water(&water)).await.unwrap_err();
    assert_eq!(error.code(), kms_lib::ErrorCode::RestoreDetected, "{error}");
}

/// A state that another process noted in the high-water file counts too.
#[tokio::test(flavor = "multi_thread")]
async fn the_high_water_file_is_held_against_the_store() {
    let place = Place::in_a_file();
    let water = place.folder.path().join("high-water");
    let kms = Kms::open(place.config().high_water(&water)).await.unwrap();
    admin(&kms).create_key(NewKey::aes("k")).await.unwrap();
    let old = place.folder.path().join("old.db");
    kms.session(actor("alice", Role::Admin)).backup(&old).await.unwrap();
    kms.close().await.unwrap();
    // The note of a later state of the same store.
    let note = {
        let ahead = Place::in_a_file();
        std::fs::copy(place.file(), ahead.file()).unwrap();
        let kms = ahead.open().await;
        admin(&kms).encrypt("k", b"x", &Context::new()).await.unwrap();
        let note = admin(&kms).checkpoint().await.unwrap();
        kms.close().await.unwrap();
        note
    };
    let kms = Kms::open(place.config().high_water(&water)).await.unwrap();
    std::fs::write(&water, note).unwrap();
    let report = admin(&kms).verify_audit().await.unwrap();
    assert!(matches!(report.faults[0].finding, Finding::RolledBack { .. }), "{report:?}");
    kms.close().await.unwrap();
    // A damaged high-water file is reported.
    let kms = place.open().await;
    kms.close().await.unwrap();
    let kms = Kms::open(place.config().high_water(place.folder.path().join("other"))).await.unwrap();
    std::fs::write(place.folder.path().join("other"), "garbage").unwrap();
    let report = admin(&kms).verify_audit().await.unwrap();
    assert!(report.ok && report.warnings.iter().any(|warning| warning.contains("other")), "{report:?}");
    kms.close().await.unwrap();
}

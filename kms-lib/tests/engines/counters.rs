//! Tests of the counters of hours and of versions, which the row of the head holds until they are added to their
//! tables: nothing is lost on the way, and altered counters stop nothing.

use crate::common::{Place, admin, engine};
use kms_lib::{Context, Finding, NewKey, Session};

/// Microseconds of an hour.
const HOUR: i64 = 3_600_000_000;
/// The number of encryptions from which on metrics advise a rotation.
const WARN: u64 = 1 << 31;

const KEYS: [&str; 13] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m"];

async fn encrypt(session: &Session, name: &str, times: usize) {
    let none = Context::new();
    for part in (0..times).collect::<Vec<_>>().chunks(48) {
        let calls = part.iter().map(|_| session.encrypt(name, b"x", &none));
        assert!(futures_util::future::join_all(calls).await.iter().all(Result::is_ok));
    }
}

/// The counters are the same whether they are in the head, in the tables or in both, and however many versions a batch
/// uses.
#[tokio::test(flavor = "multi_thread")]
async fn no_use_is_lost_on_the_way_to_the_tables() {
    let place = Place::new();
    let kms = place.open().await;
    let (session, none) = (admin(&kms), Context::new());
    for name in KEYS {
        session.create_key(NewKey::aes(name)).await.unwrap();
    }
    let (mut total, mut emptied) = (0u64, false);
    for round in 1..=90u64 {
        // Some batches use one version, some use more than the head has room for.
        let used = if round % 3 == 0 { &KEYS[..1] } else { &KEYS[..] };
        let calls = used.iter().map(|name| session.encrypt(*name, b"x", &none));
        assert!(futures_util::future::join_all(calls).await.iter().all(Result::is_ok));
        total += used.len() as u64;
        if round % 10 > 0 {
            continue;
        }
        emptied |= place.number("SELECT COUNT(*) FROM version_usage WHERE encryptions > 0").await > 0;
        let mut sum = 0;
        for name in KEYS {
            let version = session.get_version(name, 1).await.unwrap();
            let expected = if name == "a" { round } else { round - round / 3 };
            assert_eq!(version.encryptions, Some(expected), "{name} {round}");
            sum += expected;
        }
        assert_eq!(sum, total);
        assert_eq!(session.metrics().await.unwrap().usage.encryptions_last24h, total, "{round}");
    }
    assert!(emptied);
    kms.close().await.unwrap();
    let kms = place.open().await;
    assert_eq!(admin(&kms).metrics().await.unwrap().usage.encryptions_last24h, total);
    kms.close().await.unwrap();
}

/// Counters that cannot be read, and huge ones, stop neither the ledger nor lists nor metrics.
#[tokio::test(flavor = "multi_thread")]
async fn altered_counters_stop_nothing() {
    let blob = |hex: &str| if engine::name() == "postgres" { format!("'\\x{hex}'") } else { format!("x'{hex}'") };
    let versions = |count: i64| {
        format!(
            "UPDATE usage_hourly SET count = {count}; UPDATE version_usage SET encryptions = {count}
             WHERE key_id = (SELECT id FROM \"keys\" WHERE name = 'old')"
        )
    };
    let alterations = [
        format!("UPDATE audit_head SET tallies = {}", blob("00")),
        format!("UPDATE audit_head SET tallies = {}", blob(&"01".repeat(5_000))),
        versions(i64::MAX),
        versions(-5),
    ];
    for (number, sql) in alterations.iter().enumerate() {
        let place = Place::new();
        let kms = place.open().await;
        let session = admin(&kms);
        for name in ["old", "new"] {
            session.create_key(NewKey::aes(name)).await.unwrap();
        }
        // The counters are in their tables after 1,024 records.
        encrypt(&session, "old", 1_100).await;
        assert!(place.number("SELECT COUNT(*) FROM usage_hourly").await > 0);
        place.tamper(sql).await;
        let report = session.verify_audit().await.unwrap();
        let is_damage = |finding: &Finding| matches!(finding, Finding::Damaged { .. });
        assert_eq!(report.faults.iter().any(|fault| is_damage(&fault.finding)), number < 2, "{sql}: {report:?}");
        session.metrics().await.unwrap();
        session.get_version("old", 1).await.unwrap();
        encrypt(&session, "new", 1_100).await;
        session.rotate_key("old", None).await.unwrap();
        encrypt(&session, "old", 1).await;
        assert!(session.metrics().await.unwrap().usage.encryptions_last24h >= 1_101, "{sql}");
        session.revoke_key("new").await.unwrap();
        kms.close().await.unwrap();
        let kms = place.open().await;
        admin(&kms).metrics().await.unwrap();
        // The ledger has written good counters since.
        assert!(admin(&kms).verify_audit().await.unwrap().ok, "{sql}");
        kms.close().await.unwrap();
    }
}

/// Operations count for the hour of their record, whether the counters of an hour that is over are in the head or in
/// their table.
#[tokio::test(flavor = "multi_thread")]
async fn hours_stay_apart_on_the_way_to_the_tables() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let last_day = async || session.metrics().await.unwrap().usage.encryptions_last24h;
    // Ten minutes before the next hour ends, and ten minutes after it.
    place.pass_seconds((HOUR - place.now().micros() % HOUR) / 1_000_000 + 3_000);
    let first = place.now().micros() / HOUR;
    encrypt(&session, "k", 3).await;
    place.pass_seconds(1_200);
    encrypt(&session, "k", 5).await;
    assert_eq!(place.number("SELECT COUNT(*) FROM usage_hourly").await, 0);
    assert_eq!(last_day().await, 8);
    // The first of these hours is no longer one of the last 24.
    place.pass_seconds(24 * 3_600);
    assert_eq!(last_day().await, 5);
    // The counters get to their tables after 1,024 records.
    encrypt(&session, "k", 1_100).await;
    for (hour, expected) in [(first, 3), (first + 1, 5)] {
        let sql = format!("SELECT count FROM usage_hourly WHERE action = 'ENCRYPT' AND hour = {hour}");
        assert_eq!(place.number(&sql).await, expected, "{hour}");
    }
    assert_eq!(last_day().await, 1_105);
    assert_eq!(session.get_version("k", 1).await.unwrap().encryptions, Some(1_108));
    kms.close().await.unwrap();
}

/// Metrics advise the rotation of a version that has encrypted many messages, whether its counter is in the head or in
/// its row.
#[tokio::test(flavor = "multi_thread")]
async fn versions_near_their_limit_are_found_in_head_and_rows() {
    let place = Place::new();
    let kms = place.open().await;
    let (session, none) = (admin(&kms), Context::new());
    for name in KEYS {
        session.create_key(NewKey::aes(name)).await.unwrap();
    }
    // The head has no counters of these versions yet.
    let set = format!(
        "UPDATE version_usage SET encryptions = {} WHERE key_id IN
         (SELECT id FROM \"keys\" WHERE name IN ('a', 'b'))",
        WARN - 2
    );
    place.tamper(&set).await;
    let near = async || -> Vec<(String, u64)> {
        let found = session.metrics().await.unwrap().keys.near_encryption_limit;
        found.into_iter().map(|alert| (alert.name, alert.encryptions)).collect()
    };
    encrypt(&session, "a", 1).await;
    assert_eq!(near().await, []);
    encrypt(&session, "a", 1).await;
    let in_rows = async || place.number("SELECT COUNT(*) FROM version_usage WHERE near_limit = 1").await;
    assert_eq!(in_rows().await, 0, "the counter is in the head");
    assert_eq!(near().await, [("a".to_owned(), WARN)]);
    // The counters get to their rows after 1,024 records.
    encrypt(&session, "a", 1_100).await;
    assert_eq!(in_rows().await, 1);
    assert_eq!(near().await, [("a".to_owned(), WARN + 1_100)]);
    // A batch that uses more versions than the head has room for counts in the rows.
    for _ in 0..4 {
        let calls = KEYS.iter().map(|name| session.encrypt(*name, b"x", &none));
        assert!(futures_util::future::join_all(calls).await.iter().all(Result::is_ok));
    }
    assert_eq!(near().await, [("a".to_owned(), WARN + 1_104), ("b".to_owned(), WARN + 2)]);
    // A rotation is what the metrics advise.
    for name in ["a", "b"] {
        session.rotate_key(name, None).await.unwrap();
    }
    assert_eq!(near().await, []);
    kms.close().await.unwrap();
}

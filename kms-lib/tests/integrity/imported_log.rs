//! Tests of the imported log of Mini KMS on Node: how it is listed and verified, and how tampering in the database is
//! detected.

use std::path::{Path, PathBuf};

use crate::common::{Place, actor, admin, code, last_record, whole_log};
use kms_lib::{
    Action, Context, ErrorCode, Finding, ImportJob, ImportSource, ImportedRow, Kms, LegacyLog, NewKey, Paging, Report,
    Role, Session,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn shared(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/legacy").join(file)
}

fn read(file: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(shared(file)).unwrap()).unwrap()
}

/// A log of that service in format 1, with one row per second.
fn chain(rows: usize) -> Vec<Value> {
    let mut log: Vec<Value> = Vec::with_capacity(rows);
    for n in 0..rows {
        let prev = log.last().map_or("GENESIS", |row| row["hash"].as_str().unwrap()).to_owned();
        log.push(row(n, &prev));
    }
    log
}

/// A row that links to `prev`. Its id does not depend on its place.
fn row(n: usize, prev: &str) -> Value {
    let id = format!("{:08x}-0000-4000-8000-{n:012x}", (n as u32).wrapping_mul(2_654_435_761));
    let (minute, second) = (n / 60 % 60, n % 60);
    let timestamp = format!("2026-01-{:02}T{:02}:{minute:02}:{second:02}.000Z", 1 + n / 86_400, n / 3_600 % 24);
    let text = format!(
        "{{\"id\":\"{id}\",\"timestamp\":\"{timestamp}\",\"actor\":\"alice\",\"role\":\"admin\",\"action\":\"ENCRYPT\",\
         \"requestId\":\"r{n}\",\"details\":{{\"keyId\":\"k\",\"version\":{n}}},\"keyId\":null,\"keyVersion\":null,\
         \"status\":\"SUCCESS\"}}"
    );
    let hash: String = Sha256::digest(format!("{prev}{text}")).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut row: Value = serde_json::from_str(&text).unwrap();
    row["prevHash"] = json!(prev);
    row["hash"] = json!(hash);
    row
}

/// A file that contains a log.
struct Source(tempfile::TempDir);

impl Source {
    fn new(rows: &[Value]) -> Self {
        let source = Self(tempfile::tempdir().unwrap());
        source.write(rows);
        source
    }
    fn write(&self, rows: &[Value]) {
        std::fs::write(self.0.path().join("audit_logs.json"), serde_json::to_vec(rows).unwrap()).unwrap();
    }
    async fn import(&self, session: &Session, job: &ImportJob) -> LegacyLog {
        let source = ImportSource::parse(self.0.path().to_str().unwrap()).unwrap();
        session.import_mini_kms(&source, job).await.unwrap().log.unwrap()
    }
}

async fn rows(session: &Session) -> Vec<ImportedRow> {
    let mut paging = Paging::new(7);
    let mut rows = Vec::new();
    loop {
        let page = session.list_imported_audit("mini-kms", &paging).await.unwrap();
        rows.extend(page.items);
        paging.cursor = page.next_cursor;
        if paging.cursor.is_none() {
            return rows;
        }
    }
}

/// The number of records that seal imported rows.
async fn seals(session: &Session) -> usize {
    let action = Action::LegacyImport.as_str();
    whole_log(session).await.iter().filter(|record| record.action == action).count()
}

async fn verified(session: &Session) -> Report {
    let report = session.verify_audit().await.unwrap();
    assert!(report.ok, "{report:?}");
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_log_is_listed_as_it_was() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let expected = read("format0.json");
    let source = Source::new(expected.as_array().unwrap());
    let found = source.import(&session, &ImportJob::default()).await;
    assert_eq!((found.rows, found.older_format, found.altered.count, found.forks.count), (15, 15, 0, 0));
    let listed = rows(&session).await;
    assert_eq!(listed.iter().map(|row| row.position).collect::<Vec<_>>(), (1..=15).collect::<Vec<u64>>());
    for (row, expected) in listed.iter().zip(expected.as_array().unwrap()) {
        assert_eq!(row.format, Some(0));
        let row = serde_json::to_value(row).unwrap();
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(row[name], *value, "{name}");
        }
    }
    let report = verified(&session).await;
    assert_eq!(report.imported, [found]);
    let ids: Vec<&str> = expected.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(report.legacy, ids);
    assert!(session.list_imported_audit("other", &Paging::default()).await.unwrap().items.is_empty());
    for cursor in ["x", "-1", "9223372036854775808", "18446744073709551616"] {
        let mut paging = Paging::default();
        paging.cursor = Some(cursor.to_owned());
        let refused = session.list_imported_audit("mini-kms", &paging).await;
        assert_eq!(code(refused), ErrorCode::InvalidArgument, "{cursor}");
    }
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_finds_nothing_new_seals_nothing() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let log = chain(30);
    let source = Source::new(&log[..20]);
    let dry = source.import(&session, &ImportJob::default().dry_run(true)).await;
    assert_eq!((seals(&session).await, rows(&session).await.len()), (0, 0));
    assert_eq!(source.import(&session, &ImportJob::default()).await, dry);
    assert_eq!(source.import(&session, &ImportJob::default()).await, dry);
    assert_eq!((seals(&session).await, rows(&session).await.len()), (1, 20));

    // New rows are appended to the imported ones.
    source.write(&log);
    let found = source.import(&session, &ImportJob::default()).await;
    assert_eq!((found.rows, found.heads.count, seals(&session).await), (30, 1, 2));
    let hashes: Vec<String> = rows(&session).await.into_iter().map(|row| row.row.hash).collect();
    let expected: Vec<&str> = log.iter().map(|row| row["hash"].as_str().unwrap()).collect();
    assert_eq!(hashes, expected);

    // Rows that are altered or deleted in the source later keep their imported state, and are reported.
    let mut altered = log.clone();
    altered[3]["actor"] = json!("mallory");
    altered.remove(11);
    source.write(&altered);
    let found = source.import(&session, &ImportJob::default()).await;
    assert_eq!(found.changed.ids, [log[3]["id"].as_str().unwrap()]);
    assert_eq!(found.gone.ids, [log[11]["id"].as_str().unwrap()]);
    assert_eq!((found.rows, found.altered.count, seals(&session).await), (30, 0, 3));
    source.import(&session, &ImportJob::default()).await;
    assert_eq!(seals(&session).await, 3);
    assert_eq!(verified(&session).await.imported, [found]);
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_wrong_before_stays_listed() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let mut log = chain(40);
    log[5]["details"] = json!({"keyId": "another"});
    let inserted = row(100, log[20]["hash"].as_str().unwrap());
    log.push(inserted.clone());
    let deleted = log.remove(30);
    let found = Source::new(&log).import(&session, &ImportJob::default()).await;
    let id = |row: &Value| row["id"].as_str().unwrap().to_owned();
    assert_eq!(found.altered.ids, [id(&log[5])]);
    assert_eq!(found.unlinked.ids, [id(&log[30])]);
    assert_eq!(log[30]["prevHash"], deleted["hash"]);
    assert_eq!((found.forks.count, found.heads.count), (1, 3));
    assert!(found.forks.listed[0].ids.contains(&id(&inserted)));
    for _ in 0..2 {
        let report = verified(&session).await;
        assert_eq!(report.imported, std::slice::from_ref(&found));
        assert_eq!(report.legacy, [id(&log[5])]);
        assert!(session.verify_audit_incrementally().await.unwrap().imported == std::slice::from_ref(&found));
    }
    let row = &rows(&session).await[5];
    assert_eq!((row.format, row.row.id.clone()), (None, id(&log[5])));
    kms.close().await.unwrap();
}

/// An attacker with write access to the database can alter imported rows, but verification finds it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_altered_afterwards_is_found() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let log = chain(1_500);
    let source = Source::new(&log[..1_200]);
    source.import(&session, &ImportJob::default()).await;
    source.write(&log);
    source.import(&session, &ImportJob::default()).await;
    let rows = |first, last| Finding::ImportedRows { source: "mini-kms".into(), first, last };
    let surplus = || Finding::SurplusRows { table: "legacy_rows".into(), count: 1 };
    let pointer = || Finding::RowMismatch { table: "legacy_logs".into(), id: "mini-kms".into() };
    verified(&session).await;
    let copy = "INSERT INTO legacy_rows (source, position, body) SELECT";
    for (what, alter, restore, expected) in [
        (
            "edited",
            "UPDATE legacy_rows SET body = REPLACE(body, 'alice', 'mallory') WHERE position = 1100".to_owned(),
            "UPDATE legacy_rows SET body = REPLACE(body, 'mallory', 'alice') WHERE position = 1100".to_owned(),
            rows(1_001, 1_200),
        ),
        (
            "its format altered",
            "UPDATE legacy_rows SET body = REPLACE(body, '\"format\":1', '\"format\":0') WHERE position = 7".to_owned(),
            "UPDATE legacy_rows SET body = REPLACE(body, '\"format\":0', '\"format\":1') WHERE position = 7".to_owned(),
            rows(1, 1_000),
        ),
        (
            "swapped",
            "UPDATE legacy_rows SET position = 10000 - position WHERE position IN (1300, 1301)".to_owned(),
            "UPDATE legacy_rows SET position = 10000 - position WHERE position > 2000".to_owned(),
            rows(1_201, 1_500),
        ),
        (
            "deleted",
            "UPDATE legacy_rows SET position = 0 WHERE position = 1500".to_owned(),
            "UPDATE legacy_rows SET position = 1500 WHERE position = 0".to_owned(),
            rows(1_201, 1_500),
        ),
        (
            "inserted",
            format!("{copy} source, 1501, body FROM legacy_rows WHERE position = 1500"),
            "DELETE FROM legacy_rows WHERE position = 1501".to_owned(),
            surplus(),
        ),
        (
            "inserted in front",
            format!("{copy} source, 0, body FROM legacy_rows WHERE position = 1500"),
            "DELETE FROM legacy_rows WHERE position = 0".to_owned(),
            surplus(),
        ),
        (
            "its pointer moved",
            "UPDATE legacy_logs SET seq = seq - 1".to_owned(),
            "UPDATE legacy_logs SET seq = seq + 1".to_owned(),
            pointer(),
        ),
    ] {
        place.tamper(&alter).await;
        let found = session.verify_audit().await.unwrap();
        assert!(!found.ok && found.faults[0].finding == expected, "{what}: {found:?}");
        let found = session.verify_audit_incrementally().await.unwrap();
        assert!(!found.ok, "{what}");
        place.tamper(&restore).await;
        verified(&session).await;
    }
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn other_logs_and_deleted_ones_are_found() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    Source::new(&chain(20)).import(&session, &ImportJob::default()).await;
    place
        .tamper(
            "INSERT INTO legacy_rows (source, position, body) SELECT body, 1, body FROM legacy_rows WHERE position = 1",
        )
        .await;
    let report = session.verify_audit().await.unwrap();
    assert_eq!(report.faults[0].finding, Finding::SurplusRows { table: "legacy_rows".into(), count: 1 });
    place.tamper("DELETE FROM legacy_rows").await;
    place.tamper("DELETE FROM legacy_logs").await;
    let report = session.verify_audit().await.unwrap();
    let missing = Finding::RowMissing { table: "legacy_logs".into(), id: "mini-kms".into() };
    let rows = Finding::ImportedRows { source: "mini-kms".into(), first: 1, last: 20 };
    let found: Vec<Finding> = report.faults.into_iter().map(|fault| fault.finding).collect();
    assert_eq!(found, [missing, rows]);
    kms.close().await.unwrap();
}

/// An incremental verification knows the imported logs from the previous one, also in another process.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_gone_is_found_without_reading_all_records_again() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let log = chain(40);
    let source = Source::new(&log[..20]);
    source.import(&session, &ImportJob::default()).await;
    let first = place.number("SELECT seq FROM legacy_logs").await;
    source.write(&log);
    source.import(&session, &ImportJob::default()).await;
    // Writes records past a stored checkpoint, from which the next verification continues.
    session.create_key(NewKey::aes("c")).await.unwrap();
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move {
                for _ in 0..130 {
                    session.encrypt("c", b"x", &Context::new()).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let whole = verified(&session).await;
    let goes_on = session.verify_audit_incrementally().await.unwrap();
    assert!(goes_on.ok && goes_on.from > 8_000 && goes_on.imported == whole.imported, "{goes_on:?}");
    kms.close().await.unwrap();
    for (what, alter) in [
        ("rolled back", format!("UPDATE legacy_logs SET seq = {first}; DELETE FROM legacy_rows WHERE position > 20")),
        ("deleted", "DELETE FROM legacy_logs; DELETE FROM legacy_rows".to_owned()),
    ] {
        for statement in alter.split("; ") {
            place.tamper(statement).await;
        }
        let kms = Kms::open(place.config()).await.unwrap();
        for report in
            [admin(&kms).verify_audit_incrementally().await.unwrap(), admin(&kms).verify_audit().await.unwrap()]
        {
            let is_said = |it: &kms_lib::Fault| it.to_string().contains("legacy_logs");
            assert!(!report.ok && report.faults.iter().any(is_said), "{what}: {report:?}");
        }
        let from = ImportSource::parse(source.0.path().to_str().unwrap()).unwrap();
        let again = admin(&kms).import_mini_kms(&from, &ImportJob::default()).await;
        assert_eq!(code(again), ErrorCode::IntegrityFailure, "{what}: nothing is sealed in its place");
        kms.close().await.unwrap();
    }
    // Had a run sealed something else all the same, what was verified before it would still be missed.
    let rename = |from: &str, to: &str| format!("UPDATE meta SET name = '{to}' WHERE name = '{from}'");
    place.tamper(&rename("audit.verified_size", "kept")).await;
    let kms = Kms::open(place.config()).await.unwrap();
    let session = admin(&kms);
    source.write(&log[..25]);
    source.import(&session, &ImportJob::default()).await;
    place.tamper(&rename("kept", "audit.verified_size")).await;
    let report = session.verify_audit_incrementally().await.unwrap();
    let missed = Finding::ImportedRows { source: "mini-kms".into(), first: 1, last: 40 };
    assert!(report.from > 8_000 && report.faults.iter().any(|it| it.finding == missed), "{report:?}");
    kms.close().await.unwrap();
}

/// Makes a row one whose lost milliseconds are searched, but not all of them: it is too long.
fn alter_at_length(row: &mut Value) {
    row["timestamp"] = json!("2026-01-01 00:00:01");
    row["details"] = json!("x".repeat(20_000));
}

/// Rows whose text was not searched everywhere are named by every run, and are no reason to seal anything again.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_not_searched_everywhere_stay_named() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let mut log = chain(6);
    log[2]["actor"] = json!("mallory");
    log[1..=3].iter_mut().step_by(2).for_each(alter_at_length);
    let source = Source::new(&log[..5]);
    let found = source.import(&session, &ImportJob::default()).await;
    assert_eq!((found.altered.count, found.unsearched.count), (3, 2), "{found:?}");
    for _ in 0..2 {
        assert_eq!(source.import(&session, &ImportJob::default()).await, found);
        assert_eq!((seals(&session).await, &verified(&session).await.imported[..]), (1, &[found.clone()][..]));
    }
    source.write(&log);
    let more = source.import(&session, &ImportJob::default()).await;
    assert_eq!((more.rows, &more.unsearched, seals(&session).await), (6, &found.unsearched, 2));
    kms.close().await.unwrap();
}

/// Pages of long rows contain fewer rows, and no row is left out.
#[tokio::test(flavor = "multi_thread")]
async fn long_rows_are_read_a_few_at_a_time() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let mut log = chain(5);
    for row in &mut log {
        row["details"] = json!("x".repeat(3_000_000));
    }
    let found = Source::new(&log).import(&session, &ImportJob::default()).await;
    assert_eq!((found.rows, found.altered.count), (5, 5));
    let (mut paging, mut pages) = (Paging::new(1_000), Vec::new());
    loop {
        let page = session.list_imported_audit("mini-kms", &paging).await.unwrap();
        pages.push(page.items.iter().map(|row| row.position).collect::<Vec<u64>>());
        paging.cursor = page.next_cursor;
        if paging.cursor.is_none() {
            break;
        }
    }
    assert_eq!(pages.concat(), (1..=5).collect::<Vec<u64>>());
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<usize>>(), [1; 5]);
    assert_eq!(rows(&session).await.len(), 5);
    assert_eq!(verified(&session).await.imported, [found]);
    // A row that is longer than imports allow is not loaded.
    let long = "y".repeat(1_500_000);
    place.tamper(&format!("UPDATE legacy_rows SET body = REPLACE(body, 'ENCRYPT', '{long}') WHERE position = 5")).await;
    let report = session.verify_audit().await.unwrap();
    assert!(matches!(report.faults[0].finding, Finding::ImportedRows { first: 5, last: 5, .. }), "{report:?}");
    assert_eq!(
        code(session.list_imported_audit("mini-kms", &Paging::new(9).after("4")).await),
        ErrorCode::StoreCorrupt
    );
    kms.close().await.unwrap();
}

/// Rows that were altered in this store are not sealed a second time.
#[tokio::test(flavor = "multi_thread")]
async fn altered_rows_are_not_sealed_again() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let log = chain(30);
    let source = Source::new(&log[..20]);
    source.import(&session, &ImportJob::default()).await;
    place.tamper("UPDATE legacy_rows SET body = REPLACE(body, 'alice', 'mallory') WHERE position = 4").await;
    source.write(&log);
    let from = ImportSource::parse(source.0.path().to_str().unwrap()).unwrap();
    assert_eq!(code(session.import_mini_kms(&from, &ImportJob::default()).await), ErrorCode::IntegrityFailure);
    assert_eq!(seals(&session).await, 1);
    kms.close().await.unwrap();
}

/// The imported log is the same after reopening the store and in a copy of it.
#[tokio::test(flavor = "multi_thread")]
async fn another_process_verifies_it_too() {
    let place = Place::new();
    let kms = place.open().await;
    let found = Source::new(&chain(2_100)).import(&admin(&kms), &ImportJob::default()).await;
    assert_eq!(seals(&admin(&kms)).await, 3);
    kms.close().await.unwrap();
    let kms = Kms::open(place.config()).await.unwrap();
    assert_eq!(verified(&admin(&kms)).await.imported, [found]);
    kms.close().await.unwrap();
}

/// An import that is interrupted at any point leaves sealed rows, and the next run continues after them.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_cut_off_is_carried_on() {
    let mut log = chain(4_000);
    alter_at_length(&mut log[5]);
    let source = Source::new(&log);
    let expected = {
        let place = Place::new();
        let kms = place.open().await;
        let found = source.import(&admin(&kms), &ImportJob::default().dry_run(true)).await;
        kms.close().await.unwrap();
        assert_eq!(found.unsearched.count, 1);
        found
    };
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let (mut partly, mut patience) = (0, std::time::Duration::from_millis(20));
    let found = loop {
        let job = ImportJob::default();
        if let Ok(found) = tokio::time::timeout(patience, source.import(&session, &job)).await {
            break found;
        }
        let report = verified(&session).await;
        if let Some(log) = report.imported.first().filter(|log| !log.complete) {
            assert!(log.rows < 4_000 && log.rows % 1_000 == 0, "{log:?}");
            partly += 1;
        }
        patience += std::time::Duration::from_millis(20);
    };
    eprintln!("cut off {partly} times in between");
    assert_eq!(found, expected);
    let hashes: Vec<String> = rows(&session).await.into_iter().map(|row| row.row.hash).collect();
    assert!(hashes.iter().zip(&log).all(|(hash, row)| row["hash"] == **hash) && hashes.len() == log.len());
    assert_eq!(verified(&session).await.imported, [found]);
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_admins_and_auditors_read_an_imported_log() {
    let place = Place::new();
    let kms = place.open().await;
    Source::new(&chain(3)).import(&admin(&kms), &ImportJob::default()).await;
    let auditor = kms.session(actor("auditor", Role::Auditor));
    assert_eq!(rows(&auditor).await.len(), 3);
    let app = kms.session(actor("app", Role::App));
    let denied = app.list_imported_audit("mini-kms", &Paging::default()).await;
    assert_eq!(code(denied), ErrorCode::AccessDenied);
    let source = ImportSource::parse(shared("format0.json").to_str().unwrap()).unwrap();
    for session in [app, auditor] {
        let denied = session.import_mini_kms(&source, &ImportJob::default()).await;
        assert_eq!(code(denied), ErrorCode::AccessDenied);
    }
    let last = last_record(&admin(&kms)).await;
    assert_eq!((last.actor.as_str(), last.status.as_str()), ("auditor", "FAILURE"));
    kms.close().await.unwrap();
}

//! Tests of importing the original's log from real dumps: every row, the order, and the findings.

use kms_lib::{ErrorCode, ImportJob, ImportReport, LegacyLog, Paging, Session};

use kms_test_support::{MariaDb, Server};

use crate::common::{Place, admin, code, whole_log};
use crate::{Memory, Original, import, is_alone, original, place};

/// Imports in a dry run, and returns the report about the log.
async fn look(original: &Original) -> LegacyLog {
    let place = place();
    let kms = place.open().await;
    let report = import(&kms, original, &ImportJob::default().dry_run(true)).await;
    assert_eq!(seals(&admin(&kms)).await, 0);
    kms.close().await.unwrap();
    log_of(report)
}

fn log_of(report: ImportReport) -> LegacyLog {
    report.log.unwrap()
}

/// The links and hashes of the imported rows, in their order.
async fn hashes(session: &Session) -> Vec<(String, String)> {
    let mut paging = Paging::new(1_000);
    let mut hashes = Vec::new();
    loop {
        let page = session.list_imported_audit("mini-kms", &paging).await.unwrap();
        hashes.extend(page.items.into_iter().map(|row| (row.row.prev_hash, row.row.hash)));
        paging.cursor = page.next_cursor;
        if paging.cursor.is_none() {
            return hashes;
        }
    }
}

/// The number of records that seal imported rows.
async fn seals(session: &Session) -> usize {
    whole_log(session).await.iter().filter(|record| record.action == "LEGACY_IMPORT").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hash_is_reproduced_and_rows_follow_their_links() {
    for (name, is_forked) in [("clean", false), ("forked", true)] {
        let original = original!(name);
        let place = place();
        let kms = place.open().await;
        let session = admin(&kms);
        let log = log_of(import(&kms, &original, &ImportJob::default()).await);
        assert_eq!((log.rows, log.current_format, log.altered.count, log.unlinked.count), (30, 30, 0, 0), "{name}");
        assert_eq!((log.forks.count > 1, log.heads.count > 1), (is_forked, is_forked));
        assert_eq!(serde_json::to_value(&log.verdict).unwrap(), original.known["verify"]);
        assert!(log.heads.ids.iter().any(|id| *id == original.known["auditHead"]["id"]));
        let rows = hashes(&session).await;
        for (at, (prev, _)) in rows.iter().enumerate() {
            assert!(prev == "GENESIS" || rows[..at].iter().any(|(_, hash)| hash == prev));
        }
        let report = session.verify_audit().await.unwrap();
        assert!(report.ok && report.legacy.is_empty() && report.imported == [log.clone()], "{report:?}");
        assert_eq!(log_of(import(&kms, &original, &ImportJob::default()).await), log);
        assert_eq!(seals(&session).await, 1);
        kms.close().await.unwrap();
    }
}

/// Ids of `clean.sql`: a row in the middle, the row that links to it, and another one.
const ROW: &str = "89f56f95-75dc-4e81-8639-e059b615285d";
const NEXT: &str = "25f72f99-49f1-4191-b26d-07112ec9dfac";
const OTHER: &str = "33ad3cbd-123a-450e-97d5-6f15b86910eb";
/// The id of an inserted row.
const NEW: &str = "ffffffff-0000-4000-8000-000000000000";

#[tokio::test(flavor = "multi_thread")]
async fn alterations_in_the_database_are_reported() {
    let edit = |what: &str| format!("UPDATE audit_logs SET {what} WHERE id = '{ROW}'");
    let swap = format!(
        "UPDATE audit_logs a JOIN audit_logs b ON a.id = '{ROW}' AND b.id = '{OTHER}' \
         SET a.request_id = b.request_id, b.request_id = a.request_id"
    );
    let insert = format!(
        "INSERT INTO audit_logs SELECT '{NEW}', timestamp, actor, role, action, request_id, details, key_id, \
         key_version, prev_hash, SHA2(id, 256), status FROM audit_logs WHERE id = '{ROW}'"
    );
    for (alter, altered, unlinked, forks) in [
        (edit("actor = 'mallory'"), vec![ROW], vec![], 0),
        (edit("status = 'SUCCESS'"), vec![ROW], vec![], 0),
        (edit("timestamp = timestamp + INTERVAL 1 HOUR"), vec![ROW], vec![], 0),
        (edit("details = JSON_SET(details, '$.keyId', 'x')"), vec![ROW], vec![], 0),
        (edit("details = NULL"), vec![ROW], vec![], 0),
        (edit("key_version = 1"), vec![ROW], vec![], 0),
        (edit("hash = REPEAT('0', 64)"), vec![ROW], vec![NEXT], 0),
        (edit("prev_hash = 'GENESIS'"), vec![ROW], vec![], 1),
        (format!("DELETE FROM audit_logs WHERE id = '{ROW}'"), vec![], vec![NEXT], 0),
        (swap, vec![OTHER], vec![], 0),
        (insert, vec![NEW], vec![], 1),
    ] {
        let original = original!("clean");
        original.sql(&alter);
        let log = look(&original).await;
        assert!(altered.iter().all(|id| log.altered.ids.iter().any(|found| found == id)), "{alter}: {log:?}");
        assert_eq!(log.unlinked.ids, unlinked, "{alter}");
        assert_eq!(log.forks.count, forks, "{alter}");
        assert_eq!(log.legacy, log.altered, "{alter}");
    }
}

/// The next run imports the rows that the original wrote in the meantime.
#[tokio::test(flavor = "multi_thread")]
async fn later_rows_are_imported_by_the_next_run() {
    let original = original!("forked");
    let whole = look(&original).await;
    let later = "WHERE timestamp > '2026-11-23 18:28:32'";
    original.sql(&format!("CREATE TABLE later AS SELECT * FROM audit_logs {later}; DELETE FROM audit_logs {later}"));
    let place = place();
    let kms = place.open().await;
    let session = admin(&kms);
    let first = log_of(import(&kms, &original, &ImportJob::default()).await);
    assert!(first.rows > 20 && first.rows < 30);
    original.sql("INSERT INTO audit_logs SELECT * FROM later");
    let second = log_of(import(&kms, &original, &ImportJob::default().finalize(true)).await);
    assert_eq!((second.rows, seals(&session).await), (30, 2));
    assert_eq!((second.heads.count, &second.forks.count), (whole.heads.count, &whole.forks.count));
    let report = session.verify_audit().await.unwrap();
    assert!(report.ok && report.imported == [second], "{report:?}");
    let again = session.import_mini_kms(&original.source(), &ImportJob::default()).await;
    assert_eq!(code(again), ErrorCode::WrongState);
    kms.close().await.unwrap();
}

/// The text columns have another character set, and the server has another time zone.
#[tokio::test(flavor = "multi_thread")]
async fn neither_the_character_set_nor_the_time_zone_matters_to_the_log() {
    let original = original!("clean");
    original.sql("ALTER TABLE audit_logs CONVERT TO CHARACTER SET latin1");
    original.sql("SET time_zone = '+00:00'; ALTER TABLE audit_logs MODIFY timestamp TIMESTAMP NOT NULL");
    original.sql("SET GLOBAL time_zone = '-07:00'");
    let log = look(&original).await;
    original.sql("SET GLOBAL time_zone = 'SYSTEM'");
    assert_eq!((log.current_format, log.altered.count), (30, 0));
}

/// If the store's server does not accept a row of the log, the run fails before it writes, and names the setting.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_beyond_the_packet_limit_ends_the_run_before_it_writes() {
    let original = original!("clean");
    let Some(server) = MariaDb::try_new(&["--max-allowed-packet=1M"]) else { return };
    let place = Place::at(tempfile::tempdir().unwrap(), server.create_database());
    // Half of the text is quotation marks, which the stored form escapes: 900 KB become 1.35 MB.
    original.sql(
        "UPDATE audit_logs SET details = CONCAT('{\"text\":\"', REPEAT('x', 450000), REPEAT('\\\\\"', 225000), '\"}') \
         WHERE id = (SELECT MAX(id) FROM audit_logs)",
    );
    let long = original.sql("SELECT MAX(id) FROM audit_logs");
    let kms = place.open().await;
    let session = admin(&kms);
    let records = whole_log(&session).await.len();
    for job in [ImportJob::default().dry_run(true), ImportJob::default()] {
        let error = session.import_mini_kms(&original.source(), &job).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidConfiguration, "{error}");
        assert!(error.message().contains(long.trim()) && error.message().contains("max_allowed_packet"), "{error}");
    }
    assert_eq!(whole_log(&session).await.len(), records, "nothing was written");
    kms.close().await.unwrap();
    let needed: u64 = {
        let kms = place.open().await;
        let error = admin(&kms).import_mini_kms(&original.source(), &ImportJob::default()).await.unwrap_err();
        kms.close().await.unwrap();
        let rest = error.message().split("max_allowed_packet to ").nth(1).unwrap();
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    // The server rounds down to a multiple of 1,024.
    server.sql(&format!("SET GLOBAL max_allowed_packet = {}", needed.next_multiple_of(1_024)));
    let kms = place.open().await;
    let report = import(&kms, &original, &ImportJob::default()).await;
    assert!(report.is_complete() && log_of(report).rows == 30);
    assert!(admin(&kms).verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// A row of the original with its hash, as the values of an INSERT statement.
fn row(n: u32, prev: &str, text: &str) -> (String, String) {
    use sha2::{Digest, Sha256};
    let id = format!("{:08x}-0000-4000-8000-{n:012x}", n.wrapping_mul(2_654_435_761));
    let (day, hour, minute, second) = (1 + n / 86_400, n / 3_600 % 24, n / 60 % 60, n % 60);
    let time = format!("2026-01-{day:02} {hour:02}:{minute:02}:{second:02}");
    let details = format!(r#"{{"error":"{text}","keyId":"k{n}"}}"#);
    let before = format!(
        r#""id":"{id}","timestamp":"{}.000Z","actor":"a","role":"app","action":"ENCRYPT","requestId":"r{n}""#,
        time.replace(' ', "T")
    );
    let json = format!(r#"{{{before},"details":{details},"keyId":null,"keyVersion":null,"status":"SUCCESS"}}"#);
    let digest = Sha256::digest(format!("{prev}{json}"));
    let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let values =
        format!("('{id}','{time}','a','app','ENCRYPT','r{n}','{details}',NULL,NULL,'{prev}','{hash}','SUCCESS')");
    (values, hash)
}

/// Replaces the log by this many rows of 1.3 KB, every tenth of which begins a fork.
async fn fill(original: &Original, rows: u32) {
    use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection};
    let mut connection = MySqlConnection::connect(&original.url).await.unwrap();
    connection.execute("DELETE FROM audit_logs").await.unwrap();
    let text = "x".repeat(1_000);
    let (mut prev, mut page) = ("GENESIS".to_owned(), Vec::new());
    for n in 0..rows {
        let (values, hash) = row(n, &prev, &text);
        page.push(values);
        if n % 10 > 0 || n == 0 {
            prev = hash;
        }
        if page.len() == 1_000 {
            let sql = format!("INSERT INTO audit_logs VALUES {}", page.join(","));
            connection.execute(AssertSqlSafe(sql)).await.unwrap();
            page.clear();
        }
    }
    assert!(page.is_empty());
}

/// Memory does not grow with the content of 100,000 rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_log_is_streamed() {
    if !is_alone("log::a_large_log_is_streamed") {
        return;
    }
    const ROWS: u32 = 100_000;
    let original = original!("clean");
    fill(&original, ROWS).await;
    let place = place();
    let kms = place.open().await;
    let session = admin(&kms);
    let (memory, start) = (Memory::measure(), std::time::Instant::now());
    let log = log_of(import(&kms, &original, &ImportJob::default()).await);
    let grown = memory.grown();
    eprintln!("{ROWS} rows in {:?}, {grown} KiB more memory", start.elapsed());
    assert_eq!((log.rows, log.current_format), (u64::from(ROWS), u64::from(ROWS)));
    assert_eq!(log.forks.count, u64::from(ROWS / 10) - 1);
    assert!(grown < 90 * 1_024, "{grown} KiB for rows of 130 MB");
    let start = std::time::Instant::now();
    let report = session.verify_audit().await.unwrap();
    assert!(report.ok && report.imported == [log], "{:?}", report.faults);
    eprintln!("verified in {:?}", start.elapsed());
    kms.close().await.unwrap();
}

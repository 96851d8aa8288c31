//! Tests of the indexes of the log. In SQLite they are tables of our own: verification, backups and lists detect
//! missing entries, and altered ones stop no commit. On servers they are indexes of the engine.

use super::schema::prepared;
use crate::common::{Place, actor, admin, code, engine};
use kms_lib::{AuditQuery, Context, ErrorCode, Fault, Finding, Kms, Paging, Report, Role, Session};

/// An index of the log lacks records: neither a list nor a verification misses that.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_lacks_records_hides_none() {
    let place = Place::in_a_file();
    prepared(&place).await;
    let kms = place.open().await;
    let app = kms.session(actor("app", Role::App));
    let none = Context::new();
    for _ in 0..20 {
        let encryptions = (0..60).map(|_| app.encrypt("k", b"x", &none));
        assert!(futures_util::future::join_all(encryptions).await.iter().all(Result::is_ok));
    }
    let session = admin(&kms);
    assert!(session.verify_audit().await.unwrap().ok);
    let key = session.get_key("k").await.unwrap().id;
    for (index, query) in [("audit_actors", AuditQuery::new().actor("app")), ("audit_keys", AuditQuery::new().key(key))]
    {
        for lacking in ["seq < 1000000", "seq <= 1000", "seq IN (20, 21)"] {
            place.tamper(&format!("CREATE TABLE kept AS SELECT * FROM {index} WHERE {lacking}")).await;
            place.tamper(&format!("DELETE FROM {index} WHERE {lacking}")).await;
            for ascending in [true, false] {
                let mut query = query.clone();
                query.oldest_first = ascending;
                let paging = Paging::new(1_000);
                let listed = listed(&session, &query, paging).await;
                assert_eq!(listed.unwrap_err(), ErrorCode::StoreCorrupt, "{index} {lacking}");
            }
            let report = session.verify_audit().await.unwrap();
            let text = report.faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            assert!(!report.ok && text.contains(index), "{index} {lacking}: {text}");
            let to = place.folder.path().join("backup.db");
            let backed_up = kms.session(actor("alice", Role::Admin)).backup(&to).await;
            assert_eq!(code(backed_up), ErrorCode::IntegrityFailure, "{index} {lacking}");
            place.tamper(&format!("INSERT INTO {index} SELECT * FROM kept")).await;
            place.tamper("DROP TABLE kept").await;
        }
        // An entry without its record has no effect on lists, and is found.
        let column = if index == "audit_keys" { "key_id" } else { "actor" };
        place
            .tamper(&format!(
                "INSERT INTO {index} ({column}, seq) SELECT {column}, seq + 5000000 FROM {index} WHERE seq = 20"
            ))
            .await;
        listed(&session, &query, Paging::new(1_000)).await.unwrap();
        assert_eq!(surplus(&session.verify_audit().await.unwrap()), [(index.to_owned(), 1)]);
        place.tamper(&format!("DELETE FROM {index} WHERE seq > 5000000")).await;
        assert!(session.verify_audit().await.unwrap().ok);
    }
    kms.close().await.unwrap();
}

/// The tables of the report's surplus rows, and the numbers of these rows.
fn surplus(report: &Report) -> Vec<(String, u64)> {
    let counts = report.faults.iter().map(|fault| match &fault.finding {
        Finding::SurplusRows { table, count } => (table.clone(), *count),
        other => panic!("{other:?}"),
    });
    counts.collect()
}

/// Rows in the indexes of the log for records to come: the ledger goes on when it gets to them, and both verification
/// and lists are right before and after that.
#[tokio::test(flavor = "multi_thread")]
async fn planted_index_rows_stop_no_commit() {
    let place = Place::in_a_file();
    prepared(&place).await;
    let kms = place.open().await;
    let (session, none) = (admin(&kms), Context::new());
    let key = session.get_key("k").await.unwrap().id;
    let next = place.number("SELECT seq + 1 FROM audit_head").await;
    let numbers: Vec<i64> = (next..next + 1_024).collect();
    for (table, column, value) in [("audit_actors", "actor", "actor"), ("audit_keys", "key_id", "key_id")] {
        for part in numbers.chunks(256) {
            let rows: Vec<String> = part.iter().map(|seq| format!("SELECT {seq} AS seq")).collect();
            place
                .tamper(&format!(
                    "INSERT INTO {table} ({column}, seq) SELECT t.{value}, n.seq FROM ({}) AS n, audit_logs AS t
                     WHERE t.seq = (SELECT MAX(seq) FROM audit_logs WHERE actor = 'alice' AND key_id IS NOT NULL)",
                    rows.join(" UNION ALL ")
                ))
                .await;
        }
    }
    let report = session.verify_audit().await.unwrap();
    assert_eq!(surplus(&report).len(), 2, "{report:?}");
    for _ in 0..25 {
        let encryptions = (0..60).map(|_| session.encrypt("k", b"x", &none));
        assert!(futures_util::future::join_all(encryptions).await.iter().all(Result::is_ok));
    }
    session.revoke_key("k").await.unwrap();
    assert!(place.number("SELECT indexed FROM audit_head").await >= next + 1_024);
    // The rows are those of the records now, except for two kinds of records that are not about the key.
    let of_key = place.number("SELECT COUNT(*) FROM audit_logs WHERE key_id IS NOT NULL").await;
    let by_key = listed(&session, &AuditQuery::new().key(key), Paging::new(1_000)).await.unwrap();
    assert_eq!(by_key, usize::try_from(of_key).unwrap());
    let report = session.verify_audit().await.unwrap();
    assert!(report.faults.iter().all(|fault| matches!(&fault.finding, Finding::SurplusRows { .. })), "{report:?}");
    // Among entries without a record, pages are shorter, and nothing is left out.
    let query = AuditQuery::new().actor("app");
    let expected = listed(&session, &query, Paging::new(1_000)).await.unwrap();
    place
        .tamper(
            "INSERT INTO audit_actors (actor, seq) SELECT 'app', seq FROM audit_logs
             WHERE actor <> 'app' AND seq < 999",
        )
        .await;
    for (query, limit) in [(query.clone(), 7), (query.clone().oldest_first(), 7), (query, 1_000)] {
        assert_eq!(listed(&session, &query, Paging::new(limit)).await, Ok(expected), "{limit}");
    }
    kms.close().await.unwrap();
}

/// The position of the indexes is altered: lists miss nothing that the nearest records show, verification finds the
/// records that the indexes lack, and an impossible position makes the ledger add all records again.
#[tokio::test(flavor = "multi_thread")]
async fn an_altered_position_of_the_indexes() {
    let place = Place::in_a_file();
    prepared(&place).await;
    let kms = place.open().await;
    let (session, none) = (admin(&kms), Context::new());
    let encrypt = async |times: usize| {
        for _ in 0..times {
            session.encrypt("k", b"x", &none).await.unwrap();
        }
    };
    encrypt(150).await;
    let count = async || listed(&session, &AuditQuery::new().actor("alice"), Paging::new(1_000)).await;
    let indexed = place.number("SELECT indexed FROM audit_head").await;
    let size = place.number("SELECT seq FROM audit_head").await;
    assert!(0 < indexed && indexed < size, "{indexed} of {size}");
    let expected = count().await.unwrap();
    // The indexes lack the records up to the altered position.
    place.tamper("UPDATE audit_head SET indexed = seq").await;
    assert_eq!(count().await.unwrap_err(), ErrorCode::StoreCorrupt);
    let report = session.verify_audit().await.unwrap();
    let is_lacking = |fault: &Fault| matches!(fault.finding, Finding::IndexIncomplete { .. });
    assert!(!report.ok && report.faults.iter().all(is_lacking), "{report:?}");
    // The repair that docs/operations.md describes, and a position that cannot be.
    for repair in [
        "DELETE FROM audit_keys; DELETE FROM audit_actors; UPDATE audit_head SET indexed = 0",
        "UPDATE audit_head SET indexed = seq + 1000000",
        "UPDATE audit_head SET indexed = -1",
    ] {
        place.tamper(repair).await;
        assert!(count().await.unwrap() >= expected, "{repair}");
        encrypt(1).await;
        let size = place.number("SELECT seq FROM audit_head").await;
        assert_eq!(place.number("SELECT indexed FROM audit_head").await, size.min(129), "{repair}");
        // Entries that were there before count as surplus until the position is beyond them.
        while place.number("SELECT indexed FROM audit_head").await < size {
            encrypt(16).await;
        }
        let report = session.verify_audit().await.unwrap();
        assert!(report.ok, "{repair}: {report:?}");
    }
    kms.close().await.unwrap();
}

/// Gives a store on a server the schema of before its engine kept the indexes of the log; its version is not changed.
pub async fn undo_log_indexes(place: &Place) {
    let statements: &[&str] = match engine::name().as_str() {
        "postgres" => &[
            "DROP INDEX audit_logs_key_id; DROP INDEX audit_logs_actor",
            "CREATE TABLE audit_keys (key_id BYTEA NOT NULL, seq BIGINT NOT NULL, PRIMARY KEY (key_id, seq))",
            "CREATE TABLE audit_actors (actor TEXT COLLATE \"C\" NOT NULL, seq BIGINT NOT NULL,
             PRIMARY KEY (actor, seq))",
        ],
        "mysql" => &[
            "DROP INDEX audit_logs_key_id ON audit_logs; DROP INDEX audit_logs_actor ON audit_logs",
            "CREATE TABLE audit_keys (key_id VARBINARY(64) NOT NULL, seq BIGINT NOT NULL, PRIMARY KEY (key_id, seq))",
            "CREATE TABLE audit_actors (actor VARBINARY(512) NOT NULL, seq BIGINT NOT NULL,
             PRIMARY KEY (actor, seq))",
        ],
        _ => &[],
    };
    for statement in statements {
        place.tamper(statement).await;
    }
}

/// A store on a server whose indexes of the log are tables is migrated. Where the engine keeps the indexes, lists do
/// not depend on the position in the head.
#[tokio::test(flavor = "multi_thread")]
async fn servers_keep_the_indexes_themselves() {
    let place = Place::new();
    if place.is_a_file() {
        return;
    }
    prepared(&place).await;
    undo_log_indexes(&place).await;
    for sql in [
        "INSERT INTO audit_actors SELECT actor, seq FROM audit_logs WHERE seq < 6",
        "UPDATE audit_head SET indexed = 5",
        "UPDATE kms_schema SET version = 2",
    ] {
        place.tamper(sql).await;
    }
    let kms = place.open().await;
    let session = admin(&kms);
    let key = session.get_key("k").await.unwrap().id;
    let counts = async || {
        let query = "SELECT COUNT(*) FROM audit_logs WHERE";
        let by_actor = place.number(&format!("{query} actor = 'alice'")).await;
        let by_key = place.number(&format!("{query} key_id IS NOT NULL")).await;
        (by_actor, by_key)
    };
    for position in ["indexed", "0", "seq", "seq + 1000000", "-1"] {
        place.tamper(&format!("UPDATE audit_head SET indexed = {position}")).await;
        let (by_actor, by_key) = counts().await;
        for (query, expected) in [(AuditQuery::new().actor("alice"), by_actor), (AuditQuery::new().key(key), by_key)] {
            for query in [query.clone(), query.oldest_first()] {
                for limit in [7, 1_000] {
                    let found = listed(&session, &query, Paging::new(limit)).await.unwrap();
                    assert_eq!(i64::try_from(found).unwrap(), expected, "{position} {query:?}");
                }
            }
        }
        let report = session.verify_audit().await.unwrap();
        assert!(report.ok && report.warnings.is_empty(), "{position}: {report:?}");
        session.encrypt("k", b"x", &Context::new()).await.unwrap();
        assert_eq!(place.number("SELECT seq - indexed FROM audit_head").await, 0, "{position}");
    }
    assert!(!place.try_tamper("SELECT 1 FROM audit_actors").await, "the table is gone");
    kms.close().await.unwrap();
}

/// A database with foreign tables that have the names of former ones is refused, and left as it is.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_tables_are_not_dropped() {
    for table in ["audit_keys", "audit_actors", "audit_logs"] {
        let place = Place::new();
        if place.is_a_file() {
            return;
        }
        place.tamper(&format!("CREATE TABLE {table} (id BIGINT NOT NULL PRIMARY KEY)")).await;
        place.tamper(&format!("INSERT INTO {table} (id) VALUES (7)")).await;
        let error = Kms::open(place.config()).await.err().unwrap();
        assert!(error.code() == ErrorCode::StoreCorrupt && error.message().contains("empty database"), "{error}");
        assert_eq!(place.number(&format!("SELECT id FROM {table}")).await, 7, "{table}");
    }
}

/// On PostgreSQL the operator can create the indexes before the migration, without keeping the nodes from writing. An
/// index that is another one is refused.
#[tokio::test(flavor = "multi_thread")]
async fn indexes_that_exist_before_the_migration() {
    if engine::name() != "postgres" {
        return;
    }
    for (columns, is_right) in [("(actor, seq)", true), ("(actor)", false)] {
        let place = Place::new();
        prepared(&place).await;
        undo_log_indexes(&place).await;
        place.tamper("UPDATE kms_schema SET version = 2").await;
        place.tamper("CREATE INDEX CONCURRENTLY audit_logs_key_id ON audit_logs (key_id, seq)").await;
        place.tamper(&format!("CREATE INDEX CONCURRENTLY audit_logs_actor ON audit_logs {columns}")).await;
        let opened = Kms::open(place.config()).await;
        assert_eq!(opened.is_ok(), is_right, "{columns}");
        if let Ok(kms) = opened {
            assert!(admin(&kms).verify_audit().await.unwrap().ok);
            kms.close().await.unwrap();
        }
    }
}

/// The migration of a large store may take longer than the server's limit for other statements (15 s).
#[tokio::test(flavor = "multi_thread")]
async fn a_long_migration_is_not_cut_off() {
    if engine::name() != "postgres" || std::env::var("KMS_TEST_MODE").as_deref() != Ok("full") {
        return;
    }
    let place = Place::new();
    prepared(&place).await;
    undo_log_indexes(&place).await;
    for sql in [
        "UPDATE kms_schema SET version = 2",
        "CREATE FUNCTION slow() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(16); END'",
        "CREATE EVENT TRIGGER slow ON ddl_command_start WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION slow()",
    ] {
        place.tamper(sql).await;
    }
    let kms = place.open().await;
    assert!(admin(&kms).verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// The number of records of a list, page by page.
async fn listed(session: &Session, query: &AuditQuery, mut paging: Paging) -> Result<usize, ErrorCode> {
    let mut count = 0;
    loop {
        let page = session.list_audit(query, &paging).await.map_err(|error| error.code())?;
        count += page.items.len();
        match page.next_cursor {
            Some(cursor) => paging.cursor = Some(cursor),
            None => return Ok(count),
        }
    }
}

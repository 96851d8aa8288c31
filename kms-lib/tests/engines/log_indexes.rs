//! Tests of the indexes of the log, which are tables of our own: verification, backups and lists detect missing
//! entries, and altered ones stop no commit.

use super::schema::prepared;
use crate::common::{Place, actor, admin, code};
use kms_lib::{AuditQuery, Context, ErrorCode, Fault, Finding, Paging, Report, Role, Session};

/// An index of the log lacks records: neither a list nor a verification misses that.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_lacks_records_hides_none() {
    let place = Place::new();
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
            if place.is_a_file() {
                let to = place.folder.path().join("backup.db");
                let backed_up = kms.session(actor("alice", Role::Admin)).backup(&to).await;
                assert_eq!(code(backed_up), ErrorCode::IntegrityFailure, "{index} {lacking}");
            }
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
    let place = Place::new();
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
    let place = Place::new();
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

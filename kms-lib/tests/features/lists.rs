//! Tests of lists of a long log: the work per page is bounded, and nothing is left out.

use crate::common::{Place, actor, admin};
use kms_lib::{Action, AuditQuery, AuditRecord, Context, EncryptItem, NewKey, Paging, Role, Session, Status};

/// Number of added records; more than three times what one page examines.
const FILLING: u64 = 65_000;

/// Returns all records of a list and the number of its pages.
async fn pages(session: &Session, query: &AuditQuery, limit: usize) -> (Vec<AuditRecord>, usize) {
    let (mut paging, mut records, mut pages) = (Paging::new(limit), Vec::new(), 0);
    loop {
        let page = session.list_audit(query, &paging).await.unwrap();
        assert!(page.items.len() <= limit);
        records.extend(page.items);
        pages += 1;
        match page.next_cursor {
            Some(cursor) => paging.cursor = Some(cursor),
            None => return (records, pages),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_few_records_pass() {
    let place = Place::in_a_file();
    let kms = place.open().await;
    let session = admin(&kms);
    let key = session.create_key(NewKey::aes("k")).await.unwrap().id;
    let wanted = kms.session(actor("alice", Role::Admin).with_request_id("wanted").unwrap());
    wanted.encrypt("k", b"x", &Context::new()).await.unwrap();
    kms.close().await.unwrap();
    // Lists do not verify the log, so copied rows are enough to make it long.
    let size = place.number("SELECT MAX(seq) FROM audit_logs").await;
    let columns = "timestamp, actor, role, action, status, request_id, key_id, key_version, details, hash, format";
    place
        .tamper(&format!(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {FILLING})
             INSERT INTO audit_logs (seq, {columns}) SELECT {size} + n, {} FROM n, audit_logs WHERE seq = {size}",
            columns.replace("request_id", "'filling'")
        ))
        .await;
    let kms = place.open().await;
    let session = admin(&kms);
    for query in [
        AuditQuery::new().request_id("wanted"),
        AuditQuery::new().request_id("wanted").key(key),
        AuditQuery::new().request_id("wanted").actor("alice").status(Status::Success),
        AuditQuery::new().request_id("wanted").action(Action::Encrypt).key(key).actor("alice"),
        AuditQuery::new().request_id("nothing"),
        AuditQuery::new().action(Action::KeyCreate),
    ] {
        for (query, limit) in [(query.clone(), 10), (query.clone().oldest_first(), 10), (query, 1)] {
            let (found, pages) = pages(&session, &query, limit).await;
            let expected = usize::from(query.request_id.as_deref() != Some("nothing"));
            assert_eq!(found.len(), expected, "{query:?}");
            // A page examines 20,000 records.
            assert!((4..=6).contains(&pages), "{pages} {query:?}");
        }
    }
    // If the next records match, every page is full.
    let page = session.list_audit(&AuditQuery::new().key(key), &Paging::new(1_000)).await.unwrap();
    assert_eq!(page.items.len(), 1_000);
    let (found, _) = pages(&session, &AuditQuery::new().request_id("filling").key(key), 1_000).await;
    assert_eq!(found.len() as u64, FILLING);
    assert!(found.is_sorted_by_key(|record| std::cmp::Reverse(record.seq)));
    kms.close().await.unwrap();
}

/// Lists by key and by actor have every record, before and after the end of the indexes, with any order and page.
#[tokio::test(flavor = "multi_thread")]
async fn lists_around_the_end_of_the_indexes() {
    let place = Place::new();
    let kms = place.open().await;
    let (alice, bob) = (admin(&kms), kms.session(actor("bob", Role::Admin)));
    let none = Context::new();
    let (one, two) =
        (alice.create_key(NewKey::aes("one")).await.unwrap().id, bob.create_key(NewKey::aes("two")).await.unwrap().id);
    for size in [100, 126, 127, 128, 129, 255, 256, 1_000, 2_300] {
        let mut n = alice.checkpoint().await.unwrap().lines().nth(1).unwrap().parse::<u64>().unwrap();
        while n < size {
            let count = (size - n).min(48);
            let calls = (n..n + count).map(|n| {
                let (session, key) = (if n % 3 == 0 { &alice } else { &bob }, if n % 7 == 0 { one } else { two });
                session.encrypt(key, b"x", &none)
            });
            assert!(futures_util::future::join_all(calls).await.iter().all(Result::is_ok));
            n += count;
        }
        let (all, _) = pages(&alice, &AuditQuery::new().oldest_first(), 1_000).await;
        assert_eq!(all.len() as u64, size);
        let by = |of: &dyn Fn(&AuditRecord) -> bool| -> Vec<u64> {
            all.iter().filter(|record| of(record)).map(|record| record.seq).collect()
        };
        for (query, expected) in [
            (AuditQuery::new().key(one), by(&|record| record.key_id == Some(one))),
            (AuditQuery::new().key(two).actor("bob"), by(&|r| r.key_id == Some(two) && r.actor == "bob")),
            (AuditQuery::new().actor("alice"), by(&|record| record.actor == "alice")),
            (AuditQuery::new().actor("bob").action(Action::KeyCreate), vec![3]),
            (AuditQuery::new().actor("nobody"), vec![]),
        ] {
            for limit in [7, 1_000] {
                let (found, _) = pages(&alice, &query.clone().oldest_first(), limit).await;
                assert_eq!(found.iter().map(|record| record.seq).collect::<Vec<_>>(), expected, "{query:?} {size}");
                assert!(found.iter().all(|record| all.contains(record)));
                let (mut found, _) = pages(&alice, &query, limit).await;
                found.reverse();
                assert_eq!(found.iter().map(|record| record.seq).collect::<Vec<_>>(), expected, "{query:?} {size}");
            }
        }
    }
    assert!(alice.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// Several nodes and batches of any size: the indexes follow the log, and have each record once.
#[tokio::test(flavor = "multi_thread")]
async fn the_indexes_follow_the_log() {
    let place = Place::in_a_file();
    let nodes = [place.open().await, place.open().await];
    let none = Context::new();
    admin(&nodes[0]).create_key(NewKey::aes("k")).await.unwrap();
    for (round, size) in [1, 60, 1_000, 3, 1_000, 127, 1, 1, 500, 128, 40].into_iter().enumerate() {
        let session = admin(&nodes[round % 2]);
        let items = vec![EncryptItem::new("k", b"x", none.clone()); size];
        let (one, more) = (session.encrypt_batch(&items), session.encrypt_batch(&items[..size / 2]));
        let (one, more) = futures_util::future::join(one, more).await;
        assert!(one.unwrap().iter().all(Result::is_ok) && (size < 2 || more.unwrap().iter().all(Result::is_ok)));
        let lacking = place.number("SELECT seq - indexed FROM audit_head").await;
        assert!((0..128).contains(&lacking), "{lacking} after {size}");
        let entries = place.number("SELECT COUNT(*) FROM audit_actors").await;
        assert_eq!(entries, place.number("SELECT indexed FROM audit_head").await);
    }
    for kms in nodes {
        assert!(admin(&kms).verify_audit().await.unwrap().ok);
        kms.close().await.unwrap();
    }
}

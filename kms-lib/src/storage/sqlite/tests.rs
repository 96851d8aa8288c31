#![allow(clippy::unwrap_used)]

use super::*;

/// A query that takes minutes.
const LONG: &str =
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000000000) SELECT COUNT(*) FROM n";

async fn count(store: &SqliteStore, sql: &'static str) -> Result<i64> {
    let mut reader = store.long_reader().await?;
    let mut count = 0;
    reader
        .query(sql.into(), vec![], &mut |row| {
            count = row.int(0)?;
            Ok(())
        })
        .await?;
    Ok(count)
}

/// A caller that drops a long read leaves nothing behind for which others would have to wait.
#[tokio::test(flavor = "multi_thread")]
async fn long_reads_that_are_given_up_end() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(&folder.path().join("kms.db")).await.unwrap());
    for _ in 0..2 {
        let reads: Vec<_> = (0..READERS)
            .map(|_| {
                let store = store.clone();
                tokio::spawn(async move { count(&store, LONG).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(100)).await;
        for read in &reads {
            assert!(!read.is_finished());
            read.abort();
        }
        // All connections can be used again, including those that were interrupted.
        let others: Vec<_> = (0..4 * READERS)
            .map(|_| {
                let store = store.clone();
                tokio::spawn(async move { count(&store, "SELECT COUNT(*) FROM sqlite_schema").await })
            })
            .collect();
        for other in others {
            assert_eq!(other.await.unwrap().unwrap(), 0);
        }
    }
    tokio::time::timeout(Duration::from_secs(10), store.close()).await.unwrap().unwrap();
}

/// A load that is given up ends at its next row, and a loading connection writes nothing.
#[tokio::test]
async fn loads_that_are_given_up_end() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("kms.db")).await.unwrap();
    let given_up = Arc::new(AtomicBool::new(false));
    let mut loader = store.loader(Arc::clone(&given_up)).await.unwrap();
    let created = loader.query("CREATE TABLE other (id)".into(), vec![], &mut |_| Ok(())).await;
    assert_eq!(created.unwrap_err().code(), ErrorCode::StoreReadOnly);
    let mut rows = 0;
    let mut third = |_: &dyn crate::storage::Row| {
        rows += 1;
        given_up.store(rows == 3, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    };
    let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) SELECT i FROM n";
    let error = loader.query(sql.into(), vec![], &mut third).await.unwrap_err();
    assert_eq!((error.code(), rows), (ErrorCode::Closed, 3));
    loader.close().await.unwrap();
    store.close().await.unwrap();
}

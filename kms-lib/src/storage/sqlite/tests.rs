#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};

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
        given_up.store(rows == 3, Ordering::Relaxed);
        Ok(())
    };
    let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) SELECT i FROM n";
    let error = loader.query(sql.into(), vec![], &mut third).await.unwrap_err();
    assert_eq!((error.code(), rows), (ErrorCode::Closed, 3));
    loader.close().await.unwrap();
    store.close().await.unwrap();
}

/// However fast rows arrive, other tasks of the thread get turns between them.
#[tokio::test]
async fn long_results_let_other_tasks_run() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("kms.db")).await.unwrap();
    let turns = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&turns);
    let other = tokio::spawn(async move {
        loop {
            counter.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    let mut reader = store.long_reader().await.unwrap();
    let (mut last, mut run, mut longest) = (0, 0, 0);
    let mut count = |_: &dyn crate::storage::Row| {
        // Slower than the rows arrive.
        let until = std::time::Instant::now() + Duration::from_micros(20);
        while std::time::Instant::now() < until {}
        let now = turns.load(Ordering::Relaxed);
        run = if now == last { run + 1 } else { 0 };
        last = now;
        longest = longest.max(run);
        Ok(())
    };
    let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) SELECT i FROM n";
    reader.query(sql.into(), vec![], &mut count).await.unwrap();
    assert!(longest < 256, "{longest} rows without a turn of the other task");
    other.abort();
    drop(reader);
    store.close().await.unwrap();
}

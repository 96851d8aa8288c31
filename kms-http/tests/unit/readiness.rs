//! Unit tests of `src/api/ops.rs`.

use super::*;
use kms_lib::RootKeyHealth;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;

#[tokio::test]
async fn a_cancelled_check_is_shared_with_other_callers() {
    let (readiness, looks) =
        (Readiness { fresh: Duration::MAX, ..Readiness::default() }, Arc::new(AtomicUsize::new(0)));
    let readiness = Arc::new(readiness);
    let (begun, go_on) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let look = || {
        let (readiness, looks) = (Arc::clone(&readiness), Arc::clone(&looks));
        let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
        tokio::spawn(async move {
            let ask = || async move {
                looks.fetch_add(1, Ordering::SeqCst);
                begun.add_permits(1);
                go_on.acquire().await.expect("open").forget();
                Ok(Ready { root_key: RootKeyHealth::Ok })
            };
            readiness.look(ask).await
        })
    };
    let first = look();
    begun.acquire().await.expect("open").forget();
    first.abort();
    assert!(first.await.expect_err("gone").is_cancelled());
    let others: Vec<_> = (0..100).map(|_| look()).collect();
    go_on.add_permits(1);
    for other in others {
        other.await.expect("an answer").expect("ready");
    }
    assert_eq!(looks.load(Ordering::SeqCst), 1);
}

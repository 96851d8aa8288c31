//! Tests of the commits that add the counters of the head to their tables and records to the indexes of the log, if the
//! commit does not take place or its outcome is unknown.

use std::sync::atomic::Ordering;

use super::{Faults, open, size};
use crate::session::{Session, Shared};
use crate::storage::tables::{head, usage};
use crate::types::audit::Head;
use crate::types::key::VersionUsage;
use crate::{Context, ErrorCode, Result};

/// The counters of the head are added to their tables for every 1,024 records.
const EMPTIED_AT: u64 = 1_024;
/// The number of records that the indexes lack when a commit adds records to them.
const INDEXED_AT: u64 = 128;

async fn head_of(shared: &Shared) -> Head {
    let mut connection = shared.store.reader().await.unwrap();
    head::read(connection.as_mut()).await.unwrap().unwrap()
}

/// The uses of the key's first version, as its row says.
async fn row_of(shared: &Shared, session: &Session) -> VersionUsage {
    let version = (session.get_key("k").await.unwrap().id, 1);
    let mut connection = shared.store.reader().await.unwrap();
    usage::usage_of(connection.as_mut(), &[version]).await.unwrap()[&version]
}

async fn encrypt(session: &Session) -> Result<u64> {
    session.encrypt("k", b"x", &Context::new()).await.map(|sealed| sealed.receipt.seq)
}

/// Compares every place where encryptions are counted with the number of those that succeeded.
async fn check(session: &Session, made: u64) {
    assert_eq!(session.get_version("k", 1).await.unwrap().encryptions, Some(made));
    assert_eq!(session.metrics().await.unwrap().usage.encryptions_last24h, made);
}

/// Encrypts once, after a commit that did not take place, and with a commit whose response is lost.
async fn encrypt_with_faults(session: &Session, faults: &Faults, made: u64) {
    faults.lose_commits.store(1, Ordering::SeqCst);
    assert_eq!(encrypt(session).await.unwrap_err().code(), ErrorCode::StoreUnavailable);
    check(session, made).await;
    faults.lose_answer.store(true, Ordering::SeqCst);
    encrypt(session).await.unwrap();
    assert!(!faults.lose_answer.load(Ordering::SeqCst));
    check(session, made + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_empty_counters_or_add_to_indexes_take_effect_once() {
    let folder = tempfile::tempdir().unwrap();
    let (shared, session, faults) = open(&folder.path().join("kms.db")).await;
    let mut made = 0;
    while head_of(&shared).await.seq < EMPTIED_AT - 60 {
        let calls: Vec<_> = (0..48).map(|_| encrypt(&session)).collect();
        made += futures_util::future::join_all(calls).await.into_iter().filter(Result::is_ok).count() as u64;
    }
    let (mut emptied, mut indexed) = (0, 0);
    while emptied == 0 || indexed == 0 {
        let head = head_of(&shared).await;
        let empties = (head.seq + 1).is_multiple_of(EMPTIED_AT);
        let indexes = head.seq + 1 >= head.indexed + INDEXED_AT;
        if empties || indexes {
            encrypt_with_faults(&session, &faults, made).await;
        } else {
            encrypt(&session).await.unwrap();
        }
        made += 1;
        let after = head_of(&shared).await;
        assert_eq!((after.seq, after.indexed > head.indexed), (head.seq + 1, indexes));
        assert_eq!(after.tallies.versions.is_empty(), empties);
        if empties {
            assert_eq!(row_of(&shared, &session).await.encryptions, made);
        }
        (emptied, indexed) = (emptied + usize::from(empties), indexed + usize::from(indexes));
        assert!(after.seq < 2 * EMPTIED_AT);
    }
    // Verification compares the indexes with the records.
    size(&session).await;
    check(&session, made).await;
}

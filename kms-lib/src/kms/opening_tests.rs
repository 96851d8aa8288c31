//! A store opens whatever another process changes meanwhile.

#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::sync::Arc;

use super::open::open;
use crate::envelope::RootKeySource;
use crate::ledger::tests::{Faults, open_with};
use crate::session::{NewKey, Session, Shared};
use crate::{Actor, Config, Context, RetireOptions, Role, RootKeyJob};

fn admin(shared: &Arc<Shared>) -> Session {
    Session::new(Arc::clone(shared), Actor::new("alice", Role::Admin).unwrap())
}

/// Opens a store again and again, each time with a change of another process before the next one of the queries that
/// opening makes, until all of them have been interrupted. Each change gets the number of the query.
async fn open_amid<F: Future<Output = ()> + Send + 'static>(
    config: impl Fn(&str) -> Config,
    change: impl Fn(Session, u32) -> F,
) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let config = config(&format!("sqlite:{}", file.display()));
    let elsewhere = open(config.clone()).await.unwrap();
    admin(&elsewhere).create_key(NewKey::aes("k")).await.unwrap();
    for query in 0.. {
        let faults = Arc::new(Faults::default());
        faults.interrupt(query, change(admin(&elsewhere), query));
        let shared = open_with(config.clone(), &file, &faults).await;
        let shared = shared.unwrap_or_else(|error| panic!("interrupted before query {query}: {error}"));
        if faults.is_uninterrupted() {
            assert!(query > 10, "opening makes only {query} queries");
            return;
        }
        admin(&shared).encrypt("k", b"x", &Context::new()).await.unwrap();
        shared.store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_opens_while_its_signing_key_is_replaced() {
    let replace = |session: Session, _| async move {
        session.replace_signing_key().await.unwrap();
    };
    open_amid(|url| Config::new(url).root_key_bytes([7; 32]), replace).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_opens_while_its_integrity_key_is_replaced() {
    let replace = |session: Session, query| async move {
        session.replace_integrity_key().await.unwrap();
        session.create_key(NewKey::aes(format!("k{query}"))).await.unwrap();
        session.rotate_key("k", None).await.unwrap();
    };
    open_amid(|url| Config::new(url).root_key_bytes([7; 32]), replace).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_opens_while_its_root_key_is_replaced() {
    const FIRST: u8 = 1;
    let config = |url: &str| {
        let first = Config::new(url).root_key_bytes([FIRST; 32]);
        (FIRST + 1..200).fold(first, |config, byte| config.add_root_key_bytes([byte; 32]))
    };
    let replace = |session: Session, query: u32| async move {
        let next = RootKeySource::from_bytes([FIRST + 1 + u8::try_from(query).unwrap(); 32]);
        let added = session.add_root_key(&next).await.unwrap().generation;
        assert!(session.rewrap(&RootKeyJob::default()).await.unwrap().is_complete());
        assert!(session.verify_root_key(added, &RootKeyJob::default()).await.unwrap().is_complete());
        session.retire_root_key(added - 1, &RetireOptions::default()).await.unwrap();
    };
    open_amid(config, replace).await;
}

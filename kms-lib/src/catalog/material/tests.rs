#![allow(clippy::unwrap_used)]

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::*;
use crate::envelope::{Derivation, LocalRootKey, RootKey, RootKeyFuture, RootKeySource};
use crate::session::{Session, Shared};
use crate::{Actor, Config, NewKey, Role};

/// More permits than any test needs.
const OPEN: usize = 1_000;

/// A slow root key that counts its unwrap calls.
struct Counting {
    inner: LocalRootKey,
    unwraps: AtomicUsize,
    /// The keys in the order in which they were unwrapped.
    order: Mutex<Vec<KeyId>>,
    /// Each unwrap call takes a permit when it ends.
    gate: Semaphore,
}

impl RootKey for Counting {
    fn generation(&self) -> u32 {
        self.inner.generation()
    }
    fn wrap<'a>(&'a self, binding: &'a Binding, plaintext: &'a [u8]) -> RootKeyFuture<'a, Vec<u8>> {
        self.inner.wrap(binding, plaintext)
    }
    fn unwrap<'a>(&'a self, binding: &'a Binding, wrapped: &'a [u8]) -> RootKeyFuture<'a, zeroize::Zeroizing<Vec<u8>>> {
        self.unwraps.fetch_add(1, SeqCst);
        if let Binding::Version { key, .. } = binding {
            self.order.lock().unwrap().push(*key);
        }
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            self.gate.acquire().await.unwrap().forget();
            self.inner.unwrap(binding, wrapped).await
        })
    }
}

/// A store with a given number of keys, and a cache of its own over a slow root key.
struct Place {
    shared: Arc<Shared>,
    versions: Vec<KeyVersion>,
    root: Arc<Counting>,
    cache: Arc<MaterialCache>,
    _folder: tempfile::TempDir,
}

impl Place {
    async fn new(keys: usize, turns: Fair) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("kms.db").display());
        let shared = crate::kms::open::open(Config::new(url).root_key_bytes([7; 32])).await.unwrap();
        let session = Session::new(shared.clone(), Actor::new("alice", Role::Admin).unwrap());
        let mut versions = Vec::new();
        for n in 0..keys {
            let key = session.create_key(NewKey::aes(format!("k{n}"))).await.unwrap();
            versions.push(shared.catalog.snapshot().version(key.id, 1).cloned().unwrap());
        }
        let source = RootKeySource::from_bytes([7; 32]);
        let inner = LocalRootKey::new(shared.provider.clone(), &source, &Derivation::None, 1).unwrap();
        let root = Arc::new(Counting { inner, unwraps: 0.into(), order: Mutex::default(), gate: Semaphore::new(OPEN) });
        let row = shared.catalog.snapshot().root_keys().next().cloned().unwrap();
        let cache = Arc::new(MaterialCache::new(
            shared.store.clone(),
            shared.provider.clone(),
            Envelope::new(shared.provider.clone(), row, root.clone()),
            (Workers::default(), turns),
            (10, Duration::from_millis(400)),
        ));
        Self { shared, versions, root, cache, _folder: folder }
    }

    fn get(&self, key: usize, principal: &'static str) -> JoinHandle<Result<()>> {
        let (cache, version) = (self.cache.clone(), self.versions[key].clone());
        tokio::spawn(async move { cache.get(&version, KeyType::Aes256Gcm, principal).await.map(drop) })
    }

    fn unwraps(&self) -> usize {
        self.root.unwraps.load(SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_cache_unwraps_once_for_all_who_wait() {
    let place = Place::new(1, Fair::new(LOADING.0, LOADING.1)).await;
    let calls: Vec<_> = (0..64).map(|_| place.get(0, "alice")).collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(place.unwraps(), 1);
    // Expired keys are freed, not only hidden, and are unwrapped again.
    tokio::time::sleep(Duration::from_millis(500)).await;
    place.cache.sweep();
    assert_eq!(place.cache.len(), 0);
    place.get(0, "alice").await.unwrap().unwrap();
    assert_eq!(place.unwraps(), 2);
    place.cache.forget(place.versions[0].key_id, 1);
    place.cache.sweep();
    assert_eq!(place.cache.len(), 0);
    assert_eq!(place.shared.catalog.snapshot().key_count(), 1);
}

/// A principal that loads many keys does not delay another principal, neither for another key nor for one of the same.
#[tokio::test(flavor = "multi_thread")]
async fn principals_take_turns_at_loading_keys() {
    const KEYS: usize = 24;
    let turns = Fair::new(2, 2);
    let place = Place::new(KEYS + 1, turns.clone()).await;
    place.root.gate.forget_permits(OPEN);
    let mut calls: Vec<_> = (0..KEYS).map(|key| place.get(key, "greedy")).collect();
    while turns.tasks_of("greedy") < KEYS {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let wanted = [KEYS, KEYS - 1];
    calls.extend(wanted.map(|key| place.get(key, "modest")));
    while turns.tasks_of("modest") < wanted.len() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    place.root.gate.add_permits(OPEN);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(place.unwraps(), KEYS + 1);
    let order = place.root.order.lock().unwrap().clone();
    for key in wanted {
        let at = order.iter().position(|unwrapped| *unwrapped == place.versions[key].key_id).unwrap();
        assert!(at < 8, "{at}");
    }
}

/// A loading is shared by all waiting callers: it does not end with the first, and is removed with the last.
#[tokio::test(flavor = "multi_thread")]
async fn those_who_join_a_loading_keep_it_alive() {
    let turns = Fair::new(1, 1);
    let place = Place::new(2, turns.clone()).await;
    let held = turns.turn("somebody").await;
    let first = place.get(0, "first");
    tokio::time::sleep(Duration::from_millis(20)).await;
    let (joined, gone) = (place.get(0, "second"), place.get(1, "third"));
    tokio::time::sleep(Duration::from_millis(20)).await;
    for given_up in [first, gone] {
        given_up.abort();
        assert!(given_up.await.is_err());
    }
    assert_eq!(place.cache.loading.lock().unwrap().len(), 1);
    drop(held);
    joined.await.unwrap().unwrap();
    assert_eq!(place.unwraps(), 1);
    assert!(place.cache.loading.lock().unwrap().is_empty());
    // A loading that has begun is completed, even if all callers drop their futures.
    let last = place.get(1, "first");
    while place.unwraps() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    last.abort();
    assert!(last.await.is_err());
    place.get(1, "second").await.unwrap().unwrap();
    assert_eq!(place.unwraps(), 2);
}

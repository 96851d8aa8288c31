//! The cache of unwrapped material, as ready keys of the cryptography provider: loading an RSA key takes most of the
//! time of a signature.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Catalog;
use super::ready_keys::{ReadyKey, ReadyKeys, VersionKey};
use crate::crypto::provider::Provider;
use crate::envelope::{Binding, Envelope, fingerprint};
use crate::fair::{Fair, Joint, Run};
use crate::storage::tables::entities;
use crate::storage::{Store, StoreFuture};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::key::{KeyType, KeyVersion, VersionState};
use crate::types::view::CatalogView;
use crate::workers::{Length, Workers};

#[cfg(test)]
mod tests;

/// In whose turn the computations of loading are done: no principal has an empty name. Callers take turns at loading
/// before.
const LOADER: &str = "";
/// The maximum number of keys that are loaded at a time, in all and for one principal. They are more than the store has
/// connections, because most of the time is spent waiting for a remote root key.
pub const LOADING: (usize, usize) = (64, 32);

/// Ready keys by key and version. Bounded in number and time; the provider wipes keys that are dropped.
pub struct MaterialCache {
    loader: Loader,
    ready: Arc<ReadyKeys>,
    loading: Arc<Mutex<Loading>>,
    /// The turns in which principals load keys.
    turns: Fair,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// The result of loading a version.
type Loaded = Result<Arc<ReadyKey>>;
/// The versions that are being loaded or wait for a turn.
type Loading = HashMap<VersionKey, Arc<Joint<Loaded>>>;

impl MaterialCache {
    /// An empty cache of at most `size` keys, each kept for `time_to_live`. Keys are loaded in these turns.
    pub fn new(
        store: Arc<dyn Store>,
        provider: Arc<dyn Provider>,
        envelope: Envelope,
        (workers, turns): (Workers, Fair),
        (size, time_to_live): (u64, Duration),
    ) -> Self {
        let ready = Arc::new(ReadyKeys::new(size, time_to_live));
        let (hits, misses, loading) = (AtomicU64::new(0), AtomicU64::new(0), Arc::default());
        Self { loader: Loader { store, provider, envelope, workers }, ready, loading, turns, hits, misses }
    }

    /// The ready key of a version, loaded in a turn of this principal if it is not cached. Concurrent callers for the
    /// same version share one loading, which begins in the first turn that one of them gets. Once begun, it runs to
    /// completion and its result is cached even if every caller has dropped its future, so that a call to a remote root
    /// key is made only once.
    pub async fn get(&self, version: &KeyVersion, key_type: KeyType, principal: &str) -> Loaded {
        let id = (version.key_id, version.version);
        if let Some(ready) = self.ready.get(&id) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(ready);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let waiting = self.wait_for(version, key_type);
        let ended = |_| Error::new(ErrorCode::Internal, "the loading of a key ended unexpectedly");
        waiting.joint.result(&self.turns, principal).await.map_err(ended)?
    }

    /// Joins the loading of a version, or starts one.
    fn wait_for(&self, version: &KeyVersion, key_type: KeyType) -> Waiting<'_> {
        let id = (version.key_id, version.version);
        let mut loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Joint::new(Run::ToItsEnd, self.load(version.clone(), key_type)));
        let joint = Arc::clone(loading.entry(id).or_insert_with(new));
        Waiting { loading: &self.loading, id, joint }
    }

    /// Loads a version and caches it.
    fn load(&self, version: KeyVersion, key_type: KeyType) -> impl Future<Output = Loaded> + Send + 'static {
        let (loader, ready, loading) = (self.loader.clone(), Arc::clone(&self.ready), Arc::clone(&self.loading));
        async move {
            let id = (version.key_id, version.version);
            // Removes the entry even if the loading panics.
            let _removed = Removed(loading, id);
            // Another loading may have ended since the caller checked the cache.
            if let Some(ready) = ready.get(&id) {
                return Ok(ready);
            }
            let loaded = loader.load(&version, key_type).await?;
            ready.insert(id, Arc::clone(&loaded));
            Ok(loaded)
        }
    }

    /// Drops a version from the cache.
    pub fn forget(&self, key: KeyId, version: u32) {
        self.ready.remove(&(key, version));
    }
    /// Drops all versions of a key from the cache.
    pub fn forget_key(&self, key: KeyId) {
        self.ready.ids().iter().filter(|id| id.0 == key).for_each(|id| self.ready.remove(id));
    }
    /// Drops the versions that may not be used as of this snapshot: those that are revoked, destroyed, missing or of a
    /// quarantined key, including changes by other processes and versions that were being loaded at the time.
    pub fn drop_unusable(&self, catalog: &Catalog) {
        let mut unusable = self.ready.ids();
        {
            let snapshot = catalog.snapshot();
            let is_over = |&(id, number): &VersionKey| {
                let state =
                    snapshot.key(id).zip(snapshot.version(id, number)).map(|(key, version)| key.state_of(version));
                snapshot.is_damaged(id) || !matches!(state, Some(VersionState::Enabled | VersionState::Disabled))
            };
            unusable.retain(is_over);
        }
        unusable.iter().for_each(|id| self.ready.remove(id));
        self.sweep();
    }
    /// Drops all keys. Nothing is cached from then on.
    pub fn clear(&self) {
        self.ready.close();
    }
    /// Frees the keys that have expired: they are not used any more, but key material must not stay in memory.
    pub fn sweep(&self) {
        self.ready.sweep();
    }
    /// Number of hits and misses.
    pub fn uses(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }
    /// Number of keys in the cache.
    pub fn len(&self) -> u64 {
        self.ready.len() as u64
    }
}

/// A caller that waits for a loading. The last one removes the loading if it has not begun.
struct Waiting<'a> {
    loading: &'a Mutex<Loading>,
    id: VersionKey,
    joint: Arc<Joint<Loaded>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        // Clones are made only under the lock, so a count of two means this clone and the one in the map.
        let is_last = Arc::strong_count(&self.joint) == 2 && !self.joint.has_begun();
        if is_last && loading.get(&self.id).is_some_and(|joint| Arc::ptr_eq(joint, &self.joint)) {
            loading.remove(&self.id);
        }
    }
}

/// Removes a loading when it ends, so that the next caller starts a new one.
struct Removed(Arc<Mutex<Loading>>, VersionKey);

impl Drop for Removed {
    fn drop(&mut self) {
        let removed = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
        // Dropped after the lock is released.
        drop(removed);
    }
}

/// Unwraps material and makes ready keys from it.
#[derive(Clone)]
struct Loader {
    store: Arc<dyn Store>,
    provider: Arc<dyn Provider>,
    envelope: Envelope,
    workers: Workers,
}

impl Loader {
    fn load<'a>(&'a self, version: &'a KeyVersion, key_type: KeyType) -> StoreFuture<'a, Arc<ReadyKey>> {
        Box::pin(async move {
            let mut connection = self.store.reader().await?;
            let material = entities::material(connection.as_mut(), version.key_id, version.version).await?;
            drop(connection);
            let wrapped = material.map(|material| material.wrapped).unwrap_or_default();
            if wrapped.is_empty() {
                return Err(altered("is missing"));
            }
            let binding = Binding::Version { key: version.key_id, version: version.version, key_type };
            let plaintext = self.envelope.unwrap(&binding, &wrapped).await?;
            // The sealed row has the fingerprint of the material, so material from another history of this version,
            // such as before a restore, is detected before it is used.
            if fingerprint(version.key_id, version.version, key_type, &plaintext)? != version.fingerprint {
                return Err(altered("does not match the fingerprint of its version"));
            }
            let ready = match key_type {
                KeyType::Aes256Gcm => {
                    let key = plaintext.as_slice().try_into().map_err(|_| altered("has the wrong length"))?;
                    ReadyKey::Aes(self.provider.aes(key)?)
                }
                KeyType::Rsa2048 => {
                    let provider = Arc::clone(&self.provider);
                    let make_ready = move || {
                        let private = provider.rsa_private(&plaintext)?;
                        let public = provider.rsa_public(&private.public_pem()?)?;
                        Ok(ReadyKey::Rsa { private, public })
                    };
                    // Not as the caller who asked first: all who wait for the key would wait for that caller's other
                    // work.
                    self.workers.run(LOADER, Length::Short, make_ready).await?
                }
            };
            Ok(Arc::new(ready))
        })
    }
}

fn altered(what: &str) -> Error {
    Error::new(ErrorCode::IntegrityFailure, format!("the stored material {what}"))
}

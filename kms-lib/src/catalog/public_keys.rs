//! Public keys of RSA versions, ready for use. They are not secret, so verifying a signature needs no root key.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashlink::LruCache;
use sha2::{Digest, Sha256};

use crate::crypto::provider::{Provider, RsaPublic};
use crate::fair::Fair;
use crate::storage::tables::entities;
use crate::storage::{Store, StoreFuture};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::key::KeyVersion;
use crate::workers::{Length, Workers};

/// A public key ready for use.
pub type PublicKey = Arc<dyn RsaPublic>;

/// A cache of public keys by their digest, which the sealed row of their version has. Bounded in number.
pub struct PublicKeys {
    store: Arc<dyn Store>,
    provider: Arc<dyn Provider>,
    workers: Workers,
    /// The turns in which principals load keys.
    turns: Fair,
    ready: Mutex<LruCache<[u8; 32], PublicKey>>,
}

impl PublicKeys {
    /// An empty cache of at most `size` keys, which are loaded in these turns.
    pub fn new(
        store: Arc<dyn Store>,
        provider: Arc<dyn Provider>,
        (workers, turns): (Workers, Fair),
        size: u64,
    ) -> Self {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Self { store, provider, workers, turns, ready: Mutex::new(LruCache::new(size)) }
    }

    fn ready(&self) -> MutexGuard<'_, LruCache<[u8; 32], PublicKey>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The public keys of these versions of one key, in the same order. Keys that are not cached are read together and
    /// loaded in a turn of this principal.
    pub async fn of(&self, versions: &[&KeyVersion], principal: &str) -> Result<Vec<PublicKey>> {
        let mut found: Vec<Option<PublicKey>> = Vec::with_capacity(versions.len());
        for version in versions {
            found.push(self.ready().get(&digest(version)?).cloned());
        }
        let missing: Vec<&KeyVersion> =
            versions.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(version, _)| *version).collect();
        if !missing.is_empty() {
            let mut loaded = self.load(&missing, principal).await?.into_iter();
            found.iter_mut().filter(|found| found.is_none()).for_each(|found| *found = loaded.next());
        }
        found.into_iter().map(|key| key.ok_or_else(|| altered("is missing"))).collect()
    }

    fn load<'a>(&'a self, versions: &'a [&'a KeyVersion], principal: &'a str) -> StoreFuture<'a, Vec<PublicKey>> {
        Box::pin(async move {
            let Some(first) = versions.first() else { return Ok(Vec::new()) };
            let numbers: Vec<u32> = versions.iter().map(|version| version.version).collect();
            let _turn = self.turns.turn(principal).await;
            let mut connection = self.store.reader().await?;
            let stored = entities::public_keys_of(connection.as_mut(), first.key_id, &numbers).await?;
            drop(connection);
            let mut pems = Vec::with_capacity(versions.len());
            for version in versions {
                let pem = stored.get(&version.version).ok_or_else(|| altered("is missing"))?;
                if <[u8; 32]>::from(Sha256::digest(pem)) != digest(version)? {
                    return Err(altered("does not match the digest of its version"));
                }
                pems.push(pem.clone());
            }
            let provider = Arc::clone(&self.provider);
            let read = move || pems.iter().map(|pem| provider.rsa_public(pem).map(PublicKey::from)).collect();
            let loaded: Vec<PublicKey> = self.workers.run(principal, Length::Short, read).await?;
            for (version, key) in versions.iter().zip(&loaded) {
                self.ready().insert(digest(version)?, Arc::clone(key));
            }
            Ok(loaded)
        })
    }
}

/// The digest of a version's public key, from its sealed row.
fn digest(version: &KeyVersion) -> Result<[u8; 32]> {
    version.public_key_digest.as_deref().copied().ok_or_else(|| altered("has no digest in its version's row"))
}

fn altered(what: &str) -> Error {
    Error::new(ErrorCode::IntegrityFailure, format!("the stored public key {what}"))
}

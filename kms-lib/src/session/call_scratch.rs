//! Working state of a call: nonces, and the key used last. Many items with the same key fetch both only once.

use std::sync::Arc;

use super::Shared;
use crate::catalog::{PublicKey, ReadyKey};
use crate::crypto::nonces::Nonces;
use crate::crypto::provider::Provider;
use crate::types::error::Result;
use crate::types::ids::KeyId;
use crate::types::key::{KeyType, KeyVersion};
use crate::workers::Length;

/// The working state of one call.
pub(super) struct CallScratch<'a> {
    shared: &'a Shared,
    principal: &'a str,
    /// The nonces for the encryptions of the call.
    pub nonces: Nonces<'a>,
    last: Option<(KeyId, u32, Arc<ReadyKey>)>,
}

impl<'a> CallScratch<'a> {
    /// Working state for a call of this principal with this number of encryptions.
    pub fn new(shared: &'a Shared, principal: &'a str, encryptions: usize) -> Self {
        Self { shared, principal, nonces: Nonces::new(shared.provider.as_ref(), encryptions), last: None }
    }

    /// The cryptography provider.
    pub fn provider(&self) -> &'a Arc<dyn Provider> {
        &self.shared.provider
    }

    /// Returns the ready key of a version, from memory if it was used last.
    pub async fn ready(&mut self, version: &KeyVersion, key_type: KeyType) -> Result<Arc<ReadyKey>> {
        if let Some((key, number, ready)) = &self.last
            && (*key, *number) == (version.key_id, version.version)
        {
            return Ok(Arc::clone(ready));
        }
        let ready = self.shared.materials.get(version, key_type, self.principal).await?;
        self.last = Some((version.key_id, version.version, Arc::clone(&ready)));
        Ok(ready)
    }

    /// Returns the public keys of versions of one key.
    pub async fn public_keys(&self, versions: &[&KeyVersion]) -> Result<Vec<PublicKey>> {
        self.shared.public_keys.of(versions, self.principal).await
    }

    /// The number of threads that compute at a time.
    pub fn threads(&self) -> usize {
        self.shared.workers.threads()
    }

    /// Computes on another thread, when it is this principal's turn.
    pub async fn run<T: Send + 'static>(
        &self,
        length: Length,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.shared.workers.run(self.principal, length, work).await
    }
}

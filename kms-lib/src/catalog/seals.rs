//! The seals of a store, and their update when the integrity key is replaced.

use std::sync::{Arc, PoisonError};

use zeroize::Zeroizing;

use super::{Catalog, Snapshot};
use crate::envelope::{Binding, Envelope, INTEGRITY_KEY_BYTES, Seals, service_fingerprint};
use crate::storage::Connection;
use crate::storage::tables::secrets::{self, ServiceKeyRow};
use crate::storage::tables::{head, root_keys};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::LogId;
use crate::types::root_key::{ServiceKeyKind, ServiceKeyState};

/// The seals under the newest integrity key and, while rows are resealed, those of the former key. `rows` are not
/// verified yet: the catalog does that with these seals.
pub async fn load_seals(envelope: &Envelope, rows: &[ServiceKeyRow], log: LogId) -> Result<Seals> {
    let of_kind = || rows.iter().filter(|row| row.key.kind == ServiceKeyKind::Integrity);
    let newest = of_kind().max_by_key(|row| row.key.number);
    let newest = newest.ok_or_else(|| Error::new(ErrorCode::StoreCorrupt, "the integrity key is missing"))?;
    let seals = unwrap(envelope, newest, log).await?;
    let is_former = |row: &&ServiceKeyRow| {
        row.key.state == ServiceKeyState::Resealing && row.key.number.checked_add(1) == Some(newest.key.number)
    };
    match of_kind().find(is_former) {
        Some(former) => Ok(seals.beside(&unwrap(envelope, former, log).await?, newest.key.first_seq)),
        None => Ok(seals),
    }
}

async fn unwrap(envelope: &Envelope, row: &ServiceKeyRow, log: LogId) -> Result<Seals> {
    let ServiceKeyRow { key, wrapped } = row;
    let bad = |why: &str| Error::new(ErrorCode::IntegrityFailure, format!("the integrity key {why}"));
    let unwrapped = envelope.unwrap(&Binding::IntegrityKey { log, number: key.number }, wrapped).await?;
    if service_fingerprint(key.kind, log, key.number, &unwrapped)? != key.fingerprint {
        return Err(bad("does not match its stored fingerprint"));
    }
    let mut secret = Zeroizing::new([0; INTEGRITY_KEY_BYTES]);
    if unwrapped.len() != secret.len() {
        return Err(bad("has a wrong length"));
    }
    secret.copy_from_slice(&unwrapped);
    Seals::new(key.number, &secret)
}

impl Catalog {
    /// Loads the integrity key by which another process has replaced the known one. Not under the head lock, because
    /// the root key that unwraps it may be remote. Returns whether there was a new key.
    pub async fn catch_up_seals(&self) -> Result<bool> {
        let known = self.seals().number();
        let mut connection = self.store.reader().await?;
        if secrets::newest(connection.as_mut(), ServiceKeyKind::Integrity).await? == Some(known) {
            return Ok(false);
        }
        let rows = secrets::service_keys(connection.as_mut()).await?;
        let head = head::require(connection.as_mut()).await?;
        let generations = self.envelope.generations();
        let is_known = |generation: u32| generations.iter().any(|known| known.row.generation == generation);
        if rows.iter().flat_map(|row| &row.wrapped).any(|wrapped| !is_known(wrapped.generation)) {
            // The key may be wrapped under a new generation of the root key. As at opening, the row of that generation
            // is verified afterwards.
            self.envelope.set_generations(root_keys::unchecked(connection.as_mut()).await?);
        }
        drop(connection);
        let seals = load_seals(&self.envelope, &rows, head.log_id).await?;
        if seals.number() <= known {
            return Err(Error::new(
                ErrorCode::IntegrityFailure,
                "the integrity key was rolled back to an older one; verify the log",
            ));
        }
        tracing::info!(number = seals.number(), "the integrity key was replaced");
        self.replace_seals(Arc::new(seals));
        Ok(true)
    }

    /// Whether the known seals are at least as new as the state of the store that this connection sees.
    pub async fn has_newest_seals(&self, connection: &mut dyn Connection) -> Result<bool> {
        let newest = secrets::newest(connection, ServiceKeyKind::Integrity).await?;
        Ok(newest.is_none_or(|newest| newest <= self.seals().number()))
    }

    /// Replaces the seals and folds the rows under them, unless the known seals are as new.
    pub fn replace_seals(&self, seals: Arc<Seals>) {
        let mut snapshot = self.snapshot_mut();
        if seals.number() > self.seals().number() {
            snapshot.refold(&seals);
            *self.seals.write().unwrap_or_else(PoisonError::into_inner) = seals;
        }
    }

    /// Drops the former integrity key once the rows show that resealing has ended. The caller holds the snapshot's
    /// lock.
    pub(super) fn settle_seals(&self, snapshot: &Snapshot) {
        let seals = self.seals();
        let is_resealing = snapshot.service_keys().any(|key| key.state == ServiceKeyState::Resealing);
        if seals.has_former() && !is_resealing {
            *self.seals.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(seals.alone());
        }
    }
}

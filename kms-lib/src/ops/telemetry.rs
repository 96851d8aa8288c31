//! What the process knows of itself: for a scraper, and for the one who asks whether it can be sent work.

use std::collections::BTreeMap;

use serde::Serialize;

use super::ALERTS;
use crate::envelope::CallMetrics;
use crate::ledger::{BATCH_BOUNDS, StorageMetrics, skew};
use crate::session::Shared;
use crate::storage::tables::head;
use crate::storage::tables::usage::{self, Due};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::key::KeyState;

/// Counters since the store was opened, and how things stand. Nothing in it names a key or a caller.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Telemetry {
    /// Submissions that wait for the ledger.
    pub queued: u64,
    /// Batches that the ledger took, by their number of submissions: up to each of [`BATCH_BOUNDS`], and above.
    pub batches: [u64; BATCH_BOUNDS.len() + 1],
    /// Submissions in all of them.
    pub submissions: u64,
    /// How the cache of unwrapped keys is doing.
    pub cache: CacheUse,
    /// Keys by state.
    pub keys_by_state: BTreeMap<KeyState, u64>,
    /// Versions of all keys.
    pub versions: u64,
    /// Keys whose rotation is due; at most 100.
    pub rotations_due: u64,
    /// Records in the log.
    pub records: u64,
    /// How much room the store has.
    pub storage: StorageMetrics,
    /// Calls to root keys, by provider and operation. Durations are counted in the classes of
    /// [`crate::CALL_BOUNDS`].
    pub root_keys: Vec<CallMetrics>,
}

/// How a service that can be sent work stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ready {
    /// Its root keys.
    pub root_key: RootKeyHealth,
}

/// Whether the root keys answer, as far as is known without asking them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RootKeyHealth {
    /// The last call to each of them succeeded.
    Ok,
    /// The last call to one of them failed. Keys in the cache work; others may not.
    Degraded,
}

impl RootKeyHealth {
    /// The state's name in JSON and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
        }
    }
}

/// How the cache of unwrapped keys is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CacheUse {
    /// How often a key was there.
    pub hits: u64,
    /// How often it was not.
    pub misses: u64,
    /// Keys in it, about.
    pub keys: u64,
}

/// Gathers it.
pub(crate) async fn telemetry(shared: &Shared) -> Result<Telemetry> {
    let mut connection = shared.store.reader().await?;
    let due = usage::due(connection.as_mut(), Due::Rotation, shared.clock.now(), ALERTS).await?;
    let records = crate::storage::tables::audit::last_seq(connection.as_mut()).await?;
    drop(connection);
    let (batches, submissions) = shared.ledger.counters().batches();
    let (hits, misses) = shared.materials.uses();
    let image = shared.catalog.image();
    let mut keys_by_state: BTreeMap<KeyState, u64> = KeyState::ALL.iter().map(|state| (*state, 0)).collect();
    keys_by_state.extend(image.keys_by_state());
    Ok(Telemetry {
        queued: shared.ledger.queued() as u64,
        batches,
        submissions,
        cache: CacheUse { hits, misses, keys: shared.materials.len() },
        keys_by_state,
        versions: image.version_count() as u64,
        rotations_due: due.len() as u64,
        records,
        storage: shared.space.metrics(),
        root_keys: shared.envelope.call_metrics(),
    })
}

/// Whether operations can be expected to succeed: the ledger runs, the store can be written, the clock agrees with the
/// log. It asks the store for its lock, so it is not to be called at will. Root keys are not asked: the process holds
/// its own keys, and one that does not answer must not take the service out of rotation.
pub(crate) async fn ready(shared: &Shared) -> Result<Ready> {
    if !shared.ledger.is_running() {
        return Err(Error::new(ErrorCode::Closed, "the ledger does not run"));
    }
    if shared.space.is_full() {
        return Err(Error::new(ErrorCode::StoreFull, "the disk of the store is full"));
    }
    let mut connection = shared.store.writer().await?;
    let locked = head::begin_locked(connection.as_mut()).await;
    connection.rollback().await?;
    connection.close().await?;
    let locked = locked?.ok_or_else(|| Error::new(ErrorCode::StoreCorrupt, "the head of the log is missing"))?;
    let (head, database_now) = locked;
    let now = shared.clock.now();
    skew::check_log(head.timestamp, now)?;
    if let Some(theirs) = database_now.filter(|_| !shared.clock.is_apart()) {
        skew::check_database(theirs, now)?;
    }
    let root_key = if shared.envelope.is_degraded() { RootKeyHealth::Degraded } else { RootKeyHealth::Ok };
    Ok(Ready { root_key })
}

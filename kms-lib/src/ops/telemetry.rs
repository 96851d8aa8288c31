//! Telemetry of this process, for a metrics scraper and for a readiness probe.

use std::collections::BTreeMap;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::ALERTS;
use crate::catalog::Trust;
use crate::envelope::CallMetrics;
use crate::ledger::{BATCH_BOUNDS, CommitMetrics, StorageMetrics, skew};
use crate::session::{LAST_VERIFICATION, Session, Shared};
use crate::storage::tables::head;
use crate::storage::tables::usage::{self, Due};
use crate::types::actor::Role;
use crate::types::attempt::Operation;
use crate::types::audit::Action;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::key::KeyState;
use crate::types::time::Timestamp;

/// The time within which the store must respond.
const PATIENCE: Duration = Duration::from_secs(2);

/// Counters since the store was opened, and the current status. Names no key and no caller.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Telemetry {
    /// Whether the store responded just now. If not, the values that only the store knows are missing.
    pub store_up: bool,
    /// Whether the ledger accepts and writes submissions. A ledger that stopped because the log was altered does not
    /// run again before the service is restarted.
    pub ledger_running: bool,
    /// Submissions waiting for the ledger.
    pub queued: u64,
    /// Batches taken by the ledger, by their number of submissions: one class up to each of [`BATCH_BOUNDS`], and one
    /// above.
    pub batches: [u64; BATCH_BOUNDS.len() + 1],
    /// The total number of submissions in all batches.
    pub submissions: u64,
    /// The number and duration of the ledger's commits.
    pub commits: CommitMetrics,
    /// Hits, misses and size of the cache of unwrapped keys.
    pub cache: CacheUse,
    /// The number of keys in each state.
    pub keys_by_state: BTreeMap<KeyState, u64>,
    /// The number of versions of all keys.
    pub versions: u64,
    /// The number of keys whose rotation is due; at most 100.
    pub rotations_due: Option<u64>,
    /// The number of records in the log; as last seen if the store is unavailable.
    pub records: u64,
    /// The number of times this process found the log or the tables altered: verifications that found a fault, and
    /// stops of the ledger.
    pub integrity_faults: u64,
    /// Whether the tables do not match the head. Then no row is used until a restart has determined which ones were
    /// altered.
    pub tables_suspect: bool,
    /// The number of rows in quarantine.
    pub quarantined: u64,
    /// The last verification of the log, by any process. This value is not protected: anyone with write access to the
    /// store can change it.
    pub last_verification: Option<LastVerification>,
    /// Disk space of the store.
    pub storage: StorageMetrics,
    /// Calls to root key providers, by provider and operation. The classes of their durations are
    /// [`crate::CALL_BOUNDS`].
    pub root_keys: Vec<CallMetrics>,
}

/// The status of a service that is ready for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ready {
    /// Whether the root key providers respond.
    pub root_key: RootKeyHealth,
}

/// Whether the root key providers respond, judged by the last calls without making new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RootKeyHealth {
    /// The last call to each root key succeeded.
    Ok,
    /// The last call to at least one root key failed. Keys in the cache work; others may not.
    Degraded,
}

impl RootKeyHealth {
    /// The name of the state in JSON and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
        }
    }
}

/// Hits, misses and size of the cache of unwrapped keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CacheUse {
    /// The number of requests for a key that was in the cache.
    pub hits: u64,
    /// The number of requests for a key that was not in the cache.
    pub misses: u64,
    /// The approximate number of keys in the cache.
    pub keys: u64,
}

/// A verification of the log, as the metrics show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct LastVerification {
    /// The time of the verification's record.
    pub timestamp: Timestamp,
    /// True if the verification found no fault.
    pub ok: bool,
}

/// Values that only the store knows.
struct Stored {
    rotations_due: u64,
    records: u64,
    last_verification: Option<LastVerification>,
}

async fn stored(shared: &Shared) -> Result<Stored> {
    let mut connection = shared.store.reader().await?;
    let due = usage::due(connection.as_mut(), Due::Rotation, shared.clock.now(), None, ALERTS).await?;
    let records = crate::storage::tables::audit::last_seq(connection.as_mut()).await?;
    let last = usage::meta(connection.as_mut(), LAST_VERIFICATION).await?;
    Ok(Stored {
        rotations_due: due.len() as u64,
        records,
        last_verification: last.and_then(|kept| serde_json::from_str(&kept).ok()),
    })
}

/// Gathers the telemetry. Values that only the store knows are missing if it does not respond in time.
pub(crate) async fn telemetry(shared: &Shared) -> Result<Telemetry> {
    let stored = match timeout(PATIENCE, stored(shared)).await {
        Ok(Ok(stored)) => Some(stored),
        Ok(Err(error)) if error.code() == ErrorCode::Closed => return Err(error),
        Ok(Err(error)) => {
            tracing::debug!(%error, "the store could not be queried for its telemetry");
            None
        }
        Err(_) => None,
    };
    let counters = shared.ledger.counters();
    let (batches, submissions) = counters.batches();
    let (hits, misses) = shared.materials.uses();
    let snapshot = shared.catalog.snapshot();
    let mut keys_by_state: BTreeMap<KeyState, u64> = KeyState::ALL.iter().map(|state| (*state, 0)).collect();
    keys_by_state.extend(snapshot.keys_by_state());
    Ok(Telemetry {
        store_up: stored.is_some(),
        ledger_running: shared.ledger.is_running(),
        queued: shared.ledger.queued() as u64,
        batches,
        submissions,
        commits: counters.commits(),
        cache: CacheUse { hits, misses, keys: shared.materials.len() },
        keys_by_state,
        versions: snapshot.version_count() as u64,
        rotations_due: stored.as_ref().map(|stored| stored.rotations_due),
        records: stored.as_ref().map_or_else(|| shared.ledger.seen().state().0, |stored| stored.records),
        integrity_faults: counters.faults(),
        tables_suspect: snapshot.trust() != Trust::Verified,
        quarantined: snapshot.quarantine().count() as u64,
        last_verification: stored.and_then(|stored| stored.last_verification),
        storage: shared.space.metrics(),
        root_keys: shared.envelope.call_metrics(),
    })
}

/// Whether the actor may read the telemetry. While the store is unavailable, the rights that were read last apply:
/// telemetry names no key and no caller, and operators need it to find the cause. Altered rows grant no rights; an
/// admin or auditor that authenticates by certificate or by an issuer's token needs none.
pub(crate) async fn permit(session: &Session) -> Result<()> {
    let asked = async {
        match session.may_read_all_keys().await? {
            true => Ok(()),
            false => session.permit_reading(Action::MetricsRead, Operation::ReadMetrics, None).await,
        }
    };
    let error = match timeout(PATIENCE, asked).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error,
        Err(_) => Error::new(ErrorCode::StoreUnavailable, "the store did not respond in time"),
    };
    let actor = session.actor();
    let needs_no_row = actor.credential().is_none() && actor.role() != Role::App;
    let may = match error.code() {
        ErrorCode::IntegrityFailure => needs_no_row,
        code => code.is_unusable_service() && session.could_read_metrics(),
    };
    if may { Ok(()) } else { Err(error) }
}

/// Checks whether operations can be expected to succeed: the ledger runs, the store is writable, and the clock agrees
/// with the log. It takes the store's lock, so it must not be called too often. Root keys are not called: the process
/// holds its own keys, and an unavailable root key must not take the service out of rotation.
pub(crate) async fn ready(shared: &Shared) -> Result<Ready> {
    if !shared.ledger.is_running() {
        return Err(Error::new(ErrorCode::Closed, "the ledger is not running"));
    }
    if shared.space.is_full() {
        return Err(Error::new(ErrorCode::StoreFull, "the disk of the store is full; free some space"));
    }
    let mut connection = shared.store.writer().await?;
    let locked = head::begin_locked(connection.as_mut()).await;
    connection.rollback().await?;
    connection.close().await?;
    let (head, database_now) = locked?.ok_or_else(head::missing)?;
    let now = shared.clock.now();
    skew::check_log(head.timestamp, now)?;
    if let Some(theirs) = database_now.filter(|_| !shared.clock.is_apart()) {
        skew::check_database(theirs, now)?;
    }
    let root_key = if shared.envelope.is_degraded() { RootKeyHealth::Degraded } else { RootKeyHealth::Ok };
    Ok(Ready { root_key })
}

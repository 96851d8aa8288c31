//! What the process knows of itself: for a scraper, and for the one who asks whether it can be sent work.

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

/// How long the store may take to say how it stands.
const PATIENCE: Duration = Duration::from_secs(2);

/// Counters since the store was opened, and how things stand. Nothing in it names a key or a caller.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Telemetry {
    /// Whether the store answered just now. If not, what only the store knows is missing.
    pub store_up: bool,
    /// Whether the ledger takes and writes submissions. One that has stopped because the log was altered does not run
    /// again before the service is restarted.
    pub ledger_running: bool,
    /// Submissions that wait for the ledger.
    pub queued: u64,
    /// Batches that the ledger took, by their number of submissions: up to each of [`BATCH_BOUNDS`], and above.
    pub batches: [u64; BATCH_BOUNDS.len() + 1],
    /// Submissions in all of them.
    pub submissions: u64,
    /// Commits of the ledger, and how long they took.
    pub commits: CommitMetrics,
    /// How the cache of unwrapped keys is doing.
    pub cache: CacheUse,
    /// Keys by state.
    pub keys_by_state: BTreeMap<KeyState, u64>,
    /// Versions of all keys.
    pub versions: u64,
    /// Keys whose rotation is due; at most 100.
    pub rotations_due: Option<u64>,
    /// Records in the log; as last seen if the store does not answer.
    pub records: u64,
    /// How often this process found the log or the tables altered: verifications that found a fault, and the ledger
    /// stopping.
    pub integrity_faults: u64,
    /// Whether the tables are not those that the head stands for: then no row is used until a restart has found out
    /// which of them were altered.
    pub tables_suspect: bool,
    /// Rows in quarantine.
    pub quarantined: u64,
    /// The last verification of the log, by any process. Anybody who can write to the store can change what is kept of
    /// it.
    pub last_verification: Option<LastVerification>,
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

/// A verification of the log, as the metrics show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct LastVerification {
    /// When it was recorded.
    pub timestamp: Timestamp,
    /// Whether it found no fault.
    pub ok: bool,
}

/// What only the store knows.
struct Stored {
    rotations_due: u64,
    records: u64,
    last_verification: Option<LastVerification>,
}

async fn stored(shared: &Shared) -> Result<Stored> {
    let mut connection = shared.store.reader().await?;
    let due = usage::due(connection.as_mut(), Due::Rotation, shared.clock.now(), ALERTS).await?;
    let records = crate::storage::tables::audit::last_seq(connection.as_mut()).await?;
    let last = usage::meta(connection.as_mut(), LAST_VERIFICATION).await?;
    Ok(Stored {
        rotations_due: due.len() as u64,
        records,
        last_verification: last.and_then(|kept| serde_json::from_str(&kept).ok()),
    })
}

/// Gathers it. What only the store knows is missing if the store does not answer in time.
pub(crate) async fn telemetry(shared: &Shared) -> Result<Telemetry> {
    let stored = match timeout(PATIENCE, stored(shared)).await {
        Ok(Ok(stored)) => Some(stored),
        Ok(Err(error)) if error.code() == ErrorCode::Closed => return Err(error),
        Ok(Err(error)) => {
            tracing::debug!(%error, "the store does not say how it stands");
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

/// Whether the actor may read the telemetry. While the store does not answer, the rights last read from it count: what
/// is told names no key and no caller, and the people who look for the cause need it. Rows that were altered give no
/// rights; an admin or an auditor by a certificate or an issuer's token needs none.
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
        Err(_) => Error::new(ErrorCode::StoreUnavailable, "the store does not answer in time"),
    };
    let actor = session.actor();
    let needs_no_row = actor.credential().is_none() && actor.role() != Role::App;
    let may = match error.code() {
        ErrorCode::IntegrityFailure => needs_no_row,
        code => code.is_unusable_service() && session.could_read_metrics(),
    };
    if may { Ok(()) } else { Err(error) }
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

//! The catalog: keys, versions, grants and credentials in memory, as of one revision, and unwrapped material.
//!
//! The revision is the sequence number of the record of the last change. Other processes advance it, so the snapshot is
//! brought up to the store's revision before a denial, a not-found or a description is returned, and by the ledger,
//! under the head lock, before anything is committed.

mod checking;
mod description;
mod material;
mod overlay;
mod public_keys;
mod ready_keys;
mod refresh;
mod rights;
mod seals;
mod snapshot;

#[cfg(test)]
mod tests;

pub use description::{
    GrantDescription, KeyDescription, Outline, VersionDescription, grant_description, key_description,
};
pub use material::{LOADING, MaterialCache};
pub use overlay::Overlay;
pub use public_keys::{PublicKey, PublicKeys};
pub use ready_keys::ReadyKey;
pub use seals::load_seals;
pub use snapshot::{Snapshot, Trust};

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use refresh::Delta;

use crate::audit::checkpoint;
use crate::envelope::{Envelope, RowSet, Seals, row};
use crate::lifecycle::NewQuarantined;
use crate::storage::tables::{head, secrets};
use crate::storage::{Connection, Store, StoreFuture};
use crate::types::audit::Head;
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::root_key::ServiceKeyKind;

/// The number of replacements of the integrity key that one refresh follows.
const CATCH_UPS: usize = 3;

/// The state of the store that a refresh has read.
enum Loaded {
    /// All rows, and whether any of them says that material is erased.
    All(Box<Snapshot>, bool),
    /// The rows that changed.
    Changes(Delta),
}

/// The snapshot, with the state needed to keep it up to date.
pub struct Catalog {
    store: Arc<dyn Store>,
    /// Replaced only while the snapshot is locked, because its rows are folded under these seals.
    seals: RwLock<Arc<Seals>>,
    /// Receives the generations of the root key whenever they change.
    envelope: Envelope,
    snapshot: RwLock<Snapshot>,
    /// Locked during a refresh of the snapshot, so that waiting callers share one refresh.
    refreshing: tokio::sync::Mutex<()>,
    /// The number of refreshes that have begun.
    refreshes: AtomicU64,
    /// The number of the last refresh that was completed.
    refreshed: AtomicU64,
    /// Whether rows were set aside that are not in the committed quarantine yet.
    quarantining: AtomicBool,
    /// Whether rows were read whose material or wrappings are erased.
    erased: AtomicBool,
}

impl Catalog {
    /// An empty catalog; [`Catalog::refresh`] fills it.
    pub fn new(store: Arc<dyn Store>, seals: Seals, envelope: Envelope) -> Self {
        Self {
            store,
            seals: RwLock::new(Arc::new(seals)),
            envelope,
            snapshot: RwLock::new(Snapshot::default()),
            refreshing: tokio::sync::Mutex::new(()),
            refreshes: AtomicU64::new(0),
            refreshed: AtomicU64::new(0),
            quarantining: AtomicBool::new(false),
            erased: AtomicBool::new(false),
        }
    }
    /// The snapshot. Not to be held across an await.
    pub fn snapshot(&self) -> RwLockReadGuard<'_, Snapshot> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn snapshot_mut(&self) -> RwLockWriteGuard<'_, Snapshot> {
        self.snapshot.write().unwrap_or_else(PoisonError::into_inner)
    }
    /// The current seals of this store.
    pub fn seals(&self) -> Arc<Seals> {
        Arc::clone(&self.seals.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes sure that the snapshot is not older than this call. One refresh serves all waiting callers.
    pub async fn ensure_fresh(&self) -> Result<()> {
        let begun = self.refreshes.load(Ordering::Acquire);
        let _alone = self.refreshing.lock().await;
        // A completed refresh that began after this call is recent enough. One that failed, or whose caller dropped its
        // future, does not count.
        if self.refreshed.load(Ordering::Acquire) <= begun {
            let this = self.refreshes.fetch_add(1, Ordering::AcqRel) + 1;
            self.refresh_from_store().await?;
            self.refreshed.store(this, Ordering::Release);
        }
        if self.snapshot().trust() == Trust::Suspect { Err(altered()) } else { Ok(()) }
    }

    fn refresh_from_store<'a>(&'a self) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            for _ in 0..CATCH_UPS {
                let mut connection = self.store.reader().await?;
                if head::revision(connection.as_mut()).await? <= self.snapshot().revision() {
                    return Ok(());
                }
                connection.begin_read().await?;
                let loaded = self.load(connection.as_mut()).await;
                connection.rollback().await?;
                drop(connection);
                if loaded? {
                    return Ok(());
                }
                self.catch_up_seals().await?;
            }
            Err(Error::new(ErrorCode::StoreContended, "the integrity key was replaced at each attempt; retry later"))
        })
    }

    /// Brings the snapshot up to the store's revision, on a connection that already sees one state of the store. Marks
    /// the snapshot as suspect if its rows do not match the head's row commitment.
    ///
    /// Does not wait for other tasks that do the same, because the ledger holds the head lock meanwhile. Newer rows are
    /// never replaced by older ones. Returns false, and leaves the snapshot unchanged, if another process has replaced
    /// the integrity key; call [`Catalog::catch_up_seals`] and repeat.
    pub async fn refresh(&self, connection: &mut dyn Connection) -> Result<bool> {
        self.load(connection).await
    }

    async fn load(&self, connection: &mut dyn Connection) -> Result<bool> {
        let known = self.snapshot().revision();
        let head = head::require(connection).await?;
        if head.revision > known || known == 0 {
            let seals = self.seals();
            if secrets::newest(connection, ServiceKeyKind::Integrity).await? != Some(seals.number()) {
                return Ok(false);
            }
            let loaded = match known {
                0 => {
                    let (all, has_erased) = refresh::read_all(connection, &seals, head.revision).await?;
                    Loaded::All(Box::new(all), has_erased)
                }
                _ => Loaded::Changes(Delta::read(connection, &seals, known).await?),
            };
            if self.store.is_cluster() {
                still_at(connection, &head).await?;
            }
            let mut snapshot = self.snapshot_mut();
            if self.seals().number() != seals.number() {
                return Ok(false);
            }
            let has_erased = match loaded {
                // Meanwhile, another task has loaded the snapshot.
                Loaded::All(..) if snapshot.revision() > 0 => return Ok(snapshot.revision() >= head.revision),
                Loaded::All(all, has_erased) => {
                    *snapshot = *all;
                    has_erased
                }
                Loaded::Changes(delta) => {
                    let has_erased = delta.has_erased();
                    delta.apply(&mut snapshot, head.revision, &seals);
                    has_erased
                }
            };
            if has_erased {
                self.erased.store(true, Ordering::Release);
            }
            self.settle_seals(&snapshot);
            self.envelope.set_generations(snapshot.root_keys().cloned().collect());
            if snapshot.revision() == head.revision
                && snapshot.trust() == Trust::Verified
                && !self.stands_for(&head, snapshot.rows())
            {
                tracing::error!("the rows of the store do not match the row commitment in the head of the log");
                snapshot.set_trust(Trust::Suspect);
            }
        }
        Ok(true)
    }

    /// Whether the head's row commitment is over exactly these rows. It needs no signature, because it is keyed and
    /// bound to the revision.
    fn stands_for(&self, head: &Head, rows: &RowSet) -> bool {
        stands_for(&self.seals(), head, rows)
    }

    /// Takes out the rows that a verification of the tables at `revision` found to be altered. The remaining rows must
    /// be exactly those that it found to be good, folded into `good`. Fails with `StoreContended` if rows have changed
    /// in between, and with `IntegrityFailure` if none have: then two readings of the same tables differ.
    pub fn set_aside(&self, altered: &[NewQuarantined], good: &RowSet, revision: u64) -> Result<()> {
        let mut snapshot = self.snapshot_mut();
        for row in altered {
            snapshot.set_aside(row.table, row.row, row.key, &self.seals());
        }
        if snapshot.rows() != good {
            if snapshot.revision() == revision {
                return Err(Error::new(ErrorCode::IntegrityFailure, "rows of the store contradict each other"));
            }
            return Err(Error::new(ErrorCode::StoreContended, "rows of the store changed while they were verified"));
        }
        snapshot.set_trust(Trust::Verified);
        self.quarantining.store(!altered.is_empty(), Ordering::Release);
        Ok(())
    }
    /// Whether rows were set aside that are not in the committed quarantine yet.
    pub fn is_quarantining(&self) -> bool {
        self.quarantining.load(Ordering::Acquire)
    }
    /// Whether, since the last call, rows were read whose material or wrappings another process has erased.
    pub fn take_erased(&self) -> bool {
        self.erased.swap(false, Ordering::AcqRel)
    }
    /// Notes that the rows that were set aside are in the committed quarantine, added by this or another process.
    pub fn end_quarantining(&self) {
        self.quarantining.store(false, Ordering::Release);
    }
    /// Refuses all rows, because it cannot be determined which of them were altered.
    pub fn refuse_all(&self) {
        self.envelope.distrust();
        self.snapshot_mut().refuse_all();
    }

    /// Applies changes that this process has committed.
    pub fn apply(&self, changes: &[Change], revision: u64) {
        let mut snapshot = self.snapshot_mut();
        let seals = self.seals();
        for change in changes {
            snapshot.apply(change, &seals);
        }
        self.settle_seals(&snapshot);
        if changes.iter().any(|change| matches!(change, Change::InsertRootKey(_) | Change::UpdateRootKey(_))) {
            self.envelope.set_generations(snapshot.root_keys().cloned().collect());
        }
        snapshot.advance(revision);
    }
}

/// Fails unless the transaction still sees this head. On a Galera cluster, a commit of another database node can abort
/// a transaction although it has the head lock, and the statement that runs then may still return rows of that commit.
/// Only the next statement fails, so rows must not be judged by the head before it.
async fn still_at(connection: &mut dyn Connection, head: &Head) -> Result<()> {
    match head::read(connection).await? {
        Some(now) if now.is_at(head) => Ok(()),
        _ => Err(Error::new(ErrorCode::StoreContended, "rows changed while they were read; retry later")),
    }
}

/// The error while it is not known which rows can be trusted.
fn altered() -> Error {
    Error::new(
        ErrorCode::IntegrityFailure,
        "rows of the store were altered; close and reopen the service to quarantine them",
    )
}

/// Whether a head's row commitment is over exactly these rows.
pub fn stands_for(seals: &Seals, head: &Head, rows: &RowSet) -> bool {
    let said = checkpoint::claimed(&head.checkpoint).and_then(|checkpoint| checkpoint.rows);
    said.is_some_and(|said| seals.is_commitment(&said, head.revision, rows))
}

/// The canonical bytes of a change's row, which its seal covers.
pub fn change_row(change: &Change) -> Result<Vec<u8>> {
    Ok(match change {
        Change::InsertKey(key) | Change::UpdateKey(key) => row::key(key),
        Change::InsertVersion(version, _) | Change::UpdateVersion(version) | Change::EraseVersion(version) => {
            row::version(version)
        }
        Change::InsertGrant(grant) | Change::UpdateGrant(grant) => row::grant(grant)?,
        Change::InsertCredential(credential)
        | Change::UpdateCredential(credential)
        | Change::RemoveCredential(credential) => row::credential(credential),
        Change::InsertQuarantined(entry) | Change::UpdateQuarantined(entry) => row::quarantined(entry),
        Change::InsertRootKey(root) | Change::UpdateRootKey(root) => row::root_key(root),
        Change::InsertServiceKey(key, _) | Change::UpdateServiceKey(key) => row::service_key(key),
    })
}

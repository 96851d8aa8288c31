//! Disk space: an alarm before it runs out, and a disk reserve so that permissions and keys can still be revoked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde::Serialize;

use crate::storage::{Reserve, Store};
use crate::types::error::{Error, ErrorCode};
use crate::workers::run_blocking;

/// The alarm level and the disk reserve, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceLimits {
    /// The free space below which there is an alarm; 0 turns the alarm off.
    pub alarm: u64,
    /// The size of the disk reserve, which is kept for revocations and withdrawals; 0 turns it off.
    pub reserve: u64,
}

impl Default for SpaceLimits {
    fn default() -> Self {
        Self { alarm: 256 * 1024 * 1024, reserve: 4 * 1024 * 1024 }
    }
}

/// The disk space of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct StorageMetrics {
    /// Free bytes on the store's file system. None if unknown, as for a database server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// Whether the free space is below the alarm level.
    pub low: bool,
    /// Whether the store is full: only changes that revoke permissions or keys are written.
    pub full: bool,
    /// Whether the disk reserve is set aside.
    pub reserved: bool,
}

/// Watches the disk space of a store.
pub struct Space {
    store: Arc<dyn Store>,
    limits: SpaceLimits,
    low: AtomicBool,
    full: AtomicBool,
    reserved: AtomicBool,
    /// The permitted cost of results that are released before they are written, as of the last check.
    releasable: AtomicUsize,
}

/// The maximum cost of results that are released and not yet written: later submissions have to wait for them.
const RELEASED_COST: usize = 16 * 1024 * 1024;
/// Released results may use one part in this many of the room above the alarm level; other writers may fill the disk
/// between two checks.
const LEFT: u64 = 64;

impl Space {
    /// Starts with no alarm and no reserve, until the first check.
    pub fn new(store: Arc<dyn Store>, limits: SpaceLimits) -> Self {
        let flag = AtomicBool::default;
        Self { store, limits, low: flag(), full: flag(), reserved: flag(), releasable: RELEASED_COST.into() }
    }

    /// Checks the disk, and sets the reserve aside when there is room for it. Called every second; the file system,
    /// which may be slow, is queried on a separate thread.
    pub async fn look(self: &Arc<Self>) {
        let space = Arc::clone(self);
        // A panic on that thread ends only this check.
        let _ = run_blocking(move || {
            space.look_now();
            Ok(())
        })
        .await;
    }

    fn look_now(&self) {
        let Some(free) = self.judge() else { return };
        if self.limits.reserve == 0 || self.reserved.load(Ordering::SeqCst) || free < 2 * self.limits.reserve {
            return;
        }
        let kept = self.store.keep_reserve(self.limits.reserve);
        if let Err(error) = &kept {
            tracing::warn!(%error, "the disk reserve could not be created");
        }
        self.reserved.store(kept.is_ok(), Ordering::SeqCst);
    }

    /// Raises or clears the alarm, and determines whether the store is full. Returns the free bytes, if known.
    pub fn judge(&self) -> Option<u64> {
        let free = self.store.free_space()?;
        self.releasable.store(self.releasable_with(free), Ordering::SeqCst);
        let low = free < self.limits.alarm;
        if low != self.low.swap(low, Ordering::SeqCst) {
            if low {
                tracing::warn!(free, alarm = self.limits.alarm, "the store's disk is getting full");
            } else {
                tracing::info!(free, "the store's disk has room again");
            }
        }
        if self.limits.reserve > 0 {
            let reserve = self.store.reserve(self.limits.reserve);
            self.reserved.store(reserve == Reserve::Kept, Ordering::SeqCst);
            if reserve == Reserve::GivenUp && free <= self.room_again() {
                // Another process released the reserve, or it was released earlier: the remaining room takes its place.
                self.full.store(true, Ordering::SeqCst);
            }
        }
        Some(free)
    }

    /// Released results are written before anything else, revocations included, even from the reserve, and must not use
    /// it up, however the disk was filled since the last check. They may take four times their cost: twice the cost, in
    /// the engine's own log and again in the database.
    fn releasable_with(&self, free: u64) -> usize {
        let SpaceLimits { alarm, reserve } = self.limits;
        let room = (free.saturating_sub(alarm) / LEFT).max(reserve / 8);
        usize::try_from(room).unwrap_or(usize::MAX).min(RELEASED_COST)
    }

    /// The permitted cost of results that are released before they are written; none if nothing may be released,
    /// because released results might find no room.
    pub fn releasable(&self) -> Option<usize> {
        let is_held = self.is_low() || self.is_full();
        (!is_held).then(|| self.releasable.load(Ordering::SeqCst))
    }

    /// The size of the disk reserve in bytes.
    pub fn reserve(&self) -> usize {
        usize::try_from(self.limits.reserve).unwrap_or(usize::MAX)
    }

    /// The free space above which a full store counts as usable again.
    fn room_again(&self) -> u64 {
        self.limits.reserve + self.limits.reserve / 2
    }

    /// Whether the free space was below the alarm level at the last check.
    pub fn is_low(&self) -> bool {
        self.low.load(Ordering::SeqCst)
    }

    /// Whether the store was full at the last check or attempt to write.
    pub fn is_known_full(&self) -> bool {
        self.full.load(Ordering::SeqCst)
    }

    /// Whether the store is known to be full. It is usable again once more than one and a half times the reserve is
    /// free.
    pub fn is_full(&self) -> bool {
        if self.is_low() {
            // Another process may have released the reserve: the room from that is for revocations only.
            self.judge();
        }
        if !self.full.load(Ordering::SeqCst) {
            return false;
        }
        let has_room = self.store.free_space().is_none_or(|free| free > self.room_again());
        if has_room {
            self.full.store(false, Ordering::SeqCst);
        }
        !has_room
    }

    /// Notes that the store is full and releases the disk reserve; returns whether that made room.
    pub fn ran_out(&self) -> bool {
        self.full.store(true, Ordering::SeqCst);
        self.reserved.store(false, Ordering::SeqCst);
        let released = self.store.release_reserve();
        if released {
            tracing::error!(
                "the store is full; the disk reserve was released, and only revocations are accepted for now"
            );
        }
        released
    }

    /// The error for submissions that are refused while the store is full.
    pub fn error() -> Error {
        Error::new(
            ErrorCode::StoreFull,
            "the store is full; only changes that revoke permissions or keys are accepted; free some disk space",
        )
    }

    /// The current state, for metrics.
    pub fn metrics(&self) -> StorageMetrics {
        let free_bytes = self.store.free_space();
        StorageMetrics {
            free_bytes,
            low: free_bytes.is_some_and(|free| free < self.limits.alarm),
            full: self.is_full(),
            reserved: self.reserved.load(Ordering::SeqCst),
        }
    }
}

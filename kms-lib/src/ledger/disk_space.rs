//! Disk space: an alarm before it runs out, and a reserve so that what has to be taken away still can be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde::Serialize;

use crate::catalog::run_blocking;
use crate::storage::{Reserve, Store};
use crate::types::error::{Error, ErrorCode};

/// What is watched, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceLimits {
    /// Below this much free space there is an alarm. None at 0.
    pub alarm: u64,
    /// So much is set aside for revocations and the like. Nothing at 0.
    pub reserve: u64,
}

impl Default for SpaceLimits {
    fn default() -> Self {
        Self { alarm: 256 * 1024 * 1024, reserve: 4 * 1024 * 1024 }
    }
}

/// How much room the store has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct StorageMetrics {
    /// Free bytes where the store is. None if that is not known: a database server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// Whether there is less than the alarm level.
    pub low: bool,
    /// Whether the store is full: only what takes rights or keys away is written.
    pub full: bool,
    /// Whether the reserve is there.
    pub reserved: bool,
}

/// Watches the room that a store has.
pub struct Space {
    store: Arc<dyn Store>,
    limits: SpaceLimits,
    low: AtomicBool,
    full: AtomicBool,
    reserved: AtomicBool,
    /// What results that are released before they are written may cost, as of the last look.
    releasable: AtomicUsize,
}

/// The most that results may cost which are released and not yet written: what comes later has to wait for them.
const RELEASED_COST: usize = 16 * 1024 * 1024;
/// Of the room above the alarm level, so much is left to what else fills the disk between two looks.
const LEFT: u64 = 64;

impl Space {
    /// Watches this store.
    pub fn new(store: Arc<dyn Store>, limits: SpaceLimits) -> Self {
        let flag = AtomicBool::default;
        Self { store, limits, low: flag(), full: flag(), reserved: flag(), releasable: RELEASED_COST.into() }
    }

    /// Judges, and sets the reserve aside when there is room for it. Called every second; asks the file system, which
    /// may take its time, on a thread for that.
    pub async fn look(self: &Arc<Self>) {
        let space = Arc::clone(self);
        // A panic there ends only this look.
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
            tracing::warn!(%error, "no room could be set aside for revocations");
        }
        self.reserved.store(kept.is_ok(), Ordering::SeqCst);
    }

    /// Sounds the alarm or ends it, and sees whether the store is full. Answers the free bytes, if they are known.
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
                // By another process, or before this one began: what room is left takes its place.
                self.full.store(true, Ordering::SeqCst);
            }
        }
        Some(free)
    }

    /// What is released is written before anything else, revocations included, and be it from the reserve: it must not
    /// use that up, however the disk was filled since the last look. It may take four times the room: twice what it
    /// costs, in the engine's own log and in the database.
    fn releasable_with(&self, free: u64) -> usize {
        let SpaceLimits { alarm, reserve } = self.limits;
        let room = (free.saturating_sub(alarm) / LEFT).max(reserve / 8);
        usize::try_from(room).unwrap_or(usize::MAX).min(RELEASED_COST)
    }

    /// What results that are released before they are written may cost now; none if nothing may be released: what is
    /// promised might find no room.
    pub fn releasable(&self) -> Option<usize> {
        let is_held = self.is_low() || self.is_full();
        (!is_held).then(|| self.releasable.load(Ordering::SeqCst))
    }

    /// How much is set aside for what takes rights or keys away.
    pub fn reserve(&self) -> usize {
        usize::try_from(self.limits.reserve).unwrap_or(usize::MAX)
    }

    /// With more than this free, a store that was full is not any more.
    fn room_again(&self) -> u64 {
        self.limits.reserve + self.limits.reserve / 2
    }

    /// Whether there was less than the alarm level at the last look.
    pub fn is_low(&self) -> bool {
        self.low.load(Ordering::SeqCst)
    }

    /// Whether the store was full at the last look or attempt to write.
    pub fn is_known_full(&self) -> bool {
        self.full.load(Ordering::SeqCst)
    }

    /// Whether the store is known to be full. It is not any more once there is as much room as the reserve and half.
    pub fn is_full(&self) -> bool {
        if self.is_low() {
            // Another process may have given the reserve up: what room that made is not for everything.
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

    /// The store could not be written because it is full. Gives up the reserve; answers whether that made room.
    pub fn ran_out(&self) -> bool {
        self.full.store(true, Ordering::SeqCst);
        self.reserved.store(false, Ordering::SeqCst);
        let released = self.store.release_reserve();
        if released {
            tracing::error!("the store is full: the reserve is given up, only revocations and the like are written");
        }
        released
    }

    /// The error for what is not written meanwhile.
    pub fn error() -> Error {
        Error::new(ErrorCode::StoreFull, "the store is full: only what takes rights or keys away is written")
    }

    /// The state, for the metrics.
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

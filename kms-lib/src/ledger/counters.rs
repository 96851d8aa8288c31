//! What the ledger counts, for those who watch it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Upper bounds of the classes that batches are counted in, by their number of submissions; the last has none.
pub const BATCH_BOUNDS: [u64; 7] = [1, 4, 16, 64, 256, 512, 1_024];

/// Counters since the store was opened.
#[derive(Debug, Default)]
pub struct Counters {
    sizes: [AtomicU64; BATCH_BOUNDS.len() + 1],
    submissions: AtomicU64,
    stopped: AtomicBool,
}

impl Counters {
    /// Counts a batch of this many submissions.
    pub fn batch(&self, submissions: usize) {
        let submissions = submissions as u64;
        let class = BATCH_BOUNDS.partition_point(|bound| *bound < submissions);
        self.sizes[class].fetch_add(1, Ordering::Relaxed);
        self.submissions.fetch_add(submissions, Ordering::Relaxed);
    }
    /// Batches by class, and the submissions in all of them.
    pub fn batches(&self) -> ([u64; BATCH_BOUNDS.len() + 1], u64) {
        (std::array::from_fn(|n| self.sizes[n].load(Ordering::Relaxed)), self.submissions.load(Ordering::Relaxed))
    }
    /// Notes that nothing will be written any more.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
    /// Whether that is so.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

//! The counters of the ledger, for metrics.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

/// Upper bounds of the histogram classes of batches, by number of submissions; the last class has none.
pub const BATCH_BOUNDS: [u64; 7] = [1, 4, 16, 64, 256, 512, 1_024];

/// Upper bounds of the histogram classes of commits, by duration in seconds; the last class has none.
pub const COMMIT_BOUNDS: [f64; 11] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// The commits of this process and their durations, from the lock on the head until the store confirmed them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CommitMetrics {
    /// The number of commits in each class of [`COMMIT_BOUNDS`], and above the last bound.
    pub durations: [u64; COMMIT_BOUNDS.len() + 1],
    /// The total duration in seconds.
    pub seconds: f64,
}

/// Counters since the store was opened.
#[derive(Debug, Default)]
pub struct Counters {
    sizes: [AtomicU64; BATCH_BOUNDS.len() + 1],
    submissions: AtomicU64,
    stopped: AtomicBool,
    commits: [AtomicU64; COMMIT_BOUNDS.len() + 1],
    commit_micros: AtomicU64,
    faults: AtomicU64,
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
    /// Counts a commit that took this long.
    pub fn commit(&self, took: Duration) {
        let class = COMMIT_BOUNDS.partition_point(|bound| *bound < took.as_secs_f64());
        self.commits[class].fetch_add(1, Ordering::Relaxed);
        self.commit_micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
    /// The commits and their durations.
    pub fn commits(&self) -> CommitMetrics {
        CommitMetrics {
            durations: std::array::from_fn(|n| self.commits[n].load(Ordering::Relaxed)),
            seconds: self.commit_micros.load(Ordering::Relaxed) as f64 / 1e6,
        }
    }
    /// Counts that the log or the tables were found altered.
    pub fn fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }
    /// The number of times that the log or the tables were found altered.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }
    /// Notes that nothing more will be written, because the log was altered.
    pub fn stop(&self) {
        if !self.stopped.swap(true, Ordering::Relaxed) {
            self.fault();
        }
    }
    /// Whether the ledger has stopped because the log was altered.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

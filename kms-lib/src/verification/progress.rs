//! The progress of long operations.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The progress of a verification, backup or restore. It is cheap to clone, and all clones show the same operation. It
/// can be polled from another task or thread, or call a callback.
///
/// ```
/// use kms_lib::{BackupOptions, Progress};
/// let progress = Progress::calling(|done, total| println!("{done} of {total} records"));
/// let options = BackupOptions::new().progress(&progress);
/// assert_eq!(progress.total(), 0);
/// ```
#[derive(Clone, Default)]
pub struct Progress(Arc<Inner>);

type Callback = Box<dyn Fn(u64, u64) + Send + Sync>;

#[derive(Default)]
struct Inner {
    done: AtomicU64,
    total: AtomicU64,
    callback: Option<Callback>,
}

impl Progress {
    /// Creates a progress for callers that poll it.
    pub fn new() -> Self {
        Self::default()
    }
    /// A progress that calls `callback` with the records done and their total whenever either changes. The callback
    /// runs on the thread that does the work, so it must return quickly.
    pub fn calling(callback: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner { callback: Some(Box::new(callback)), ..Inner::default() }))
    }
    /// The number of verified records, including those verified earlier.
    pub fn done(&self) -> u64 {
        self.0.done.load(Ordering::Relaxed)
    }
    /// The number of records of the log; 0 until it is known.
    pub fn total(&self) -> u64 {
        self.0.total.load(Ordering::Relaxed)
    }

    pub(super) fn tell(&self, done: u64, total: u64) {
        self.0.done.store(done, Ordering::Relaxed);
        self.0.total.store(total, Ordering::Relaxed);
        if let Some(callback) = &self.0.callback {
            callback(done, total);
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("done", &self.done()).field("total", &self.total()).finish_non_exhaustive()
    }
}

//! Submissions that were superseded and are being redone.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts superseded submissions that have not returned to the queue yet.
#[derive(Default)]
pub struct Retries {
    outstanding: AtomicUsize,
    /// Wakes the ledger when a submission has arrived or returned.
    pub ready: Notify,
}

impl Retries {
    /// Notes that a submission was superseded and will return.
    pub fn open(self: &Arc<Self>) -> RetrySlot {
        self.outstanding.fetch_add(1, Ordering::AcqRel);
        RetrySlot(Arc::clone(self))
    }

    /// Whether a superseded submission has not returned yet.
    pub fn is_waiting(&self) -> bool {
        self.outstanding.load(Ordering::Acquire) > 0
    }
}

/// A superseded submission that is being redone. Rotations wait briefly until it is back in the queue or abandoned;
/// otherwise repeated rotations could supersede it indefinitely. The slot is dropped when the submission is back, so
/// the release ordering below makes its place in the queue visible to a thread that reads the lower count.
pub struct RetrySlot(Arc<Retries>);

impl Drop for RetrySlot {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::AcqRel);
        self.0.ready.notify_one();
    }
}

impl fmt::Debug for RetrySlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RetrySlot")
    }
}

//! Submissions that were superseded and are being done again.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// How many superseded submissions are on their way back to the queue.
#[derive(Default)]
pub struct Retries {
    outstanding: AtomicUsize,
    /// Wakes the ledger when a submission came, or is back.
    pub ready: Notify,
}

impl Retries {
    /// Notes that a submission was superseded and comes back.
    pub fn open(self: &Arc<Self>) -> RetrySlot {
        self.outstanding.fetch_add(1, Ordering::AcqRel);
        RetrySlot(Arc::clone(self))
    }

    /// Whether a superseded submission is on its way back.
    pub fn is_waiting(&self) -> bool {
        self.outstanding.load(Ordering::Acquire) > 0
    }
}

/// A superseded submission that is being done again. Rotations wait, for moments, until it is back in the queue or
/// given up; otherwise one rotation after the other could supersede it for ever. Dropped when it is back, so the
/// release below makes its place in the queue visible to whoever sees the lower count.
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

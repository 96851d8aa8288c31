//! Log lines about an outage: one at its beginning, a summary every 30 seconds, and one at its end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::types::error::Error;

/// The time between two summaries.
const SUMMARY: Duration = Duration::from_secs(30);

/// The state of an outage.
pub struct Outage {
    /// The description of the outage, such as "the store cannot be written".
    what: &'static str,
    lasting: Mutex<Option<Lasting>>,
    /// Set during an outage, so that a success without one takes no lock.
    is_lasting: AtomicBool,
}

struct Lasting {
    since: Instant,
    told: Instant,
    /// Number of failed operations.
    failed: u64,
}

impl Outage {
    /// No outage yet. `what` describes it in the logs.
    pub fn new(what: &'static str) -> Self {
        Self { what, lasting: Mutex::default(), is_lasting: AtomicBool::new(false) }
    }

    fn lasting(&self) -> MutexGuard<'_, Option<Lasting>> {
        self.lasting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a failure of this many operations.
    pub fn note(&self, error: &Error, operations: usize) {
        let mut guard = self.lasting();
        let now = Instant::now();
        let lasting = match guard.as_mut() {
            Some(lasting) => lasting,
            None => {
                tracing::warn!(%error, "{}", self.what);
                self.is_lasting.store(true, Ordering::SeqCst);
                guard.insert(Lasting { since: now, told: now, failed: 0 })
            }
        };
        lasting.failed += operations as u64;
        if now.duration_since(lasting.told) >= SUMMARY {
            lasting.told = now;
            let (failed, seconds) = (lasting.failed, now.duration_since(lasting.since).as_secs());
            tracing::warn!(%error, failed, seconds, "{}: the outage continues", self.what);
        }
    }

    /// Notes a success, which ends the outage.
    pub fn end(&self) {
        if !self.is_lasting.load(Ordering::SeqCst) {
            return;
        }
        if let Some(Lasting { since, failed, .. }) = self.lasting().take() {
            self.is_lasting.store(false, Ordering::SeqCst);
            tracing::warn!(failed, seconds = since.elapsed().as_secs(), "{}: the outage has ended", self.what);
        }
    }
}

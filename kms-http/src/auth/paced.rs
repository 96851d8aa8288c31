//! Verification of the signatures of JWTs that were not verified before: in turns by connection, as many at once as
//! there are cores, and not on the threads that serve requests.
//!
//! Those of networks that exceed their limit of rejected ones take turns of their own, one at a time, and together use
//! at most a quarter of one core. A good JWT therefore gets its turn whatever other callers of its network send, and
//! forged ones cost others little.

use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::ApiError;
use crate::request::fair_queue::{FairQueue, Full};
use crate::request::owner::Owner;

/// After each verification, none starts for this many times as long as it took, including the verification itself.
const SHARE: u32 = 4;
/// Maximum number of requests that wait for their turn.
const WAITING: usize = 16 * 1024;
/// Shorter pauses are skipped until they add up to this.
const PAUSE: Duration = Duration::from_millis(1);
/// Maximum duration that a verification counts as: its thread may have been interrupted.
const LONGEST: Duration = Duration::from_millis(10);

/// The verifications in progress.
pub struct Paced {
    /// Those of networks within their limits.
    free: Arc<FairQueue>,
    /// Those of the other networks.
    slow: Arc<FairQueue>,
    /// When the next verification of the other networks may start.
    next: Arc<Mutex<Instant>>,
}

/// Whether a network has exceeded its limit of rejected JWTs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The network is within its limit.
    Free,
    /// The network is beyond its limit.
    Slow,
}

impl Paced {
    /// Nothing is in progress.
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, NonZero::get).max(2);
        Self {
            free: Arc::new(FairQueue::new(cores, WAITING)),
            slow: Arc::new(FairQueue::new(1, WAITING)),
            next: Arc::new(Mutex::new(Instant::now())),
        }
    }

    /// Runs a verification in the turn of this connection of a network, on a thread for blocking work.
    pub async fn run<T: Send + 'static>(
        &self,
        network: &Owner,
        connection: usize,
        pace: Pace,
        verify: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let queue = if pace == Pace::Free { &self.free } else { &self.slow };
        let turn = queue.enter(&format!("{network:?} {connection}")).await;
        let turn = turn.map_err(|full| ApiError::overloaded(full == Full::Caller))?;
        if pace == Pace::Slow {
            let next = *self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let pause = next.saturating_duration_since(Instant::now());
            if pause >= PAUSE {
                tokio::time::sleep(pause).await;
            }
        }
        let next = Arc::clone(&self.next);
        let verifying = tokio::task::spawn_blocking(move || {
            // The turn lasts as long as the verification, also if the caller hangs up meanwhile.
            let _turn = turn;
            let begun = Instant::now();
            let verified = verify();
            if pace == Pace::Slow {
                let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
                *next = (*next).max(begun) + SHARE * begun.elapsed().min(LONGEST);
            }
            verified
        });
        verifying.await.map_err(|_| ApiError::internal("a token could not be verified; please report it"))
    }
}

#[cfg(test)]
#[path = "../../tests/unit/paced.rs"]
mod tests;

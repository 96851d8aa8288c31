//! Verification of the signatures of JWTs that were not verified before: in turns by connection, as many at once as
//! there are cores, on threads for blocking work.
//!
//! Those of networks that exceed their limit of rejected ones take turns of their own, one at a time, and together use
//! at most a quarter of one core. A good JWT therefore gets its turn whatever other callers of its network send, and
//! forged ones cost others little.

use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kms_lib::internals::run_blocking;

use crate::error::ApiError;
use crate::request::fair_queue::{FairQueue, Full, Pass};
use crate::request::owner::Owner;

/// After each verification, none starts for this many times as long as it took, including the verification itself.
const SHARE: u32 = 4;
/// Maximum number of requests that wait for their turn.
const WAITING: usize = 16 * 1024;
/// Shorter pauses are skipped until they add up to this.
const PAUSE: Duration = Duration::from_millis(1);
/// Maximum duration that a verification counts as: its thread may have been interrupted.
const LONGEST: Duration = Duration::from_millis(10);

/// The verifications in progress and those that wait for a turn.
pub struct Paced {
    /// Those of networks within their limits.
    free: Arc<FairQueue>,
    /// Those of the other networks.
    slow: Arc<FairQueue>,
    /// When the next verification of the other networks may start.
    next: Mutex<Instant>,
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
            next: Mutex::new(Instant::now()),
        }
    }

    /// Runs a verification in the turn of this connection of a network.
    pub async fn run<T: Send + 'static>(
        &self,
        network: &Owner,
        connection: usize,
        pace: Pace,
        verify: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let line = format!("{network:?} {connection}");
        match pace {
            Pace::Free => Self::freely(turn(&self.free, &line).await?, verify).await,
            Pace::Slow => {
                let _turn = turn(&self.slow, &line).await?;
                Ok(self.slowly(verify).await)
            }
        }
    }

    /// Runs a verification on a thread for blocking work. The turn lasts as long, even if the caller hangs up.
    async fn freely<T: Send + 'static>(turn: Pass, verify: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
        let verifying = run_blocking(move || {
            let verified = verify();
            drop(turn);
            Ok(verified)
        });
        Ok(verifying.await?)
    }

    /// Runs a verification after the pause that the last one requires. It runs here: all of them use a part of one core
    /// only, and with another thread each would keep the next one waiting for longer.
    async fn slowly<T>(&self, verify: impl FnOnce() -> T) -> T {
        let next = *self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = next.saturating_duration_since(Instant::now());
        if pause >= PAUSE {
            tokio::time::sleep(pause).await;
        }
        let begun = Instant::now();
        let verified = verify();
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) =
            next.max(begun) + SHARE * begun.elapsed().min(LONGEST);
        verified
    }
}

async fn turn(queue: &Arc<FairQueue>, line: &str) -> Result<Pass, ApiError> {
    queue.enter(line).await.map_err(|full| ApiError::overloaded(full == Full::Caller))
}

#[cfg(test)]
#[path = "../../tests/unit/paced.rs"]
mod tests;

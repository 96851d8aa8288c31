//! Verification of JWT signatures for networks that exceed their limit of rejected ones.
//!
//! These verifications take turns by connection, one at a time, and together use at most a quarter of one core. A good
//! JWT therefore gets its turn whatever other callers of its network send, and forged ones cost others little.

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

/// The verifications in progress and the pause after them.
pub struct Paced {
    turns: Arc<FairQueue>,
    /// When the next verification may start.
    next: Mutex<Instant>,
}

impl Paced {
    /// Nothing is in progress.
    pub fn new() -> Self {
        Self { turns: Arc::new(FairQueue::new(1, WAITING)), next: Mutex::new(Instant::now()) }
    }

    /// Runs a verification in the turn of this connection of a network.
    pub async fn run<T>(
        &self,
        network: &Owner,
        connection: usize,
        verify: impl FnOnce() -> T + Send,
    ) -> Result<T, ApiError> {
        let turn = self.turns.enter(&format!("{network:?} {connection}")).await;
        let _turn = turn.map_err(|full| ApiError::overloaded(full == Full::Caller))?;
        let next = *self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = next.saturating_duration_since(Instant::now());
        if pause >= PAUSE {
            tokio::time::sleep(pause).await;
        }
        let begun = Instant::now();
        let verified = verify();
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) =
            next.max(begun) + SHARE * begun.elapsed().min(LONGEST);
        Ok(verified)
    }
}

#[cfg(test)]
#[path = "../../tests/unit/paced.rs"]
mod tests;

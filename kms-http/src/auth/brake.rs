//! Limits rejected credentials per network.
//!
//! Verifying the signature of a JWT costs more than other checks, so beyond its network's limit, which only failed
//! verifications use up, a JWT that was not verified before waits for a slow turn (`paced.rs`). Cheap checks are always
//! made: tokens of this service, and the claims of a JWT. They have a limit of their own. A caller with a good
//! credential is therefore served whatever other callers at its address send.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::ApiError;
use crate::request::owner::Owner;

/// A network may send as many failures at once as its rate allows in this time.
const BURST: Duration = Duration::from_secs(5);
/// Number of networks from which those without recent failures are removed.
const SWEEP: usize = 10_000;

/// The limits of all networks.
pub struct Brake {
    /// Credentials that were rejected by a cheap check.
    pub cheap: Failures,
    /// JWTs that were not verified before and whose verification failed or is not finished.
    pub signatures: Failures,
}

/// The failures of each network, limited by rate (GCRA).
pub struct Failures {
    /// The time that one failure stands for; zero means no limit.
    interval: Duration,
    state: Mutex<Counted>,
}

#[derive(Default)]
struct Counted {
    /// When each network's failures will be forgotten.
    until: HashMap<Owner, Instant>,
    /// Number of networks at which the table is swept.
    sweep: usize,
}

impl Brake {
    /// Allows `per_second` rejected credentials of each kind per second and network; 0 means no limit.
    pub fn new(per_second: u32) -> Self {
        Self { cheap: Failures::new(per_second), signatures: Failures::new(per_second) }
    }
}

impl Failures {
    fn new(per_second: u32) -> Self {
        let interval = Duration::from_secs(1).checked_div(per_second).unwrap_or_default();
        Self { interval, state: Mutex::default() }
    }

    /// Counts a failure of this network, or an attempt that may become one. Returns an error if the limit is exceeded.
    pub fn count(&self, network: &Owner) -> Result<(), ApiError> {
        if self.interval.is_zero() {
            return Ok(());
        }
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.until.len() >= state.sweep.max(SWEEP) {
            state.until.retain(|_, until| *until > now);
            state.sweep = 2 * state.until.len();
        }
        let until = state.until.entry(network.clone()).or_insert(now);
        *until = (*until).max(now);
        let excess = until.duration_since(now).saturating_add(self.interval).saturating_sub(BURST);
        if !excess.is_zero() {
            let seconds = u32::try_from(excess.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
            return Err(ApiError::too_many_failures(seconds));
        }
        *until += self.interval;
        Ok(())
    }

    /// Takes back the count of an attempt that did not fail.
    pub fn take_back(&self, network: &Owner) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = state.until.get_mut(network) {
            *until = until.checked_sub(self.interval).unwrap_or(*until);
        }
    }
}

#[cfg(test)]
#[path = "../../tests/unit/brake.rs"]
mod tests;

//! Limits rejected credentials per network, and remembers accepted ones.
//!
//! Verifying the signature of a JWT is expensive, so a JWT that was not seen before is verified only within its
//! network's limit. Cheap checks are always made: tokens of this service, and the claims of a JWT. A caller with a
//! valid credential is therefore served whatever other callers at its address send.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use governor::clock::{Clock, MonotonicClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use std::num::NonZeroU32;

use crate::error::ApiError;
use crate::request::owner::Owner;

/// Size of a burst, as a multiple of the rate per second.
const BURST: u32 = 5;
/// Number of failures after which the states of inactive networks are removed.
const SWEEP: u32 = 10_000;
/// Minimum number of accepted credentials that are remembered; the maximum is twice this.
const KNOWN: usize = 8_192;

/// The limits of all networks and the accepted credentials.
pub struct Brake {
    limiter: Option<RateLimiter<Owner, HashMapStateStore<Owner>, MonotonicClock>>,
    clock: MonotonicClock,
    failures: AtomicU32,
    known: Mutex<Known>,
    hasher: RandomState,
}

/// Hashes of accepted credentials, in two generations: when the newer one is full, it replaces the older one. They only
/// decide whether a JWT may be verified without being counted, so a collision is harmless.
#[derive(Default)]
struct Known {
    newer: HashSet<u64>,
    older: HashSet<u64>,
}

impl Brake {
    /// Allows `per_second` rejected credentials per second and network; 0 means no limit.
    pub fn new(per_second: u32) -> Self {
        let clock = MonotonicClock;
        let limiter = NonZeroU32::new(per_second).map(|rate| {
            let burst = rate.saturating_mul(NonZeroU32::new(BURST).unwrap_or(NonZeroU32::MIN));
            let quota = Quota::per_second(rate).allow_burst(burst);
            RateLimiter::new(quota, HashMapStateStore::default(), clock.clone())
        });
        Self { limiter, clock, failures: AtomicU32::new(0), known: Mutex::default(), hasher: RandomState::new() }
    }

    /// Counts a credential of this network that was rejected, or a new one that is expensive to verify. Returns an
    /// error if the limit is exceeded.
    pub fn count(&self, network: &Owner) -> Result<(), ApiError> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        if self.failures.fetch_add(1, Ordering::Relaxed) % SWEEP == SWEEP - 1 {
            limiter.retain_recent();
        }
        limiter.check_key(network).map_err(|not_until| {
            let wait = not_until.wait_time_from(self.clock.now());
            ApiError::too_many_failures(u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1))
        })
    }

    /// Whether a credential was accepted recently.
    pub fn is_known(&self, credential: &str) -> bool {
        let hash = self.hasher.hash_one(credential);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.newer.contains(&hash) || known.older.contains(&hash)
    }

    /// Remembers an accepted credential.
    pub fn remember(&self, credential: &str) {
        let hash = self.hasher.hash_one(credential);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.newer.insert(hash) && known.newer.len() > KNOWN {
            known.older = std::mem::take(&mut known.newer);
            known.newer.insert(hash);
        }
    }
}

#[cfg(test)]
#[path = "../../tests/unit/brake.rs"]
mod tests;

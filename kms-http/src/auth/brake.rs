//! Credentials that are not good: how many a network may send, and what is remembered of good ones.
//!
//! Checking the signature of a JWT costs time, so one that was not seen before is only checked within the network's
//! limit. What is cheap to check is always checked: tokens of this service, and what a JWT says of itself. So a caller
//! with a good credential is served whatever others at its address send.

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

/// How many may come at once, as a multiple of those a second.
const BURST: u32 = 5;
/// After so many failures, networks that have been quiet are forgotten.
const SWEEP: u32 = 10_000;
/// Good credentials that are remembered, at least; at most twice as many.
const KNOWN: usize = 8_192;

/// The limit of every network.
pub struct Brake {
    limiter: Option<RateLimiter<Owner, HashMapStateStore<Owner>, MonotonicClock>>,
    clock: MonotonicClock,
    failures: AtomicU32,
    known: Mutex<Known>,
    hasher: RandomState,
}

/// Hashes of credentials that were good, in two generations: the older one is forgotten when the newer one is full.
/// They only say what may be checked, so a collision does no harm.
#[derive(Default)]
struct Known {
    newer: HashSet<u64>,
    older: HashSet<u64>,
}

impl Brake {
    /// So many credentials a second that are not good; 0 for any number.
    pub fn new(per_second: u32) -> Self {
        let clock = MonotonicClock;
        let limiter = NonZeroU32::new(per_second).map(|rate| {
            let burst = rate.saturating_mul(NonZeroU32::new(BURST).unwrap_or(NonZeroU32::MIN));
            let quota = Quota::per_second(rate).allow_burst(burst);
            RateLimiter::new(quota, HashMapStateStore::default(), clock.clone())
        });
        Self { limiter, clock, failures: AtomicU32::new(0), known: Mutex::default(), hasher: RandomState::new() }
    }

    /// Counts a credential of this network: one that is not good, or one that costs time to check and was not seen
    /// before. Beyond the limit, it is refused.
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

    /// Whether a credential was good a while ago.
    pub fn is_known(&self, credential: &str) -> bool {
        let hash = self.hasher.hash_one(credential);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.newer.contains(&hash) || known.older.contains(&hash)
    }

    /// Remembers a credential that is good.
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

//! How many requests a second a principal may send.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use governor::clock::{Clock, MonotonicClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

/// After so many answers, principals that have been quiet are forgotten.
const SWEEP: u32 = 10_000;

/// The rates of all principals.
pub struct Rate {
    limiter: RateLimiter<String, HashMapStateStore<String>, MonotonicClock>,
    clock: MonotonicClock,
    answers: AtomicU32,
}

impl Rate {
    /// So many a second, and so many at once (as many as a second's without). None: any number.
    pub fn new(per_second: u32, burst: u32) -> Option<Self> {
        let quota = Quota::per_second(NonZeroU32::new(per_second)?);
        let quota = NonZeroU32::new(burst).map_or(quota, |burst| quota.allow_burst(burst));
        let clock = MonotonicClock;
        let limiter = RateLimiter::new(quota, HashMapStateStore::default(), clock.clone());
        Some(Self { limiter, clock, answers: AtomicU32::new(0) })
    }

    /// Whether this principal may send one more now; else in how many seconds.
    pub fn check(&self, principal: &str) -> Result<(), u32> {
        if self.answers.fetch_add(1, Ordering::Relaxed) % SWEEP == SWEEP - 1 {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(&principal.to_owned()).map_err(|not_until| {
            let wait = not_until.wait_time_from(self.clock.now());
            u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1)
        })
    }
}

#[cfg(test)]
#[path = "../../tests/unit/rate.rs"]
mod tests;

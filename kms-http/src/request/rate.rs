//! Limits the number of requests per second of each principal.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use governor::clock::{Clock, MonotonicClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

/// Number of checks after which the states of inactive principals are removed.
const SWEEP: u32 = 10_000;

/// The request rates of all principals.
pub struct Rate {
    limiter: RateLimiter<String, HashMapStateStore<String>, MonotonicClock>,
    clock: MonotonicClock,
    answers: AtomicU32,
}

impl Rate {
    /// Allows `per_second` requests per second and bursts of `burst` requests (`per_second` if `burst` is 0). Returns
    /// `None`, which means no limit, if `per_second` is 0.
    pub fn new(per_second: u32, burst: u32) -> Option<Self> {
        let quota = Quota::per_second(NonZeroU32::new(per_second)?);
        let quota = NonZeroU32::new(burst).map_or(quota, |burst| quota.allow_burst(burst));
        let clock = MonotonicClock;
        let limiter = RateLimiter::new(quota, HashMapStateStore::default(), clock.clone());
        Some(Self { limiter, clock, answers: AtomicU32::new(0) })
    }

    /// Counts a request of this principal. If the limit is exceeded, the error is the number of seconds to wait.
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

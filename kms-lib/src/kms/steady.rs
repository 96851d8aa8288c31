//! Whether the clock runs steadily. A clock that jumps must not trigger irreversible jobs.

use std::time::{Duration, Instant};

use crate::types::time::Timestamp;

/// The largest tolerated difference between the clock's advance and the time that actually passed.
pub(super) const JUMP: Duration = Duration::from_secs(30);
/// A clock that is set back by more than this reaches different minutes, even though they have the same names.
pub(super) const FAR: Duration = Duration::from_secs(120);
/// The time for which the clock must have run steadily before irreversible jobs run. A clock that is wrong or not set
/// yet could otherwise erase keys whose deletion can still be cancelled.
pub(super) const STEADY: Duration = Duration::from_secs(600);

/// Compares the clock with the monotonic clock, which cannot be set.
pub(super) struct Steady {
    seen: (Timestamp, Instant),
    since: Instant,
}

impl Steady {
    pub(super) fn new(now: Timestamp, at: Instant) -> Self {
        Self { seen: (now, at), since: at }
    }

    pub(super) fn look(&mut self, now: Timestamp, at: Instant) {
        let (before, seen_at) = self.seen;
        let passed = at.saturating_duration_since(seen_at);
        let moved = before.distance(now);
        let is_even = now >= before && moved.abs_diff(passed) <= JUMP;
        if !is_even && moved.max(passed) > JUMP {
            tracing::warn!(%before, %now, ?passed, "the clock jumped; irreversible jobs are paused for 10 minutes");
            self.since = at;
        }
        self.seen = (now, at);
    }

    /// The time for which the clock has run steadily.
    pub(super) fn lasts(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_is_noticed() {
        let (begun, time) = (Instant::now(), Timestamp::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut steady = Steady::new(time, begun);
        for n in 1..=40 {
            // A second more or less does not count as a jump.
            steady.look(time.plus_seconds(n * 30 + n % 2), at(n as u64 * 30));
        }
        assert_eq!(steady.lasts(at(1_200)), Duration::from_secs(1_200));
        // One month ahead and steady from then on, then back again.
        let month = 30 * 86_400;
        steady.look(time.plus_seconds(month + 1_230), at(1_230));
        steady.look(time.plus_seconds(month + 1_260), at(1_260));
        assert_eq!(steady.lasts(at(1_260)), Duration::from_secs(30));
        steady.look(time.plus_seconds(1_290), at(1_290));
        assert_eq!(steady.lasts(at(1_290)), Duration::ZERO);
        // The clock stops while time passes.
        steady.look(time.plus_seconds(1_290), at(1_330));
        assert_eq!(steady.lasts(at(1_340)), Duration::from_secs(10));
    }
}

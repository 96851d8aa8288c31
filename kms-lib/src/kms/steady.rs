//! Whether the clock runs evenly: nothing that cannot be undone is done by one that jumps.

use std::time::{Duration, Instant};

use crate::types::time::Timestamp;

/// How far the clock may be from where the time that has passed would have put it.
pub(super) const JUMP: Duration = Duration::from_secs(30);
/// A clock that is put back further than this comes to other minutes, though they have the same names.
pub(super) const FAR: Duration = Duration::from_secs(120);
/// Nothing is done that cannot be undone before the clock has run evenly for so long: one that was set wrongly, or is
/// yet to be set, would erase keys whose deletion can still be cancelled.
pub(super) const STEADY: Duration = Duration::from_secs(600);

/// Holds the clock against the one that nobody sets.
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
            tracing::warn!(%before, %now, ?passed, "the clock jumped: nothing that cannot be undone is done for a while");
            self.since = at;
        }
        self.seen = (now, at);
    }

    /// For how long it has run evenly.
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
            // A second too much or too little is no jump.
            steady.look(time.plus_seconds(n * 30 + n % 2), at(n as u64 * 30));
        }
        assert_eq!(steady.lasts(at(1_200)), Duration::from_secs(1_200));
        // A month ahead, from then on evenly; and back.
        let month = 30 * 86_400;
        steady.look(time.plus_seconds(month + 1_230), at(1_230));
        steady.look(time.plus_seconds(month + 1_260), at(1_260));
        assert_eq!(steady.lasts(at(1_260)), Duration::from_secs(30));
        steady.look(time.plus_seconds(1_290), at(1_290));
        assert_eq!(steady.lasts(at(1_290)), Duration::ZERO);
        // Still, while time passes.
        steady.look(time.plus_seconds(1_290), at(1_330));
        assert_eq!(steady.lasts(at(1_340)), Duration::from_secs(10));
    }
}

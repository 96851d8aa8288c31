//! The window of old records that are reread: it moves over the log in rounds, so that no record stays unread for
//! longer than the configured time.
//!
//! A round takes at most half of that time. Its state is stored in `meta` with a seal. Restoring an older sealed state
//! gains nothing: the time since the round began counts, so the window becomes larger, and a round that began longer
//! ago than the configured time is dropped; everything is verified instead.

use crate::envelope::{Seals, row::Fields};
use crate::types::audit::hex;
use crate::types::time::Timestamp;

/// The name under which the state is stored.
pub(crate) const REVERIFY_WINDOW: &str = "audit.reverify_window";

/// The state of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// The number of records that this round rereads.
    goal: u64,
    /// How many of these records have been reread.
    next: u64,
    /// The start of the round.
    begun: Timestamp,
    /// The time of the last run of the round.
    last: Timestamp,
}

impl Window {
    /// A new round over the first `goal` records.
    pub fn new(goal: u64, now: Timestamp) -> Self {
        Self { goal, next: 0, begun: now, last: now }
    }

    /// The text to store: the state and its seal.
    pub fn sealed(&self, seals: &Seals) -> String {
        let (begun, last) = (self.begun.micros(), self.last.micros());
        format!("{} {} {begun} {last} {}", self.goal, self.next, hex(&seals.seal(&self.bytes())))
    }

    /// Reads the stored text; none if this service did not seal it.
    pub fn open(text: &str, seals: &Seals) -> Option<Self> {
        let mut words = text.split(' ');
        let mut number = || words.next()?.parse::<i64>().ok();
        let (goal, next, begun, last) = (number()?, number()?, number()?, number()?);
        let window = Self {
            goal: goal.try_into().ok()?,
            next: next.try_into().ok()?,
            begun: Timestamp::from_micros(begun),
            last: Timestamp::from_micros(last),
        };
        (window.sealed(seals) == text).then_some(window)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut fields = Fields::new(b"kms-reverify/v1\0");
        fields
            .number(self.goal)
            .number(self.next)
            .number(self.begun.micros().unsigned_abs())
            .number(self.last.micros().unsigned_abs());
        fields.finish()
    }

    /// The range of records to reread now, from after the first number up to the second. None if everything must be
    /// read: the round is older than the configured time, or its times are in the future.
    ///
    /// The range is large enough that, if the next run comes after the same interval, the round ends within half of the
    /// configured time.
    pub fn due(&self, now: Timestamp, days: u32) -> Option<(u64, u64)> {
        let period = i64::from(days) * 86_400_000_000;
        let (age, since) = (now.micros() - self.begun.micros(), now.micros() - self.last.micros());
        if age < 0 || since < 0 || age > period {
            return None;
        }
        let passed = u128::from((age + since).unsigned_abs());
        let target = u128::from(self.goal) * passed / u128::from((period / 2).unsigned_abs().max(1));
        Some((self.next, u64::try_from(target).unwrap_or(u64::MAX).min(self.goal)))
    }

    /// The state after the records up to `read` were read again, of a log whose first `old` records were verified
    /// earlier.
    pub fn advanced(&self, read: u64, old: u64, now: Timestamp) -> Self {
        if read >= self.goal.min(old) {
            return Self::new(old, now);
        }
        Self { next: self.next.max(read), last: now, ..*self }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HOUR: i64 = 3_600_000_000;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_micros(1_000 * HOUR + hours * HOUR)
    }

    /// Every record is read again within the time, also of a log that grows, however the runs are spaced.
    #[test]
    fn no_record_stays_unread_for_longer_than_the_time() {
        for (every, growth) in [(1, 0), (1, 5_000), (13, 100), (24, 40_000)] {
            let mut read_at = vec![at(0); 100];
            let mut size = 100_000u64;
            let mut window = Window::new(size, at(0));
            let mut hour = 0;
            while hour < 24 * 60 {
                hour += every;
                size += growth;
                let (next, target) = window.due(at(hour), 7).unwrap();
                let end = target.max(next).min(size);
                read_at.resize(usize::try_from(size / 1_000).unwrap(), at(hour));
                for block in next / 1_000..end / 1_000 {
                    read_at[usize::try_from(block).unwrap()] = at(hour);
                }
                window = window.advanced(end, size, at(hour));
                let oldest = read_at.iter().min().unwrap();
                assert!(at(hour).micros() - oldest.micros() <= 7 * 24 * HOUR, "every {every} h, hour {hour}");
            }
        }
    }

    #[test]
    fn a_round_that_is_too_old_or_of_the_future_is_not_gone_on_with() {
        let window = Window::new(100, at(0));
        assert_eq!(window.due(at(0), 7), Some((0, 0)));
        assert_eq!(window.due(at(24 * 4), 7), Some((0, 100)));
        assert_eq!(window.due(at(24 * 7 + 1), 7), None);
        assert_eq!(window.due(at(-1), 7), None);
    }

    #[test]
    fn only_what_this_service_sealed_counts() {
        let seals = Seals::new(1, &[1; 64]).unwrap();
        let window = Window { goal: 9, next: 4, begun: at(1), last: at(2) };
        let text = window.sealed(&seals);
        assert_eq!(Window::open(&text, &seals), Some(window));
        assert_eq!(Window::open(&text, &Seals::new(1, &[2; 64]).unwrap()), None);
        assert_eq!(Window::open(&text.replacen('4', "5", 1), &seals), None);
        for bad in ["", "1 2 3 4", "x", &format!("{text} ")] {
            assert_eq!(Window::open(bad, &seals), None, "{bad:?}");
        }
    }
}

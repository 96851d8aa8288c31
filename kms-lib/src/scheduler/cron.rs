//! Five-field cron expressions, with the meaning cron gives them: Sunday is 0 or 7, and where both day fields are
//! restricted, either suffices.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;

use crate::types::error::{Error, ErrorCode, Result};
use crate::types::time::Timestamp;

/// Longest expression, in bytes.
const BYTES: usize = 256;

/// When something recurs, in UTC.
///
/// ```
/// use kms_lib::{Timestamp, scheduler::Schedule};
/// let schedule = Schedule::parse("30 2 * * 1-5")?;
/// let saturday: Timestamp = "2026-11-21T00:00:00Z".parse()?;
/// assert_eq!(schedule.next_after(saturday), Some("2026-11-23T02:30:00Z".parse()?));
/// # Ok::<(), kms_lib::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Schedule(Cron);

impl Schedule {
    /// Reads minute, hour, day of month, month, day of week. Names (`MON`, `JAN`), lists, ranges and steps are known,
    /// and `@hourly`, `@daily`, `@weekly`, `@monthly`. `InvalidConfiguration` if it is malformed or never comes.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |why: String| Error::new(ErrorCode::InvalidConfiguration, format!("the cron expression {why}"));
        if text.len() > BYTES || !text.is_ascii() {
            return Err(bad("is too long or not ASCII".into()));
        }
        let fields = text.split_whitespace().count();
        if fields != 5 && !(fields == 1 && text.trim().starts_with('@')) {
            return Err(bad(format!("{text:?} has {fields} fields; five are expected: minute hour day month weekday")));
        }
        let parser =
            CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).dom_and_dow(false).build();
        let schedule = Self(parser.parse(text).map_err(|e| bad(format!("{text:?} is malformed: {e}")))?);
        if schedule.next_after(Timestamp::now()).is_none() {
            return Err(bad(format!("{text:?} never comes")));
        }
        Ok(schedule)
    }

    /// The next time after `time`; none if there is none.
    pub fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        let from = jiff::Timestamp::from_microsecond(time.micros()).ok()?.to_zoned(TimeZone::UTC);
        let next = self.0.find_next_occurrence(&from, false).ok()?;
        Some(Timestamp::from_micros(next.timestamp().as_microsecond()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn next(expression: &str, after: &str) -> String {
        Schedule::parse(expression).unwrap().next_after(after.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn means_what_cron_means() {
        // 2026-11-24 is a Tuesday.
        let now = "2026-11-24T10:17:00Z";
        for (expression, expected) in [
            ("0 * * * *", "2026-11-24T11:00:00.000000Z"),
            ("*/15 * * * *", "2026-11-24T10:30:00.000000Z"),
            ("0 0 * * 0", "2026-11-29T00:00:00.000000Z"),
            ("0 0 * * 7", "2026-11-29T00:00:00.000000Z"),
            ("0 0 * * SUN", "2026-11-29T00:00:00.000000Z"),
            ("0 0 * * 1", "2026-11-30T00:00:00.000000Z"),
            // The 13th or a Friday, not only a Friday the 13th.
            ("0 0 13 * 5", "2026-11-27T00:00:00.000000Z"),
            ("0 0 29 2 *", "2028-02-29T00:00:00.000000Z"),
            ("17 10 24 11 *", "2027-11-24T10:17:00.000000Z"),
            ("@daily", "2026-11-25T00:00:00.000000Z"),
        ] {
            assert_eq!(next(expression, now), expected, "{expression}");
        }
    }

    #[test]
    fn refuses_what_cron_does_not_know() {
        for bad in [
            "",
            "* * * *",
            "0 * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 32 * *",
            "a b c d e",
            "0 0 31 2 *",
            "*/0 * * * *",
        ] {
            assert!(Schedule::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Schedule::parse(&"*".repeat(10_000)).is_err());
        assert!(Schedule::parse("\u{ff10} * * * *").is_err());
    }
}

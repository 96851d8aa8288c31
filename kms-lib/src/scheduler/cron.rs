//! Five-field cron expressions as in POSIX, on top of the `cron` crate.
//!
//! The crate's own expressions begin with seconds, count Sunday as 1, combine the two day fields with AND, and need no
//! blanks between fields (`1JAN` is read as two fields). So this module parses the five fields and passes only lists of
//! numbers to the crate. If both day fields are restricted, two schedules are combined.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use crate::types::error::{Error, ErrorCode, Result};
use crate::types::time::Timestamp;

/// Longest expression, in bytes.
const BYTES: usize = 256;

/// The times at which a cron expression matches, in UTC.
///
/// ```
/// use kms_lib::{Timestamp, internals::Schedule};
/// let schedule = Schedule::parse("30 2 * * 1-5")?;
/// let saturday: Timestamp = "2026-11-21T00:00:00Z".parse()?;
/// assert_eq!(schedule.next_after(saturday), Some("2026-11-23T02:30:00Z".parse()?));
/// # Ok::<(), kms_lib::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Schedule {
    /// One schedule, or one for each of the two day fields.
    alternatives: Vec<cron::Schedule>,
}

impl Schedule {
    /// Parses minute, hour, day of month, month and day of week, as in crontab(5): numbers, names (`MON`, `JAN`),
    /// ranges, lists and steps (`*/15`, `8-18/2`). Sunday is 0 or 7. If both day fields are restricted, a day that
    /// matches either of them matches. `@hourly`, `@daily`, `@weekly`, `@monthly` and `@yearly` (or `@annually`) have
    /// their usual meaning.
    ///
    /// Fails with `InvalidConfiguration` if the expression is malformed or has no match before the year 2101. The
    /// extensions `L`, `W`, `#` and `?` are not supported, nor are steps longer than their field.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |why: String| Error::new(ErrorCode::InvalidConfiguration, format!("the cron expression {why}"));
        if text.len() > BYTES || !text.is_ascii() {
            return Err(bad("is too long or not ASCII".into()));
        }
        let fields: Vec<&str> = expand(text).split_ascii_whitespace().collect();
        let &[minute, hour, day, month, weekday] = &*fields else {
            let count = fields.len();
            return Err(bad(format!("{text:?} has {count} fields; five are expected: minute hour day month weekday")));
        };
        let translated = translate([minute, hour, day, month, weekday]);
        let alternatives = translated.map_err(|why| bad(format!("{text:?} is malformed: {why}")))?;
        let schedule = Self { alternatives };
        if schedule.next_after(Timestamp::now()).is_none() {
            return Err(bad(format!("{text:?} never matches a date before 2101")));
        }
        Ok(schedule)
    }

    /// The next match after `time`; `None` if there is none before the year 2101.
    pub fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        let from = DateTime::<Utc>::from_timestamp_micros(time.micros())?;
        let next = self.alternatives.iter().filter_map(|schedule| schedule.after(&from).next()).min()?;
        Some(Timestamp::from_micros(next.timestamp_micros()))
    }
}

/// Replaces a nickname, such as `@daily`, by its five fields.
fn expand(text: &str) -> &str {
    match text.trim().to_ascii_lowercase().as_str() {
        "@hourly" => "0 * * * *",
        "@daily" => "0 0 * * *",
        "@weekly" => "0 0 * * 0",
        "@monthly" => "0 0 1 * *",
        "@yearly" | "@annually" => "0 0 1 1 *",
        _ => text,
    }
}

/// The schedules whose union matches as the five fields do, or the error in a field.
fn translate(fields: [&str; 5]) -> std::result::Result<Vec<cron::Schedule>, String> {
    let [minute, hour, day, month, weekday] = fields;
    let (minute, hour, month) = (MINUTE.read(minute)?, HOUR.read(hour)?, MONTH.read(month)?);
    let (days, weekdays) = (DAY.read(day)?, WEEKDAY.read(weekday)?);
    let (days, weekdays) = (list(&days), list(&weekdays.into_iter().map(|day| day % 7 + 1).collect()));
    let pairs = match (day, weekday) {
        ("*", _) | (_, "*") => vec![(&*days, &*weekdays)],
        _ => vec![(&*days, "*"), ("*", &*weekdays)],
    };
    let (minute, hour, month) = (list(&minute), list(&hour), list(&month));
    let schedule = |(days, weekdays)| {
        let text = format!("0 {minute} {hour} {days} {month} {weekdays}");
        text.parse().map_err(|e: cron::error::Error| e.to_string())
    };
    pairs.into_iter().map(schedule).collect()
}

fn list(numbers: &BTreeSet<u32>) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// The allowed values of one of the five fields.
struct Field {
    name: &'static str,
    first: u32,
    last: u32,
    /// Names of the numbers, beginning with that of `first`.
    names: &'static [&'static str],
}

const MINUTE: Field = Field { name: "minute", first: 0, last: 59, names: &[] };
const HOUR: Field = Field { name: "hour", first: 0, last: 23, names: &[] };
const DAY: Field = Field { name: "day of the month", first: 1, last: 31, names: &[] };
const MONTH: Field = Field {
    name: "month",
    first: 1,
    last: 12,
    names: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
};
const WEEKDAY: Field =
    Field { name: "day of the week", first: 0, last: 7, names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"] };

impl Field {
    /// The numbers that a field matches.
    fn read(&self, text: &str) -> std::result::Result<BTreeSet<u32>, String> {
        let mut numbers = BTreeSet::new();
        for element in text.split(',') {
            let (range, step) = element.split_once('/').map_or((element, None), |(range, step)| (range, Some(step)));
            let (first, last) = match range.split_once('-') {
                None if range == "*" => (self.first, self.last),
                Some((first, last)) => (self.number(first)?, self.number(last)?),
                None if step.is_none() => (self.number(range)?, self.number(range)?),
                None => return Err(format!("{element:?} has a step, which needs a range or *")),
            };
            if first > last {
                return Err(format!("the range {range:?} is reversed"));
            }
            let step = step.map_or(Ok(1), |step| self.step(step))?;
            numbers.extend((first..=last).step_by(step));
        }
        Ok(numbers)
    }

    fn number(&self, text: &str) -> std::result::Result<u32, String> {
        let named = (self.first..).zip(self.names).find(|(_, name)| name.eq_ignore_ascii_case(text));
        let number = named.map(|(number, _)| number).or_else(|| digits(text));
        let is_known = |number: &u32| (self.first..=self.last).contains(number);
        number.filter(is_known).ok_or_else(|| {
            let Self { name, first, last, .. } = self;
            format!("{text:?} is not a valid {name}; {first} to {last} are allowed")
        })
    }

    fn step(&self, text: &str) -> std::result::Result<usize, String> {
        let step = digits(text).filter(|step| (1..=self.last).contains(step)).and_then(|step| step.try_into().ok());
        step.ok_or_else(|| {
            format!("{text:?} is not a valid step for the {}; 1 to {} are allowed", self.name, self.last)
        })
    }
}

/// Parses an unsigned decimal number.
fn digits(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests;

//! Points in time: microseconds since 1970-01-01T00:00:00Z.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::{SignedDuration, civil};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::{Error, ErrorCode};

/// Microseconds in a second.
const SECOND: i64 = 1_000_000;
/// Microseconds in a day.
const DAY: i64 = 86_400 * SECOND;
/// 9999-12-31T23:59:59.999999Z, the last moment RFC 3339 can write.
const LAST: i64 = 253_402_300_799 * SECOND + 999_999;

/// A point in time in microseconds UTC, between the years 1970 and 9999.
///
/// ```
/// use kms_lib::Timestamp;
/// let t: Timestamp = "2026-11-23T18:26:46.5Z".parse()?;
/// assert_eq!(t.to_string(), "2026-11-23T18:26:46.500000Z");
/// # Ok::<(), kms_lib::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The current time, from the system's clock.
    pub fn now() -> Self {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self::from_micros(i64::try_from(elapsed.as_micros()).unwrap_or(LAST))
    }
    /// The time this many microseconds after 1970-01-01T00:00:00Z, clamped to the years 1970 to 9999.
    pub const fn from_micros(micros: i64) -> Self {
        Self(if micros < 0 {
            0
        } else if micros > LAST {
            LAST
        } else {
            micros
        })
    }
    /// Microseconds since 1970-01-01T00:00:00Z.
    pub const fn micros(self) -> i64 {
        self.0
    }
    /// The time this many days later, clamped to the year 9999.
    pub const fn plus_days(self, days: u32) -> Self {
        Self::from_micros(self.0 + days as i64 * DAY)
    }
    /// The time this many days earlier, clamped to the year 1970.
    pub const fn minus_days(self, days: u32) -> Self {
        Self::from_micros(self.0 - days as i64 * DAY)
    }
    /// The time this many seconds later, clamped to the year 9999.
    pub const fn plus_seconds(self, seconds: u32) -> Self {
        Self::from_micros(self.0 + seconds as i64 * SECOND)
    }
    /// Whole hours since 1970-01-01T00:00:00Z, the unit in which usage is counted.
    pub const fn hour(self) -> i64 {
        self.0 / (3600 * SECOND)
    }
    /// The beginning of an hour that is counted as in [`Timestamp::hour`].
    pub const fn from_hour(hour: i64) -> Self {
        Self::from_micros(hour.saturating_mul(3600 * SECOND))
    }
    /// Whole days from `earlier` to this time; 0 if `earlier` is later than this time.
    pub const fn days_since(self, earlier: Self) -> u32 {
        let days = (self.0 - earlier.0) / DAY;
        if days < 0 { 0 } else { days as u32 }
    }
    /// The time between this time and `other`, whichever is earlier.
    pub const fn distance(self, other: Self) -> Duration {
        Duration::from_micros(self.0.abs_diff(other.0))
    }
}

/// RFC 3339 in UTC with six decimals.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `jiff::Timestamp` ends a day before the year 9999 does; its civil times do not.
        let start = civil::date(1970, 1, 1).at(0, 0, 0, 0);
        let time = start.checked_add(SignedDuration::from_micros(self.0)).unwrap_or(civil::DateTime::MAX);
        write!(f, "{time:.6}Z")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// RFC 3339: date and time with seconds, and an offset from UTC of less than a day. A leap second counts as the second
/// before it, and digits beyond microseconds are dropped.
impl FromStr for Timestamp {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text.as_bytes()).ok_or_else(|| {
            Error::new(ErrorCode::InvalidArgument, "not a time: RFC 3339 is expected, such as 2026-11-23T18:26:46Z")
        })
    }
}

fn parse(text: &[u8]) -> Option<Timestamp> {
    let (date_time, rest) = text.split_at_checked("2026-11-23T18:26:46".len())?;
    let at = |from: usize, count: usize| number(&date_time[from..from + count]);
    let is_shaped = (date_time[4], date_time[7], date_time[13], date_time[16]) == (b'-', b'-', b':', b':');
    if !is_shaped || !matches!(date_time[10], b'T' | b't' | b' ') {
        return None;
    }
    let (hour, minute, second) = (at(11, 2)?, at(14, 2)?, at(17, 2)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let date = civil::Date::new(i16::try_from(at(0, 4)?).ok()?, narrow(at(5, 2)?)?, narrow(at(8, 2)?)?).ok()?;
    let days = date.duration_since(civil::date(1970, 1, 1)).as_hours() / 24;
    let (fraction, zone) = fraction(rest)?;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second.min(59) - offset(zone)?;
    let micros = seconds * SECOND + fraction;
    (0..=LAST).contains(&micros).then_some(Timestamp(micros))
}

fn narrow(number: i64) -> Option<i8> {
    i8::try_from(number).ok()
}

/// The decimal number in these bytes, at most four; `None` if one is not a digit.
fn number(digits: &[u8]) -> Option<i64> {
    let each = |sum: i64, digit: &u8| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0'));
    digits.iter().try_fold(0, each)
}

/// The fraction of a second, in microseconds, and the text after it.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some(digits) = text.strip_prefix(b".") else { return Some((0, text)) };
    let length = digits.iter().take_while(|digit| digit.is_ascii_digit()).count();
    let (digits, rest) = digits.split_at(length);
    if digits.is_empty() {
        return None;
    }
    let six = digits.iter().chain(std::iter::repeat(&b'0')).take(6);
    Some((six.fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')), rest))
}

/// The offset of a zone from UTC, in seconds; positive if ahead.
fn offset(zone: &[u8]) -> Option<i64> {
    let (sign, hours, minutes) = match zone {
        b"Z" | b"z" => return Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => (*sign, number(&[*h1, *h2])?, number(&[*m1, *m2])?),
        _ => return None,
    };
    if hours > 23 || minutes > 59 {
        return None;
    }
    let seconds = hours * 3_600 + minutes * 60;
    Some(if sign == b'-' { -seconds } else { seconds })
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The source of the current time: the system's clock or, in tests and simulations, another one.
#[derive(Clone)]
pub struct Clock {
    now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    apart: bool,
}

impl Clock {
    /// A clock that returns the result of `now`.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self { now: Arc::new(now), apart: false }
    }
    /// The same clock, not compared with that of a database server: for simulations of other times.
    #[must_use]
    pub fn skip_skew_check(self) -> Self {
        Self { apart: true, ..self }
    }
    /// Whether the clock is not compared with that of a database server.
    pub(crate) fn is_apart(&self) -> bool {
        self.apart
    }
    /// The clock's current time.
    pub fn now(&self) -> Timestamp {
        (self.now)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(Timestamp::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rfc_3339_is_read_to_the_last_second() {
        for (text, shown) in [
            ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000000Z"),
            ("2026-11-23t18:26:46.5z", "2026-11-23T18:26:46.500000Z"),
            ("2026-11-23 18:26:46.1234567899Z", "2026-11-23T18:26:46.123456Z"),
            ("2026-11-23T18:26:46+02:00", "2026-11-23T16:26:46.000000Z"),
            ("2026-11-23T18:26:46-23:59", "2026-11-24T18:25:46.000000Z"),
            ("2026-11-23T18:26:46-00:00", "2026-11-23T18:26:46.000000Z"),
            ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00.000000Z"),
            ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59.000000Z"),
            ("9999-12-30T22:00:01Z", "9999-12-30T22:00:01.000000Z"),
            ("9999-12-31T05:00:00Z", "9999-12-31T05:00:00.000000Z"),
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.000000Z"),
            ("9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59.999999Z"),
        ] {
            let time: Timestamp = text.parse().unwrap();
            assert_eq!(time.to_string(), shown, "{text}");
            assert_eq!(shown.parse::<Timestamp>().unwrap(), time);
        }
        for micros in (0..=LAST).step_by(997 * 86_400 * SECOND as usize + 7_777_777) {
            let time = Timestamp(micros);
            assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
            // The text that jiff writes for a time is parsed to the same time.
            assert_eq!(
                jiff::Timestamp::from_microsecond(micros).unwrap().to_string().parse::<Timestamp>().unwrap(),
                time
            );
        }
    }

    #[test]
    fn what_is_not_rfc_3339_is_refused() {
        for text in [
            "",
            "2026-11-23",
            "2026-11-23T18:26:46",
            "2026-11-23T18:26Z",
            "2026-11-23T18:26:46+25:00",
            "2026-11-23T18:26:46+24:00",
            "2026-11-23T18:26:46+02:60",
            "2026-11-23T18:26:46+02",
            "2026-11-23T18:26:46+0200",
            "2026-11-23T18:26:46+02:00[Europe/Berlin]",
            "2026-11-23T18:26:46Z[Europe/Berlin]",
            "2026-11-23T18:26:46[Europe/Berlin]",
            "2026-11-23T18:26:46.Z",
            "2026-11-23T18:26:46,5Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T18:60:00Z",
            "2026-11-23T18:26:61Z",
            "2026-02-29T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-1-01T00:00:00Z",
            "+02026-11-23T18:26:46Z",
            " 2026-11-23T18:26:46Z",
            "2026-11-23T18:26:46Z ",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "２０２６-11-23T18:26:46Z",
            "2026-11-23T18:26:4é",
        ] {
            assert_eq!(text.parse::<Timestamp>().unwrap_err().code(), ErrorCode::InvalidArgument, "{text}");
        }
    }
}

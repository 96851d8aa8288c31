//! Points in time: microseconds since 1970-01-01T00:00:00Z.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
    /// The present, from the system's clock.
    pub fn now() -> Self {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self::from_micros(i64::try_from(elapsed.as_micros()).unwrap_or(LAST))
    }
    /// The moment this many microseconds after 1970-01-01; held within the years 1970 to 9999.
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
    /// This many days later.
    pub const fn plus_days(self, days: u32) -> Self {
        Self::from_micros(self.0 + days as i64 * DAY)
    }
    /// This many days earlier.
    pub const fn minus_days(self, days: u32) -> Self {
        Self::from_micros(self.0 - days as i64 * DAY)
    }
    /// This many seconds later.
    pub const fn plus_seconds(self, seconds: u32) -> Self {
        Self::from_micros(self.0 + seconds as i64 * SECOND)
    }
    /// Whole hours since 1970-01-01: what usage is counted by.
    pub const fn hour(self) -> i64 {
        self.0 / (3600 * SECOND)
    }
    /// Whole days from `earlier` until this moment; 0 if it is later.
    pub const fn days_since(self, earlier: Self) -> u32 {
        let days = (self.0 - earlier.0) / DAY;
        if days < 0 { 0 } else { days as u32 }
    }
    /// How far this moment and `other` lie apart.
    pub const fn distance(self, other: Self) -> Duration {
        Duration::from_micros(self.0.abs_diff(other.0))
    }
}

/// RFC 3339 in UTC with six decimals.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(t) => write!(f, "{t:.6}"),
            Err(_) => f.write_str("9999-12-31T23:59:59.999999Z"),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad =
            || Error::new(ErrorCode::InvalidArgument, "not a time: RFC 3339 is expected, such as 2026-11-23T18:26:46Z");
        let t: jiff::Timestamp = text.parse().map_err(|_| bad())?;
        let micros = t.as_microsecond();
        if (0..=LAST).contains(&micros) { Ok(Self(micros)) } else { Err(bad()) }
    }
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

/// Where the present comes from: the system's clock, or in tests and simulations another one.
#[derive(Clone)]
pub struct Clock {
    now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    apart: bool,
}

impl Clock {
    /// A clock that says what `now` says.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self { now: Arc::new(now), apart: false }
    }
    /// The same clock, not held against that of a database server: for simulations of other times than the present.
    #[must_use]
    pub fn apart(self) -> Self {
        Self { apart: true, ..self }
    }
    /// Whether it is not held against other clocks.
    pub(crate) fn is_apart(&self) -> bool {
        self.apart
    }
    /// The present.
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

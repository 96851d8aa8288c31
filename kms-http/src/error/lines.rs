//! Limits the log lines that failing requests cause: a few of each kind per period, and a count of those left out, so
//! that an outage or a flood does not fill the log.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Maximum number of lines of a kind in each [`PERIOD`].
const LINES: u32 = 5;
const PERIOD: Duration = Duration::from_secs(30);

/// The number of lines of each kind in the current period. The kinds are error codes, so the map stays small.
#[derive(Default)]
pub struct Lines(Mutex<Option<HashMap<&'static str, Kind>>>);

struct Kind {
    since: Instant,
    lines: u32,
    left_out: u64,
}

/// Permission to write a line.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// Number of lines of the same kind that were left out since the last one, if any.
    pub left_out: Option<u64>,
}

impl Lines {
    /// A limiter without any lines so far.
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Permission to write a line of this kind now, or None if the limit is reached.
    pub fn next(&self, kind: &'static str) -> Option<Line> {
        self.next_at(kind, Instant::now())
    }

    fn next_at(&self, kind: &'static str, now: Instant) -> Option<Line> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Kind { since: now, lines: 0, left_out: 0 };
        let kind = all.get_or_insert_default().entry(kind).or_insert_with(new);
        if now.duration_since(kind.since) >= PERIOD {
            (kind.since, kind.lines) = (now, 0);
        }
        if kind.lines >= LINES {
            kind.left_out += 1;
            return None;
        }
        kind.lines += 1;
        Some(Line { left_out: Some(std::mem::take(&mut kind.left_out)).filter(|count| *count > 0) })
    }
}

#[cfg(test)]
#[path = "../../tests/unit/lines.rs"]
mod tests;

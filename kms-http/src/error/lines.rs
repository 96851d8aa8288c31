//! Lines of the log that a request may cause by failing: some of each kind, and a count of those that are left out, so
//! that an outage or a flood does not fill the log.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many lines of a kind in each period.
const LINES: u32 = 5;
const PERIOD: Duration = Duration::from_secs(30);

/// How many lines there were of each kind: a code of an error, of which there are few.
#[derive(Default)]
pub struct Lines(Mutex<Option<HashMap<&'static str, Kind>>>);

struct Kind {
    since: Instant,
    lines: u32,
    left_out: u64,
}

/// A line that may be written, and how many were left out before it.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// Lines of the same kind that were left out since the last one.
    pub left_out: Option<u64>,
}

impl Lines {
    /// None yet.
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Whether a line of this kind may be written now.
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

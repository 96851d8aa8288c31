//! Counters of the calls to a root key, by outcome and duration.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use serde::Serialize;

use super::RootKey;
use crate::types::error::{ErrorCode, Result};

/// Upper bounds of the duration buckets, in seconds. Longer calls are counted in an additional bucket.
pub const CALL_BOUNDS: [f64; 10] = [0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0];

/// An operation of a root key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RootKeyOperation {
    /// Wrapping: one `Encrypt` call of AWS KMS.
    Wrap,
    /// Unwrapping: one `Decrypt` call of AWS KMS.
    Unwrap,
}

impl RootKeyOperation {
    /// The operation's name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wrap => "wrap",
            Self::Unwrap => "unwrap",
        }
    }
}

/// The outcomes of calls: `ok`, names of error codes, and `other`.
const OUTCOMES: [&str; 5] = ["ok", "RootKeyUnavailable", "RootKeyRefused", "IntegrityFailure", "other"];

/// Counters of the calls to one root key since it was opened.
#[derive(Default)]
pub struct Calls {
    wrap: Counters,
    unwrap: Counters,
    is_failing: AtomicBool,
}

#[derive(Default)]
struct Counters {
    outcomes: [AtomicU64; OUTCOMES.len()],
    buckets: [AtomicU64; CALL_BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// Counters of one operation of all root keys of one provider.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CallMetrics {
    /// The provider: `local` or `aws-kms`.
    pub provider: &'static str,
    /// The operation whose calls are counted.
    pub operation: RootKeyOperation,
    /// Number of calls by outcome: `ok`, the name of an error code, or `other`.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Number of calls by duration: one bucket up to each of [`CALL_BOUNDS`], and one above.
    pub durations: [u64; CALL_BOUNDS.len() + 1],
    /// Total duration of all calls, in seconds.
    pub seconds: f64,
}

impl Calls {
    /// Counts a call that began at `began` and ended now.
    pub fn count<T>(&self, operation: RootKeyOperation, began: Instant, result: &Result<T>) {
        let counters = match operation {
            RootKeyOperation::Wrap => &self.wrap,
            RootKeyOperation::Unwrap => &self.unwrap,
        };
        let outcome = match result {
            Ok(_) => 0,
            Err(error) => match error.code() {
                ErrorCode::RootKeyUnavailable => 1,
                ErrorCode::RootKeyRefused => 2,
                ErrorCode::IntegrityFailure => 3,
                _ => 4,
            },
        };
        let took = began.elapsed();
        let bucket = CALL_BOUNDS.iter().position(|bound| took.as_secs_f64() <= *bound).unwrap_or(CALL_BOUNDS.len());
        counters.outcomes[outcome].fetch_add(1, Ordering::Relaxed);
        counters.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        counters.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        // `IntegrityFailure` is an answer of a working root key.
        self.is_failing.store(matches!(outcome, 1 | 2), Ordering::Relaxed);
    }

    /// Whether the last call failed with `RootKeyUnavailable` or `RootKeyRefused`.
    pub fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }

    /// The current counters of both operations.
    pub fn metrics(&self, provider: &'static str) -> [CallMetrics; 2] {
        let read = |operation, counters: &Counters| CallMetrics {
            provider,
            operation,
            outcomes: OUTCOMES.into_iter().zip(counters.outcomes.iter().map(|n| n.load(Ordering::Relaxed))).collect(),
            durations: std::array::from_fn(|n| counters.buckets[n].load(Ordering::Relaxed)),
            seconds: counters.micros.load(Ordering::Relaxed) as f64 / 1e6,
        };
        [read(RootKeyOperation::Wrap, &self.wrap), read(RootKeyOperation::Unwrap, &self.unwrap)]
    }
}

/// The counters of these root keys, added up by provider. Errors name the individual key.
pub fn by_provider<'a>(roots: impl Iterator<Item = &'a dyn RootKey>) -> Vec<CallMetrics> {
    let mut all: BTreeMap<(&str, &str), CallMetrics> = BTreeMap::new();
    for (root, calls) in roots.filter_map(|root| Some((root, root.calls()?))) {
        for metrics in calls.metrics(root.provider()) {
            match all.get_mut(&(metrics.provider, metrics.operation.as_str())) {
                Some(sum) => sum.add(&metrics),
                None => {
                    all.insert((metrics.provider, metrics.operation.as_str()), metrics);
                }
            }
        }
    }
    all.into_values().collect()
}

impl CallMetrics {
    fn add(&mut self, other: &Self) {
        other.outcomes.iter().for_each(|(outcome, count)| *self.outcomes.entry(outcome).or_default() += count);
        self.durations.iter_mut().zip(&other.durations).for_each(|(own, other)| *own += other);
        self.seconds += other.seconds;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::types::error::Error;

    #[test]
    fn calls_are_counted_by_outcome_and_duration() {
        let calls = Calls::default();
        let ago = |millis| Instant::now().checked_sub(Duration::from_millis(millis)).unwrap();
        let failed = |code| Err::<(), _>(Error::new(code, "x"));
        calls.count(RootKeyOperation::Unwrap, ago(0), &Ok(()));
        assert!(!calls.is_failing());
        calls.count(RootKeyOperation::Unwrap, ago(3_000), &failed(ErrorCode::RootKeyUnavailable));
        assert!(calls.is_failing());
        calls.count(RootKeyOperation::Unwrap, ago(20_000), &failed(ErrorCode::IntegrityFailure));
        assert!(!calls.is_failing());
        calls.count(RootKeyOperation::Wrap, ago(0), &failed(ErrorCode::RootKeyRefused));
        assert!(calls.is_failing());
        let [wrap, mut unwrap] = calls.metrics("local");
        let count = |metrics: &CallMetrics, name| metrics.outcomes[name];
        assert_eq!((count(&wrap, "RootKeyRefused"), count(&wrap, "ok")), (1, 0));
        assert_eq!((count(&unwrap, "ok"), count(&unwrap, "RootKeyUnavailable")), (1, 1));
        assert_eq!(count(&unwrap, "IntegrityFailure"), 1);
        assert_eq!(unwrap.durations.iter().sum::<u64>(), 3);
        assert_eq!((unwrap.durations[8], unwrap.durations[10]), (1, 1));
        assert!((22.0..30.0).contains(&unwrap.seconds), "{}", unwrap.seconds);
        let same = unwrap.clone();
        unwrap.add(&same);
        assert_eq!((count(&unwrap, "ok"), unwrap.durations[10], unwrap.seconds), (2, 2, 2.0 * same.seconds));
    }
}

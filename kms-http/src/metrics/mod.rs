//! What Prometheus scrapes.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::http::Method;
use kms_lib::ErrorCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

mod scrape;

pub use scrape::{Standing, gauges};

use crate::auth::METHODS;

/// Upper bounds of latency classes, in seconds: from an answer out of memory to one that nearly timed out.
const LATENCIES: [f64; 14] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// A call, by what it was and how it ended.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Call {
    operation: &'static str,
    outcome: &'static str,
}

/// Codes that say that the store was altered or replaced. Each is counted from 0, so that the first one is an increase.
const INTEGRITY: [ErrorCode; 3] = [ErrorCode::IntegrityFailure, ErrorCode::RestoreDetected, ErrorCode::StoreCorrupt];

/// An error, by its code.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

/// What a caller showed that is not good.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Shown {
    method: &'static str,
}

/// Everything that is counted.
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<Call, Counter>,
    latencies: Family<Call, Histogram, fn() -> Histogram>,
    connections: Connections,
    integrity: Family<Code, Counter>,
    authentication: Family<Shown, Counter>,
    refused: Family<Shown, Counter>,
    dropped_lines: OnceLock<Box<dyn Fn() -> u64 + Send + Sync>>,
}

/// What is counted of connections.
#[derive(Clone, Default)]
pub struct Connections {
    /// Accepted.
    pub accepted: Counter,
    /// Turned away or closed because there were too many.
    pub evicted: Counter,
}

/// What one operation counts with.
#[derive(Clone)]
pub struct Meter {
    operation: &'static str,
    method: Method,
    route: &'static str,
    good: (Counter, Histogram),
    bad: Histogram,
    requests: Family<Call, Counter>,
    integrity: Family<Code, Counter>,
}

fn histogram() -> Histogram {
    Histogram::new(LATENCIES)
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("kms");
        let requests = Family::<Call, Counter>::default();
        let latencies = Family::<Call, Histogram, fn() -> Histogram>::new_with_constructor(histogram);
        let connections = Connections::default();
        registry.register(
            "requests",
            "Requests by operation and outcome: ok, or the code of the error",
            requests.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "Time from the head of a request to its answer, by operation and outcome: ok or error",
            Unit::Seconds,
            latencies.clone(),
        );
        registry.register("connections_accepted", "Connections accepted", connections.accepted.clone());
        registry.register(
            "connections_evicted",
            "Connections closed because there were too many",
            connections.evicted.clone(),
        );
        let integrity = Family::<Code, Counter>::default();
        for code in INTEGRITY {
            let _ = integrity.get_or_create(&Code { code: code.as_str() });
        }
        let help = "Requests that failed because the store was altered, replaced or damaged, by the code of the error";
        registry.register("integrity_errors", help, integrity.clone());
        let authentication = Family::<Shown, Counter>::default();
        for method in METHODS {
            let _ = authentication.get_or_create(&Shown { method });
        }
        let help = "Callers that were not recognised, by what they showed";
        registry.register("authentication_failures", help, authentication.clone());
        let refused = Family::<Shown, Counter>::default();
        for method in METHODS {
            let _ = refused.get_or_create(&Shown { method });
        }
        let help =
            "Callers refused because their network sent too many credentials that are not good, by what they showed";
        registry.register("authentication_refused", help, refused.clone());
        let (registry, dropped_lines) = (Mutex::new(registry), OnceLock::new());
        Self { registry, requests, latencies, connections, integrity, authentication, refused, dropped_lines }
    }
}

impl Metrics {
    /// What an operation counts with.
    pub fn meter(&self, operation: &'static str, method: Method, route: &'static str) -> Meter {
        let counter = self.requests.get_or_create_owned(&Call { operation, outcome: "ok" });
        let latency = |outcome| self.latencies.get_or_create_owned(&Call { operation, outcome });
        let (requests, integrity) = (self.requests.clone(), self.integrity.clone());
        let (good, bad) = ((counter, latency("ok")), latency("error"));
        Meter { operation, method, route, good, bad, requests, integrity }
    }

    /// Counts a caller that was not recognised by what it showed: one of [`METHODS`].
    pub fn count_unknown_caller(&self, method: &'static str) {
        self.authentication.get_or_create(&Shown { method }).inc();
    }

    /// Counts a caller whose network has sent too many credentials that are not good, by what it showed.
    pub fn count_refused_caller(&self, method: &'static str) {
        self.refused.get_or_create(&Shown { method }).inc();
    }

    /// What is counted of connections.
    pub fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// Has lines of the log that were dropped counted.
    pub fn count_dropped_lines(&self, count: impl Fn() -> u64 + Send + Sync + 'static) {
        let _ = self.dropped_lines.set(Box::new(count));
    }

    /// Lines of the log that were dropped.
    pub fn dropped_lines(&self) -> u64 {
        self.dropped_lines.get().map_or(0, |count| count())
    }

    /// All of it in the text format.
    pub fn encode(&self, out: &mut String) -> std::fmt::Result {
        encode(out, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Meter {
    /// Counts an answer: with the code of the error, if it is one.
    pub fn observe(&self, code: Option<&'static str>, elapsed: Duration) {
        match code {
            None => {
                self.good.0.inc();
                self.good.1.observe(elapsed.as_secs_f64());
            }
            Some(outcome) => {
                self.requests.get_or_create(&Call { operation: self.operation, outcome }).inc();
                self.bad.observe(elapsed.as_secs_f64());
                if INTEGRITY.iter().any(|code| code.as_str() == outcome) {
                    self.integrity.get_or_create(&Code { code: outcome }).inc();
                }
            }
        }
    }
    /// The method of its route.
    pub fn method(&self) -> &str {
        self.method.as_str()
    }
    /// The path of its route, with `{name}` for what varies.
    pub fn route(&self) -> &'static str {
        self.route
    }
    /// The operation.
    pub fn operation(&self) -> &'static str {
        self.operation
    }
}

/// A counter whose value is kept elsewhere.
fn counter(value: u64) -> Counter {
    let counter: Counter<u64, AtomicU64> = Counter::default();
    counter.inc_by(value);
    counter
}

//! The metrics that `/metrics` exposes to Prometheus.

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

/// Upper bounds of the latency buckets, in seconds: from a response from memory to one that nearly timed out.
const LATENCIES: [f64; 14] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// The labels of a request: operation and outcome.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Call {
    operation: &'static str,
    outcome: &'static str,
}

/// Codes of errors that mean that the store was altered, replaced or damaged. Their counters exist from the start with
/// 0, so that the first error is an increase.
const INTEGRITY: [ErrorCode; 3] = [ErrorCode::IntegrityFailure, ErrorCode::RestoreDetected, ErrorCode::StoreCorrupt];

/// The label of an error: its code.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

/// The label of a refused credential: the method of authentication.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Shown {
    method: &'static str,
}

/// The counters of the HTTP service.
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

/// The counters of connections.
#[derive(Clone, Default)]
pub struct Connections {
    /// Number of accepted connections.
    pub accepted: Counter,
    /// Number of connections refused or closed because there were too many.
    pub evicted: Counter,
}

/// The counters of one operation.
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
        registry.register("requests", "Requests by operation and outcome: ok or the error code", requests.clone());
        registry.register_with_unit(
            "request_duration",
            "Time from the head of a request to its response, by operation and outcome: ok or error",
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
        let help = "Requests that failed because the store was altered, replaced or damaged, by error code";
        registry.register("integrity_errors", help, integrity.clone());
        let authentication = Family::<Shown, Counter>::default();
        for method in METHODS {
            let _ = authentication.get_or_create(&Shown { method });
        }
        let help = "Requests without a valid credential, by method of authentication";
        registry.register("authentication_failures", help, authentication.clone());
        let refused = Family::<Shown, Counter>::default();
        for method in METHODS {
            let _ = refused.get_or_create(&Shown { method });
        }
        let help =
            "Requests refused because their network sent too many invalid credentials, by method of authentication";
        registry.register("authentication_refused", help, refused.clone());
        let (registry, dropped_lines) = (Mutex::new(registry), OnceLock::new());
        Self { registry, requests, latencies, connections, integrity, authentication, refused, dropped_lines }
    }
}

impl Metrics {
    /// The counters of an operation.
    pub fn meter(&self, operation: &'static str, method: Method, route: &'static str) -> Meter {
        let counter = self.requests.get_or_create_owned(&Call { operation, outcome: "ok" });
        let latency = |outcome| self.latencies.get_or_create_owned(&Call { operation, outcome });
        let (requests, integrity) = (self.requests.clone(), self.integrity.clone());
        let (good, bad) = ((counter, latency("ok")), latency("error"));
        Meter { operation, method, route, good, bad, requests, integrity }
    }

    /// Counts a request without a valid credential. `method` is one of [`METHODS`].
    pub fn count_unknown_caller(&self, method: &'static str) {
        self.authentication.get_or_create(&Shown { method }).inc();
    }

    /// Counts a request refused because its network sent too many invalid credentials. `method` is one of [`METHODS`].
    pub fn count_refused_caller(&self, method: &'static str) {
        self.refused.get_or_create(&Shown { method }).inc();
    }

    /// The counters of connections.
    pub fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// Sets the source of the count of dropped log lines.
    pub fn count_dropped_lines(&self, count: impl Fn() -> u64 + Send + Sync + 'static) {
        let _ = self.dropped_lines.set(Box::new(count));
    }

    /// Number of dropped log lines.
    pub fn dropped_lines(&self) -> u64 {
        self.dropped_lines.get().map_or(0, |count| count())
    }

    /// Writes all metrics in the Prometheus text format.
    pub fn encode(&self, out: &mut String) -> std::fmt::Result {
        encode(out, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Meter {
    /// Counts a response and its duration. `code` is the error code, if it is an error.
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
    /// The HTTP method of the route.
    pub fn method(&self) -> &str {
        self.method.as_str()
    }
    /// The path of the route, with `{name}` for parameters.
    pub fn route(&self) -> &'static str {
        self.route
    }
    /// The `operationId` of the operation.
    pub fn operation(&self) -> &'static str {
        self.operation
    }
}

/// A counter with a value that is maintained elsewhere.
fn counter(value: u64) -> Counter {
    let counter: Counter<u64, AtomicU64> = Counter::default();
    counter.inc_by(value);
    counter
}

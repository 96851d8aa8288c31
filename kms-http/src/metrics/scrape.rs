//! What is not counted here, but read from the library when somebody scrapes.

use std::sync::Arc;
use std::time::SystemTime;

use kms_lib::metrics::{BATCH_BOUNDS, COMMIT_BOUNDS, CommitMetrics, Telemetry};
use kms_lib::{CALL_BOUNDS, CallMetrics};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::counter;
use crate::{anchors, otlp};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct State {
    state: &'static str,
}

/// A call to a root key, by what holds that, what was asked, and how it ended.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RootKeyCall {
    provider: &'static str,
    operation: &'static str,
    outcome: &'static str,
}

/// How the server stands.
pub struct Standing {
    /// Requests being worked on.
    pub active: usize,
    /// Requests waiting for their turn.
    pub waiting: usize,
    /// Open connections.
    pub connections: usize,
    /// How anchoring goes, if there are places for anchors.
    pub anchoring: Option<Arc<anchors::Status>>,
    /// How exporting traces goes, if they are exported.
    pub traces: Option<Arc<otlp::Status>>,
    /// Lines of the log that were dropped because nobody took them.
    pub dropped_lines: u64,
    /// How often files of TLS could not be taken when they were read again.
    pub reload_failures: u64,
    /// When its certificate ends, if it has one.
    pub certificate_expires: Option<SystemTime>,
}

/// A gauge whose value is kept elsewhere.
fn set(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register(name, help, gauge);
}

/// Whether the store answers and is what it should be. All of it is there from the start, so that the first fault is an
/// increase.
fn soundness(telemetry: &Telemetry, registry: &mut Registry) {
    let mut gauge = |name: &str, help: &str, value: u64| set(registry, name, help, value);
    gauge("store_up", "1 if the store answered", telemetry.store_up.into());
    gauge("ledger_running", "1 if the ledger takes and writes submissions", telemetry.ledger_running.into());
    gauge("tables_suspect", "1 if the tables are not those that the head stands for", telemetry.tables_suspect.into());
    gauge("quarantined_rows", "Rows in quarantine", telemetry.quarantined);
    let last = telemetry.last_verification;
    let seconds = last.map_or(0, |last| last.timestamp.micros().unsigned_abs() / 1_000_000);
    let help = "When the log was last verified, in Unix time; 0 if it never was";
    gauge("audit_verification_timestamp_seconds", help, seconds);
    let failed = last.is_some_and(|last| !last.ok);
    gauge("audit_verification_failed", "1 if the last verification of the log found a fault", failed.into());
    let help = "How often this process found the log or the tables altered";
    registry.register("integrity_faults", help, counter(telemetry.integrity_faults));
}

/// How anchoring goes.
fn anchoring(status: &anchors::Status, registry: &mut Registry) {
    let help = "When the log was last anchored everywhere, in Unix time; 0 if it never was";
    set(registry, "anchor_timestamp_seconds", help, status.last());
    let help = "1 if the log does not continue what was anchored: it was rolled back, or nodes work on two copies";
    set(registry, "anchor_diverged", help, status.has_diverged().into());
    registry.register("anchors_written", "Rounds in which the log was anchored", counter(status.written()));
    let help = "Rounds in which a place for anchors could not be read or written";
    registry.register("anchor_failures", help, counter(status.failures()));
}

/// How exporting traces goes.
fn traces(status: &otlp::Status, registry: &mut Registry) {
    registry.register("otlp_spans_exported", "Spans that the collector took", counter(status.exported()));
    let help = "Spans that were dropped: without room in the queue, or with an export that failed";
    registry.register("otlp_spans_dropped", help, counter(status.dropped()));
    registry.register("otlp_export_failures", "Exports of traces that failed", counter(status.failures()));
}

/// How the library and the server stand, in the text format.
pub fn gauges(telemetry: &Telemetry, server: &Standing, out: &mut String) -> std::fmt::Result {
    let mut registry = Registry::with_prefix("kms");
    soundness(telemetry, &mut registry);
    let mut gauge = |name: &str, help: &str, value: u64| set(&mut registry, name, help, value);
    gauge("requests_active", "Requests being worked on", server.active as u64);
    gauge("requests_waiting", "Requests waiting for their turn", server.waiting as u64);
    gauge("connections_open", "Open connections", server.connections as u64);
    if let Some(end) = server.certificate_expires {
        let end = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        gauge("tls_certificate_expiration_timestamp_seconds", "When the TLS certificate ends, in Unix time", end);
    }
    gauge("ledger_queue_length", "Submissions that wait for the ledger", telemetry.queued);
    gauge("cache_keys", "Unwrapped keys in memory, about", telemetry.cache.keys);
    gauge("key_versions", "Versions of all keys", telemetry.versions);
    if let Some(due) = telemetry.rotations_due {
        gauge("rotation_alerts", "Keys whose rotation is due, at most 100", due);
    }
    gauge("audit_records", "Records in the log", telemetry.records);
    gauge("store_low", "1 when less room is left than the alarm says", telemetry.storage.low.into());
    gauge("store_full", "1 when the store is full", telemetry.storage.full.into());
    if let Some(free) = telemetry.storage.free_bytes {
        gauge("store_free_bytes", "Free bytes where the store is", free);
    }
    let help = "Files of TLS that could not be taken when they were read again";
    registry.register("reload_failures", help, counter(server.reload_failures));
    if let Some(status) = &server.anchoring {
        anchoring(status, &mut registry);
    }
    if let Some(status) = &server.traces {
        traces(status, &mut registry);
    }
    let help = "Lines of the log of the process that were dropped because nobody took them in time";
    registry.register("log_lines_dropped", help, counter(server.dropped_lines));
    registry.register("cache_hits", "Uses of a key that was unwrapped already", counter(telemetry.cache.hits));
    registry.register("cache_misses", "Uses of a key that had to be unwrapped", counter(telemetry.cache.misses));
    let states = Family::<State, Gauge>::default();
    for (state, count) in &telemetry.keys_by_state {
        let gauge = states.get_or_create_owned(&State { state: state.as_str() });
        gauge.set(i64::try_from(*count).unwrap_or(i64::MAX));
    }
    registry.register("keys", "Keys by state", states);
    let batches = Batches { counts: telemetry.batches, sum: telemetry.submissions };
    registry.register("ledger_batch_size", "Submissions in one commit of the ledger", batches);
    let help = "Time of a commit of the ledger, from the lock on the head until the store has it";
    registry.register_with_unit("ledger_commit", help, Unit::Seconds, Commits(telemetry.commits));
    let calls = Family::<RootKeyCall, Counter>::default();
    for metrics in &telemetry.root_keys {
        let (provider, operation) = (metrics.provider, metrics.operation.as_str());
        for (outcome, count) in &metrics.outcomes {
            calls.get_or_create_owned(&RootKeyCall { provider, operation, outcome }).inc_by(*count);
        }
    }
    let help = "Calls to root keys by provider, operation and outcome: ok, or the code of the error";
    registry.register("root_key_calls", help, calls);
    let help = "Time of a call to a root key with all its tries, by provider and operation";
    registry.register_with_unit("root_key_call", help, Unit::Seconds, RootKeyCalls(telemetry.root_keys.clone()));
    encode(out, &registry)
}

/// The durations of calls to root keys, counted elsewhere.
#[derive(Debug)]
struct RootKeyCalls(Vec<CallMetrics>);

impl prometheus_client::encoding::EncodeMetric for RootKeyCalls {
    fn encode(&self, mut encoder: prometheus_client::encoding::MetricEncoder<'_>) -> std::fmt::Result {
        for metrics in &self.0 {
            let labels = [("provider", metrics.provider), ("operation", metrics.operation.as_str())];
            let bounds = CALL_BOUNDS.into_iter().chain([f64::MAX]);
            let buckets: Vec<(f64, u64)> = bounds.zip(metrics.durations).collect();
            let count = metrics.durations.iter().sum();
            let mut family = encoder.encode_family(&labels)?;
            family.encode_histogram::<Vec<(String, String)>>(metrics.seconds, count, &buckets, None)?;
        }
        Ok(())
    }
    fn metric_type(&self) -> prometheus_client::metrics::MetricType {
        prometheus_client::metrics::MetricType::Histogram
    }
}

/// The durations of commits, counted elsewhere.
#[derive(Debug)]
struct Commits(CommitMetrics);

impl prometheus_client::encoding::EncodeMetric for Commits {
    fn encode(&self, mut encoder: prometheus_client::encoding::MetricEncoder<'_>) -> std::fmt::Result {
        let CommitMetrics { durations, seconds, .. } = self.0;
        let buckets: Vec<(f64, u64)> = COMMIT_BOUNDS.into_iter().chain([f64::MAX]).zip(durations).collect();
        encoder.encode_histogram::<Vec<(String, String)>>(seconds, durations.iter().sum(), &buckets, None)
    }
    fn metric_type(&self) -> prometheus_client::metrics::MetricType {
        prometheus_client::metrics::MetricType::Histogram
    }
}

/// A histogram that was counted elsewhere.
#[derive(Debug)]
struct Batches {
    counts: [u64; BATCH_BOUNDS.len() + 1],
    sum: u64,
}

impl prometheus_client::encoding::EncodeMetric for Batches {
    fn encode(&self, mut encoder: prometheus_client::encoding::MetricEncoder<'_>) -> std::fmt::Result {
        let bounds = BATCH_BOUNDS.iter().map(|bound| *bound as f64).chain([f64::MAX]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.counts).collect();
        encoder.encode_histogram::<Vec<(String, String)>>(self.sum as f64, self.counts.iter().sum(), &buckets, None)
    }
    fn metric_type(&self) -> prometheus_client::metrics::MetricType {
        prometheus_client::metrics::MetricType::Histogram
    }
}

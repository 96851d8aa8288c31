//! Metrics that are read from the library and the server at each scrape.

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

/// The labels of a root key call: provider, operation and outcome.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RootKeyCall {
    provider: &'static str,
    operation: &'static str,
    outcome: &'static str,
}

/// The state of the server at a scrape.
pub struct Standing {
    /// Number of requests in progress.
    pub active: usize,
    /// Number of requests waiting to be processed.
    pub waiting: usize,
    /// Number of open connections.
    pub connections: usize,
    /// The status of anchoring, if anchors are configured.
    pub anchoring: Option<Arc<anchors::Status>>,
    /// The status of the trace export, if traces are exported.
    pub traces: Option<Arc<otlp::Status>>,
    /// Number of log lines dropped because standard error was read too slowly.
    pub dropped_lines: u64,
    /// Number of failed reloads of the TLS files.
    pub reload_failures: u64,
    /// Expiry time of the TLS certificate, if there is one.
    pub certificate_expires: Option<SystemTime>,
}

/// Registers a gauge with a value that is maintained elsewhere.
fn set(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register(name, help, gauge);
}

/// Availability and integrity of the store. All these metrics exist from the start, so that the first fault is an
/// increase.
fn soundness(telemetry: &Telemetry, registry: &mut Registry) {
    let mut gauge = |name: &str, help: &str, value: u64| set(registry, name, help, value);
    gauge("store_up", "1 if the store responded", telemetry.store_up.into());
    gauge("ledger_running", "1 if the ledger accepts and writes submissions", telemetry.ledger_running.into());
    gauge("tables_suspect", "1 if the tables do not match the head", telemetry.tables_suspect.into());
    gauge("quarantined_rows", "Rows in quarantine", telemetry.quarantined);
    let last = telemetry.last_verification;
    let seconds = last.map_or(0, |last| last.timestamp.micros().unsigned_abs() / 1_000_000);
    let help = "Unix time of the last verification of the audit log; 0 if there was none";
    gauge("audit_verification_timestamp_seconds", help, seconds);
    let failed = last.is_some_and(|last| !last.ok);
    gauge("audit_verification_failed", "1 if the last verification of the audit log found a fault", failed.into());
    let help = "Number of times this process found the audit log or the tables altered";
    registry.register("integrity_faults", help, counter(telemetry.integrity_faults));
}

/// Registers the metrics of anchoring.
fn anchoring(status: &anchors::Status, registry: &mut Registry) {
    let help = "Unix time when the audit log was last written to all anchors; 0 if it never was";
    set(registry, "anchor_timestamp_seconds", help, status.last());
    let help =
        "1 if the audit log does not match the anchors: it was rolled back, or nodes use two copies of the store";
    set(registry, "anchor_diverged", help, status.has_diverged().into());
    registry.register("anchors_written", "Anchoring rounds in which all anchors succeeded", counter(status.written()));
    let help = "Anchoring rounds in which the audit log could not be anchored everywhere";
    registry.register("anchor_failures", help, counter(status.failures()));
}

/// Registers the metrics of the trace export.
fn traces(status: &otlp::Status, registry: &mut Registry) {
    registry.register("otlp_spans_exported", "Spans exported to the collector", counter(status.exported()));
    let help = "Spans dropped because the queue was full or an export failed";
    registry.register("otlp_spans_dropped", help, counter(status.dropped()));
    registry.register("otlp_export_failures", "Failed exports of traces", counter(status.failures()));
}

/// Writes the state of the library and the server in the Prometheus text format.
pub fn gauges(telemetry: &Telemetry, server: &Standing, out: &mut String) -> std::fmt::Result {
    let mut registry = Registry::with_prefix("kms");
    soundness(telemetry, &mut registry);
    let mut gauge = |name: &str, help: &str, value: u64| set(&mut registry, name, help, value);
    gauge("requests_active", "Requests in progress", server.active as u64);
    gauge("requests_waiting", "Requests waiting to be processed", server.waiting as u64);
    gauge("connections_open", "Open connections", server.connections as u64);
    if let Some(end) = server.certificate_expires {
        let end = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        gauge("tls_certificate_expiration_timestamp_seconds", "Unix time when the TLS certificate expires", end);
    }
    gauge("ledger_queue_length", "Submissions waiting for the ledger", telemetry.queued);
    gauge("cache_keys", "Approximate number of unwrapped keys in memory", telemetry.cache.keys);
    gauge("key_versions", "Versions of all keys", telemetry.versions);
    if let Some(due) = telemetry.rotations_due {
        gauge("rotation_alerts", "Keys whose rotation is due, up to 100", due);
    }
    gauge("audit_records", "Records in the audit log", telemetry.records);
    gauge("store_low", "1 if free disk space is below the alarm threshold", telemetry.storage.low.into());
    gauge("store_full", "1 if the store is full", telemetry.storage.full.into());
    if let Some(free) = telemetry.storage.free_bytes {
        gauge("store_free_bytes", "Free bytes on the disk of the store", free);
    }
    let help = "Failed reloads of the TLS files";
    registry.register("reload_failures", help, counter(server.reload_failures));
    if let Some(status) = &server.anchoring {
        anchoring(status, &mut registry);
    }
    if let Some(status) = &server.traces {
        traces(status, &mut registry);
    }
    let help = "Lines of the process log dropped because standard error was read too slowly";
    registry.register("log_lines_dropped", help, counter(server.dropped_lines));
    registry.register("cache_hits", "Uses of a key that was already unwrapped", counter(telemetry.cache.hits));
    registry.register("cache_misses", "Uses of a key that had to be unwrapped", counter(telemetry.cache.misses));
    let states = Family::<State, Gauge>::default();
    for (state, count) in &telemetry.keys_by_state {
        let gauge = states.get_or_create_owned(&State { state: state.as_str() });
        gauge.set(i64::try_from(*count).unwrap_or(i64::MAX));
    }
    registry.register("keys", "Keys by state", states);
    let batches = Batches { counts: telemetry.batches, sum: telemetry.submissions };
    registry.register("ledger_batch_size", "Submissions in one commit of the ledger", batches);
    let help = "Duration of a ledger commit, from locking the head to the commit in the store";
    registry.register_with_unit("ledger_commit", help, Unit::Seconds, Commits(telemetry.commits));
    let calls = Family::<RootKeyCall, Counter>::default();
    for metrics in &telemetry.root_keys {
        let (provider, operation) = (metrics.provider, metrics.operation.as_str());
        for (outcome, count) in &metrics.outcomes {
            calls.get_or_create_owned(&RootKeyCall { provider, operation, outcome }).inc_by(*count);
        }
    }
    let help = "Root key calls by provider, operation and outcome: ok or the error code";
    registry.register("root_key_calls", help, calls);
    let help = "Duration of a root key call including retries, by provider and operation";
    registry.register_with_unit("root_key_call", help, Unit::Seconds, RootKeyCalls(telemetry.root_keys.clone()));
    encode(out, &registry)
}

/// Histograms of the durations of root key calls, maintained by the library.
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

/// Histogram of the durations of commits, maintained by the library.
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

/// Histogram of the number of submissions per commit, maintained by the library.
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

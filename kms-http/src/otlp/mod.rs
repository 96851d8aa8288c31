//! OpenTelemetry traces, with the feature `otlp`: a span for each request and the library's spans within it, exported
//! to a collector over OTLP. Requests never wait for that: spans go through a bounded queue to one task, and those
//! that have no room are dropped and counted. Spans hold what the access log does, never bodies or credentials.

#[cfg(feature = "otlp")]
mod client;
#[cfg(feature = "otlp")]
mod export;
#[cfg(feature = "otlp")]
mod traces;
#[cfg(not(feature = "otlp"))]
#[path = "absent.rs"]
mod traces;

pub use traces::{Running, Traces, begin, end, give_on, trace_id};

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::{HeaderMap, StatusCode};

/// How exporting goes, for the metrics.
#[derive(Debug, Default)]
pub struct Status {
    exported: AtomicU64,
    dropped: AtomicU64,
    failures: AtomicU64,
}

impl Status {
    /// Spans that the collector took.
    pub fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }
    /// Spans that had no room in the queue, or whose export failed.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
    /// Exports that failed.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

/// What is known of a request when its span begins.
pub struct Begun<'a> {
    /// Its method.
    pub method: &'a str,
    /// The path of its route; none if no route takes it.
    pub route: Option<&'static str>,
    /// The operation, if a route takes it.
    pub operation: Option<&'static str>,
    /// Its id.
    pub request_id: &'a str,
    /// Its headers: `traceparent` and `tracestate` name the span that it is part of.
    pub headers: &'a HeaderMap,
}

/// What is known of a request when its span ends.
pub struct Ended<'a> {
    /// Where it came from.
    pub source: Option<IpAddr>,
    /// The caller, if it was recognised.
    pub principal: Option<&'a str>,
    /// The status of the answer.
    pub status: StatusCode,
    /// The code of the error, if it is one.
    pub code: Option<&'static str>,
}

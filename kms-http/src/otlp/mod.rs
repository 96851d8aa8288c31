//! OpenTelemetry traces, with the feature `otlp`: a span for each request and the library's spans within it, exported
//! to a collector over OTLP. Requests never wait for the export: spans go through a bounded queue to one task, and
//! spans that do not fit are dropped and counted. Spans contain what the access log does, never bodies or credentials.

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

/// Counters of the trace export, for the metrics.
#[derive(Debug, Default)]
pub struct Status {
    exported: AtomicU64,
    dropped: AtomicU64,
    failures: AtomicU64,
}

impl Status {
    /// Number of spans exported.
    pub fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }
    /// Number of spans dropped because the queue was full or their export failed.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
    /// Number of failed exports.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

/// The attributes of a request that are known when its span begins.
pub struct Begun<'a> {
    /// The HTTP method of the request.
    pub method: &'a str,
    /// The path of the route; None if no route matches.
    pub route: Option<&'static str>,
    /// The operation, if a route matches.
    pub operation: Option<&'static str>,
    /// The id of the request, as in the access log.
    pub request_id: &'a str,
    /// The request headers; `traceparent` and `tracestate` name the parent span.
    pub headers: &'a HeaderMap,
}

/// The attributes of a request that are known when its span ends.
pub struct Ended<'a> {
    /// The address of the client, if it is known.
    pub source: Option<IpAddr>,
    /// The principal, if the caller was authenticated.
    pub principal: Option<&'a str>,
    /// The status of the response.
    pub status: StatusCode,
    /// The error code, if the response is an error.
    pub code: Option<&'static str>,
}

//! The access log: optional lines for all requests, and limited lines for faults and invalid credentials.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use kms_lib::{Actor, ErrorCode};
use tracing::Span;

use super::ApiError;
use crate::error::lines::Lines;
use crate::metrics::Meter;
use crate::otlp;
use crate::request::{RequestContext, trace_context};

/// Maximum number of lines per second about requests without a valid credential, which anyone can cause.
const UNKNOWN: NonZeroU32 = NonZeroU32::new(20).unwrap();
/// Minimum time between two lines about networks that send too many invalid credentials.
const REFUSED: Duration = Duration::from_secs(30);

/// Limits the lines about requests that failed because of a fault, by error code.
static FAULTS: Lines = Lines::new();

/// The caller of a request, for the log and traces.
pub struct Caller {
    principal: Option<String>,
    source: Option<IpAddr>,
    /// The id of the trace that the request belongs to (W3C Trace Context).
    trace: Option<String>,
    /// The span of the request, if traces are exported.
    span: Span,
}

impl Caller {
    /// A caller that is not authenticated yet.
    pub fn new(span: Span) -> Self {
        Self { principal: None, source: None, trace: None, span }
    }

    /// Sets the authenticated actor.
    pub fn note(&mut self, actor: &Actor, headers: &HeaderMap) {
        self.principal = Some(actor.principal().to_owned());
        self.source = actor.source_ip();
        let of_caller = || trace_context::trace_id(headers).map(str::to_owned);
        self.trace = otlp::trace_id(&self.span).or_else(of_caller);
    }
}

/// The result of a request.
pub struct Ended {
    /// The status of the response.
    pub status: StatusCode,
    /// The error code, if the response is an error.
    pub code: Option<&'static str>,
    /// The time since the head of the request arrived.
    pub elapsed: Duration,
}

/// Begins the span of a request that matches a route, if traces are exported.
pub fn span(is_on: bool, context: &RequestContext, meter: &Meter, headers: &HeaderMap) -> Span {
    if !is_on {
        return Span::none();
    }
    let (route, operation) = (Some(meter.route()), Some(meter.operation()));
    otlp::begin(&otlp::Begun { method: meter.method(), route, operation, request_id: &context.id, headers })
}

/// Ends the span of a request.
pub fn end_span(context: &RequestContext, caller: &Caller, ended: &Ended) {
    let Ended { status, code, .. } = *ended;
    let source = caller.source.or(context.peer.address);
    otlp::end(&caller.span, &otlp::Ended { source, principal: caller.principal.as_deref(), status, code });
}

/// Records the span of a request that matches no route.
pub fn trace_refused(context: &RequestContext, request: &Request, error: &ApiError) {
    let (method, headers) = (request.method().as_str(), request.headers());
    let span = otlp::begin(&otlp::Begun { method, route: None, operation: None, request_id: &context.id, headers });
    let (status, code) = (error.status, Some(error.code));
    otlp::end(&span, &otlp::Ended { source: context.peer.address, principal: None, status, code });
}

/// Writes the line of a request, if `is_wanted`. Requests that failed because of a fault always have a line, within
/// limits.
pub fn log(is_wanted: bool, context: &RequestContext, meter: &Meter, caller: &Caller, ended: &Ended) {
    // No lines for requests that fail because of an overload or an unavailable store: they would make it worse. Metrics
    // count these requests, and the library logs when the store becomes unavailable and available.
    let is_common =
        [ErrorCode::Overloaded, ErrorCode::StoreUnavailable].map(|code| Some(code.as_str())).contains(&ended.code);
    let is_fault = ended.status.is_server_error() && !is_common;
    let mut left_out = None;
    if !is_wanted {
        let line = ended.code.filter(|_| is_fault).and_then(|code| FAULTS.next(code));
        let Some(line) = line else { return };
        left_out = line.left_out;
    }
    let micros = u64::try_from(ended.elapsed.as_micros()).unwrap_or(u64::MAX);
    let source = caller.source.or(context.peer.address).map(tracing::field::display);
    let (status, request_id, trace_id) = (ended.status.as_u16(), &*context.id, caller.trace.as_deref());
    let (method, route, operation) = (meter.method(), meter.route(), meter.operation());
    let (principal, code) = (caller.principal.as_deref(), ended.code);
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                target: "kms_http::request",
                source, method, route, operation, status, micros, principal, code, request_id, trace_id, left_out
            )
        };
    }
    if status >= 500 { line!(warn) } else { line!(info) }
}

/// A request in progress. If it is dropped before [`Pending::end`], the client disconnected, and the line says so.
pub struct Pending<'a> {
    is_wanted: bool,
    context: &'a RequestContext,
    meter: &'a Meter,
}

impl<'a> Pending<'a> {
    /// Begins the entry of a request.
    pub fn new(is_wanted: bool, context: &'a RequestContext, meter: &'a Meter) -> Self {
        Self { is_wanted, context, meter }
    }

    /// Ends the request; its line is written elsewhere.
    pub fn end(mut self) {
        self.is_wanted = false;
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if !self.is_wanted {
            return;
        }
        let Self { context, meter, .. } = self;
        let source = context.peer.address.map(tracing::field::display);
        let (method, route, request_id) = (meter.method(), meter.route(), &*context.id);
        let micros = u64::try_from(context.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        tracing::info!(
            target: "kms_http::request",
            source, method, route, operation = meter.operation(), micros, request_id, "the client disconnected"
        );
    }
}

/// Writes the line of a request that matches no route.
pub fn log_refused(context: &RequestContext, request: &Request, error: &ApiError) {
    let source = context.peer.address.map(tracing::field::display);
    let (method, path, status) = (request.method().as_str(), request.uri().path(), error.status.as_u16());
    let (code, request_id) = (error.code, &*context.id);
    tracing::info!(target: "kms_http::request", source, method, path, status, code, request_id);
}

/// Writes a limited number of lines about requests without a valid credential.
pub struct Unknown {
    limiter: DefaultDirectRateLimiter,
    left_out: AtomicU64,
    refused: AtomicU64,
    /// Time of the last line about refused requests.
    told: Mutex<Option<Instant>>,
}

impl Default for Unknown {
    fn default() -> Self {
        Self {
            limiter: RateLimiter::direct(Quota::per_second(UNKNOWN)),
            left_out: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            told: Mutex::default(),
        }
    }
}

impl Unknown {
    /// Logs a request without a valid credential. `shown` is the method of authentication.
    pub fn log(&self, context: &RequestContext, parts: &Parts, shown: &str) {
        if self.limiter.check().is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let peer = context.peer.address.map(tracing::field::display);
        let (request_id, method) = (&*context.id, parts.method.as_str());
        let left_out = Some(self.left_out.swap(0, Ordering::Relaxed)).filter(|count| *count > 0);
        tracing::warn!(
            target: "kms_http::authentication",
            peer, shown, method, path = parts.uri.path(), request_id, left_out, "a request has no valid credential"
        );
    }
}

impl Unknown {
    /// Logs a request that was refused, possibly without checking its credential, because its network has sent too many
    /// invalid ones: one line at first, then periodic summaries.
    pub fn log_refused(&self, context: &RequestContext) {
        let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_some_and(|told| told.elapsed() < REFUSED) {
            return;
        }
        *told = Some(Instant::now());
        drop(told);
        self.refused.fetch_sub(refused, Ordering::Relaxed);
        let (peer, request_id) = (context.peer.address.map(tracing::field::display), &*context.id);
        tracing::warn!(
            target: "kms_http::authentication",
            peer, request_id, refused, "requests are refused: too many invalid credentials from their network"
        );
    }
}

//! The access log: a line for each request, if it is wanted, and for callers that are not recognised.

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

/// Lines a second about callers that are not recognised; nobody needs a credential to cause them.
const UNKNOWN: NonZeroU32 = NonZeroU32::new(20).unwrap();
/// The time between two lines about networks that are refused because they send too many bad credentials.
const REFUSED: Duration = Duration::from_secs(30);

/// Lines about requests that failed by a fault, by code.
static FAULTS: Lines = Lines::new();

/// What is known of a caller, for the log and for traces.
pub struct Caller {
    principal: Option<String>,
    source: Option<IpAddr>,
    /// The trace that the request is part of (W3C Trace Context).
    trace: Option<String>,
    /// The span of the request, if traces are exported.
    span: Span,
}

impl Caller {
    /// The caller of a request that has this span.
    pub fn new(span: Span) -> Self {
        Self { principal: None, source: None, trace: None, span }
    }

    /// Notes who it is.
    pub fn note(&mut self, actor: &Actor, headers: &HeaderMap) {
        self.principal = Some(actor.principal().to_owned());
        self.source = actor.source_ip();
        let of_caller = || trace_context::trace_id(headers).map(str::to_owned);
        self.trace = otlp::trace_id(&self.span).or_else(of_caller);
    }
}

/// How a request ended.
pub struct Ended {
    /// The status of the answer.
    pub status: StatusCode,
    /// The code of the error, if it is one.
    pub code: Option<&'static str>,
    /// The time since its head was there.
    pub elapsed: Duration,
}

/// Begins the span of a request that a route takes, if traces are exported.
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

/// The span of a request that no route takes.
pub fn trace_refused(context: &RequestContext, request: &Request, error: &ApiError) {
    let (method, headers) = (request.method().as_str(), request.headers());
    let span = otlp::begin(&otlp::Begun { method, route: None, operation: None, request_id: &context.id, headers });
    let (status, code) = (error.status, Some(error.code));
    otlp::end(&span, &otlp::Ended { source: context.peer.address, principal: None, status, code });
}

/// Writes the line of a request. Requests that fail by a fault have one even if nobody wants them all, as long as there
/// are not many.
pub fn log(is_wanted: bool, context: &RequestContext, meter: &Meter, caller: &Caller, ended: &Ended) {
    // Requests that fail because of an overload or of a store that does not answer are counted; a line for each would
    // make it worse. The library says when the store goes and when it is back.
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

/// A request that is worked on. If it is dropped before it ended, its caller went away, and the line says so.
pub struct Pending<'a> {
    is_wanted: bool,
    context: &'a RequestContext,
    meter: &'a Meter,
}

impl<'a> Pending<'a> {
    /// A request that begins.
    pub fn new(is_wanted: bool, context: &'a RequestContext, meter: &'a Meter) -> Self {
        Self { is_wanted, context, meter }
    }

    /// It has ended.
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
            source, method, route, operation = meter.operation(), micros, request_id, "the caller went away"
        );
    }
}

/// Writes the line of a request that no route takes.
pub fn log_refused(context: &RequestContext, request: &Request, error: &ApiError) {
    let source = context.peer.address.map(tracing::field::display);
    let (method, path, status) = (request.method().as_str(), request.uri().path(), error.status.as_u16());
    let (code, request_id) = (error.code, &*context.id);
    tracing::info!(target: "kms_http::request", source, method, path, status, code, request_id);
}

/// Writes lines about callers that are not recognised, but not as many as anybody likes to cause.
pub struct Unknown {
    limiter: DefaultDirectRateLimiter,
    left_out: AtomicU64,
    refused: AtomicU64,
    /// When there was a line about them.
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
    /// A caller was not recognised by what it `shown`.
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
            peer, shown, method, path = parts.uri.path(), request_id, left_out, "a caller was not recognised"
        );
    }
}

impl Unknown {
    /// A caller was refused, unseen perhaps, because its network has sent too many credentials that are not good: one
    /// line at first, then a summary from time to time.
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
            peer, request_id, refused, "callers are refused: too many credentials that are not good from their address"
        );
    }
}

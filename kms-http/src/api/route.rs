//! Routes. Each has a handler, a description and a name for metrics, so that none can be missing.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};
use kms_lib::Actor;
use tokio::time::Instant;
use tracing::Instrument;

use super::access::{self, Caller, Ended};
use super::{ApiError, App, Call, Reply};
use crate::metrics::Meter;
use crate::openapi::{Doc, Kind, Operation};
use crate::request::RequestContext;
use crate::request::fair_queue::{FairQueue, Full, Pass};
use crate::request::memory::Room;
use crate::request::owner::Owner;
use crate::request::response_memory;
use crate::request::waiting::Waits;

/// A route: an operation with its handler.
pub struct Route {
    /// The description for `/openapi.json` and the metrics.
    pub operation: Operation,
    mount: Box<dyn FnOnce(Meter, Kind) -> MethodRouter<Arc<App>>>,
}

/// Maximum duration of a patient request.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// Body size in bytes beyond which a request counts as heavy, like a list: parsed, it takes several times as much
/// memory.
const LARGE: usize = 64 * 1024;
/// Number of JSON objects in a body beyond which a request counts as heavy too: a batch with so many items keeps a
/// thread busy, and its response is up to twenty times as large as its body.
const MANY: usize = 200;

/// Delay of responses to a network beyond its limit of invalid credentials.
const PENALTY: Duration = Duration::from_millis(250);

/// Declares constructors of routes for authenticated callers.
macro_rules! known {
    ($($name:ident: $method:ident, $about:literal;)+) => {$(
        #[doc = $about]
        pub fn $name<F, Fut>(path: &'static str, id: &'static str, handler: F) -> Self
        where
            F: Fn(Call) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = Reply> + Send + 'static,
        {
            let mount = move |meter: Meter, kind: Kind| {
                let meter = Arc::new(meter);
                on(MethodFilter::$method, move |State(app): State<Arc<App>>, request: Request| {
                    // Boxed: the futures that pass it on each have room for it.
                    let (handler, meter, request) = (handler.clone(), Arc::clone(&meter), Box::new(request));
                    guarded(app, request, meter, kind, handler)
                })
            };
            let operation = Operation { method: Method::$method, path, id, doc: Doc::default() };
            Self { operation, mount: Box::new(mount) }
        }
    )+};
}

impl Route {
    known! {
        get: GET, "A GET route for authenticated callers.";
        post: POST, "A POST route for authenticated callers.";
        patch: PATCH, "A PATCH route for authenticated callers.";
        delete: DELETE, "A DELETE route for authenticated callers.";
    }

    /// A GET route without authentication.
    pub fn open<F, Fut>(path: &'static str, id: &'static str, handler: F) -> Self
    where
        F: Fn(Arc<App>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Reply> + Send + 'static,
    {
        let mount = move |meter: Meter, _: Kind| {
            on(MethodFilter::GET, move |State(app): State<Arc<App>>, request: Request| {
                let (handler, meter) = (handler.clone(), meter.clone());
                async move {
                    let context = context(&request);
                    let span = access::span(app.http.otlp.is_on(), &context, &meter, request.headers());
                    let reply = handler(Arc::clone(&app)).instrument(span.clone()).await;
                    finish(&app, &context, &meter, &Caller::new(span), reply)
                }
            })
        };
        let operation = Operation { method: Method::GET, path, id, doc: Doc::default().open() };
        Self { operation, mount: Box::new(mount) }
    }

    /// Sets the description for the OpenAPI document.
    #[must_use]
    pub fn doc(mut self, doc: Doc) -> Self {
        self.operation.doc = Doc { is_open: self.operation.doc.is_open, ..doc };
        self
    }

    /// The path, and the handler, which counts requests with `meter`.
    pub fn mount(self, meter: Meter) -> (&'static str, MethodRouter<Arc<App>>) {
        (self.operation.path, (self.mount)(meter, self.operation.doc.kind))
    }
}

fn context(request: &Request) -> RequestContext {
    let known = request.extensions().get::<RequestContext>().cloned();
    known.unwrap_or_else(|| RequestContext::alone(request.headers(), Arc::default()))
}

/// The memory and the places in queues that a request holds while it is in progress.
struct Held {
    room: Option<Room>,
    _heavy: Option<Pass>,
    _place: Option<Pass>,
}

/// Authenticates the caller, applies its limits, reads the body, waits for its turn, calls the handler, and counts and
/// logs the response.
async fn guarded<F, Fut>(app: Arc<App>, request: Box<Request>, meter: Arc<Meter>, kind: Kind, handler: F) -> Response
where
    F: Fn(Call) -> Fut,
    Fut: Future<Output = Reply>,
{
    let context = context(&request);
    let is_repeatable = request.headers().contains_key("idempotency-key");
    let span = access::span(app.http.otlp.is_on(), &context, &meter, request.headers());
    let mut caller = Caller::new(span.clone());
    let pending = access::Pending::new(app.http.log_requests, &context, &meter);
    let reply = worked_on(&app, &context, request, kind, &mut caller, handler).instrument(span).await;
    pending.end();
    let reply = reply.map_err(|error| error.for_request(is_repeatable));
    finish(&app, &context, &meter, &caller, reply)
}

/// Processes a request within its time limit, which starts when its head has arrived.
async fn worked_on<F, Fut>(
    app: &Arc<App>,
    context: &RequestContext,
    request: Box<Request>,
    kind: Kind,
    seen: &mut Caller,
    handler: F,
) -> Reply
where
    F: Fn(Call) -> Fut,
    Fut: Future<Output = Reply>,
{
    let is_read = request.method() == Method::GET;
    let limit = app.http.request_timeout();
    let (call, mut held) = {
        let admitting = pin!(admit(app, context, request, kind, seen));
        let admitted = context.timer.timeout_at(end(context, limit), admitting).await;
        admitted.map_err(|_| ApiError::timed_out())??
    };
    let caller = Owner::principal(call.session.actor().principal());
    // Boxed: the future of an operation is large and is moved several times on its way through the router.
    let mut working = Box::pin(async {
        let response = handler(call).await?;
        response_memory::hold(response, held.room.take(), &app.bodies.memory, &caller, context, kind.is_list)
    });
    let limit = if kind.is_patient { PATIENCE } else { limit };
    context.timer.timeout_at(end(context, limit), working.as_mut()).await.unwrap_or_else(|_| {
        // A read submits no change, so its outcome is not unknown.
        Err(if is_read { ApiError::timed_out() } else { ApiError::outcome_unknown() })
    })
}

/// The time at which a request times out.
fn end(context: &RequestContext, limit: Duration) -> Instant {
    Instant::from_std(context.started + limit)
}

async fn admit(
    app: &Arc<App>,
    context: &RequestContext,
    request: Box<Request>,
    kind: Kind,
    seen: &mut Caller,
) -> Result<(Call, Held), ApiError> {
    let (parts, body) = request.into_parts();
    // Boxed: it takes more memory than all that follows, and thousands of requests may wait for their bodies.
    let actor = match Box::pin(identified(app, context, &parts)).await {
        Ok(actor) => actor,
        Err(error) => {
            not_recognized(app, context, &parts, &error).await;
            return Err(error);
        }
    };
    let actor = actor.with_request_id(&*context.id)?;
    let caller = actor.principal();
    let owner = Owner::principal(caller);
    context.peer.caller.set(&owner);
    if app.http.log_requests || app.http.otlp.is_on() {
        seen.note(&actor, &parts.headers);
    }
    if let Some(rate) = &app.rate {
        rate.check(caller).map_err(ApiError::rate_limited)?;
    }
    let limit = if kind.returns { app.http.returning_body_limit() } else { app.http.body_limit() };
    let (body, room) = app.bodies.read(context, &owner, &parts.headers, body, limit).await?;
    // A list can be a thousand times as large as its request, so few are produced at a time, in a queue of their own.
    // Requests waiting in it do not take a place in the other queue. A patient request takes a place in neither,
    // whatever the length of its body: it would keep it for as long as the library works. The library limits it.
    let _idle = room.as_ref().map(Room::idles);
    let is_heavy = !kind.is_patient && (kind.is_list || is_heavy(&body));
    let heavy = if is_heavy { Some(enter(&app.heavy, caller).await?) } else { None };
    let place = if kind.is_patient { None } else { Some(enter(&app.gate, caller).await?) };
    let call = Call::new(Arc::clone(app), actor, parts, body).with_room(room.clone());
    Ok((call, Held { room, _heavy: heavy, _place: place }))
}

/// Authenticates the caller. Meanwhile the request may be evicted: a caller that is not known yet must not hold memory
/// for as long as the keys of its issuer cannot be fetched, or until its JWT has its turn to be verified.
async fn identified(app: &App, context: &RequestContext, parts: &Parts) -> Result<Actor, ApiError> {
    let identifying = app.auth.identify(&app.kms, parts, &context.peer);
    let Some(room) = &context.room else { return identifying.await };
    let _heard = room.hears();
    room.waits(Waits::Body);
    let identified = tokio::select! {
        biased;
        identified = identifying => identified,
        () = room.evicted() => Err(ApiError::overloaded(true)),
    };
    room.stops_waiting();
    identified
}

/// Counts and logs a request without a valid credential. If its network has sent too many of them, the response is
/// delayed, so that a flood over a few connections costs little.
async fn not_recognized(app: &App, context: &RequestContext, parts: &Parts, error: &ApiError) {
    let shown = app.auth.shown(&parts.headers, &context.peer);
    match error.status {
        StatusCode::UNAUTHORIZED => {
            app.metrics.count_unknown_caller(shown);
            app.unknown_callers.log(context, parts, shown);
        }
        StatusCode::TOO_MANY_REQUESTS => {
            app.metrics.count_refused_caller(shown);
            app.unknown_callers.log_refused(context);
            // The request is refused in any case: its memory is free for others of its network.
            match &context.room {
                Some(room) => {
                    let _heard = room.hears();
                    room.waits(Waits::Head);
                    let _ = tokio::time::timeout(PENALTY, room.evicted()).await;
                    room.stops_waiting();
                }
                None => tokio::time::sleep(PENALTY).await,
            }
        }
        _ => {}
    }
}

/// Whether a request with this body counts as heavy.
fn is_heavy(body: &[u8]) -> bool {
    // Braces in texts count too, which makes a request wait longer at most.
    body.len() > LARGE || body.len() > MANY && body.iter().filter(|byte| **byte == b'{').count() > MANY
}

async fn enter(gate: &Arc<FairQueue>, principal: &str) -> Result<Pass, ApiError> {
    gate.enter(principal).await.map_err(|full| ApiError::overloaded(full == Full::Caller))
}

/// Converts the result to a response, and counts and logs it.
fn finish(app: &App, context: &RequestContext, meter: &Meter, caller: &Caller, reply: Reply) -> Response {
    let elapsed = context.started.elapsed();
    let (response, code) = match reply {
        Ok(response) => (response, None),
        Err(error) => (error.respond(&context.id), Some(error.code)),
    };
    meter.observe(code, elapsed);
    let ended = Ended { status: response.status(), code, elapsed };
    access::log(app.http.log_requests, context, meter, caller, &ended);
    access::end_span(context, caller, &ended);
    response
}

#[cfg(test)]
#[path = "../../tests/unit/route.rs"]
mod tests;

//! Routes: each with its name for metrics, its handler and its description, so that none of them is without the others.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};
use tokio::time::{Instant, timeout_at};
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

/// A route.
pub struct Route {
    /// What `/openapi.json` and the metrics say of it.
    pub operation: Operation,
    mount: Box<dyn FnOnce(Meter, Kind) -> MethodRouter<Arc<App>>>,
}

/// The longest that a patient request may take.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// Requests with larger bodies are worked on few at a time, as lists are: parsed, they take several times as much
/// memory.
const LARGE: usize = 64 * 1024;

/// How long an answer takes that a network gets beyond its limit of bad credentials.
const PENALTY: Duration = Duration::from_millis(250);

/// Routes for callers who are known.
macro_rules! known {
    ($($name:ident: $method:ident, $about:literal;)+) => {$(
        #[doc = $about]
        pub fn $name<F, Fut>(path: &'static str, id: &'static str, handler: F) -> Self
        where
            F: Fn(Call) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = Reply> + Send + 'static,
        {
            let mount = move |meter: Meter, kind: Kind| {
                on(MethodFilter::$method, move |State(app): State<Arc<App>>, request: Request| {
                    let (handler, meter) = (handler.clone(), meter.clone());
                    async move { guarded(app, request, meter, kind, handler).await }
                })
            };
            let operation = Operation { method: Method::$method, path, id, doc: Doc::default() };
            Self { operation, mount: Box::new(mount) }
        }
    )+};
}

impl Route {
    known! {
        get: GET, "Reads, for callers who are known.";
        post: POST, "Does something, for callers who are known.";
        patch: PATCH, "Edits, for callers who are known.";
        delete: DELETE, "Withdraws, for callers who are known.";
    }

    /// Reads, for everybody.
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

    /// With this description.
    #[must_use]
    pub fn doc(mut self, doc: Doc) -> Self {
        self.operation.doc = Doc { is_open: self.operation.doc.is_open, ..doc };
        self
    }

    /// Its path and its handler, which counts with this.
    pub fn mount(self, meter: Meter) -> (&'static str, MethodRouter<Arc<App>>) {
        (self.operation.path, (self.mount)(meter, self.operation.doc.kind))
    }
}

fn context(request: &Request) -> RequestContext {
    let known = request.extensions().get::<RequestContext>().cloned();
    known.unwrap_or_else(|| RequestContext::new(request.headers(), Arc::default()))
}

/// What a caller holds while a request of it is worked on.
struct Held {
    room: Option<Room>,
    _heavy: Option<Pass>,
    _place: Option<Pass>,
}

/// Recognises the caller, holds it to its limits, reads the body, waits for its turn, works, and counts the answer.
async fn guarded<F, Fut>(app: Arc<App>, request: Request, meter: Meter, kind: Kind, handler: F) -> Response
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

/// All of it within one time, which begins when the head is there.
async fn worked_on<F, Fut>(
    app: &Arc<App>,
    context: &RequestContext,
    request: Request,
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
    let admitting = timeout_at(end(context, limit), admit(app, context, request, kind, seen));
    let (call, mut held) = admitting.await.map_err(|_| ApiError::timed_out())??;
    let caller = Owner::principal(call.session.actor().principal());
    // Boxed: what an operation keeps is large, and this future is moved about on its way through the router.
    let working = Box::pin(async {
        let response = handler(call).await?;
        response_memory::hold(response, held.room.take(), &app.bodies.memory, &caller, context, kind.is_list)
    });
    let limit = if kind.is_patient { PATIENCE } else { limit };
    timeout_at(end(context, limit), working).await.unwrap_or_else(|_| {
        // What only reads submits nothing that matters to its caller.
        Err(if is_read { ApiError::timed_out() } else { ApiError::outcome_unknown() })
    })
}

/// When the time of a request is over.
fn end(context: &RequestContext, limit: Duration) -> Instant {
    Instant::from_std(context.started + limit)
}

async fn admit(
    app: &Arc<App>,
    context: &RequestContext,
    request: Request,
    kind: Kind,
    seen: &mut Caller,
) -> Result<(Call, Held), ApiError> {
    let (parts, body) = request.into_parts();
    let identified = app.auth.identify(&app.kms, &parts, &context.peer).await;
    let actor = match identified {
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
    if let Some(room) = &context.room {
        room.move_to(&owner)?;
    }
    let limit = if kind.returns { app.http.returning_body_limit() } else { app.http.body_limit() };
    let (body, room) = app.bodies.read(context, &owner, &parts.headers, body, limit).await?;
    // A list can be a thousand times as large as what asks for it: few are made at a time, in turns of their own. Those
    // who wait for that hold no place.
    let is_heavy = kind.is_list || body.len() > LARGE;
    let heavy = if is_heavy { Some(enter(&app.heavy, caller).await?) } else { None };
    // What takes long takes turns in the library, and no place.
    let place = if kind.is_patient { None } else { Some(enter(&app.gate, caller).await?) };
    Ok((Call::new(Arc::clone(app), actor, parts, body), Held { room, _heavy: heavy, _place: place }))
}

/// Counts and logs a caller that is not recognised. One whose network has sent too many bad credentials waits a little
/// for its answer, so that a flood over a few connections costs little.
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
            tokio::time::sleep(PENALTY).await;
        }
        _ => {}
    }
}

async fn enter(gate: &Arc<FairQueue>, principal: &str) -> Result<Pass, ApiError> {
    gate.enter(principal).await.map_err(|full| ApiError::overloaded(full == Full::Caller))
}

/// Counts, logs, and turns errors into answers.
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

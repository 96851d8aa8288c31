//! Routes: each with its name for metrics, its handler and its description, so that none of them is without the others.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};

use super::doc::Doc;
use super::{ApiError, App, Call, Reply};
use crate::front::RequestContext;
use crate::front::answer;
use crate::front::body::Room;
use crate::front::gate::Pass;
use crate::metrics::Meter;

/// A route.
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, with `{name}` for what varies.
    pub path: &'static str,
    /// Its name in metrics, and its `operationId`.
    pub operation: &'static str,
    /// What it is, for `/openapi.json`.
    pub doc: Doc,
    /// Makes its handler.
    pub mount: Box<dyn FnOnce(Meter) -> MethodRouter<Arc<App>>>,
}

/// How long a request may be worked on, if that differs from the configured time.
#[derive(Clone, Copy)]
pub enum Pace {
    /// As configured.
    Normal,
    /// As long as it takes, for what grows with the store.
    Patient,
}

/// The longest that a patient request may take.
const PATIENCE: Duration = Duration::from_secs(3_600);

impl Route {
    /// A route for callers who are known.
    pub fn new<F, Fut>(method: Method, path: &'static str, operation: &'static str, doc: Doc, handler: F) -> Self
    where
        F: Fn(Call) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Reply> + Send + 'static,
    {
        let filter = filter(&method);
        let (pace, is_list) = (doc.pace, doc.paged);
        let mount = move |meter: Meter| {
            on(filter, move |State(app): State<Arc<App>>, request: Request| {
                let (handler, meter) = (handler.clone(), meter.clone());
                async move { guarded(app, request, meter, (pace, is_list), handler).await }
            })
        };
        Self { method, path, operation, doc, mount: Box::new(mount) }
    }

    /// A route for everybody.
    pub fn open<F, Fut>(method: Method, path: &'static str, operation: &'static str, doc: Doc, handler: F) -> Self
    where
        F: Fn(Arc<App>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Reply> + Send + 'static,
    {
        let filter = filter(&method);
        let mount = move |meter: Meter| {
            on(filter, move |State(app): State<Arc<App>>, request: Request| {
                let (handler, meter) = (handler.clone(), meter.clone());
                async move {
                    let context = context(&request);
                    let reply = handler(Arc::clone(&app)).await;
                    finish(&app, &context, &meter, None, reply)
                }
            })
        };
        Self { method, path, operation, doc: doc.open(), mount: Box::new(mount) }
    }
}

fn filter(method: &Method) -> MethodFilter {
    match *method {
        Method::GET => MethodFilter::GET,
        Method::PATCH => MethodFilter::PATCH,
        Method::DELETE => MethodFilter::DELETE,
        _ => MethodFilter::POST,
    }
}

fn context(request: &Request) -> RequestContext {
    let known = request.extensions().get::<RequestContext>().cloned();
    known.unwrap_or_else(|| RequestContext::new(request.headers(), Arc::default()))
}

/// What a caller holds while a request of it is worked on.
struct Held {
    room: Option<Room>,
    _pass: Pass,
}

/// Recognises the caller, holds it to its limits, reads the body, waits for its turn, and works.
async fn guarded<F, Fut>(
    app: Arc<App>,
    request: Request,
    meter: Meter,
    (pace, is_list): (Pace, bool),
    handler: F,
) -> Response
where
    F: Fn(Call) -> Fut,
    Fut: Future<Output = Reply>,
{
    let context = context(&request);
    let mut principal = None;
    let reply = match admit(&app, &context, request, &mut principal).await {
        Ok((call, mut held)) => {
            let caller = call.session.actor().principal().to_owned();
            let limit = match pace {
                Pace::Normal => app.http.request_timeout,
                Pace::Patient => PATIENCE,
            };
            // Boxed: what an operation keeps is large, and this future is moved about on its way through the router.
            let working = Box::pin(async {
                // A list can be a thousand times as large as what asks for it: few are made at a time.
                let _turn = if is_list { app.lists.acquire().await.ok() } else { None };
                let response = handler(call).await?;
                answer::hold(response, held.room.take(), &app.bodies, &caller, is_list)
            });
            let reply = tokio::time::timeout(limit, working).await.unwrap_or_else(|_| Err(ApiError::timed_out()));
            drop(held);
            reply
        }
        Err(error) => Err(error),
    };
    finish(&app, &context, &meter, principal.as_deref(), reply)
}

async fn admit(
    app: &Arc<App>,
    context: &RequestContext,
    request: Request,
    principal: &mut Option<String>,
) -> Result<(Call, Held), ApiError> {
    let (parts, body) = request.into_parts();
    let actor = app.auth.identify(&app.kms, &parts.headers, &context.peer).await?;
    let actor = actor.with_request_id(&*context.id)?;
    if app.http.log_requests {
        *principal = Some(actor.principal().to_owned());
    }
    if let Some(rate) = &app.rate {
        rate.check(actor.principal()).map_err(ApiError::rate_limited)?;
    }
    let (body, room) = app.bodies.read(actor.principal(), &parts.headers, body).await?;
    let pass = app.gate.enter(actor.principal()).await;
    let pass = pass.map_err(|_| ApiError::overloaded("too many requests wait already; nothing was done"))?;
    Ok((Call::new(Arc::clone(app), actor, parts, body), Held { room, _pass: pass }))
}

/// Counts, logs, and turns errors into answers.
fn finish(app: &App, context: &RequestContext, meter: &Meter, principal: Option<&str>, reply: Reply) -> Response {
    let elapsed = context.started.elapsed();
    let (response, code) = match reply {
        Ok(response) => (response, None),
        Err(error) => (error.respond(&context.id), Some(error.code)),
    };
    meter.observe(code, elapsed);
    let status = response.status();
    if app.http.log_requests || status.is_server_error() {
        log(context, meter.operation(), principal, status, code, elapsed);
    }
    response
}

fn log(
    context: &RequestContext,
    operation: &str,
    principal: Option<&str>,
    status: StatusCode,
    code: Option<&str>,
    elapsed: Duration,
) {
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    let (status, request_id) = (status.as_u16(), &*context.id);
    let (principal, code) = (principal.unwrap_or("-"), code.unwrap_or("-"));
    if status >= 500 {
        tracing::warn!(target: "kms_http::request", request_id, operation, principal, status, code, micros);
    } else {
        tracing::info!(target: "kms_http::request", request_id, operation, principal, status, code, micros);
    }
}

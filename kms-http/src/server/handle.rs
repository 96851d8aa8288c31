//! A request on its connection: given an id, sent through the router, and its answer given the headers all have.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderValue, Request, Version};
use axum::response::Response;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tower_service::Service;

use super::activity::{Activity, Counted};
use crate::api::App;
use crate::error::ApiError;
use crate::request::headers::secure;
use crate::request::linger::Lingering;
use crate::request::memory::{Room, STREAM};
use crate::request::{Peer, RequestContext, X_REQUEST_ID, host};

/// Answers up to this size are taken at once or never.
const SHORT: u64 = 64 * 1024;

/// What a header takes in memory beside its name and value.
const HEADER: usize = 64;

/// Handles the requests of a connection.
pub struct Handler {
    pub(super) app: Arc<App>,
    pub(super) router: Router,
    pub(super) peer: Arc<Peer>,
    pub(super) activity: Arc<Activity>,
}

impl hyper::service::Service<Request<Incoming>> for Handler {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let working = Counted::request(&self.activity);
        let room = self.room(&request);
        let mut context = RequestContext::new(request.headers(), Arc::clone(&self.peer));
        let (parts, body) = request.into_parts();
        let body = Body::new(Lingering::new(body, &parts.headers, || Counted::body(&self.activity)));
        let request = Request::from_parts(parts, body);
        let is_http2 = request.version() == Version::HTTP_2;
        let (app, router, activity) = (Arc::clone(&self.app), self.router.clone(), Arc::clone(&self.activity));
        Box::pin(async move {
            let room = room.map(|room| context.room = room);
            let response = answer(&app, router, context, request, room).await;
            let is_long = is_http2 || response.body().size_hint().exact().is_none_or(|bytes| bytes > SHORT);
            if !is_long {
                return Ok(response);
            }
            let sending = Counted::answer(&activity);
            drop(working);
            Ok(response.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    // Whoever takes a long answer slowly is not silent.
                    sending.go_on();
                    frame
                }))
            }))
        })
    }
}

impl Handler {
    /// The memory for a request as such: all of it in HTTP/2, where a connection has many; a large head in HTTP/1.1.
    fn room(&self, request: &Request<Incoming>) -> Result<Option<Room>, ApiError> {
        let arrived = self.activity.head_is_there();
        if request.version() != Version::HTTP_2 {
            return Ok(arrived);
        }
        let head =
            request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER).sum::<usize>();
        let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
        self.app.bodies.memory.room_for_unknown(STREAM + head + target).map(Some)
    }
}

async fn answer(
    app: &App,
    router: Router,
    context: RequestContext,
    request: Request<Body>,
    room: Result<(), ApiError>,
) -> Response {
    let origin = app.origins.is_open().then(|| request.headers().get(ORIGIN).cloned());
    let id = Arc::clone(&context.id);
    let mut response = match app.origins.preflight(request.method(), request.headers()) {
        Some(response) => response,
        None => match room.and_then(|()| check(app, &request)) {
            Err(error) => error.respond(&id),
            Ok(()) => route(router, context, request).await,
        },
    };
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(X_REQUEST_ID, id);
    }
    secure(headers);
    if let Some(origin) = origin {
        app.origins.allow(origin, headers);
    }
    response
}

/// Refuses what no route is to see.
fn check(app: &App, request: &Request<Body>) -> Result<(), ApiError> {
    if !names_one_host(request) {
        return Err(ApiError::invalid("host: exactly one such header is expected (RFC 9112)"));
    }
    let host = host(request.uri(), request.headers());
    if app.origins.is_cross_site(request.method(), request.headers(), host.as_ref()) {
        return Err(ApiError::cross_site());
    }
    Ok(())
}

async fn route(mut router: Router, context: RequestContext, mut request: Request<Body>) -> Response {
    let id = Arc::clone(&context.id);
    request.extensions_mut().insert(context);
    match AssertUnwindSafe(router.call(request)).catch_unwind().await {
        Ok(answered) => answered.unwrap_or_else(|never| match never {}),
        // A fault of this software must not take the connection with it.
        Err(_) => {
            tracing::error!(request_id = &*id, "a request ended in a panic");
            ApiError::internal("a fault of this software; please report it").respond(&id)
        }
    }
}

/// What proxies and this service could take for requests to different hosts is none (RFC 9112, section 3.2).
fn names_one_host(request: &Request<Body>) -> bool {
    request.version() != Version::HTTP_11 || request.headers().get_all(HOST).iter().count() == 1
}

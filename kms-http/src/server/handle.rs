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
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tower_service::Service;

use super::activity::{Activity, Counted};
use super::exchange::{Exchange, Streams};
use crate::api::App;
use crate::error::ApiError;
use crate::request::headers::secure;
use crate::request::linger::Lingering;
use crate::request::memory::{Evict, REFUSAL, Room, STREAM};
use crate::request::response_memory::{Taken, guard};
use crate::request::{Peer, RequestContext, X_REQUEST_ID, host};

/// Answers up to this size are taken at once or never.
const SHORT: u64 = 64 * 1024;
/// So much of an answer is handed over at a time. In HTTP/2, a caller that takes less in the time that a connection may
/// be silent makes no progress.
const PIECE: usize = 64 * 1024;
const FRAME: usize = 16 * 1024;

/// What a header takes in memory beside its name and value.
const HEADER: usize = 64;

/// Handles the requests of a connection.
pub struct Handler {
    pub(super) app: Arc<App>,
    pub(super) router: Router,
    pub(super) peer: Arc<Peer>,
    pub(super) activity: Arc<Activity>,
    /// Closes the connection if its memory is needed.
    pub(super) evict: Arc<dyn Evict>,
    /// The streams, in HTTP/2.
    pub(super) streams: Option<Streams>,
}

impl hyper::service::Service<Request<Incoming>> for Handler {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let working = Counted::request(&self.activity);
        let exchange = self.streams.as_ref().map(Streams::begin);
        let mut context = RequestContext::new(request.headers(), Arc::clone(&self.peer));
        context.evict = match &exchange {
            Some(exchange) => Arc::<Exchange>::clone(exchange),
            None => Arc::clone(&self.evict),
        };
        let (room, admitted) = self.room(&request, &context);
        context.room.clone_from(&room);
        let (parts, body) = request.into_parts();
        let body = Body::new(Lingering::new(body, &parts.headers, || self.arriving()));
        let request = Request::from_parts(parts, body);
        let (app, router, activity) = (Arc::clone(&self.app), self.router.clone(), Arc::clone(&self.activity));
        Box::pin(async move {
            let response = answer(&app, router, context, request, admitted).await;
            Ok(match exchange {
                Some(exchange) => sent_in_frames(response, room, activity, exchange, working),
                None => sent(response, &activity, working),
            })
        })
    }
}

/// An answer in HTTP/1.1.
fn sent(mut response: Response, activity: &Arc<Activity>, working: Counted) -> Response {
    let is_long = response.body().size_hint().exact().is_none_or(|bytes| bytes > SHORT);
    let room = response.extensions_mut().remove::<Room>();
    if !is_long && room.is_none() {
        return response;
    }
    // Whoever takes a long answer slowly is not silent.
    let sending = is_long.then(|| Counted::answer(activity));
    drop(working);
    let seen = move |bytes| {
        if let Some(sending) = &sending {
            sending.go_on(bytes);
        }
    };
    match room {
        Some(room) => guard(response, room, PIECE, Arc::new(seen)),
        None => response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                seen(frame.data_ref().map_or(0, Bytes::len));
                frame
            }))
        }),
    }
}

/// An answer in HTTP/2, where it may wait for the caller's window: all of it counts until it has been sent.
fn sent_in_frames(
    mut response: Response,
    room: Option<Room>,
    activity: Arc<Activity>,
    exchange: Arc<Exchange>,
    working: Counted,
) -> Response {
    exchange.answered();
    let sending = Counted::answer(&activity);
    drop(working);
    if response.body().is_end_stream() {
        exchange.delivered();
    }
    let taken: Taken = Arc::new(move |bytes| {
        exchange.delivered();
        if bytes > 0 {
            exchange.go_on();
            sending.go_on(bytes);
            activity.frames_are_read(0);
        }
    });
    let own = response.extensions_mut().remove::<Room>();
    let Some(room) = own.or_else(|| room.inspect(|room| small(room, &response))) else { return response };
    guard(response, room, FRAME, taken)
}

/// Gives the room of a request the size of its answer, if that is an error, or another one for everybody.
fn small(room: &Room, response: &Response) {
    let bytes = response.body().size_hint().lower().min(SHORT) as usize;
    if room.resize(REFUSAL + bytes).is_err() {
        let _ = room.grow_beyond_share(REFUSAL + bytes - room.bytes());
    }
}

impl Handler {
    /// The memory for a request as such: all of it in HTTP/2, where a connection has many; a large head in HTTP/1.1. If
    /// there is none, it is refused: the answer to that needs a little memory, too. Without that, the stream is reset.
    fn room(&self, request: &Request<Incoming>, context: &RequestContext) -> (Option<Room>, Result<(), ApiError>) {
        let owner = self.app.auth.charged(request.headers(), &self.peer);
        if self.streams.is_none() {
            let room = self.activity.head_is_there();
            let moved = room.as_ref().map_or(Ok(()), |room| room.move_to(&owner));
            return (room, moved);
        }
        let head =
            request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER).sum::<usize>();
        let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
        self.activity.frames_are_read(head + target);
        let room = self.app.bodies.memory.empty(owner, Arc::clone(&context.evict));
        let admitted = room.grow(STREAM + head + target);
        if admitted.is_err() && room.grow_beyond_share(REFUSAL).is_err() {
            context.evict.evict();
        }
        (Some(room), admitted)
    }

    /// Sees a body arrive.
    fn arriving(&self) -> impl FnMut(usize) + Send + Unpin + 'static {
        let (arriving, activity) = (Counted::body(&self.activity), Arc::clone(&self.activity));
        let is_http2 = self.streams.is_some();
        move |bytes| {
            arriving.go_on(bytes);
            if is_http2 {
                activity.frames_are_read(bytes);
            }
        }
    }
}

async fn answer(
    app: &App,
    router: Router,
    context: RequestContext,
    request: Request<Body>,
    admitted: Result<(), ApiError>,
) -> Response {
    let origin = app.origins.is_open().then(|| request.headers().get(ORIGIN).cloned());
    let id = Arc::clone(&context.id);
    let mut response = match app.origins.preflight(request.method(), request.headers()) {
        Some(response) => response,
        None => match admitted.and_then(|()| check(app, &request)) {
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

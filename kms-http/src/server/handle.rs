//! Handles a request: assigns its id, passes it to the router, and adds the common headers to the response.

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
use axum::routing::future::RouteFuture;
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tower_service::Service;

use super::activity::{Activity, Counted, Pause};
use super::exchange::{Exchange, Streams};
use crate::api::App;
use crate::error::ApiError;
use crate::request::head::detach;
use crate::request::headers::secure;
use crate::request::linger::Lingering;
use crate::request::memory::{Evict, REFUSAL, Room, STREAM};
use crate::request::owner::Owner;
use crate::request::response_memory::{Taken, guard};
use crate::request::timer::Timer;
use crate::request::{Peer, RequestContext, X_REQUEST_ID, host};

/// Responses up to this size, in bytes, are not tracked for progress in HTTP/1.1.
const SHORT: u64 = 64 * 1024;
/// Maximum number of bytes of a response passed to an HTTP/1.1 connection at a time.
const PIECE: usize = 64 * 1024;
/// The same in HTTP/2. A caller that reads less than this within the idle timeout makes no progress.
const FRAME: usize = 16 * 1024;

/// Bytes of memory per header in addition to its name and value.
const HEADER: usize = 64;

/// Handles the requests of one connection.
pub struct Handler {
    pub(super) app: Arc<App>,
    pub(super) router: Router,
    pub(super) peer: Arc<Peer>,
    pub(super) activity: Arc<Activity>,
    /// Closes the connection if another owner needs its memory.
    pub(super) evict: Arc<dyn Evict>,
    /// The timer of the connection's task.
    pub(super) timer: Timer,
    /// The connection's streams; `None` in HTTP/1.1.
    pub(super) streams: Option<Streams>,
}

impl hyper::service::Service<Request<Incoming>> for Handler {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let working = Counted::request(&self.activity);
        let exchange = self.streams.as_ref().map(Streams::begin);
        // In HTTP/2, each stream has a task of its own.
        let (evict, timer): (Arc<dyn Evict>, _) = match &exchange {
            Some(exchange) => (Arc::<Exchange>::clone(exchange), Timer::default()),
            None => (Arc::clone(&self.evict), self.timer.clone()),
        };
        let mut context = RequestContext::new(request.headers(), Arc::clone(&self.peer), evict, timer);
        let (room, admitted) = self.room(&request, &context);
        context.room.clone_from(&room);
        let (mut parts, body) = request.into_parts();
        if self.streams.is_none() {
            detach(&mut parts);
        }
        let body = Body::new(Lingering::new(body, &parts.headers, || self.arriving()));
        let request = Request::from_parts(parts, body);
        let answering = Answering::new(&self.app, self.router.clone(), context, request, admitted);
        let (app, activity) = (Arc::clone(&self.app), Arc::clone(&self.activity));
        Box::pin(async move {
            let response = answering.answer(&app).await;
            Ok(match exchange {
                Some(exchange) => sent_in_frames(response, room, activity, exchange, working),
                None => sent(response, &activity, working),
            })
        })
    }
}

/// Prepares a response for sending in HTTP/1.1.
fn sent(mut response: Response, activity: &Arc<Activity>, working: Counted) -> Response {
    let is_long = response.body().size_hint().exact().is_none_or(|bytes| bytes > SHORT);
    let room = response.extensions_mut().remove::<Room>();
    if !is_long && room.is_none() {
        return response;
    }
    // Reading a long response slowly counts as progress.
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

/// Prepares a response for sending in HTTP/2, where it may wait for the caller's flow control window: its memory counts
/// until all of it has been sent.
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
    let own = response.extensions_mut().remove::<Room>();
    let room = own.or_else(|| room.map(|room| small(room, &response, &exchange)));
    let taken: Taken = Arc::new(move |bytes| {
        exchange.delivered();
        if bytes > 0 {
            exchange.go_on();
            sending.go_on(bytes);
            activity.frames_are_read(0);
        }
    });
    let Some(room) = room else { return response };
    guard(response, room, FRAME, taken)
}

/// Resizes the memory of a request to that of a response that carries no reservation of its own, such as an error. If a
/// request that lost its memory has not even that much, its stream is reset.
fn small(room: Room, response: &Response, exchange: &Exchange) -> Room {
    let bytes = REFUSAL + response.body().size_hint().lower().min(SHORT) as usize;
    let is_evicted = room.is_evicted();
    let room = if is_evicted { room.renewed() } else { room };
    let resized = room.resize(bytes).or_else(|_| room.grow_beyond_share(bytes.saturating_sub(room.bytes())));
    if is_evicted && resized.is_err() {
        exchange.evict();
    }
    room
}

impl Handler {
    /// Reserves memory for a request: in HTTP/2 for every request, in HTTP/1.1 only for a large head. If none is left,
    /// the request is refused. The refusal needs a little memory too; if even that is missing, the stream is reset.
    ///
    /// If the caller of the connection has no memory left, its network is charged: the request then waits for memory of
    /// its caller like the first one of a connection.
    fn room(&self, request: &Request<Incoming>, context: &RequestContext) -> (Option<Room>, Result<(), ApiError>) {
        let owner = self.app.auth.charged(request.headers(), &self.peer);
        if self.streams.is_none() {
            let room = match self.activity.head_is_there() {
                Ok(room) => room,
                Err(refusal) => return (None, Err(refusal)),
            };
            let moved = room.as_ref().map_or(Ok(()), |room| room.move_to(&owner));
            return (room, if owner.is_known() { Ok(()) } else { moved });
        }
        let head =
            request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER).sum::<usize>();
        let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
        self.activity.frames_are_read(head + target);
        let room = self.app.bodies.memory.empty(owner, Arc::clone(&context.evict));
        let admitted = room.resize_or_move(STREAM + head + target, &Owner::at(self.peer.address));
        if admitted.is_err() && room.grow_beyond_share(REFUSAL).is_err() {
            context.evict.evict();
        }
        (Some(room), admitted)
    }

    /// Pauses reading from the connection in HTTP/1.1 until the body of the request is read, and returns the callback
    /// that counts the parts of the body.
    fn arriving(&self) -> (Option<Pause>, impl FnMut(usize) + Send + Unpin + 'static) {
        let (arriving, activity) = (Counted::body(&self.activity), Arc::clone(&self.activity));
        let is_http2 = self.streams.is_some();
        let pause = (!is_http2).then(|| Pause::new(&self.activity));
        let seen = move |bytes| {
            arriving.go_on(bytes);
            if is_http2 {
                activity.frames_are_read(bytes);
            }
        };
        (pause, seen)
    }
}

/// A request on its way to its response.
struct Answering {
    id: Arc<str>,
    /// The origin of the request, if the response says whether pages from there may read it.
    origin: Option<Option<HeaderValue>>,
    /// Boxed: it contains the request, and the futures that pass it on each have room for it.
    routed: Result<Pin<Box<RouteFuture<Infallible>>>, Box<Response>>,
}

impl Answering {
    /// Begins to answer a request, unless it must not reach any route.
    fn new(
        app: &App,
        mut router: Router,
        context: RequestContext,
        mut request: Request<Body>,
        admitted: Result<(), ApiError>,
    ) -> Self {
        let origin = app.origins.is_open().then(|| request.headers().get(ORIGIN).cloned());
        let id = Arc::clone(&context.id);
        let refused = match app.origins.preflight(request.method(), request.headers()) {
            Some(response) => Some(response),
            None => admitted.and_then(|()| check(app, &request)).err().map(|error| error.respond(&id)),
        };
        let routed = match refused {
            Some(response) => Err(Box::new(response)),
            None => {
                request.extensions_mut().insert(context);
                Ok(Box::pin(router.call(request)))
            }
        };
        Self { id, origin, routed }
    }

    async fn answer(self, app: &App) -> Response {
        let mut response = match self.routed {
            Err(response) => *response,
            Ok(routed) => match AssertUnwindSafe(routed).catch_unwind().await {
                Ok(answered) => answered.unwrap_or_else(|never| match never {}),
                // A panic in a handler must not close the connection.
                Err(_) => {
                    tracing::error!(request_id = &*self.id, "a request ended in a panic");
                    ApiError::internal("this is a bug in Mini KMS; please report it").respond(&self.id)
                }
            },
        };
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(&self.id) {
            headers.insert(X_REQUEST_ID, id);
        }
        secure(headers);
        if let Some(origin) = self.origin {
            app.origins.allow(origin, headers);
        }
        response
    }
}

/// Refuses requests that must not reach any route.
fn check(app: &App, request: &Request<Body>) -> Result<(), ApiError> {
    if !names_one_host(request) {
        return Err(ApiError::invalid("host: exactly one Host header is required (RFC 9112)"));
    }
    let host = host(request.uri(), request.headers());
    if app.origins.is_cross_site(request.method(), request.headers(), host.as_ref()) {
        return Err(ApiError::cross_site());
    }
    Ok(())
}

/// Whether an HTTP/1.1 request has exactly one `Host` header, so that proxies and this service agree on the host (RFC
/// 9112, section 3.2). Always true in other versions.
fn names_one_host(request: &Request<Body>) -> bool {
    request.version() != Version::HTTP_11 || request.headers().get_all(HOST).iter().count() == 1
}

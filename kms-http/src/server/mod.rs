//! The server: it accepts connections, passes requests through [`crate::request`] to the router, and shuts down in
//! order.

mod accepting;
mod activity;
mod connections;
mod exchange;
mod handle;
mod listeners;
mod process;
mod stream;
pub mod supervisor;

pub use listeners::{Inherited, Listeners};
pub use process::harden;

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use kms_lib::internals::build_runtime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use crate::api::{self, App};
use crate::request::Peer;
use crate::request::timer::Timer;
use crate::request::unread::STREAM_WINDOW;
use crate::settings::Http;
use crate::tls::TlsServer;
use accepting::accept;
use activity::Activity;
use connections::{Connection, Connections};
use exchange::Streams;
use handle::Handler;
use stream::{Ends, Stream};

/// Maximum size of a request's head in bytes.
const HEAD: usize = 32 * 1024;
/// Maximum number of headers of a request.
const HEADERS: usize = 100;
/// Maximum number of concurrent requests on an HTTP/2 connection.
const STREAMS: u32 = 128;
/// HTTP/2 flow control windows in bytes: of a stream, and of a connection.
const WINDOWS: (u32, u32) = (STREAM_WINDOW as u32, 256 * 1024);
/// How often a connection that is closing is checked for activity.
const LOOK: Duration = Duration::from_millis(250);

/// Serves until `stop` is true, then lets running requests finish within the configured time.
pub async fn serve(app: Arc<App>, listeners: Listeners, stop: watch::Receiver<bool>) {
    let (drained, stop) = (drained(Arc::clone(&app), stop), watch::channel(false));
    let stopping = async {
        drained.await;
        stop.0.send_replace(true);
    };
    // In a task, so that accepting connections takes turns with serving them: see [`accept`].
    let mut serving = tokio::spawn(serve_until(app, listeners, stop.1));
    let served = tokio::select! {
        served = &mut serving => served,
        () = stopping => serving.await,
    };
    if let Err(Ok(panic)) = served.map_err(JoinError::try_into_panic) {
        std::panic::resume_unwind(panic);
    }
}

/// Waits for the signal to stop, and then for the drain time in which load balancers notice.
async fn drained(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
    app.draining.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(app.http.drain_seconds)).await;
    // Running requests have until the shutdown timeout. A verification of the log may take longer and is stopped;
    // nothing is lost by that.
    app.kms.stop_verifying();
}

async fn serve_until(app: Arc<App>, listeners: Listeners, stop: watch::Receiver<bool>) {
    let connections =
        Arc::new(Connections::new(process::most_connections(app.http.connections), app.metrics.connections()));
    let Listeners { tcp, unix, socket, tls } = listeners;
    let handshakes = tls.as_ref().and_then(|_| handshakes());
    let thread = handshakes.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone());
    let server = Server { router: api::router(&app), app, connections, handshakes: thread, stop: stop.clone() };
    if let Some(tls) = &tls {
        let _ = server.app.tls.set(Arc::clone(tls));
    }
    let watching = tls.clone().map(|tls| tokio::spawn(tls.watch()));
    let start_tcp = |stream: TcpStream, address: SocketAddr| {
        let _ = stream.set_nodelay(true);
        let peer = Peer::at(Some(address.ip().to_canonical()));
        match &tls {
            Some(tls) => server.start_tls(stream, peer, Arc::clone(tls)),
            None => server.start(stream, peer),
        }
    };
    let start_unix = |stream: UnixStream, _| server.start(stream, Peer::at(None));
    tokio::join!(accept(&stop, tcp, start_tcp), accept(&stop, unix, start_unix), sweep(&server));
    if let Some(watching) = watching {
        watching.abort();
    }
    if let Some(handshakes) = handshakes {
        handshakes.shutdown_background();
    }
    // The listening sockets are closed, so no connection is accepted any more.
    if let Some(path) = socket {
        let _ = std::fs::remove_file(path);
    }
    let limit = Duration::from_secs(server.app.http.shutdown_timeout_seconds);
    if tokio::time::timeout(limit, server.connections.empty()).await.is_err() {
        tracing::warn!(
            open = server.connections.open(),
            "requests were still running when the shutdown timeout expired"
        );
    }
}

/// A thread for TLS handshakes. A handshake costs more than most requests and needs no credential, so a flood of
/// handshakes must not delay requests. Returns `None` if the thread cannot be started; handshakes then run with the
/// requests.
fn handshakes() -> Option<Runtime> {
    let mut builder = Builder::new_multi_thread();
    let runtime = build_runtime(builder.thread_name("handshakes").enable_time(), Some(1));
    runtime.inspect_err(|error| tracing::warn!(%error, "cannot start the thread for TLS handshakes")).ok()
}

/// A connection's socket, over TCP or Unix.
trait Socket: AsyncRead + AsyncWrite + Ends + Unpin + Send + Sync + 'static {
    /// Waits until data has arrived.
    fn readable(&self) -> impl Future<Output = std::io::Result<()>> + Send;
}

impl Socket for TcpStream {
    async fn readable(&self) -> std::io::Result<()> {
        // `TcpStream::readable` would return at once, because tokio assumes that a connection is readable when it has
        // just been accepted. A peek waits for data.
        self.peek(&mut [0]).await.map(|_| ())
    }
}

impl Socket for UnixStream {
    fn readable(&self) -> impl Future<Output = std::io::Result<()>> + Send {
        UnixStream::readable(self)
    }
}

/// The state shared by all connections.
#[derive(Clone)]
struct Server {
    app: Arc<App>,
    router: axum::Router,
    connections: Arc<Connections>,
    handshakes: Handle,
    stop: watch::Receiver<bool>,
}

/// Closes connections that have made no progress for longer than the idle timeout.
async fn sweep(server: &Server) {
    let limit = server.app.http.idle_timeout();
    let mut stop = server.stop.clone();
    while tokio::time::timeout(Duration::from_secs(2), stop.wait_for(|stop| *stop)).await.is_err() {
        server.connections.close_silent(limit);
        server.app.connections.store(server.connections.open(), Ordering::Relaxed);
    }
}

impl Server {
    /// Serves a connection in a task of its own. If the limit on connections is reached, another one is closed or this
    /// one is refused.
    fn start<S: Socket>(&self, stream: S, peer: Peer) {
        let Some(connection) = self.connections.open_one(peer.caller.clone()) else { return };
        let mut server = self.clone();
        tokio::spawn(async move {
            // Buffers are allocated only after the caller has sent something.
            tokio::select! {
                _ = stream.readable() => {}
                () = connection.over() => return,
                _ = server.stop.wait_for(|stop| *stop) => return,
            }
            let (io, handler) = (server.io(stream, &connection, false), server.handler(peer, &connection, None));
            let serving = Box::pin(http1(&server.app.http, &handler).serve_connection(io, handler));
            server.conduct(serving, connection, std::future::pending()).await;
        });
    }

    /// Serves a connection in a task of its own, after a TLS handshake.
    fn start_tls(&self, stream: TcpStream, mut peer: Peer, tls: Arc<TlsServer>) {
        let Some(connection) = self.connections.open_one(peer.caller.clone()) else { return };
        let mut server = self.clone();
        tokio::spawn(async move {
            // The handshake is aborted when the set is dropped.
            let mut handshake = JoinSet::new();
            let accepting = Arc::clone(&tls);
            handshake.spawn_on(async move { accepting.accept(stream).await }, &server.handshakes);
            let shaken = tokio::select! {
                shaken = handshake.join_next() => shaken,
                () = connection.over() => return,
                _ = server.stop.wait_for(|stop| *stop) => return,
            };
            let shaken = match shaken {
                Some(Ok(Ok(shaken))) => shaken,
                Some(Ok(Err(error))) => {
                    return tracing::debug!(%error, peer = ?peer.address, "a TLS handshake failed");
                }
                Some(Err(_)) | None => return,
            };
            peer.certificate = shaken.peer.map(|certificate| Arc::from(certificate.as_ref()));
            let retired = tls.distrusted(shaken.trust);
            let is_http2 = shaken.stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let io = server.io(shaken.stream, &connection, is_http2);
            if is_http2 {
                let streams = Streams::new(connection.activity(), server.app.http.idle_timeout());
                let handler = server.handler(peer, &connection, Some(streams.clone()));
                let serving = Box::pin(http2(&server.app.http, streams).serve_connection(io, handler));
                server.conduct(serving, connection, retired).await;
            } else {
                let handler = server.handler(peer, &connection, None);
                let serving = Box::pin(http1(&server.app.http, &handler).serve_connection(io, handler));
                server.conduct(serving, connection, retired).await;
            }
        });
    }

    fn io<S>(&self, stream: S, connection: &Connection, is_http2: bool) -> TokioIo<Stream<S>> {
        let stream = Stream::new(stream, connection.activity(), Arc::clone(&self.app.bodies.memory), is_http2);
        TokioIo::new(stream.among(self.connections.crowd()))
    }

    fn handler(&self, peer: Peer, connection: &Connection, streams: Option<Streams>) -> Handler {
        let (app, router, activity) = (self.app.clone(), self.router.clone(), connection.activity());
        Handler {
            app,
            router,
            peer: Arc::new(peer),
            evict: activity.evict(),
            timer: Timer::default(),
            activity,
            streams,
        }
    }

    /// Serves a connection until it ends. Running requests may finish when the service stops, when the connection is
    /// too old or was silent for too long, or when it is `retired`.
    async fn conduct(
        mut self,
        // On the heap: a silent connection does not have it yet.
        mut serving: Pin<Box<impl GracefulConnection<Error = hyper::Error>>>,
        connection: Connection,
        retired: impl Future<Output = ()>,
    ) {
        let activity = connection.activity();
        let age = match self.app.http.connection_age_seconds {
            0 => Duration::MAX,
            seconds => Duration::from_secs(seconds),
        };
        tokio::select! {
            served = advance(serving.as_mut(), &activity) => return ended(served),
            () = connection.closed() => return tracing::debug!("a connection was closed to make room"),
            () = connection.finished() => {}
            _ = self.stop.wait_for(|stop| *stop) => {}
            () = retired => {}
            () = tokio::time::sleep(age) => {}
        }
        // Announces the end (`connection: close`, or GOAWAY) and lets running requests finish within their time limits,
        // and responses as long as the caller reads them.
        serving.as_mut().graceful_shutdown();
        let limit = self.app.http.idle_timeout();
        loop {
            tokio::select! {
                _ = advance(serving.as_mut(), &activity) => return,
                () = connection.closed() => return,
                () = tokio::time::sleep(LOOK) => if connection.is_quiet() || connection.is_stuck(limit) { return },
            }
        }
    }
}

/// Serves a connection until it ends, and notes whenever everything that has arrived was processed.
async fn advance<C>(mut serving: Pin<&mut C>, activity: &Activity) -> hyper::Result<()>
where
    C: GracefulConnection<Error = hyper::Error>,
{
    poll_fn(|context| {
        let served = serving.as_mut().poll(context);
        if served.is_pending() {
            activity.rests();
        }
        served
    })
    .await
}

/// Logs the error with which a connection ended.
fn ended(served: hyper::Result<()>) {
    if let Err(error) = served {
        tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended with an error");
    }
}

/// The HTTP/1.1 protocol settings.
fn http1(http: &Http, handler: &Handler) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(handler.timer.clone())
        .header_read_timeout(http.idle_timeout())
        .max_buf_size(HEAD)
        .max_headers(HEADERS);
    builder
}

/// The HTTP/2 protocol settings.
fn http2(http: &Http, streams: Streams) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(http.idle_timeout() / 2)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_send_buf_size(WINDOWS.0 as usize)
        .max_header_list_size(HEAD as u32);
    builder
}

#[cfg(test)]
#[path = "../../tests/unit/server.rs"]
mod tests;

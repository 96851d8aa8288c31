//! Listening: connections come in, requests go through the front to the router, and in the end all of it stops in order.

mod connections;
mod handle;
mod process;

pub use process::harden;

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kms_lib::{Error, ErrorCode, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;

use crate::api::{self, App};
use crate::front::Peer;
use crate::settings::Http;
use crate::tls::TlsServer;
use connections::{Connection, Connections};
use handle::Handler;

/// After an error of accepting, such as no free file descriptor.
const PAUSE: Duration = Duration::from_millis(50);
/// Largest head of a request, in bytes.
const HEAD: usize = 32 * 1024;
/// Most headers of a request.
const HEADERS: usize = 100;
/// Most requests at a time on an HTTP/2 connection.
const STREAMS: u32 = 128;
/// While shutting down, how long a connection may take to show that nothing is going on there.
const SETTLE: Duration = Duration::from_millis(500);

/// Sockets that are open.
pub struct Listeners {
    tcp: Option<TcpListener>,
    unix: Option<UnixListener>,
    socket: Option<PathBuf>,
    tls: Option<Arc<TlsServer>>,
}

impl Listeners {
    /// Opens what the settings name.
    pub async fn bind(http: &Http) -> Result<Self> {
        let tcp = match http.listen {
            Some(address) => Some(TcpListener::bind(address).await.map_err(|e| unusable(&address.to_string(), &e))?),
            None => None,
        };
        let unix = http.unix_socket.as_deref().map(bind_unix).transpose()?;
        let tls = http.tls.settings().map(TlsServer::open).transpose()?;
        Ok(Self { tcp, unix, socket: http.unix_socket.clone(), tls })
    }

    /// Whether others connect with TLS.
    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Where others connect to.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok())
    }
}

/// Opens a unix socket in the place of one that nobody listens on any more.
fn bind_unix(path: &Path) -> Result<UnixListener> {
    let name = path.display().to_string();
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(Error::new(ErrorCode::InvalidConfiguration, format!("somebody listens on {name} already")));
        }
        use std::os::unix::fs::FileTypeExt;
        let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
        if !is_socket {
            return Err(Error::new(ErrorCode::InvalidConfiguration, format!("{name} is there, and is no socket")));
        }
        std::fs::remove_file(path).map_err(|e| unusable(&name, &e))?;
    }
    UnixListener::bind(path).map_err(|e| unusable(&name, &e))
}

fn unusable(place: &str, e: &std::io::Error) -> Error {
    Error::new(ErrorCode::InvalidConfiguration, format!("cannot listen on {place}: {e}"))
}

/// Serves until `stop` says so; then lets what is running finish, within the configured time.
pub async fn serve(app: Arc<App>, listeners: Listeners, stop: watch::Receiver<bool>) {
    let connections = Arc::new(Connections::new(app.http.connections, app.metrics.connections()));
    let server = Server { router: api::router(&app), app, connections, stop: stop.clone() };
    let Listeners { tcp, unix, socket, tls } = listeners;
    if let Some(tls) = &tls {
        let _ = server.app.tls.set(Arc::clone(tls));
    }
    let watching = tls.clone().map(|tls| tokio::spawn(tls.watch()));
    tokio::join!(accept_tcp(&server, tcp, tls), accept_unix(&server, unix), sweep(&server));
    if let Some(watching) = watching {
        watching.abort();
    }
    // The sockets are closed: nothing new comes in.
    if let Some(path) = socket {
        let _ = std::fs::remove_file(path);
    }
    let limit = server.app.http.shutdown_timeout;
    if tokio::time::timeout(limit, server.connections.empty()).await.is_err() {
        tracing::warn!(
            open = server.connections.open(),
            "requests were still running after the time for shutting down"
        );
    }
}

/// What every connection needs.
#[derive(Clone)]
struct Server {
    app: Arc<App>,
    router: axum::Router,
    connections: Arc<Connections>,
    stop: watch::Receiver<bool>,
}

async fn accept_tcp(server: &Server, listener: Option<TcpListener>, tls: Option<Arc<TlsServer>>) {
    let Some(listener) = listener else { return };
    let mut stop = server.stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, address)) => {
                let _ = stream.set_nodelay(true);
                let peer = Peer { address: Some(address.ip().to_canonical()), certificate: None };
                match &tls {
                    Some(tls) => server.start_tls(stream, peer, Arc::clone(tls)),
                    None => server.start(stream, peer),
                }
            }
            Err(error) => pause(&error).await,
        }
    }
}

async fn accept_unix(server: &Server, listener: Option<UnixListener>) {
    let Some(listener) = listener else { return };
    let mut stop = server.stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, _)) => server.start(stream, Peer::default()),
            Err(error) => pause(&error).await,
        }
    }
}

async fn pause(error: &std::io::Error) {
    // One that went away before it was accepted is nobody's fault.
    if !matches!(error.kind(), std::io::ErrorKind::ConnectionAborted | std::io::ErrorKind::ConnectionReset) {
        tracing::warn!(%error, "a connection could not be accepted");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Closes connections on which an answer has been waiting to be taken for longer than a connection may be silent.
async fn sweep(server: &Server) {
    let limit = server.app.http.idle_timeout;
    let mut stop = server.stop.clone();
    while tokio::time::timeout(Duration::from_secs(2), stop.wait_for(|stop| *stop)).await.is_err() {
        server.connections.close_silent(limit + SETTLE);
        server.app.connections.store(server.connections.open(), std::sync::atomic::Ordering::Relaxed);
    }
}

impl Server {
    /// Serves a connection, in a task of its own; if there are too many, in the place of one that is idle.
    fn start<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S, peer: Peer) {
        let Some(connection) = self.connections.open_one() else { return };
        let server = self.clone();
        tokio::spawn(async move { server.drive(stream, Arc::new(peer), connection).await });
    }

    /// The same, after a handshake.
    fn start_tls(&self, stream: TcpStream, mut peer: Peer, tls: Arc<TlsServer>) {
        let Some(connection) = self.connections.open_one() else { return };
        let mut server = self.clone();
        tokio::spawn(async move {
            let shaken = tokio::select! {
                shaken = tls.accept(stream) => shaken,
                () = connection.closed() => return,
                _ = server.stop.wait_for(|stop| *stop) => return,
            };
            let shaken = match shaken {
                Ok(shaken) => shaken,
                Err(error) => return tracing::debug!(%error, peer = ?peer.address, "a TLS handshake failed"),
            };
            peer.certificate = shaken.peer.map(|certificate| Arc::from(certificate.as_ref()));
            let is_http2 = shaken.stream.get_ref().1.alpn_protocol() == Some(b"h2");
            if is_http2 {
                server.drive_http2(shaken.stream, Arc::new(peer), connection).await;
            } else {
                server.drive(shaken.stream, Arc::new(peer), connection).await;
            }
        });
    }

    async fn drive<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        mut self,
        stream: S,
        peer: Arc<Peer>,
        connection: Connection,
    ) {
        let handler = Handler::new(self.app.clone(), self.router.clone(), peer, connection.activity());
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.app.http.idle_timeout)
            .max_buf_size(HEAD)
            // Who has sent all of a request may say so, and still wants the answer.
            .half_close(true)
            .max_headers(HEADERS);
        let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), handler));
        tokio::select! {
            _ = serving.as_mut() => return,
            () = connection.closed() => return,
            _ = self.stop.wait_for(|stop| *stop) => serving.as_mut().graceful_shutdown(),
        }
        settle(serving, &connection).await;
    }

    async fn drive_http2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        mut self,
        stream: S,
        peer: Arc<Peer>,
        connection: Connection,
    ) {
        let handler = Handler::new(self.app.clone(), self.router.clone(), peer, connection.activity());
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(self.app.http.idle_timeout / 2)
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEAD as u32);
        let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), handler));
        tokio::select! {
            _ = serving.as_mut() => return,
            () = connection.closed() => return,
            _ = self.stop.wait_for(|stop| *stop) => serving.as_mut().graceful_shutdown(),
        }
        settle(serving, &connection).await;
    }
}

/// Lets what is running on a connection finish.
async fn settle<T>(mut serving: Pin<&mut impl Future<Output = T>>, connection: &Connection) {
    loop {
        tokio::select! {
            _ = serving.as_mut() => return,
            () = tokio::time::sleep(SETTLE) => if connection.is_idle() { return },
        }
    }
}

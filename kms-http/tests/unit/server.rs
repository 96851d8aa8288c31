//! Unit tests of `src/server/mod.rs`: requests whose callers disconnect.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::settings::AuthMethod;
use axum::routing::get;
use kms_lib::{Config, Kms};
use std::sync::atomic::AtomicUsize;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

const SOON: Duration = Duration::from_secs(60);

/// A server whose route `/wait` never answers, and whose route `/soon` answers after half a second.
struct Waiting {
    server: Server,
    begun: Arc<Semaphore>,
    /// The number of requests in process.
    working: Arc<AtomicUsize>,
    _folder: TempDir,
    _stop: watch::Sender<bool>,
}

struct Working(Arc<AtomicUsize>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Waiting {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let url = format!("sqlite:{}", folder.path().join("kms.db").display());
        let kms = Kms::open(Config::new(url).root_key_bytes([7; 32])).await.unwrap();
        let app =
            Arc::new(App::new(kms, Http { auth: vec![AuthMethod::TrustedHeaders], ..Default::default() }).unwrap());
        let (begun, working) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let route = |limit: Option<Duration>| {
            let (begun, working) = (Arc::clone(&begun), Arc::clone(&working));
            get(move |_: axum::body::Bytes| {
                working.fetch_add(1, Ordering::SeqCst);
                let (begun, working) = (Arc::clone(&begun), Working(Arc::clone(&working)));
                async move {
                    begun.add_permits(1);
                    tokio::time::sleep(limit.unwrap_or(Duration::from_secs(3_600))).await;
                    drop(working);
                    "done"
                }
            })
        };
        let half = Some(Duration::from_millis(500));
        let router = axum::Router::new().route("/wait", route(None)).route("/soon", route(half));
        let connections = Arc::new(Connections::new(10, app.metrics.connections()));
        let (tell, stop) = watch::channel(false);
        Self {
            server: Server { app, router, connections, handshakes: Handle::current(), stop },
            begun,
            working,
            _folder: folder,
            _stop: tell,
        }
    }

    /// Opens a connection and sends these bytes.
    async fn send(&self, text: &str) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut client, accepted) =
            tokio::try_join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept()).unwrap();
        self.server.start(accepted.0, Peer::default());
        client.write_all(text.as_bytes()).await.unwrap();
        client
    }

    async fn has_begun(&self) {
        tokio::time::timeout(SOON, self.begun.acquire()).await.expect("the request has begun").unwrap().forget();
    }

    async fn is_given_up(&self) {
        let given_up = async {
            while self.working.load(Ordering::SeqCst) > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, given_up).await.expect("the request goes on without a caller");
    }
}

#[tokio::test]
async fn a_request_ends_when_its_caller_disconnects() {
    let waiting = Waiting::new().await;
    // The same for a request with a body.
    let body = "GET /wait HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello";
    for text in ["GET /wait HTTP/1.1\r\nhost: x\r\n\r\n", body] {
        let client = waiting.send(text).await;
        waiting.has_begun().await;
        drop(client);
        waiting.is_given_up().await;
    }
}

#[tokio::test]
async fn a_caller_that_closed_its_sending_side_still_gets_its_response() {
    let waiting = Waiting::new().await;
    let mut client = waiting.send("GET /soon HTTP/1.1\r\nhost: x\r\n\r\n").await;
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("done"), "{answer}");
}

#[tokio::test]
async fn pipelined_requests_are_answered() {
    let waiting = Waiting::new().await;
    let one = format!("GET /soon HTTP/1.1\r\nhost: x\r\nx-large: {}\r\n\r\n", "x".repeat(5_000));
    let mut client = waiting.send(&one.repeat(3)).await;
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 3, "{answer}");
    assert_eq!(waiting.server.app.bodies.memory.free(), waiting.server.app.http.body_memory(), "the heads still count");
}

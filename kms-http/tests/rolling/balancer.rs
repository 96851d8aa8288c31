//! A load balancer. It checks which nodes are ready, sends requests to those over persistent connections, and repeats a
//! request only if no byte of it was sent.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// Pause between two checks of all nodes.
const LOOK: Duration = Duration::from_millis(100);

/// The version of HTTP that a worker uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Protocol {
    /// HTTP/1.1 within TLS.
    Http1,
    /// HTTP/2 within TLS, selected by ALPN.
    Http2,
}

/// A persistent connection.
enum Kept {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Kept {
    /// Waits until a request can be sent. Fails if the connection ends; then nothing was sent.
    async fn ready(&mut self) -> hyper::Result<()> {
        match self {
            Self::Http1(sender) => sender.ready().await,
            Self::Http2(sender) => sender.ready().await,
        }
    }
    async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }
}

#[derive(Default)]
struct Seen {
    is_ready: AtomicBool,
    served: AtomicU64,
}

/// The load balancer and the counts of its requests.
pub struct Balancer {
    tls: ClientConfig,
    ports: Vec<u16>,
    token: String,
    nodes: Vec<Seen>,
    next: AtomicUsize,
    is_over: AtomicBool,
    sent_again: AtomicU64,
    own: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Balancer {
    /// Creates a balancer for nodes on these ports. It regards none as ready before the first check.
    pub fn new(tls: &ClientConfig, ports: Vec<u16>, token: String) -> Self {
        Self {
            tls: tls.clone(),
            nodes: ports.iter().map(|_| Seen::default()).collect(),
            ports,
            token,
            next: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            sent_again: AtomicU64::new(0),
            own: AtomicUsize::new(0),
            failures: Mutex::default(),
        }
    }

    /// Whether the node was ready at the last check.
    pub fn is_ready(&self, node: usize) -> bool {
        self.nodes[node].is_ready.load(Ordering::Relaxed)
    }
    /// How many requests a node has answered.
    pub fn served(&self, node: usize) -> u64 {
        self.nodes[node].served.load(Ordering::Relaxed)
    }
    /// A description of each failed request.
    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap().clone()
    }
    /// Stops the checks and the workers.
    pub fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
    /// Counts an encryption that the test itself requested.
    pub fn count_own_encryption(&self) {
        self.own.fetch_add(1, Ordering::Relaxed);
    }

    /// A summary for messages: requests by node, repetitions and failures.
    pub fn report(&self) -> String {
        let served: Vec<u64> = (0..self.ports.len()).map(|node| self.served(node)).collect();
        let again = self.sent_again.load(Ordering::Relaxed);
        let failures = self.failures();
        let (count, first) = (failures.len(), failures.first());
        format!("served by node: {served:?}; sent again: {again}; failures: {count}, the first: {first:?}")
    }

    /// Waits until the condition holds.
    pub async fn until(&self, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..2_400 {
            if is_so(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the condition was never met: {}", self.report());
    }

    /// Starts the task that checks repeatedly which nodes are ready.
    pub fn watch(self: &Arc<Self>) -> JoinHandle<()> {
        let balancer = Arc::clone(self);
        tokio::spawn(async move {
            while !balancer.is_over.load(Ordering::Relaxed) {
                for node in 0..balancer.ports.len() {
                    let is_ready = balancer.ask(node, "GET", "/v1/readyz", None).await.is_ok();
                    balancer.nodes[node].is_ready.store(is_ready, Ordering::Relaxed);
                }
                tokio::time::sleep(LOOK).await;
            }
        })
    }

    /// Sends a request to a node over a new connection. An unsuccessful response is an error.
    pub async fn ask(&self, node: usize, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let mut kept = self.connect(node, Protocol::Http1).await.map_err(|e| e.to_string())?;
        let request = self.request(method, path, body);
        let (status, text) = read(kept.send(request).await).await.map_err(|e| e.to_string())?;
        if status.is_success() { Ok(serde_json::from_str(&text).unwrap_or_default()) } else { Err(text) }
    }

    /// Starts a worker that sends requests one after the other. The task returns how many encryptions succeeded.
    pub fn work(self: &Arc<Self>, worker: usize, protocol: Protocol) -> JoinHandle<usize> {
        let balancer = Arc::clone(self);
        tokio::spawn(async move {
            let mut kept = HashMap::new();
            let (mut encrypted, mut ciphertext, mut round) = (0, Value::Null, 0);
            while !balancer.is_over.load(Ordering::Relaxed) {
                // Usually, another node decrypts the ciphertext.
                let answer = balancer.call(&mut kept, protocol, "POST", "/v1/crypto/encrypt", Some(&encrypt())).await;
                if let Some(answer) = answer {
                    encrypted += 1;
                    ciphertext = answer["ciphertext"].clone();
                }
                let decrypt = json!({"keyId": "users", "ciphertext": ciphertext});
                balancer.call(&mut kept, protocol, "POST", "/v1/crypto/decrypt", Some(&decrypt)).await;
                balancer.call(&mut kept, protocol, "GET", "/v1/keys/users", None).await;
                if round % 20 == 0 {
                    let new = super::new_key(&format!("key-{worker}-{round}"));
                    balancer.call(&mut kept, protocol, "POST", "/v1/keys", Some(&new)).await;
                }
                round += 1;
            }
            encrypted + if worker == 0 { balancer.own.load(Ordering::Relaxed) } else { 0 }
        })
    }

    /// Sends a request to a node that is ready, and records a failure.
    async fn call(
        &self,
        kept: &mut HashMap<usize, Kept>,
        protocol: Protocol,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Option<Value> {
        for _ in 0..10 {
            let node = self.choose().await;
            let Ok(mut connection) = self.usable(kept.remove(&node), node, protocol).await else {
                self.sent_again.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            match read(connection.send(self.request(method, path, body)).await).await {
                Ok((status, text)) => {
                    kept.insert(node, connection);
                    if status.is_success() {
                        self.nodes[node].served.fetch_add(1, Ordering::Relaxed);
                        return serde_json::from_str(&text).ok();
                    }
                    self.note(format!("{method} {path}: {status} {text}"));
                }
                // The connection ended before the request was sent.
                Err(error) if error.is_canceled() => {
                    self.sent_again.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                Err(error) => self.note(format!("{method} {path} on node {node}, {protocol:?}: {error:?}")),
            }
            return None;
        }
        self.note(format!("{method} {path}: no node accepts it"));
        None
    }

    /// The persistent connection, or a new one if the node has ended it (`connection: close`, GOAWAY).
    async fn usable(&self, kept: Option<Kept>, node: usize, protocol: Protocol) -> std::io::Result<Kept> {
        if let Some(mut connection) = kept
            && connection.ready().await.is_ok()
        {
            return Ok(connection);
        }
        self.connect(node, protocol).await
    }

    fn note(&self, failure: String) {
        self.failures.lock().unwrap().push(failure);
    }

    /// Waits for a node that is ready. Nodes take turns.
    async fn choose(&self) -> usize {
        loop {
            for _ in 0..self.ports.len() {
                let node = self.next.fetch_add(1, Ordering::Relaxed) % self.ports.len();
                if self.is_ready(node) {
                    return node;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Request<Body> {
        let request = Request::builder()
            .method(method)
            .uri(format!("https://localhost{path}"))
            .header("host", "localhost")
            .header("authorization", format!("Bearer {}", self.token));
        match body {
            Some(body) => {
                request.header("content-type", "application/json").body(Body::from(body.to_string())).unwrap()
            }
            None => request.body(Body::empty()).unwrap(),
        }
    }

    async fn connect(&self, node: usize, protocol: Protocol) -> std::io::Result<Kept> {
        let stream = TcpStream::connect(("127.0.0.1", self.ports[node])).await?;
        let mut tls = self.tls.clone();
        tls.alpn_protocols = match protocol {
            Protocol::Http1 => vec![b"http/1.1".to_vec()],
            Protocol::Http2 => vec![b"h2".to_vec()],
        };
        let name = ServerName::try_from("localhost").unwrap();
        let io = TokioIo::new(TlsConnector::from(Arc::new(tls)).connect(name, stream).await?);
        let failed = std::io::Error::other::<hyper::Error>;
        Ok(match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await.map_err(failed)?;
                tokio::spawn(connection);
                Kept::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(failed)?;
                tokio::spawn(connection);
                Kept::Http2(sender)
            }
        })
    }
}

async fn read(sent: hyper::Result<Response<Incoming>>) -> hyper::Result<(StatusCode, String)> {
    let response = sent?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// The body of an encryption request.
pub fn encrypt() -> Value {
    json!({"keyId": "users", "plaintext": "x"})
}

//! An HTTP client whose layers a test can choose: certificates, the protocol within TLS, and the socket.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kms_test_support::authority::{Authority, Issued};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::common::Server;

/// A response. A body that is not JSON is a JSON string.
#[derive(Debug)]
pub struct Answer {
    pub version: Version,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

/// A TLS configuration that trusts `authority`, presents the certificate `own`, and offers `protocol` by ALPN.
pub fn config(authority: &Authority, own: Option<&Issued>, protocol: Option<&str>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match own {
        Some(issued) => builder.with_client_auth_cert(issued.chain(), issued.private_key()).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocol.map(|name| name.as_bytes().to_vec()).into_iter().collect();
    config
}

/// The address on which the server listens.
pub fn address(server: &Server) -> SocketAddr {
    server.url.strip_prefix("https://").expect("TLS").parse().unwrap()
}

/// Connects to the server and completes the TLS handshake.
pub async fn connect(server: &Server, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address(server)).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

/// The certificate that the server presents.
pub async fn shown(server: &Server, config: ClientConfig) -> CertificateDer<'static> {
    let stream = connect(server, config).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// A GET request, or a POST request if there is a body.
pub fn request(path: &str, token: Option<&str>, body: Option<&Value>) -> Request<Body> {
    let mut request = Request::builder().uri(format!("https://localhost{path}")).header("host", "localhost");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    match body {
        Some(body) => {
            let request = request.method("POST").header("content-type", "application/json");
            request.body(Body::from(body.to_string())).unwrap()
        }
        None => request.body(Body::empty()).unwrap(),
    }
}

/// Sends a request over TLS, with the protocol that ALPN selected.
pub async fn send(server: &Server, config: ClientConfig, request: Request<Body>) -> io::Result<Answer> {
    let stream = connect(server, config).await?;
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        many(stream, vec![request]).await.map(|mut answers| answers.remove(0))
    } else {
        one(stream, request).await
    }
}

/// Sends a request over HTTP/1.1.
pub async fn one<S>(stream: S, request: Request<Body>) -> io::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    answer(sender.send_request(request).await.map_err(io::Error::other)?).await
}

/// Sends requests concurrently over one HTTP/2 connection.
pub async fn many(stream: TlsStream<TcpStream>, requests: Vec<Request<Body>>) -> io::Result<Vec<Answer>> {
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = shaken.map_err(io::Error::other)?;
    tokio::spawn(connection);
    let sent: Vec<_> = requests
        .into_iter()
        .map(|request| {
            let mut sender = sender.clone();
            tokio::spawn(async move { answer(sender.send_request(request).await.map_err(io::Error::other)?).await })
        })
        .collect();
    let mut answers = Vec::new();
    for answer in sent {
        answers.push(answer.await.unwrap()?);
    }
    Ok(answers)
}

async fn answer(response: axum::http::Response<hyper::body::Incoming>) -> io::Result<Answer> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let is_json = parts.headers.get("content-type").is_some_and(|value| value == "application/json");
    let body = match body.as_ref() {
        [] => Value::Null,
        json if is_json => serde_json::from_slice(json)?,
        text => Value::from(String::from_utf8(text.to_vec()).map_err(io::Error::other)?),
    };
    Ok(Answer { version: parts.version, status: parts.status, headers: parts.headers, body })
}

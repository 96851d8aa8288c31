//! Getting an issuer's documents: one GET over TLS, bounded in size and time, never redirected.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::uri::{Scheme, Uri};
use axum::http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kms_lib::{Error, ErrorCode, Result};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::tls;

/// Far more than any issuer's discovery document or key set has.
const LARGEST_DOCUMENT: usize = 256 * 1024;

/// A client for an issuer's documents.
pub(super) struct Fetcher {
    tls: TlsConnector,
    timeout: Duration,
}

impl Fetcher {
    /// A client that trusts the authorities in `ca_file`, or the system's.
    pub(super) fn new(ca_file: Option<&Path>, timeout: Duration) -> Result<Self> {
        let roots = match ca_file {
            Some(path) => tls::pem::authorities(path)?,
            None => system_roots(),
        };
        let mut config = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(tls::VERSIONS)
            .map_err(|e| Error::new(ErrorCode::Internal, format!("TLS: {e}")))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), timeout })
    }

    /// The document at `url`. The error says what went wrong, for the log.
    pub(super) async fn get(&self, url: &Uri) -> std::result::Result<Bytes, String> {
        match tokio::time::timeout(self.timeout, self.get_unbounded(url)).await {
            Ok(Ok(document)) => Ok(document),
            Ok(Err(problem)) => Err(format!("{url}: {problem}")),
            Err(_) => Err(format!("{url}: no answer within {} s", self.timeout.as_secs_f32())),
        }
    }

    async fn get_unbounded(&self, url: &Uri) -> std::result::Result<Bytes, String> {
        let host = host(url).ok_or("no host")?;
        let secure = is_https(url);
        let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await.map_err(|e| format!("cannot connect: {e}"))?;
        if secure {
            let name = ServerName::try_from(host.to_owned()).map_err(|_| "the host is no name TLS can check")?;
            let stream = self.tls.connect(name, stream).await.map_err(|e| format!("TLS: {e}"))?;
            return exchange(stream, url).await;
        }
        // A name may lead anywhere; what counts is where the connection ended.
        let peer = stream.peer_addr().map_err(|e| format!("cannot connect: {e}"))?;
        if !peer.ip().to_canonical().is_loopback() {
            return Err("plain http is for loopback addresses only".to_owned());
        }
        exchange(stream, url).await
    }
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        tracing::warn!("the system has no certificate authorities; https issuers need ca_file");
    }
    roots
}

/// One request on a connection of its own: documents are fetched minutes apart.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    url: &Uri,
) -> std::result::Result<Bytes, String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| format!("HTTP: {e}"))?;
    // The set ends the connection with this function, however it ends.
    let mut running = JoinSet::new();
    running.spawn(connection);

    let request = request(url).ok_or("the URL cannot be asked for")?;
    let response = sender.send_request(request).await.map_err(|e| format!("HTTP: {e}"))?;
    if response.status() != StatusCode::OK {
        // Redirects too: the issuer's documents are where its configuration says, or nowhere.
        return Err(format!("answered {}", response.status()));
    }
    let body = Limited::new(response.into_body(), LARGEST_DOCUMENT).collect().await;
    body.map(|body| body.to_bytes()).map_err(|e| format!("the document is cut or over {LARGEST_DOCUMENT} bytes: {e}"))
}

fn request(url: &Uri) -> Option<Request<Empty<Bytes>>> {
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    Request::get(path)
        .header(header::HOST, HeaderValue::from_str(url.authority()?.as_str()).ok()?)
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, concat!("kms-http/", env!("CARGO_PKG_VERSION")))
        .body(Empty::new())
        .ok()
}

/// A URL that documents may be fetched from: https, or http where the host may be this machine.
pub(super) fn parse_url(text: &str) -> std::result::Result<Uri, String> {
    let url: Uri = text.parse().map_err(|_| format!("{text:?} is not a URL"))?;
    let host = host(&url).ok_or_else(|| format!("{text:?} has no host"))?;
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(format!("the URL of {host} has a user in it"));
    }
    if is_https(&url) {
        return Ok(url);
    }
    let local = host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    if url.scheme() == Some(&Scheme::HTTP) && local {
        return Ok(url);
    }
    Err(format!("{text:?} is neither https nor http on a loopback address"))
}

/// Whether the URL is protected by TLS.
pub(super) fn is_https(url: &Uri) -> bool {
    url.scheme() == Some(&Scheme::HTTPS)
}

/// The host, an IPv6 address without its brackets.
fn host(url: &Uri) -> Option<&str> {
    let host = url.host()?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (!bare.is_empty()).then_some(bare)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn plain_http_is_for_loopback() {
        for good in ["https://id.example.com", "https://[2001:db8::1]:8443/x", "http://127.0.0.1:1/a", "http://[::1]/"]
        {
            assert!(parse_url(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "id.example.com",
            "/path",
            "ftp://127.0.0.1/",
            "file:///etc/passwd",
            "http://id.example.com/",
            "http://10.0.0.1/",
            "http://localhost.example.com/",
            "https://user:secret@id.example.com/",
        ] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }
}

//! An HTTPS endpoint that accepts an anchor by POST and lists all anchors by GET as JSON lines.

use std::path::PathBuf;
use std::time::Duration;

use kms_lib::Result;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};

use super::{Line, Problem, parse};
use crate::settings::{AnchorSettings, invalid};
use crate::tls::client::{client_config, explain, is_https, parse_url};

/// Maximum size of a list of anchors, in bytes.
const LIST: usize = 64 * 1024 * 1024;

pub(super) struct Endpoint {
    client: Client,
    url: Url,
    token_file: Option<PathBuf>,
    /// Number of anchors read so far.
    read_to: usize,
}

/// An HTTP client for endpoints and buckets.
pub(super) fn client(settings: &AnchorSettings) -> Result<Client> {
    let builder = Client::builder()
        .tls_backend_preconfigured(client_config(settings.ca_file.as_deref())?)
        .timeout(Duration::from_secs(settings.timeout_seconds))
        .user_agent(concat!("kms-http/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none());
    builder.build().map_err(|e| invalid(format!("http.anchors: {}", explain(e))))
}

/// The body of a response, at most `limit` bytes.
pub(super) async fn body(mut response: Response, limit: usize) -> std::result::Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    while let Some(part) = response.chunk().await.map_err(explain)? {
        if bytes.len() + part.len() > limit {
            return Err(format!("the response is larger than {limit} bytes"));
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

impl Endpoint {
    pub(super) fn new(settings: &AnchorSettings) -> Result<Self> {
        let url = settings.url.as_deref().unwrap_or_default();
        let url = parse_url(url).map_err(|problem| invalid(format!("http.anchors.url: {problem}")))?;
        Ok(Self { client: client(settings)?, url, token_file: settings.token_file.clone(), read_to: 0 })
    }

    pub(super) fn name(&self) -> String {
        format!("the endpoint {}", self.url)
    }

    pub(super) async fn append(&self, node: &str, note: &str) -> std::result::Result<(), Problem> {
        let line = serde_json::to_string(&Line { node, checkpoint: note.into() }).map_err(|e| e.to_string())?;
        let request = self.request(Method::POST).await?;
        let response = self.send(request.header("content-type", "application/json").body(line)).await?;
        if response.status().is_success() { Ok(()) } else { Err(format!("it returned {}", response.status())) }
    }

    /// The anchors after those already read. The endpoint lists all anchors in the order of their arrival.
    pub(super) async fn read(&mut self) -> std::result::Result<Vec<String>, Problem> {
        let response = self.send(self.request(Method::GET).await?).await?;
        match response.status() {
            StatusCode::OK => {
                let all = parse(&String::from_utf8_lossy(&body(response, LIST).await?));
                // If the list became shorter, read it from the beginning.
                let known = if self.read_to <= all.len() { self.read_to } else { 0 };
                self.read_to = all.len();
                Ok(all.into_iter().skip(known).collect())
            }
            // The endpoint accepts anchors but does not list them.
            StatusCode::METHOD_NOT_ALLOWED => Ok(Vec::new()),
            status => Err(format!("it returned {status}")),
        }
    }

    async fn request(&self, method: Method) -> std::result::Result<RequestBuilder, Problem> {
        let request = self.client.request(method, self.url.clone());
        let Some(path) = &self.token_file else { return Ok(request) };
        let token = tokio::fs::read_to_string(path).await.map_err(|e| format!("{}: {e}", path.display()))?;
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
            .map_err(|_| format!("{} does not contain a valid token", path.display()))?;
        value.set_sensitive(true);
        Ok(request.header(AUTHORIZATION, value))
    }

    async fn send(&self, request: RequestBuilder) -> std::result::Result<Response, Problem> {
        let response = request.send().await.map_err(explain)?;
        let is_local = response.remote_addr().is_some_and(|peer| peer.ip().to_canonical().is_loopback());
        if !is_https(&self.url) && !is_local {
            return Err("plain http is allowed only for loopback addresses".to_owned());
        }
        Ok(response)
    }
}

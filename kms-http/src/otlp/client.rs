//! The HTTP client for exports. It uses the TLS stack and the URL rules of the rest of this program.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use axum::http::header::{HeaderMap, HeaderName, HeaderValue};
use kms_lib::Result;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use reqwest::Url;

use super::export::Problem;
use crate::settings::{OtlpSettings, invalid};
use crate::tls::client::{client_config, explain, is_https, parse_url};

/// Maximum size of a response from the collector, in bytes.
const ANSWER: usize = 64 * 1024;
/// The default path for traces (OTLP/HTTP).
const TRACES: &str = "/v1/traces";

#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    url: Url,
    headers_file: Option<PathBuf>,
    problem: Problem,
}

impl Client {
    /// A client for the collector at this endpoint.
    pub(super) fn new(settings: &OtlpSettings, endpoint: &str) -> Result<Self> {
        let refused = |problem: String| invalid(format!("http.otlp.endpoint: {problem}"));
        let mut url = parse_url(endpoint).map_err(refused)?;
        if url.path() == "/" {
            url.set_path(TRACES);
        }
        if let Some(path) = &settings.headers_file {
            let text = std::fs::read_to_string(path).map_err(|e| e.to_string());
            let headers = text.and_then(|text| parse(&text));
            headers.map_err(|e| invalid(format!("http.otlp.headers_file: {}: {e}", path.display())))?;
        }
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(client_config(settings.ca_file.as_deref())?)
            .timeout(Duration::from_secs(settings.timeout_seconds))
            .user_agent(concat!("kms-http/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none());
        let http = if is_https(&url) { http } else { http.no_proxy() };
        let http = http.build().map_err(|e| invalid(format!("http.otlp: {}", explain(e))))?;
        Ok(Self { http, url, headers_file: settings.headers_file.clone(), problem: Problem::default() })
    }

    /// The URL that exports are sent to.
    pub(super) fn url(&self) -> String {
        self.url.to_string()
    }

    /// The cell that holds the cause of the last failure.
    pub(super) fn problem(&self) -> Problem {
        Problem::clone(&self.problem)
    }

    async fn send(&self, request: Request<Bytes>) -> std::result::Result<Response<Bytes>, String> {
        let mut request = reqwest::Request::try_from(request).map_err(explain)?;
        if let Some(path) = &self.headers_file {
            request.headers_mut().extend(read(path).await?);
        }
        let mut response = self.http.execute(request).await.map_err(explain)?;
        let is_local = response.remote_addr().is_some_and(|peer| peer.ip().to_canonical().is_loopback());
        if !is_https(&self.url) && !is_local {
            return Err("plain http is allowed only for loopback addresses".to_owned());
        }
        if !response.status().is_success() {
            self.note(format!("the collector returned {}", response.status()));
        }
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(explain)? {
            if body.len() + part.len() > ANSWER {
                return Err(format!("the response is larger than {ANSWER} bytes"));
            }
            body.extend_from_slice(&part);
        }
        let mut answer = Response::new(Bytes::from(body));
        (*answer.status_mut(), *answer.headers_mut()) = (status, headers);
        Ok(answer)
    }

    fn note(&self, problem: String) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> std::result::Result<Response<Bytes>, HttpError> {
        let sent = self.send(request).await;
        if let Err(problem) = &sent {
            self.note(problem.clone());
        }
        Ok(sent?)
    }
}

async fn read(path: &Path) -> std::result::Result<HeaderMap, String> {
    let text = tokio::fs::read_to_string(path).await.map_err(|e| e.to_string());
    text.and_then(|text| parse(&text)).map_err(|e| format!("{}: {e}", path.display()))
}

/// Parses headers, one per line. Errors name the line number, not its content, because values are secrets.
fn parse(text: &str) -> std::result::Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (line, number) in text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty()) {
        let bad = || format!("line {number} is not `Name: value`");
        let (name, value) = line.split_once(':').ok_or_else(bad)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| bad())?;
        let mut value = HeaderValue::from_str(value.trim()).map_err(|_| bad())?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

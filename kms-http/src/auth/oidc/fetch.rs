//! Getting an issuer's documents: one GET over TLS, bounded in size and time, never redirected. The proxy variables
//! (`HTTPS_PROXY`, `NO_PROXY`) count.

use std::error::Error as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use kms_lib::{Error, ErrorCode, Result};
use reqwest::header::ACCEPT;
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};
use rustls::{ClientConfig, RootCertStore};

use crate::request::is_loopback;
use crate::tls;

/// Far more than any issuer's discovery document or key set has.
const LARGEST_DOCUMENT: usize = 256 * 1024;

/// A client for an issuer's documents.
pub(super) struct Fetcher {
    client: Client,
    /// For issuers on this machine, which no proxy stands before.
    local: Client,
}

impl Fetcher {
    /// A client that trusts the authorities in `ca_file`, or the system's.
    pub(super) fn new(ca_file: Option<&Path>, timeout: Duration) -> Result<Self> {
        let roots = match ca_file {
            Some(path) => tls::pem::authorities(path)?,
            None => system_roots(),
        };
        let failed = |e: &dyn std::fmt::Display| Error::new(ErrorCode::Internal, format!("TLS: {e}"));
        let config = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(tls::VERSIONS)
            .map_err(|e| failed(&e))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = || {
            Client::builder()
                .tls_backend_preconfigured(config.clone())
                .timeout(timeout)
                .user_agent(concat!("kms-http/", env!("CARGO_PKG_VERSION")))
                // The issuer's documents are where its configuration says, or nowhere.
                .redirect(Policy::none())
                // They are fetched minutes apart.
                .pool_max_idle_per_host(0)
        };
        let built = client().build().and_then(|first| Ok((first, client().no_proxy().build()?)));
        let (client, local) = built.map_err(|e| failed(&e))?;
        Ok(Self { client, local })
    }

    /// The document at `url`. The error says what went wrong, for the log.
    pub(super) async fn get(&self, url: &Url) -> std::result::Result<Bytes, String> {
        self.document(url).await.map_err(|problem| format!("{url}: {problem}"))
    }

    async fn document(&self, url: &Url) -> std::result::Result<Bytes, String> {
        let client = if is_https(url) { &self.client } else { &self.local };
        let sent = client.get(url.clone()).header(ACCEPT, "application/json").send().await;
        let mut response = sent.map_err(explain)?;
        // A name may lead anywhere; what counts is where the connection ended.
        let is_local = response.remote_addr().is_some_and(|peer| peer.ip().to_canonical().is_loopback());
        if !is_https(url) && !is_local {
            return Err("plain http is for loopback addresses only".to_owned());
        }
        if response.status() != StatusCode::OK {
            return Err(format!("answered {}", response.status()));
        }
        let mut document = Vec::new();
        while let Some(part) = response.chunk().await.map_err(explain)? {
            if document.len() + part.len() > LARGEST_DOCUMENT {
                return Err(format!("the document is over {LARGEST_DOCUMENT} bytes"));
            }
            document.extend_from_slice(&part);
        }
        Ok(document.into())
    }
}

/// An error with its causes; the URL is named already.
fn explain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
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

/// A URL that documents may be fetched from: https, or http where the host may be this machine.
pub(super) fn parse_url(text: &str) -> std::result::Result<Url, String> {
    let url = Url::parse(text).map_err(|_| format!("{text:?} is not a URL"))?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| format!("{text:?} has no host"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("the URL of {host} has a user in it"));
    }
    if is_https(&url) || (url.scheme() == "http" && is_loopback(host)) {
        return Ok(url);
    }
    Err(format!("{text:?} is neither https nor http on a loopback address"))
}

/// Whether the URL is protected by TLS.
pub(super) fn is_https(url: &Url) -> bool {
    url.scheme() == "https"
}

#[cfg(test)]
#[path = "../../../tests/unit/oidc_fetch.rs"]
mod tests;

//! Getting an issuer's documents: one GET over TLS, bounded in size and time, never redirected. The proxy variables
//! (`HTTPS_PROXY`, `NO_PROXY`) count.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use kms_lib::{Error, ErrorCode, Result};
use reqwest::header::ACCEPT;
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};

use crate::otlp;
use crate::tls::client::{client_config, explain};
pub(super) use crate::tls::client::{is_https, parse_url};

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
        let config = client_config(ca_file)?;
        let failed = |e: &dyn std::fmt::Display| Error::new(ErrorCode::Internal, format!("TLS: {e}"));
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

    #[tracing::instrument(level = "debug", name = "oidc.fetch", skip_all,
        fields(otel.kind = "client", url.full = url.as_str()))]
    async fn document(&self, url: &Url) -> std::result::Result<Bytes, String> {
        let client = if is_https(url) { &self.client } else { &self.local };
        let request = otlp::give_on(client.get(url.clone()).header(ACCEPT, "application/json"));
        let sent = request.send().await;
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

#[cfg(test)]
#[path = "../../../tests/unit/oidc_fetch.rs"]
mod tests;

//! Fetches an issuer's documents: one GET over TLS, limited in size and time, without redirects. The proxy variables
//! (`HTTPS_PROXY`, `NO_PROXY`) apply.

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

/// Maximum size of a document in bytes; far more than any discovery document or key set has.
const LARGEST_DOCUMENT: usize = 256 * 1024;

/// An HTTP client for an issuer's documents.
pub(super) struct Fetcher {
    client: Client,
    /// A client without a proxy, for issuers on this machine.
    local: Client,
}

impl Fetcher {
    /// A client that trusts the authorities in `ca_file`, or those of the system.
    pub(super) fn new(ca_file: Option<&Path>, timeout: Duration) -> Result<Self> {
        let config = client_config(ca_file)?;
        let failed = |e: &dyn std::fmt::Display| Error::new(ErrorCode::Internal, format!("TLS: {e}"));
        let client = || {
            Client::builder()
                .tls_backend_preconfigured(config.clone())
                .timeout(timeout)
                .user_agent(concat!("kms-http/", env!("CARGO_PKG_VERSION")))
                // A redirect could lead to a server that the configuration does not name.
                .redirect(Policy::none())
                // Fetches are minutes apart, so idle connections are useless.
                .pool_max_idle_per_host(0)
        };
        let built = client().build().and_then(|first| Ok((first, client().no_proxy().build()?)));
        let (client, local) = built.map_err(|e| failed(&e))?;
        Ok(Self { client, local })
    }

    /// Returns the document at `url`. The error is a message for the log.
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
        // A name can resolve to any address, so the address of the actual connection is checked.
        let is_local = response.remote_addr().is_some_and(|peer| peer.ip().to_canonical().is_loopback());
        if !is_https(url) && !is_local {
            return Err("plain http is only allowed for loopback addresses".to_owned());
        }
        if response.status() != StatusCode::OK {
            return Err(format!("the server returned status {}", response.status()));
        }
        let mut document = Vec::new();
        while let Some(part) = response.chunk().await.map_err(explain)? {
            if document.len() + part.len() > LARGEST_DOCUMENT {
                return Err(format!("the document is larger than {LARGEST_DOCUMENT} bytes"));
            }
            document.extend_from_slice(&part);
        }
        Ok(document.into())
    }
}

#[cfg(test)]
#[path = "../../../tests/unit/oidc_fetch.rs"]
mod tests;

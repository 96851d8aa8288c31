//! TLS for outgoing requests: trusted authorities, and permitted URLs.

use std::error::Error as _;
use std::path::Path;

use kms_lib::{Error, ErrorCode, Result};
use reqwest::Url;
use rustls::{ClientConfig, RootCertStore};

use super::pem;
use crate::request::is_loopback;

/// A TLS client configuration that trusts the authorities in `ca_file`, or those of the system.
pub(crate) fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig> {
    let roots = match ca_file {
        Some(path) => pem::authorities(path)?,
        None => system_roots(),
    };
    let builder = ClientConfig::builder_with_provider(super::provider()).with_protocol_versions(super::VERSIONS);
    let builder = builder.map_err(|e| Error::new(ErrorCode::Internal, format!("TLS: {e}")))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The text of an error with its causes, without the URL, which callers already name.
pub(crate) fn explain(error: reqwest::Error) -> String {
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
        tracing::warn!("the system has no certificate authorities; set ca_file for https requests");
    }
    roots
}

/// Parses a URL for outgoing requests: https, or http if the host is a loopback address.
pub(crate) fn parse_url(text: &str) -> std::result::Result<Url, String> {
    let url = Url::parse(text).map_err(|_| format!("{text:?} is not a URL"))?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| format!("{text:?} has no host"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("the URL of {host} contains a user or password, which is not supported"));
    }
    if is_https(&url) || (url.scheme() == "http" && is_loopback(host)) {
        return Ok(url);
    }
    Err(format!("{text:?} is neither https nor http on a loopback address"))
}

/// Whether the URL is protected by TLS.
pub(crate) fn is_https(url: &Url) -> bool {
    url.scheme() == "https"
}

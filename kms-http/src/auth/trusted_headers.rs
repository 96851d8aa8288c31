//! Trusts `x-principal` and `x-role`, as Mini KMS on Node does. For development, or behind a proxy that authenticates
//! callers and sets these headers.

use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue};
use kms_lib::{Actor, ErrorCode, Role};

use super::principals::fold;
use crate::error::ApiError;
use crate::request::headers::single;
use crate::request::is_loopback;
use crate::settings::TrustedHeadersSettings;

impl TrustedHeadersSettings {
    /// The caller named by the headers: `anonymous` without a principal, and the role `app` without a known role.
    pub fn identify(&self, headers: &HeaderMap, host: Option<&Authority>) -> Result<Actor, ApiError> {
        if !host.is_some_and(|host| self.is_own(host.host())) {
            let message = "the host header names none of this service's hosts; add it to http.trusted_headers.hosts";
            return Err(ApiError::of(ErrorCode::AccessDenied, message));
        }
        let role = match one(headers, "x-role")?.map(|role| role.to_ascii_lowercase()).as_deref() {
            Some("admin") => Role::Admin,
            Some("auditor") => Role::Auditor,
            _ => Role::App,
        };
        let principal = one(headers, "x-principal")?;
        let actor = match principal.as_deref().map(str::trim) {
            None | Some("") => Actor::anonymous(role),
            Some(name) if name.eq_ignore_ascii_case("anonymous") => Actor::anonymous(role),
            Some(name) => fold(&format!("{}{name}", self.prefix)).and_then(|principal| Actor::new(principal, role)),
        };
        actor.map_err(|_| ApiError::not_authenticated())
    }

    /// Whether a host is one of this service's. A page whose own name resolves to this machine (DNS rebinding) must not
    /// be trusted.
    fn is_own(&self, host: &str) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        is_loopback(host)
            || self.hosts.iter().any(|own| own.eq_ignore_ascii_case(host) || own.eq_ignore_ascii_case(bare))
    }
}

/// The only value of a header, decoded as UTF-8 or otherwise as Latin-1, as Node reads headers. Repeated headers are
/// refused, because a proxy might use one value and this service another.
fn one(headers: &HeaderMap, name: &str) -> Result<Option<String>, ApiError> {
    let value = single(headers, name).map_err(|_| ApiError::not_authenticated())?;
    Ok(value.map(HeaderValue::as_bytes).map(|bytes| match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    }))
}

#[cfg(test)]
#[path = "../../tests/unit/trusted_headers.rs"]
mod tests;

//! Who is calling: the methods that are switched on, tried by what the caller shows. What is shown and is not good is
//! refused; no weaker method is tried in its place.

pub mod error;
mod forwarded;
pub mod identity;
pub mod mtls;
pub mod oidc;
mod token;
mod trusted_headers;

pub use error::AuthError;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use ipnet::IpNet;
use kms_lib::{Actor, Kms, Result};

use crate::api::ApiError;
use crate::front::Peer;
use crate::settings::{AuthMethod, Http};

/// Recognises callers.
pub struct Authenticator {
    token: Option<token::Tokens>,
    trusted_headers: Option<trusted_headers::TrustedHeaders>,
    proxies: Vec<IpNet>,
    trust_unix_socket: bool,
}

impl Authenticator {
    /// The methods that the settings name.
    pub fn new(http: &Http) -> Result<Self> {
        for method in [AuthMethod::Oidc, AuthMethod::Mtls] {
            if http.has(method) {
                return Err(crate::settings::invalid(format!("http.auth: {} is not supported yet", method.as_str())));
            }
        }
        Ok(Self {
            token: http.has(AuthMethod::Token).then(|| token::Tokens::new(&http.token_prefix)),
            trusted_headers: http
                .has(AuthMethod::TrustedHeaders)
                .then(|| trusted_headers::TrustedHeaders::new(&http.trusted_headers_prefix)),
            proxies: http.trusted_proxies.clone(),
            trust_unix_socket: http.trust_unix_socket_proxy,
        })
    }

    /// Who sends this request, and from where.
    pub async fn identify(&self, kms: &Kms, headers: &HeaderMap, peer: &Peer) -> std::result::Result<Actor, ApiError> {
        let actor = match bearer(headers)? {
            Some(secret) => self.by_bearer(kms, secret).await?,
            None => self.without_bearer(headers)?,
        };
        Ok(match forwarded::source(headers, peer, &self.proxies, self.trust_unix_socket) {
            Some(address) => actor.with_source_ip(address),
            None => actor,
        })
    }

    async fn by_bearer(&self, kms: &Kms, secret: &str) -> std::result::Result<Actor, ApiError> {
        match &self.token {
            Some(tokens) => tokens.identify(kms, secret).await,
            None => Err(ApiError::not_authenticated()),
        }
    }

    fn without_bearer(&self, headers: &HeaderMap) -> std::result::Result<Actor, ApiError> {
        match &self.trusted_headers {
            Some(trusted) => trusted.identify(headers),
            None => Err(ApiError::not_authenticated()),
        }
    }
}

/// What stands behind `Authorization: Bearer`. Another scheme, or several headers, are refused.
fn bearer(headers: &HeaderMap) -> std::result::Result<Option<&str>, ApiError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(ApiError::not_authenticated());
    }
    let (scheme, secret) =
        value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(ApiError::not_authenticated)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(Some(secret.trim())) } else { Err(ApiError::not_authenticated()) }
}

//! Authentication. The credential that a request carries selects the method; if the credential is invalid, the request
//! is refused and no weaker method is tried.

mod brake;
pub mod error;
mod forwarded;
pub mod identity;
pub mod mtls;
pub mod oidc;
mod paced;
pub mod principals;
mod token;
mod trusted_headers;

pub use error::AuthError;

use std::net::IpAddr;

use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use ipnet::IpNet;
use kms_lib::internals::Outage;
use kms_lib::{Actor, Kms, Result, Role};
use zeroize::Zeroizing;

use self::brake::Brake;
use self::mtls::MtlsMapper;
use self::oidc::OidcVerifier;
use self::paced::{Pace, Paced};
use self::principals::Principals;
use crate::error::ApiError;
use crate::request::headers::single;
use crate::request::owner::Owner;
use crate::request::{Peer, host};
use crate::settings::{AuthMethod, Http, TrustedHeadersSettings};

/// The labels for the kind of credential in a request: one per method, and `none`.
pub const METHODS: [&str; 5] = ["token", "oidc", "mtls", "trusted_headers", "none"];

/// Authenticates callers with the enabled methods.
pub struct Authenticator {
    takes_tokens: bool,
    oidc: Option<OidcVerifier>,
    mtls: Option<MtlsMapper>,
    trusted_headers: Option<TrustedHeadersSettings>,
    /// The spelling of principals.
    pub principals: Principals,
    proxies: Vec<IpNet>,
    trust_unix_socket: bool,
    brake: Brake,
    paced: Paced,
    /// Tracks whether tokens can be looked up in the store.
    outage: Outage,
}

impl Authenticator {
    /// An authenticator for the configured methods.
    pub fn new(http: &Http) -> Result<Self> {
        Ok(Self {
            takes_tokens: http.has(AuthMethod::Token),
            oidc: http.has(AuthMethod::Oidc).then(|| OidcVerifier::new(http.oidc.clone())).transpose()?,
            mtls: http.has(AuthMethod::Mtls).then(|| MtlsMapper::new(&http.mtls)).transpose()?,
            trusted_headers: http.has(AuthMethod::TrustedHeaders).then(|| http.trusted_headers.clone()),
            principals: Principals::new(http),
            proxies: http.trusted_proxies.clone(),
            trust_unix_socket: http.trust_unix_socket_proxy,
            brake: Brake::new(http.auth_failures_per_second),
            paced: Paced::new(),
            outage: token::outage(),
        })
    }

    /// Returns the caller of a request with its source address. A network that sends more rejected credentials than its
    /// limit is refused with status 429.
    pub async fn identify(&self, kms: &Kms, parts: &Parts, peer: &Peer) -> std::result::Result<Actor, ApiError> {
        let headers = &parts.headers;
        let source = self.source(headers, peer);
        let network = Owner::at(source.or(peer.address));
        let mut attempt = Attempt { network, connection: std::ptr::from_ref(peer).addr(), is_counted: false };
        let found = match bearer(headers) {
            Ok(Some(secret)) => self.by_bearer(kms, secret, &mut attempt).await,
            Ok(None) => self.without_bearer(parts, peer),
            Err(error) => Err(error),
        };
        let actor = match found {
            Ok(actor) => actor,
            Err(error) if error.status == StatusCode::UNAUTHORIZED && !attempt.is_counted => {
                self.brake.cheap.count(&attempt.network)?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        Ok(match source {
            Some(address) => actor.with_source_ip(address),
            None => actor,
        })
    }

    /// The owner that the memory of a request is charged to before its caller is known: the connection's owner, or the
    /// network that a trusted proxy reports.
    pub fn charged(&self, headers: &HeaderMap, peer: &Peer) -> Owner {
        let is_direct =
            peer.address.map_or(!self.trust_unix_socket, |address| !forwarded::is_proxy(&address, &self.proxies));
        match is_direct {
            true => peer.caller.get(),
            false => Owner::at(self.source(headers, peer).or(peer.address)),
        }
    }

    fn source(&self, headers: &HeaderMap, peer: &Peer) -> Option<IpAddr> {
        forwarded::source(headers, peer, &self.proxies, self.trust_unix_socket)
    }

    /// The kind of credential in a request, for metrics and logs about unauthenticated callers: one of [`METHODS`].
    pub fn shown(&self, headers: &HeaderMap, peer: &Peer) -> &'static str {
        let [token, oidc, mtls, trusted_headers, none] = METHODS;
        match headers.get(AUTHORIZATION).map(|value| value.as_bytes()) {
            Some(value) if self.oidc.is_some() && (!self.takes_tokens || value.contains(&b'.')) => oidc,
            Some(_) => token,
            None if self.mtls.is_some() && peer.certificate.is_some() => mtls,
            None if self.trusted_headers.is_some() => trusted_headers,
            None => none,
        }
    }

    /// Fetches the keys of the OpenID Connect issuer, if one is configured, and keeps them fresh. In that case it never
    /// returns.
    pub async fn prepare(&self) {
        if let Some(oidc) = &self.oidc {
            oidc.prefetch().await;
            oidc.keep_fresh().await;
        }
    }

    async fn by_bearer(&self, kms: &Kms, secret: &str, attempt: &mut Attempt) -> std::result::Result<Actor, ApiError> {
        match &self.oidc {
            // A JWT has dots between its parts; an access token has none.
            Some(oidc) if !self.takes_tokens || secret.contains('.') => {
                if let Some((principal, role)) = oidc.recall(secret).await {
                    return self.own(AuthMethod::Oidc, recognized(Ok((principal.to_string(), role)))?);
                }
                known(oidc.check_claims(secret))?;
                self.by_jwt(oidc, secret, attempt).await
            }
            _ if self.takes_tokens => self.own(AuthMethod::Token, token::identify(kms, secret, &self.outage).await?),
            _ => Err(ApiError::not_authenticated()),
        }
    }

    /// Verifies a JWT with plausible claims, in its turn. A network that exceeds its limit of rejected ones is refused
    /// only if this one is rejected too.
    async fn by_jwt(
        &self,
        oidc: &OidcVerifier,
        secret: &str,
        attempt: &mut Attempt,
    ) -> std::result::Result<Actor, ApiError> {
        // Counted before the result is known, so that the verifications in progress are limited too.
        let counted = self.brake.signatures.count(&attempt.network);
        attempt.is_counted = counted.is_ok();
        let pace = if counted.is_ok() { Pace::Free } else { Pace::Slow };
        let found = match known(oidc.key_of(secret).await) {
            Ok(key) => {
                let (oidc, secret) = (oidc.clone(), Zeroizing::new(secret.to_owned()));
                let verify = move || recognized(oidc.verify(&secret, &key));
                self.paced.run(&attempt.network, attempt.connection, pace, verify).await?
            }
            Err(error) => Err(error),
        };
        let found = found.and_then(|actor| self.own(AuthMethod::Oidc, actor));
        let is_rejected = found.as_ref().is_err_and(|error| error.status == StatusCode::UNAUTHORIZED);
        if is_rejected {
            counted?;
        } else if attempt.is_counted {
            self.brake.signatures.take_back(&attempt.network);
        }
        found
    }

    /// Checks that the principal belongs to the method that authenticated it, so that two subjects never share a
    /// principal.
    fn own(&self, method: AuthMethod, actor: Actor) -> std::result::Result<Actor, ApiError> {
        let is_own = self.principals.is_of(method, actor.principal());
        if is_own { Ok(actor) } else { Err(ApiError::not_authenticated()) }
    }

    fn without_bearer(&self, parts: &Parts, peer: &Peer) -> std::result::Result<Actor, ApiError> {
        if let (Some(mapper), Some(certificate)) = (&self.mtls, &peer.certificate) {
            return self.own(AuthMethod::Mtls, recognized(mapper.authenticate(certificate))?);
        }
        match &self.trusted_headers {
            Some(trusted) => match trusted.identify(&parts.headers, host(&parts.uri, &parts.headers).as_ref())? {
                actor if actor.is_anonymous() => Ok(actor),
                actor => self.own(AuthMethod::TrustedHeaders, actor),
            },
            None => Err(ApiError::not_authenticated()),
        }
    }
}

/// The state of one authentication attempt.
struct Attempt {
    network: Owner,
    /// Distinguishes the connection from others that are open.
    connection: usize,
    /// Whether the attempt was already counted against the network's limit of verifications.
    is_counted: bool,
}

/// The actor for the principal and role of a JWT or a certificate.
fn recognized(found: std::result::Result<(String, Role), AuthError>) -> std::result::Result<Actor, ApiError> {
    let (principal, role) = known(found)?;
    Actor::new(principal, role).map_err(|_| ApiError::not_authenticated())
}

fn known<T>(found: std::result::Result<T, AuthError>) -> std::result::Result<T, ApiError> {
    found.map_err(|error| match error {
        AuthError::Unavailable(reason) => ApiError::issuer_unavailable(reason),
        rejected @ AuthError::Rejected(_) => {
            // The caller gets no reason; the operator can find it in the log.
            tracing::debug!(reason = %rejected, "a caller was not recognized");
            ApiError::not_authenticated()
        }
    })
}

/// The credential of `Authorization: Bearer`. Other schemes and repeated headers are refused.
fn bearer(headers: &HeaderMap) -> std::result::Result<Option<&str>, ApiError> {
    let value = single(headers, AUTHORIZATION).map_err(|_| ApiError::not_authenticated())?;
    let Some(value) = value else { return Ok(None) };
    let (scheme, secret) =
        value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(ApiError::not_authenticated)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(Some(secret.trim())) } else { Err(ApiError::not_authenticated()) }
}

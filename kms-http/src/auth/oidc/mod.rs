//! Authentication by JSON Web Token (RFC 7519) of an OpenID Connect issuer.
//!
//! A token is accepted if its signature verifies under one of the issuer's published keys with an algorithm that fits
//! the key's type, and if it was issued by this issuer, for this service, and has not expired. RFC 8725 lists the
//! attacks that this prevents. A token cannot say where its key is found: `jku`, `jwk`, `x5u` and `x5c` are ignored.

mod fetch;
mod keys;
mod source;
mod verified;

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation};
use kms_lib::{Error, ErrorCode, Role};
use serde_json::{Map, Value};

use self::fetch::{Fetcher, parse_url};
use self::keys::IssuerKey;
use self::source::KeySource;
use self::verified::{Verified, VerifiedTokens};
use super::error::AuthError;
use super::identity::{RoleMapping, principal};
use crate::settings::OidcSettings;

/// Maximum length of a token; longer than any that fits into a header.
const LONGEST_TOKEN: usize = 16 * 1024;
const LONGEST_KEY_ID: usize = 256;

type Claims = Map<String, Value>;

/// The issuer's key that a token names, and the token's algorithm.
pub struct TokenKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: Arc<IssuerKey>,
}

/// Verifies the tokens of one issuer. Cheap to clone.
#[derive(Clone)]
pub struct OidcVerifier {
    settings: Arc<OidcSettings>,
    roles: Arc<RoleMapping>,
    source: Arc<KeySource>,
    verified: Arc<VerifiedTokens>,
}

impl OidcVerifier {
    /// A verifier with these settings. Fetches nothing yet; see [`OidcVerifier::prefetch`].
    pub fn new(settings: OidcSettings) -> kms_lib::Result<Self> {
        check(&settings).map_err(|problem| invalid(&problem))?;
        let roles =
            RoleMapping::new("oidc", settings.role_claim.as_deref(), &settings.admin_values, &settings.auditor_values)?;
        let jwks_uri = settings.jwks_uri.as_deref().map(parse_url).transpose().map_err(|problem| invalid(&problem))?;
        let fetcher = Fetcher::new(settings.ca_file.as_deref(), Duration::from_secs(settings.timeout_seconds))?;
        let settings = Arc::new(settings);
        let source = KeySource::new(settings.clone(), jwks_uri, fetcher);
        Ok(Self { settings, roles: Arc::new(roles), source, verified: Arc::default() })
    }

    /// Fetches the issuer's keys, so that the first caller need not wait. A failure is only logged, because the issuer
    /// may start later than this service.
    pub async fn prefetch(&self) {
        self.source.refreshed().await;
    }

    /// Fetches the issuer's keys again whenever they are due. Never returns.
    pub async fn keep_fresh(&self) {
        self.source.keep_fresh().await;
    }

    /// Recognizes a token that was verified before: it is still valid, and the issuer still has the key that verified
    /// it. `None` if the token must be verified.
    pub async fn recall(&self, token: &str) -> Option<(Arc<str>, Role)> {
        let known = self.verified.find(token, self.settings.leeway_seconds)?;
        let key = self.source.find(known.key_id.as_deref(), known.algorithm).await.ok()?;
        known.is_by(&key).then_some((known.principal, known.role))
    }

    /// Refuses a token by its header and claims alone, before any cryptography. The claims are not trusted yet.
    pub fn check_claims(&self, token: &str) -> Result<(), AuthError> {
        acceptable_header(token)?;
        let claims = jsonwebtoken::dangerous::insecure_decode_claims::<Claims>(token);
        let claims = claims.map_err(|e| refusal(e.kind()))?;
        if claims.get("iss").and_then(Value::as_str) != Some(&self.settings.issuer) {
            return Err(refusal(&ErrorKind::InvalidIssuer));
        }
        let is_own = |audience: &Value| self.settings.audiences.iter().any(|own| audience.as_str() == Some(own));
        if !claims
            .get("aud")
            .is_some_and(|aud| aud.as_array().map_or_else(|| is_own(aud), |all| all.iter().any(is_own)))
        {
            return Err(refusal(&ErrorKind::InvalidAudience));
        }
        let earliest = jsonwebtoken::get_current_timestamp().saturating_sub(self.settings.leeway_seconds);
        if claims.get("exp").and_then(Value::as_f64).is_none_or(|end| end < earliest as f64) {
            return Err(refusal(&ErrorKind::ExpiredSignature));
        }
        Ok(())
    }

    /// Finds the issuer's key that a token names. Fetches the issuer's keys if it is unknown.
    pub async fn key_of(&self, token: &str) -> Result<TokenKey, AuthError> {
        let header = acceptable_header(token)?;
        let key = self.source.find(header.kid.as_deref(), header.alg).await?;
        Ok(TokenKey { id: header.kid, algorithm: header.alg, key })
    }

    /// Verifies a token with its key, and returns its principal and role. The token is remembered for
    /// [`OidcVerifier::recall`].
    pub fn verify(&self, token: &str, key: &TokenKey) -> Result<(String, Role), AuthError> {
        let claims = self.claims(token, key)?;
        let principal = principal(&self.settings.principal_prefix, self.name(&claims)?)?;
        let role = self.role(&claims);
        if let Some(verified) = Verified::new(&principal, role, key, &claims) {
            self.verified.insert(token, verified);
        }
        Ok((principal, role))
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_audience(&self.settings.audiences);
        validation.validate_nbf = true;
        validation.leeway = self.settings.leeway_seconds;
        validation
    }

    fn claims(&self, token: &str, key: &TokenKey) -> Result<Claims, AuthError> {
        let validation = self.validation(key.algorithm);
        let decoded = jsonwebtoken::decode::<Claims>(token, &key.key.decoding, &validation);
        let claims = decoded.map_err(|e| refusal(e.kind()))?.claims;
        // The library also accepts a list of issuers, which RFC 7519, section 4.1.1 does not allow.
        if claims.get("iss").and_then(Value::as_str) != Some(&self.settings.issuer) {
            return Err(AuthError::rejected("the token is from another issuer"));
        }
        Ok(claims)
    }

    /// The value of the configured principal claim.
    fn name<'a>(&self, claims: &'a Claims) -> Result<&'a str, AuthError> {
        let claim = self.settings.principal_claim.as_str();
        lookup(claims, claim).and_then(Value::as_str).ok_or_else(|| {
            AuthError::rejected("the token's principal claim is missing, not a string, or an unverified email")
        })
    }

    fn role(&self, claims: &Claims) -> Role {
        let Some(claim) = self.settings.role_claim.as_deref() else { return Role::App };
        match lookup(claims, claim) {
            Some(Value::String(text)) if claim == "scope" => self.roles.role(text.split(' ')),
            Some(Value::String(text)) => self.roles.role([text.as_str()]),
            Some(Value::Array(values)) => self.roles.role(values.iter().filter_map(Value::as_str)),
            _ => Role::App,
        }
    }
}

/// Checks the settings as far as possible without the issuer.
fn check(settings: &OidcSettings) -> Result<(), String> {
    source::discovery_url(&settings.issuer)?;
    if settings.audiences.is_empty() || settings.audiences.iter().any(String::is_empty) {
        return Err("audiences must list the audiences of tokens for this service, none of them empty".to_owned());
    }
    if settings.principal_claim.is_empty() {
        return Err("principal_claim must not be empty".to_owned());
    }
    if settings.stale_seconds < settings.refresh_seconds {
        return Err("stale_seconds must not be less than refresh_seconds".to_owned());
    }
    Ok(())
}

fn invalid(problem: &str) -> Error {
    Error::new(ErrorCode::InvalidConfiguration, format!("oidc: {problem}"))
}

/// Returns the token's header if such a token can be accepted. Checked before a key is looked up.
fn acceptable_header(token: &str) -> Result<Header, AuthError> {
    if token.len() > LONGEST_TOKEN {
        return Err(AuthError::rejected("the token is too long"));
    }
    let header = jsonwebtoken::decode_header(token)
        .map_err(|_| AuthError::rejected("the token is malformed, or its algorithm is unknown"))?;
    if !keys::is_asymmetric(header.alg) {
        return Err(AuthError::rejected("the token must be signed with an asymmetric algorithm"));
    }
    // Logout tokens and proofs of possession are signed with the same keys and must not be accepted (RFC 8725, section
    // 3.11).
    let kind = header.typ.as_deref().unwrap_or("JWT");
    let kind = kind.strip_prefix("application/").unwrap_or(kind);
    if !kind.eq_ignore_ascii_case("JWT") && !kind.eq_ignore_ascii_case("at+jwt") {
        return Err(AuthError::rejected("the token's typ is neither JWT nor at+jwt"));
    }
    if header.crit.is_some() {
        return Err(AuthError::rejected("the token has critical extensions, which are not supported"));
    }
    if header.kid.as_ref().is_some_and(|id| id.len() > LONGEST_KEY_ID) {
        return Err(AuthError::rejected("the token's kid is too long"));
    }
    Ok(header)
}

/// The claim of this name, or at this JSON pointer (RFC 6901). An `email` counts only with a true `email_verified`
/// beside it, however it is addressed: an unverified address proves nothing if users can enter any address (OpenID
/// Connect Core, section 5.7).
fn lookup<'a>(claims: &'a Claims, path: &str) -> Option<&'a Value> {
    let Some(pointer) = path.strip_prefix('/') else { return member(claims, path) };
    let mut parts = pointer.split('/').map(|part| part.replace("~1", "/").replace("~0", "~"));
    let first = member(claims, &parts.next()?)?;
    parts.try_fold(first, |value, part| match value {
        Value::Object(fields) => member(fields, &part),
        Value::Array(items) => items.get(part.parse::<usize>().ok()?),
        _ => None,
    })
}

fn member<'a>(claims: &'a Claims, name: &str) -> Option<&'a Value> {
    let is_verified = name != "email" || claims.get("email_verified") == Some(&Value::Bool(true));
    claims.get(name).filter(|_| is_verified)
}

/// The reason for refusing a token.
fn refusal(problem: &ErrorKind) -> AuthError {
    AuthError::rejected(match problem {
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidIssuer => "the token is from another issuer",
        ErrorKind::InvalidAudience => "the token is meant for another service",
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => {
            "the token lacks exp, iss or aud, or one of them does not conform to RFC 7519"
        }
        ErrorKind::InvalidAlgorithm => "the token's algorithm does not match the key that it names",
        ErrorKind::InvalidSignature => "the token's signature does not verify",
        _ => "the token is malformed",
    })
}

#[cfg(test)]
#[path = "../../../tests/unit/oidc.rs"]
mod tests;

//! Tests of OpenID Connect with a real issuer: valid and invalid tokens, and an issuer that is sometimes unreachable.

#![allow(clippy::unwrap_used)]

mod availability;
mod tokens;

use std::time::{SystemTime, UNIX_EPOCH};

use kms_http::auth::AuthError;
use kms_http::auth::oidc::OidcVerifier;
use kms_http::settings::OidcSettings;
use kms_lib::Role;
use serde_json::{Value, json};

use kms_test_support::issuer::Issuer;

/// Authenticates with a token in the steps of the service: finds the key that the token names, then verifies the token.
trait Authenticate {
    async fn authenticate(&self, token: &str) -> Result<(String, Role), AuthError>;
}

impl Authenticate for OidcVerifier {
    async fn authenticate(&self, token: &str) -> Result<(String, Role), AuthError> {
        let key = self.key_of(token).await?;
        self.verify(token, &key)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The claims of a token that is valid for an hour.
fn claims(issuer: &Issuer) -> Value {
    json!({"iss": issuer.url, "aud": "kms", "sub": "Alice", "iat": now(), "nbf": now(), "exp": now() + 3600})
}

fn settings(issuer: &Issuer) -> OidcSettings {
    OidcSettings { issuer: issuer.url.clone(), audiences: vec!["kms".into()], ..OidcSettings::default() }
}

fn verifier(issuer: &Issuer) -> OidcVerifier {
    OidcVerifier::new(settings(issuer)).unwrap()
}

fn alice() -> Result<(String, Role), AuthError> {
    Ok(("Alice".to_owned(), Role::App))
}

/// The reason why the token was rejected. Panics if it was not.
#[track_caller]
fn refused(outcome: Result<(String, Role), AuthError>) -> String {
    match outcome {
        Err(AuthError::Rejected(reason)) => reason.into_owned(),
        other => panic!("not refused: {other:?}"),
    }
}

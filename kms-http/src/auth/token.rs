//! Tokens of this service.

use kms_lib::{Actor, ErrorCode, Kms};

use crate::api::ApiError;

/// Recognises tokens.
pub struct Tokens {
    prefix: String,
}

impl Tokens {
    /// With this prefix for principals: tokens are made with it, and those of other principals are refused.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_lowercase() }
    }

    /// Who shows this token.
    pub async fn identify(&self, kms: &Kms, token: &str) -> Result<Actor, ApiError> {
        match kms.authenticate(token).await {
            Ok(actor) if actor.principal().starts_with(&self.prefix) => Ok(actor),
            Ok(_) => Err(ApiError::not_authenticated()),
            Err(error) if error.code() == ErrorCode::NotAuthenticated => Err(ApiError::not_authenticated()),
            // Whoever asks is not known: the code is all that is told.
            Err(error) => {
                let told = kms_lib::Error::new(error.code(), "callers cannot be recognised at the moment");
                tracing::warn!(%error, "a token cannot be looked at");
                Err(told.into())
            }
        }
    }
}

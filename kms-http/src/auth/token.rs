//! Tokens of this service.

use kms_lib::{Actor, Error, ErrorCode, Kms};

use crate::error::ApiError;

/// Who shows this token.
pub async fn identify(kms: &Kms, token: &str) -> Result<Actor, ApiError> {
    kms.authenticate(token).await.map_err(|error| match error.code() {
        ErrorCode::NotAuthenticated => ApiError::not_authenticated(),
        // Whoever asks is not known: the code is all that is told.
        code => {
            tracing::warn!(%error, "a token cannot be looked at");
            Error::new(code, "callers cannot be recognised at the moment").into()
        }
    })
}

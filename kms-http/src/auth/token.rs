//! Tokens of this service.

use kms_lib::internals::Outage;
use kms_lib::{Actor, Error, ErrorCode, Kms};

use crate::error::ApiError;

/// An outage of what tokens are looked up in.
pub fn outage() -> Outage {
    Outage::new("callers cannot be recognized by their tokens")
}

/// Who shows this token.
pub async fn identify(kms: &Kms, token: &str, outage: &Outage) -> Result<Actor, ApiError> {
    let found = kms.authenticate(token).await;
    match &found {
        Err(error) if error.code() != ErrorCode::NotAuthenticated => outage.note(error, 1),
        _ => outage.end(),
    }
    found.map_err(|error| match error.code() {
        ErrorCode::NotAuthenticated => ApiError::not_authenticated(),
        // Whoever asks is not known: the code is all that is told.
        code => Error::new(code, "callers cannot be recognised at the moment").into(),
    })
}

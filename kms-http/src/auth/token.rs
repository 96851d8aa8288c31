//! Authentication by this service's own access tokens.

use kms_lib::internals::{Outage, authenticate};
use kms_lib::{Actor, Error, ErrorCode, Kms};

use crate::error::ApiError;

/// Tracks and logs outages of the store in which tokens are looked up.
pub fn outage() -> Outage {
    Outage::new("callers cannot be recognized by their tokens")
}

/// Returns the caller that a token belongs to.
pub async fn identify(kms: &Kms, token: &str, outage: &Outage) -> Result<Actor, ApiError> {
    let (found, is_read) = authenticate(kms, token).await;
    match &found {
        Err(error) if error.code() != ErrorCode::NotAuthenticated => outage.note(error, 1),
        // Other results say nothing about the store, and anyone could cause them during an outage.
        _ if is_read => outage.end(),
        _ => {}
    }
    found.map_err(|error| match error.code() {
        ErrorCode::NotAuthenticated => ApiError::not_authenticated(),
        // The caller is not authenticated, so only the error code is disclosed.
        code => Error::new(code, "tokens cannot be looked up now; retry later").into(),
    })
}

//! Reasons for which authentication fails.

use std::borrow::Cow;
use std::fmt;

/// Why a credential did not authenticate a caller. Messages describe the credential's form and never contain any part
/// of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// The credential is invalid: status 401; a retry does not help.
    Rejected(Cow<'static, str>),
    /// The credential cannot be verified now because the issuer's keys are not available: status 503; a retry may help.
    Unavailable(Cow<'static, str>),
}

impl AuthError {
    /// An error for an invalid credential.
    pub fn rejected(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Rejected(reason.into())
    }
    /// An error for a credential that cannot be verified now.
    pub fn unavailable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Unavailable(reason.into())
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(reason) => write!(f, "not authenticated: {reason}"),
            Self::Unavailable(reason) => write!(f, "authentication is temporarily unavailable: {reason}"),
        }
    }
}

impl std::error::Error for AuthError {}

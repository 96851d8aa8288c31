//! Why a caller is not known.

use std::borrow::Cow;
use std::fmt;

/// Why a credential did not lead to a principal. Messages are about the credential's form and never hold any of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// The credential is not good: 401, and asking again will not help.
    Rejected(Cow<'static, str>),
    /// It cannot be decided now, since the issuer's keys are not to be had: 503, and asking again may help.
    Unavailable(Cow<'static, str>),
}

impl AuthError {
    /// The credential is not good.
    pub fn rejected(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Rejected(reason.into())
    }
    /// It cannot be decided now.
    pub fn unavailable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Unavailable(reason.into())
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(reason) => write!(f, "not authenticated: {reason}"),
            Self::Unavailable(reason) => write!(f, "authentication is not possible at present: {reason}"),
        }
    }
}

impl std::error::Error for AuthError {}

//! Requests to create tokens.

use crate::types::actor::Role;
use crate::types::time::Timestamp;

/// A request to create a token by [`Session::create_token`](crate::Session::create_token).
///
/// ```
/// use kms_lib::{NewToken, Role, Timestamp};
/// let token = NewToken::new("billing", Role::App).label("batch job").expires_at(Timestamp::now().plus_days(90));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewToken {
    /// The principal as which callers with the token act.
    pub principal: String,
    /// The role of callers with the token.
    pub role: Role,
    /// A note about the token's purpose: 1 to 256 bytes, no control or invisible characters.
    pub label: Option<String>,
    /// The time from which the token is refused; without it, the token does not expire.
    pub expires_at: Option<Timestamp>,
}

impl NewToken {
    /// A token without a label that does not expire.
    pub fn new(principal: impl Into<String>, role: Role) -> Self {
        Self { principal: principal.into(), role, label: None, expires_at: None }
    }
    /// Sets a label by which people recognize the token.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }
    /// Sets the time from which the token is refused.
    #[must_use]
    pub fn expires_at(mut self, time: impl Into<Option<Timestamp>>) -> Self {
        self.expires_at = time.into();
        self
    }
}

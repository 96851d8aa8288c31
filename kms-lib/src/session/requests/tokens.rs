//! Tokens to be made.

use crate::types::actor::Role;
use crate::types::time::Timestamp;

/// A token to be made by [`Session::create_token`](crate::Session::create_token).
///
/// ```
/// use kms_lib::{NewToken, Role, Timestamp};
/// let token = NewToken::new("billing", Role::App).label("batch job").expires_at(Timestamp::now().plus_days(90));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewToken {
    /// The principal of callers that show the token.
    pub principal: String,
    /// The role of whoever shows the token.
    pub role: Role,
    /// What the token is for: 1 to 256 bytes, no control or invisible characters.
    pub label: Option<String>,
    /// The time from which on the token is refused; it does not expire without one.
    pub expires_at: Option<Timestamp>,
}

impl NewToken {
    /// A token without label that does not expire.
    pub fn new(principal: impl Into<String>, role: Role) -> Self {
        Self { principal: principal.into(), role, label: None, expires_at: None }
    }
    /// With a label.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }
    /// Refused from this time on.
    #[must_use]
    pub fn expires_at(mut self, time: impl Into<Option<Timestamp>>) -> Self {
        self.expires_at = time.into();
        self
    }
}

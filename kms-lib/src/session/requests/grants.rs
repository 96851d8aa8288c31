//! Requests to create grants, and filters of grants.

use crate::session::KeyRef;
use crate::types::actor::Role;
use crate::types::grant::{Conditions, Permission};

/// A request to create a grant by [`Session::put_grant`](crate::Session::put_grant).
///
/// ```
/// use kms_lib::{Conditions, NewGrant, Permission, Role, Timestamp};
/// let grant = NewGrant::new("shop", Role::App)
///     .on_key("users")
///     .allow([Permission::Encrypt, Permission::Decrypt])
///     .conditions(Conditions::new().not_after(Timestamp::now().plus_days(30)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewGrant {
    /// The principal that receives the permissions.
    pub principal: String,
    /// A note about the intended callers. It neither restricts nor grants anything.
    pub role: Role,
    /// The permissions; at least one.
    pub permissions: Vec<Permission>,
    /// The conditions under which the permissions apply.
    pub conditions: Conditions,
    pub(in crate::session) target: Option<GrantTarget>,
}

impl NewGrant {
    /// A grant to a principal. Before it is made, set its scope with [`on_key`](Self::on_key) or
    /// [`on_all_keys`](Self::on_all_keys), and add permissions with [`allow`](Self::allow).
    pub fn new(principal: impl Into<String>, role: Role) -> Self {
        Self {
            principal: principal.into(),
            role,
            permissions: Vec::new(),
            conditions: Conditions::default(),
            target: None,
        }
    }
    /// Grants on this key alone. A caller that may neither read the key nor holds `grant` on it must give its id.
    #[must_use]
    pub fn on_key(mut self, key: impl Into<KeyRef>) -> Self {
        self.target = Some(GrantTarget::Key(key.into()));
        self
    }
    /// Grants on all keys, including future ones.
    #[must_use]
    pub fn on_all_keys(mut self) -> Self {
        self.target = Some(GrantTarget::AllKeys);
        self
    }
    /// Adds these permissions to those named before.
    #[must_use]
    pub fn allow(mut self, permissions: impl IntoIterator<Item = Permission>) -> Self {
        self.permissions.extend(permissions);
        self
    }
    /// Sets the conditions, replacing those set before.
    #[must_use]
    pub fn conditions(mut self, conditions: Conditions) -> Self {
        self.conditions = conditions;
        self
    }
}

/// A filter of grants. The default is all grants in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GrantFilter {
    /// Only grants to this principal.
    pub principal: Option<String>,
    pub(in crate::session) target: Option<GrantTarget>,
}

impl GrantFilter {
    /// No filter: all grants in force.
    pub fn new() -> Self {
        Self::default()
    }
    /// Only grants to this principal.
    #[must_use]
    pub fn principal(mut self, principal: impl Into<String>) -> Self {
        self.principal = Some(principal.into());
        self
    }
    /// Only grants that concern this key: on the key itself or on all keys.
    #[must_use]
    pub fn on_key(mut self, key: impl Into<KeyRef>) -> Self {
        self.target = Some(GrantTarget::Key(key.into()));
        self
    }
    /// Only grants on all keys.
    #[must_use]
    pub fn on_all_keys(mut self) -> Self {
        self.target = Some(GrantTarget::AllKeys);
        self
    }
}

/// The keys of a grant as the caller named them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::session) enum GrantTarget {
    /// Every key, including future ones.
    AllKeys,
    /// One key, by name or id.
    Key(KeyRef),
}

//! Grants to be made, and filters of grants.

use crate::session::KeyRef;
use crate::types::actor::Role;
use crate::types::grant::{Conditions, Permission};

/// A grant to be made by [`Session::put_grant`](crate::Session::put_grant).
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
    /// The principal that gets the permissions.
    pub principal: String,
    /// A note about the callers that the grant is meant for. It restricts nothing and gives nothing.
    pub role: Role,
    /// What the grant allows; at least one permission.
    pub permissions: Vec<Permission>,
    /// The conditions under which it allows that.
    pub conditions: Conditions,
    pub(in crate::session) target: Option<GrantTarget>,
}

impl NewGrant {
    /// A grant to a principal. It needs keys, [`on_key`](Self::on_key) or [`on_all_keys`](Self::on_all_keys), and
    /// permissions, [`allow`](Self::allow).
    pub fn new(principal: impl Into<String>, role: Role) -> Self {
        Self {
            principal: principal.into(),
            role,
            permissions: Vec::new(),
            conditions: Conditions::default(),
            target: None,
        }
    }
    /// On this key alone. A caller that may neither read the key nor holds `grant` on it must name it by its id.
    #[must_use]
    pub fn on_key(mut self, key: impl Into<KeyRef>) -> Self {
        self.target = Some(GrantTarget::Key(key.into()));
        self
    }
    /// On all keys, those included that do not exist yet.
    #[must_use]
    pub fn on_all_keys(mut self) -> Self {
        self.target = Some(GrantTarget::AllKeys);
        self
    }
    /// Allows these permissions, beside those that were named before.
    #[must_use]
    pub fn allow(mut self, permissions: impl IntoIterator<Item = Permission>) -> Self {
        self.permissions.extend(permissions);
        self
    }
    /// Only under these conditions, which replace those set before.
    #[must_use]
    pub fn conditions(mut self, conditions: Conditions) -> Self {
        self.conditions = conditions;
        self
    }
}

/// Which grants a list shows; all of them by default.
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

/// The keys of a grant as callers name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::session) enum GrantTarget {
    /// Every key, those that are created later too.
    AllKeys,
    /// One key, by name or id.
    Key(KeyRef),
}

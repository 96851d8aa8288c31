//! From what a credential says to a principal and a role.

use kms_lib::{Actor, Error, ErrorCode, Result, Role};

use super::error::AuthError;

/// The principal that `name`, as a credential says it, stands for: exactly that, with the prefix of its kind of
/// credential. An issuer may distinguish subjects by case alone. The names the service keeps for itself are refused.
pub fn principal(prefix: &str, name: &str) -> std::result::Result<String, AuthError> {
    if name.is_empty() {
        return Err(AuthError::rejected("the principal is empty"));
    }
    let principal = format!("{prefix}{name}");
    Actor::check_principal(&principal).map_err(|_| {
        AuthError::rejected("the principal is too long, has blanks at its ends, or invisible characters")
    })?;
    if Actor::is_reserved(&principal) {
        return Err(AuthError::rejected("the principal is reserved"));
    }
    Ok(principal)
}

/// Which values of a claim, or of a part of a certificate, give more than the role `app`. Compared exactly.
#[derive(Clone, Debug, Default)]
pub struct RoleMapping {
    admin: Vec<String>,
    auditor: Vec<String>,
}

impl RoleMapping {
    /// A mapping. `source` is what the configuration names as the place of the values: one without the other is a
    /// mistake that must not be found out by who gets which rights.
    pub fn new(section: &str, source: Option<&str>, admin: &[String], auditor: &[String]) -> Result<Self> {
        let values = admin.len() + auditor.len();
        let invalid = |what: &str| Err(Error::new(ErrorCode::InvalidConfiguration, format!("{section}: {what}")));
        if source.is_none() && values > 0 {
            return invalid("admin_values and auditor_values need to be told where the values stand");
        }
        if source.is_some() && values == 0 {
            return invalid("a place for roles is named, but no admin_values or auditor_values");
        }
        if admin.iter().chain(auditor).any(|value| value.trim().is_empty()) {
            return invalid("an empty value cannot stand for a role");
        }
        Ok(Self { admin: admin.to_vec(), auditor: auditor.to_vec() })
    }

    /// The highest role that one of the values gives; `app` without any.
    pub fn role<'a>(&self, values: impl IntoIterator<Item = &'a str>) -> Role {
        let mut role = Role::App;
        for value in values {
            if self.admin.iter().any(|known| known == value) {
                return Role::Admin;
            }
            if self.auditor.iter().any(|known| known == value) {
                role = Role::Auditor;
            }
        }
        role
    }
}

#[cfg(test)]
#[path = "../../tests/unit/identity.rs"]
mod tests;

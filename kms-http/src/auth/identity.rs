//! Maps the contents of credentials to principals and roles.

use kms_lib::{Actor, Error, ErrorCode, Result, Role};

use super::error::AuthError;

/// The principal for `name` in a credential: the prefix of the authentication method, then `name` unchanged, because an
/// issuer may distinguish subjects by case alone. Names that the service reserves are refused.
pub fn principal(prefix: &str, name: &str) -> std::result::Result<String, AuthError> {
    if name.is_empty() {
        return Err(AuthError::rejected("the principal is empty"));
    }
    let principal = format!("{prefix}{name}");
    Actor::check_principal(&principal).map_err(|_| {
        AuthError::rejected("the principal is too long, or has blanks at either end or invisible characters")
    })?;
    if Actor::is_reserved(&principal) {
        return Err(AuthError::rejected("the principal is reserved"));
    }
    Ok(principal)
}

/// The values of a claim or of a certificate field that grant a role other than `app`. Values are compared exactly.
#[derive(Clone, Debug, Default)]
pub struct RoleMapping {
    admin: Vec<String>,
    auditor: Vec<String>,
}

impl RoleMapping {
    /// A mapping. `source` is the setting that names the claim or field. Values without a source, or a source without
    /// values, are configuration errors; otherwise the mistake would only show in wrong permissions.
    pub fn new(section: &str, source: Option<&str>, admin: &[String], auditor: &[String]) -> Result<Self> {
        let values = admin.len() + auditor.len();
        let invalid = |what: &str| Err(Error::new(ErrorCode::InvalidConfiguration, format!("{section}: {what}")));
        if source.is_none() && values > 0 {
            return invalid("admin_values and auditor_values need role_claim (oidc) or role_field (mtls)");
        }
        if source.is_some() && values == 0 {
            return invalid("a claim or field for roles is set without admin_values or auditor_values");
        }
        if admin.iter().chain(auditor).any(|value| value.trim().is_empty()) {
            return invalid("admin_values and auditor_values must not contain empty values");
        }
        Ok(Self { admin: admin.to_vec(), auditor: auditor.to_vec() })
    }

    /// The highest role that one of the values grants; `app` if none does.
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

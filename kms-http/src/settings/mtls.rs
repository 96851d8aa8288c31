//! The settings of the section `http.mtls`: how a client certificate maps to a principal and a role.

use serde::{Deserialize, Serialize};

use super::forms;

/// The certificate field that names the principal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PrincipalField {
    /// The subject's common name.
    #[default]
    CommonName,
    /// The alternative name of type URI, such as a SPIFFE ID.
    Uri,
    /// The alternative name of type DNS.
    Dns,
    /// The alternative name of type e-mail address.
    Email,
}

/// The certificate field that determines the role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleField {
    /// The subject's organizations.
    Organization,
    /// The subject's organizational units.
    OrganizationalUnit,
    /// The subject's common name.
    CommonName,
    /// The alternative names of type URI.
    Uri,
    /// The alternative names of type DNS.
    Dns,
    /// The alternative names of type e-mail address.
    Email,
}

/// The settings of authentication by client certificate, section `http.mtls`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct MtlsSettings {
    /// The field that names the principal. A certificate must contain it exactly once.
    #[serde(deserialize_with = "forms::word")]
    pub principal_field: PrincipalField,
    /// Prefix of the principals, such as `cert:`.
    pub principal_prefix: String,
    /// The field that determines the role; without it, every certificate is an app.
    #[serde(deserialize_with = "forms::maybe")]
    pub role_field: Option<RoleField>,
    /// Values of the role field that make an admin.
    #[serde(deserialize_with = "forms::texts")]
    pub admin_values: Vec<String>,
    /// Values of the role field that make an auditor.
    #[serde(deserialize_with = "forms::texts")]
    pub auditor_values: Vec<String>,
}

impl From<PrincipalField> for RoleField {
    fn from(field: PrincipalField) -> Self {
        match field {
            PrincipalField::CommonName => Self::CommonName,
            PrincipalField::Uri => Self::Uri,
            PrincipalField::Dns => Self::Dns,
            PrincipalField::Email => Self::Email,
        }
    }
}

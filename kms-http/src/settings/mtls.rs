//! The settings of the section `http.mtls`: what a client certificate says of its holder.

use serde::{Deserialize, Serialize};

use super::forms;

/// A part of a certificate that names its holder.
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

/// A part of a certificate that gives its holder a role.
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

/// How certificates are read.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct MtlsSettings {
    /// What names the principal. A certificate must have it exactly once.
    #[serde(deserialize_with = "forms::word")]
    pub principal_field: PrincipalField,
    /// What is put before the principal, such as `cert:`.
    pub principal_prefix: String,
    /// What gives the role.
    #[serde(deserialize_with = "forms::maybe")]
    pub role_field: Option<RoleField>,
    /// Its values that make an admin.
    #[serde(deserialize_with = "forms::texts")]
    pub admin_values: Vec<String>,
    /// Its values that make an auditor.
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

//! Authentication by client certificate in the TLS handshake (RFC 8446, section 4.4.2).
//!
//! [`crate::tls`] has already verified that a trusted client authority issued the certificate and that the caller has
//! its private key. This module reads the principal and the role from it (RFC 5280).

use std::time::SystemTime;

use kms_lib::Role;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::{DirectoryString, GeneralName};

use super::error::AuthError;
use super::identity::{RoleMapping, principal};
use crate::settings::{MtlsSettings, RoleField};

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const ORGANIZATION: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.10");
const ORGANIZATIONAL_UNIT: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.11");

/// Reads principals and roles from certificates.
#[derive(Clone, Debug)]
pub struct MtlsMapper {
    settings: MtlsSettings,
    roles: RoleMapping,
}

impl MtlsMapper {
    /// A mapper with these settings. Fails if the role settings are inconsistent.
    pub fn new(settings: &MtlsSettings) -> kms_lib::Result<Self> {
        let source = settings.role_field.map(|_| "role_field");
        let roles = RoleMapping::new("mtls", source, &settings.admin_values, &settings.auditor_values)?;
        Ok(Self { settings: settings.clone(), roles })
    }

    /// Returns the principal and the role for a certificate (DER).
    ///
    /// Must be called for every request, not once per connection: a connection must not outlive its certificate.
    pub fn authenticate(&self, certificate: &[u8]) -> Result<(String, Role), AuthError> {
        self.authenticate_at(certificate, SystemTime::now())
    }

    fn authenticate_at(&self, certificate: &[u8], now: SystemTime) -> Result<(String, Role), AuthError> {
        let certificate = Certificate::from_der(certificate)
            .map_err(|_| AuthError::rejected("the certificate does not conform to RFC 5280"))?;
        let validity = certificate.tbs_certificate().validity();
        if now < validity.not_before.to_system_time() {
            return Err(AuthError::rejected("the certificate is not valid yet"));
        }
        if now > validity.not_after.to_system_time() {
            return Err(AuthError::rejected("the certificate has expired"));
        }
        let names = names(&certificate, self.settings.principal_field.into())?;
        let [name] = names.as_slice() else {
            return Err(AuthError::rejected("the certificate must have exactly one name of the configured kind"));
        };
        Ok((principal(&self.settings.principal_prefix, name)?, self.role(&certificate)?))
    }

    fn role(&self, certificate: &Certificate) -> Result<Role, AuthError> {
        let Some(field) = self.settings.role_field else { return Ok(Role::App) };
        Ok(self.roles.role(names(certificate, field)?.iter().map(String::as_str)))
    }
}

/// All names of a kind, in the order of the certificate.
fn names(certificate: &Certificate, field: RoleField) -> Result<Vec<String>, AuthError> {
    match field {
        RoleField::CommonName => subject_names(certificate, COMMON_NAME),
        RoleField::Organization => subject_names(certificate, ORGANIZATION),
        RoleField::OrganizationalUnit => subject_names(certificate, ORGANIZATIONAL_UNIT),
        RoleField::Uri | RoleField::Dns | RoleField::Email => alternative_names(certificate, field),
    }
}

fn subject_names(certificate: &Certificate, kind: ObjectIdentifier) -> Result<Vec<String>, AuthError> {
    let attributes = certificate.tbs_certificate().subject().iter();
    attributes
        .filter(|attribute| attribute.oid == kind)
        .map(|attribute| attribute.value.decode_as::<DirectoryString>().map(|text| text.value().into_owned()))
        .collect::<Result<_, _>>()
        .map_err(|_| AuthError::rejected("the certificate's subject has an unsupported encoding"))
}

fn alternative_names(certificate: &Certificate, field: RoleField) -> Result<Vec<String>, AuthError> {
    let extension = certificate
        .tbs_certificate()
        .get_extension::<SubjectAltName>()
        .map_err(|_| AuthError::rejected("the certificate's alternative names have an unsupported encoding"))?;
    let Some((_, names)) = extension else { return Ok(Vec::new()) };
    let text = |name: GeneralName| match (field, name) {
        (RoleField::Uri, GeneralName::UniformResourceIdentifier(text))
        | (RoleField::Dns, GeneralName::DnsName(text))
        | (RoleField::Email, GeneralName::Rfc822Name(text)) => Some(text.as_str().to_owned()),
        _ => None,
    };
    Ok(names.0.into_iter().filter_map(text).collect())
}

#[cfg(test)]
#[path = "../../tests/unit/mtls.rs"]
mod tests;

//! Unit tests of `src/auth/mtls.rs`.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

use super::*;
use crate::settings::PrincipalField;
use crate::tls::expiry::expiry;

fn certificate(subject: &[(DnType, &str)], alternatives: Vec<SanType>) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for (kind, value) in subject {
        params.distinguished_name.push(kind.clone(), *value);
    }
    params.subject_alt_names = alternatives;
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn ia5(text: &str) -> Ia5String {
    Ia5String::try_from(text).unwrap()
}

fn mapper(principal_field: PrincipalField) -> MtlsMapper {
    MtlsMapper::new(&MtlsSettings { principal_field, ..MtlsSettings::default() }).unwrap()
}

#[test]
fn the_principal_is_the_configured_name() {
    let certificate = certificate(
        &[(DnType::OrganizationName, "Example"), (DnType::CommonName, "Shop.Backend")],
        vec![
            SanType::URI(ia5("spiffe://example/Shop")),
            SanType::DnsName(ia5("shop.example.com")),
            SanType::Rfc822Name(ia5("Shop@Example.com")),
        ],
    );
    for (field, expected) in [
        (PrincipalField::CommonName, "Shop.Backend"),
        (PrincipalField::Uri, "spiffe://example/Shop"),
        (PrincipalField::Dns, "shop.example.com"),
        (PrincipalField::Email, "Shop@Example.com"),
    ] {
        assert_eq!(mapper(field).authenticate(&certificate), Ok((expected.to_owned(), Role::App)));
    }
    let settings = MtlsSettings { principal_prefix: "cert:".into(), ..MtlsSettings::default() };
    let prefixed = MtlsMapper::new(&settings).unwrap().authenticate(&certificate);
    assert_eq!(prefixed, Ok(("cert:Shop.Backend".to_owned(), Role::App)));
}

#[test]
fn a_missing_or_repeated_name_is_refused() {
    let none = certificate(&[(DnType::OrganizationName, "Example")], vec![]);
    let two = certificate(
        &[(DnType::CommonName, "a")],
        vec![SanType::DnsName(ia5("a.example.com")), SanType::DnsName(ia5("b.example.com"))],
    );
    for (field, certificate) in [
        (PrincipalField::CommonName, &none),
        (PrincipalField::Uri, &none),
        (PrincipalField::Dns, &two),
        (PrincipalField::Email, &two),
    ] {
        assert!(matches!(mapper(field).authenticate(certificate), Err(AuthError::Rejected(_))), "{field:?}");
    }
}

#[test]
fn reserved_and_unprintable_names_are_refused() {
    for name in ["system", "Scheduler", "ANONYMOUS", "a\0b", " a"] {
        let certificate = certificate(&[(DnType::CommonName, name)], vec![]);
        assert!(mapper(PrincipalField::CommonName).authenticate(&certificate).is_err(), "{name:?}");
    }
}

#[test]
fn roles_come_from_the_configured_field_only() {
    let settings = MtlsSettings {
        role_field: Some(RoleField::OrganizationalUnit),
        admin_values: vec!["kms admins".into()],
        auditor_values: vec!["audit".into()],
        ..MtlsSettings::default()
    };
    let mapper = MtlsMapper::new(&settings).unwrap();
    let role = |subject: &[(DnType, &str)]| mapper.authenticate(&certificate(subject, vec![])).unwrap().1;
    let name = (DnType::CommonName, "alice");
    assert_eq!(role(&[name.clone(), (DnType::OrganizationalUnitName, "kms admins")]), Role::Admin);
    assert_eq!(role(&[name.clone(), (DnType::OrganizationalUnitName, "audit")]), Role::Auditor);
    assert_eq!(role(&[name.clone(), (DnType::OrganizationalUnitName, "KMS Admins")]), Role::App);
    assert_eq!(role(&[name.clone(), (DnType::OrganizationName, "kms admins")]), Role::App);
    assert_eq!(role(&[(DnType::CommonName, "kms admins")]), Role::App);
    assert_eq!(role(&[name]), Role::App);
}

#[test]
fn a_certificate_is_valid_only_within_its_times() {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "alice");
    params.not_before = rcgen::date_time_ymd(2024, 1, 1);
    params.not_after = rcgen::date_time_ymd(2025, 1, 1);
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
    let at = |seconds: u64| {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        mapper(PrincipalField::CommonName).authenticate_at(&certificate, now)
    };
    assert!(at(1_704_067_199).is_err());
    assert!(at(1_704_067_200).is_ok());
    assert!(at(1_735_689_600).is_ok());
    assert!(at(1_735_689_601).is_err());
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_735_689_600);
    assert_eq!(expiry(&certificate), Some(end));
}

#[test]
fn malformed_certificates_are_refused() {
    let whole = certificate(&[(DnType::CommonName, "alice")], vec![]);
    let mapper = mapper(PrincipalField::CommonName);
    assert!(mapper.authenticate(&whole).is_ok());
    for length in 0..whole.len() {
        assert!(mapper.authenticate(&whole[..length]).is_err(), "{length} bytes");
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert!(mapper.authenticate(&longer).is_err());
    // An altered byte may or may not make the certificate invalid, but causes no panic.
    for place in 0..whole.len() {
        let mut changed = whole.clone();
        changed[place] ^= 0x55;
        let _ = mapper.authenticate(&changed);
        let _ = expiry(&changed);
    }
}

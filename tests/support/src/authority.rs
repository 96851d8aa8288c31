//! Certificate authorities and certificates, created for each test (feature `tls`).

#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate authority with a new key.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its private key.
pub struct Issued {
    /// The certificate, signed by the authority.
    pub certificate: rcgen::Certificate,
    /// The private key of the certificate.
    pub key: KeyPair,
}

impl Issued {
    /// The certificate as a chain for rustls. It contains no authority.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.der().clone()]
    }
    /// The private key for rustls, in PKCS#8.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }
}

impl Authority {
    /// Creates an authority with this common name. Two authorities with one name have different keys.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }
    /// The certificate of the authority, in PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }
    /// The certificate of the authority, in DER.
    pub fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    fn issue(&self, params: CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        Issued { certificate: params.signed_by(&key, &self.issuer).unwrap(), key }
    }
    /// A server certificate for `localhost` with this serial number.
    pub fn server(&self, serial: u64) -> Issued {
        self.server_until(serial, 2090)
    }
    /// A server certificate that is valid until the first day of this year.
    pub fn server_until(&self, serial: u64, year: i32) -> Issued {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params)
    }
    /// A client certificate with this common name.
    pub fn client(&self, name: &str) -> Issued {
        self.issue(client_params(name))
    }
    /// A client certificate that expired in 2021.
    pub fn expired_client(&self, name: &str) -> Issued {
        let mut params = client_params(name);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        self.issue(params)
    }
    /// A certificate with this common name whose extended key usage permits only servers.
    pub fn no_client(&self, name: &str) -> Issued {
        let mut params = client_params(name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params)
    }

    /// A revocation list in PEM with the certificate of this serial number.
    pub fn revoke(&self, serial: u64) -> String {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(4000, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
    /// A client certificate with this common name and serial number.
    pub fn client_with_serial(&self, name: &str, serial: u64) -> Issued {
        let mut params = client_params(name);
        params.serial_number = Some(SerialNumber::from(serial));
        self.issue(params)
    }
}

fn client_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// A temporary folder for the TLS files of a server.
pub struct Files {
    /// The folder, removed when dropped.
    pub folder: tempfile::TempDir,
}

impl Files {
    /// Creates an empty folder.
    pub fn create() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }
    /// The path of the file with this name.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
    /// Writes a file, atomically, and returns its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        // Tools that renew certificates replace files in this way.
        let fresh = self.path(&format!("{name}.new"));
        std::fs::write(&fresh, content).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        path
    }
    /// Writes the certificate to `server.pem` and the key to `server.key`.
    pub fn install(&self, issued: &Issued) {
        self.write("server.key", issued.key.serialize_pem());
        self.write("server.pem", issued.certificate.pem());
    }
    /// The path of the folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

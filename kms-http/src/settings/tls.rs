//! The settings of the section `http.tls`.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::forms;

/// Whether clients must present a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificates {
    /// Clients are not asked for a certificate.
    #[default]
    Off,
    /// Clients may present a certificate; one without needs another credential. An invalid certificate is refused.
    Optional,
    /// Connections without a valid certificate are refused.
    Required,
}

section! {
    /// The settings of TLS, section `http.tls`.
    pub struct TlsSettings {
        /// Certificate chain (PEM), the server's certificate first. Setting it enables TLS.
        pub certificate_file: PathBuf = PathBuf::new(),
        /// Private key of the server's certificate (PEM: PKCS#8, PKCS#1 or SEC 1).
        pub key_file: PathBuf = PathBuf::new(),
        /// Whether clients must present a certificate.
        #[serde(deserialize_with = "forms::word")]
        pub client_certificates: ClientCertificates = ClientCertificates::Off,
        /// Certificate authorities (PEM) that may issue client certificates.
        #[serde(deserialize_with = "forms::maybe")]
        pub client_ca_file: Option<PathBuf> = None,
        /// Certificate revocation lists (PEM) of those authorities. If set, a list of every authority is required, and
        /// all certificates of an authority whose list has expired are refused.
        #[serde(deserialize_with = "forms::maybe")]
        pub client_crl_file: Option<PathBuf> = None,
        /// Maximum duration of a TLS handshake.
        #[serde(deserialize_with = "forms::count::<1, 3_600, _, _>")]
        pub handshake_timeout_seconds: u64 = 10,
        /// Interval at which the files are checked for changes; 0: only on SIGHUP.
        #[serde(deserialize_with = "forms::count::<0, 86_400, _, _>")]
        pub reload_seconds: u64 = 10,
    }
}

impl TlsSettings {
    /// Whether TLS is enabled.
    pub fn is_on(&self) -> bool {
        !self.certificate_file.as_os_str().is_empty()
    }
    pub(crate) fn handshake_timeout(&self) -> Duration {
        Duration::from_secs(self.handshake_timeout_seconds)
    }
    /// All files that the TLS configuration reads.
    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.certificate_file, &self.key_file].into_iter().chain(&self.client_ca_file).chain(&self.client_crl_file)
    }
}

//! The settings of the section `http.tls`.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::forms;

/// Whether callers must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificates {
    /// None is asked for.
    #[default]
    Off,
    /// Who has one shows it; who has none comes in, and needs another credential. A bad one is refused.
    Optional,
    /// Without one there is no connection.
    Required,
}

section! {
    /// How the service speaks TLS.
    pub struct TlsSettings {
        /// The chain of certificates (PEM), the server's own first. TLS is on when it is set.
        pub certificate_file: PathBuf = PathBuf::new(),
        /// Its private key (PEM: PKCS#8, PKCS#1 or SEC 1).
        pub key_file: PathBuf = PathBuf::new(),
        /// Whether callers must show a certificate.
        #[serde(deserialize_with = "forms::word")]
        pub client_certificates: ClientCertificates = ClientCertificates::Off,
        /// The authorities (PEM) whose certificates callers may show.
        #[serde(deserialize_with = "forms::maybe")]
        pub client_ca_file: Option<PathBuf> = None,
        /// Lists (PEM) of certificates that those authorities have revoked. With them, a list of each authority is
        /// needed, and one that is past its time lets nobody in.
        #[serde(deserialize_with = "forms::maybe")]
        pub client_crl_file: Option<PathBuf> = None,
        /// How long a handshake may take.
        #[serde(deserialize_with = "forms::count::<1, 3_600, _, _>")]
        pub handshake_timeout_seconds: u64 = 10,
        /// How often the files are looked at for changes; 0: only on SIGHUP.
        #[serde(deserialize_with = "forms::count::<0, 86_400, _, _>")]
        pub reload_seconds: u64 = 10,
    }
}

impl TlsSettings {
    /// Whether the service speaks TLS at all.
    pub fn is_on(&self) -> bool {
        !self.certificate_file.as_os_str().is_empty()
    }
    pub(crate) fn handshake_timeout(&self) -> Duration {
        Duration::from_secs(self.handshake_timeout_seconds)
    }
    /// All files that the configuration is made of.
    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.certificate_file, &self.key_file].into_iter().chain(&self.client_ca_file).chain(&self.client_crl_file)
    }
}

//! From settings to what rustls works with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kms_lib::{Error, ErrorCode, Result};
use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use serde::Deserialize;

use super::{VERSIONS, pem, provider};

/// Whether callers must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
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

/// How the service speaks TLS.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    /// The chain of certificates (PEM), the server's own first.
    pub certificate_file: PathBuf,
    /// Its private key (PEM: PKCS#8, PKCS#1 or SEC 1).
    pub key_file: PathBuf,
    /// Whether callers must show a certificate.
    #[serde(default)]
    pub client_certificates: ClientCertificates,
    /// The authorities (PEM) whose certificates callers may show.
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
    /// Lists (PEM) of certificates that those authorities have revoked. With them, a list of each authority is needed, and one
    /// that is past its time lets nobody in.
    #[serde(default)]
    pub client_crl_file: Option<PathBuf>,
    /// How long a handshake may take.
    #[serde(default = "ten")]
    pub handshake_timeout_seconds: u64,
    /// How often the files are looked at for changes; 0: only on SIGHUP.
    #[serde(default = "ten")]
    pub reload_seconds: u64,
}

impl TlsSettings {
    /// A certificate and its key; no certificates of callers.
    pub fn new(certificate_file: impl Into<PathBuf>, key_file: impl Into<PathBuf>) -> Self {
        Self {
            certificate_file: certificate_file.into(),
            key_file: key_file.into(),
            client_certificates: ClientCertificates::Off,
            client_ca_file: None,
            client_crl_file: None,
            handshake_timeout_seconds: ten(),
            reload_seconds: ten(),
        }
    }
    pub(super) fn handshake_timeout(&self) -> Duration {
        Duration::from_secs(self.handshake_timeout_seconds)
    }
    /// All files that the configuration is made of.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.certificate_file, &self.key_file].into_iter().chain(&self.client_ca_file).chain(&self.client_crl_file)
    }
}

fn ten() -> u64 {
    10
}

/// A configuration, and the certificate it shows.
pub(super) struct Loaded {
    pub(super) server: Arc<ServerConfig>,
    pub(super) certificate: Vec<u8>,
}

/// Reads all files. An error leaves nothing changed.
pub(super) fn load(settings: &TlsSettings) -> Result<Loaded> {
    check(settings)?;
    let chain = pem::chain(&settings.certificate_file)?;
    let key = pem::private_key(&settings.key_file)?;
    let certificate = chain.first().map(|certificate| certificate.to_vec()).unwrap_or_default();
    let verifier = client_verifier(settings)?;
    let asks_for_certificates = verifier.is_some();

    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(VERSIONS);
    let builder = builder.map_err(|e| Error::new(ErrorCode::Internal, format!("TLS: {e}")))?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    // This also looks whether the key is the certificate's.
    let mut server = builder.with_single_cert(chain, key).map_err(|e| {
        let files = format!("{} and {}", settings.certificate_file.display(), settings.key_file.display());
        invalid(format!("{files} do not go together: {e}"))
    })?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if asks_for_certificates {
        // A resumed session would let a caller in on a certificate that nobody looks at again.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
    }
    Ok(Loaded { server: Arc::new(server), certificate })
}

fn check(settings: &TlsSettings) -> Result<()> {
    let asks = settings.client_certificates != ClientCertificates::Off;
    if asks && settings.client_ca_file.is_none() {
        return Err(invalid("client_certificates needs client_ca_file"));
    }
    if !asks && (settings.client_ca_file.is_some() || settings.client_crl_file.is_some()) {
        return Err(invalid(
            "client_ca_file and client_crl_file need client_certificates = \"required\" or \"optional\"",
        ));
    }
    if settings.handshake_timeout_seconds == 0 {
        return Err(invalid("handshake_timeout_seconds must be 1 at least"));
    }
    Ok(())
}

fn client_verifier(settings: &TlsSettings) -> Result<Option<Arc<dyn ClientCertVerifier>>> {
    let Some(authorities) = &settings.client_ca_file else { return Ok(None) };
    let roots = Arc::new(pem::authorities(authorities)?);
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
    if let Some(lists) = &settings.client_crl_file {
        builder = builder.with_crls(pem::revocation_lists(lists)?).enforce_revocation_expiration();
    }
    if settings.client_certificates == ClientCertificates::Optional {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map(Some).map_err(|e| invalid(format!("{}: {e}", authorities.display())))
}

fn invalid(problem: impl AsRef<str>) -> Error {
    Error::new(ErrorCode::InvalidConfiguration, format!("tls: {}", problem.as_ref()))
}

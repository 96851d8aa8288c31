//! Builds the rustls configuration from the settings.

use std::sync::Arc;
use std::time::SystemTime;

use kms_lib::{Error, ErrorCode, Result};
use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

use super::expiry::expiry;
use super::fingerprint::Fingerprint;
use super::{VERSIONS, pem, provider};
use crate::settings::{self, ClientCertificates, TlsSettings};

/// The configuration that was read from the files.
pub(super) struct Loaded {
    pub(super) server: Arc<ServerConfig>,
    /// The authorities and revocation lists that decide on client certificates, to detect a change.
    pub(super) judges: Vec<u8>,
    /// Expiry time of the server's certificate.
    pub(super) expires: Option<SystemTime>,
    /// The state of the files when they were last read, even if that failed.
    pub(super) seen: Fingerprint,
}

/// Reads all files. `seen` is their state before. Has no side effects.
pub(super) fn load(settings: &TlsSettings, seen: Fingerprint) -> Result<Loaded> {
    check(settings)?;
    let chain = pem::certificates(&settings.certificate_file)?;
    let key = pem::private_key(&settings.key_file)?;
    let expires = chain.first().and_then(|certificate| expiry(certificate));
    let (verifier, judges) = client_verifier(settings)?;
    let asks_for_certificates = verifier.is_some();

    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(VERSIONS);
    let builder = builder.map_err(|e| Error::new(ErrorCode::Internal, format!("TLS: {e}")))?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    // Also checks that the key matches the certificate.
    let mut server = builder.with_single_cert(chain, key).map_err(|e| {
        let files = format!("{} and {}", settings.certificate_file.display(), settings.key_file.display());
        invalid(format!("{files} do not match: {e}"))
    })?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if asks_for_certificates {
        // No session resumption: it would accept a certificate without checking it again.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
    }
    if expires.is_some_and(|expires| expires <= SystemTime::now()) {
        tracing::warn!("the TLS certificate has expired");
    }
    Ok(Loaded { server: Arc::new(server), judges, expires, seen })
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
    Ok(())
}

type Verifier = Arc<dyn ClientCertVerifier>;

/// The verifier of client certificates, and the authorities and revocation lists that it uses.
fn client_verifier(settings: &TlsSettings) -> Result<(Option<Verifier>, Vec<u8>)> {
    let Some(authorities) = &settings.client_ca_file else { return Ok((None, Vec::new())) };
    let roots = Arc::new(pem::authorities(authorities)?);
    let mut judges: Vec<u8> = pem::certificates(authorities)?.iter().flat_map(|one| one.to_vec()).collect();
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
    if let Some(lists) = &settings.client_crl_file {
        let lists = pem::revocation_lists(lists)?;
        judges.extend(lists.iter().flat_map(|list| list.to_vec()));
        builder = builder.with_crls(lists).enforce_revocation_expiration();
    }
    if settings.client_certificates == ClientCertificates::Optional {
        builder = builder.allow_unauthenticated();
    }
    let verifier = builder.build().map_err(|e| invalid(format!("{}: {e}", authorities.display())))?;
    Ok((Some(verifier), judges))
}

fn invalid(problem: impl AsRef<str>) -> Error {
    settings::invalid(format!("tls: {}", problem.as_ref()))
}

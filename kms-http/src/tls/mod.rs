//! TLS 1.2 and 1.3 (RFC 5246, RFC 8446) with rustls on aws-lc, and mutual TLS.
//!
//! [`TlsServer::open`] reads the files, [`TlsServer::accept`] performs the handshake of a connection, and
//! [`TlsServer::watch`] reloads the files when they change or on SIGHUP. Open connections keep their configuration and
//! new ones get the latest; when authorities or revocation lists have changed, [`TlsServer::distrusted`] tells older
//! connections to close. If files cannot be read or the key does not match the certificate, the former configuration
//! stays in use: a certificate that is about to expire is better than none.

pub(crate) mod client;
mod config;
pub(crate) mod expiry;
mod fingerprint;
pub(crate) mod pem;
mod reload;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};
use std::time::SystemTime;

use kms_lib::Result;
use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use self::config::Loaded;
use self::fingerprint::Fingerprint;
use crate::settings::TlsSettings;

/// The protocol versions for servers and clients.
pub(crate) const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// The cryptography provider for all TLS. Passed explicitly, so that no process-wide default is needed.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    PROVIDER.clone()
}

/// A connection after its handshake.
pub struct TlsConnection<S> {
    /// The stream within TLS.
    pub stream: TlsStream<S>,
    /// The verified client certificate, if the client presented one.
    pub peer: Option<CertificateDer<'static>>,
    /// The number of changes of authorities and revocation lists at the time of the handshake.
    pub trust: u64,
}

/// The TLS configuration of a listening socket, shared by all its connections.
pub struct TlsServer {
    settings: TlsSettings,
    current: RwLock<Loaded>,
    /// Number of changes of authorities or revocation lists.
    trust: watch::Sender<u64>,
    /// Number of failed reloads.
    failures: AtomicU64,
    /// Number of reloads by SIGHUP, whether successful or not.
    forced: watch::Sender<u64>,
}

impl TlsServer {
    /// Reads certificates and key. `InvalidConfiguration` if a file is missing or invalid.
    pub fn open(settings: TlsSettings) -> Result<Arc<Self>> {
        let loaded = config::load(&settings, Fingerprint::of(&settings))?;
        Ok(Arc::new(Self {
            settings,
            current: RwLock::new(loaded),
            trust: watch::Sender::new(0),
            failures: AtomicU64::new(0),
            forced: watch::Sender::new(0),
        }))
    }

    /// Performs the handshake. Fails after the configured timeout, or without an acceptable client certificate.
    pub async fn accept<S>(&self, stream: S) -> io::Result<TlsConnection<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (server, trust) = {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            (current.server.clone(), *self.trust.borrow())
        };
        let handshake = TlsAcceptor::from(server).accept(stream);
        let stream = tokio::time::timeout(self.settings.handshake_timeout(), handshake)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"))??;
        let chain = stream.get_ref().1.peer_certificates();
        let peer = chain.and_then(|chain| chain.first()).map(|certificate| certificate.clone().into_owned());
        Ok(TlsConnection { stream, peer, trust })
    }

    /// Waits until the authorities or revocation lists have changed since the handshake of a connection. `trust` is the
    /// value in its [`TlsConnection`].
    pub async fn distrusted(&self, trust: u64) {
        // Cannot fail: the sender lives as long as self.
        let _ = self.trust.subscribe().wait_for(|now| *now != trust).await;
    }

    /// Notifies of reloads by SIGHUP.
    pub fn reloads(&self) -> watch::Receiver<u64> {
        self.forced.subscribe()
    }

    /// Number of failed reloads, for the metrics.
    pub fn reload_failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Expiry time of the server's certificate, for the metrics.
    pub fn certificate_expires(&self) -> Option<SystemTime> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).expires
    }
}

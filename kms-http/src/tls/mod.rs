//! TLS 1.2 and 1.3 (RFC 5246, RFC 8446) with rustls on aws-lc, and mutual TLS.
//!
//! [`TlsServer::open`] reads the files, [`TlsServer::accept`] makes a handshake out of a connection, and
//! [`TlsServer::watch`] reads the files again when they change or on SIGHUP. Connections that stand keep what they
//! began with, new ones get what was read last; when authorities or revocation lists have changed,
//! [`TlsServer::distrusted`] tells the older connections to end. Files that cannot be read, or a key that is not the
//! certificate's, leave the former configuration in place: a certificate that is about to expire is better than none.

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

/// What is spoken, by servers and clients.
pub(crate) const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// The cryptography, named here and nowhere guessed.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    PROVIDER.clone()
}

/// A connection after its handshake.
pub struct TlsConnection<S> {
    /// What to read from and write to.
    pub stream: TlsStream<S>,
    /// The caller's certificate, if it showed one: of a trusted authority, and the caller has its key.
    pub peer: Option<CertificateDer<'static>>,
    /// Under which authorities and revocation lists it was accepted, counted from 0.
    pub trust: u64,
}

/// The TLS side of a listening socket. Shared by all its connections.
pub struct TlsServer {
    settings: TlsSettings,
    current: RwLock<Loaded>,
    /// How often authorities or revocation lists have changed.
    trust: watch::Sender<u64>,
    /// How often the files could not be taken.
    failures: AtomicU64,
    /// How often a signal had the files read again.
    forced: watch::Sender<u64>,
}

impl TlsServer {
    /// Reads certificates and key. Fails with `InvalidConfiguration`.
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

    /// Makes the handshake. Fails when it takes too long, and with a caller that has no acceptable certificate.
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

    /// Waits until other authorities or revocation lists are in force than those that a connection was accepted under.
    pub async fn distrusted(&self, trust: u64) {
        // The sender is this server's own: it is there as long as somebody waits.
        let _ = self.trust.subscribe().wait_for(|now| *now != trust).await;
    }

    /// Tells when a signal has had the files read again.
    pub fn reloads(&self) -> watch::Receiver<u64> {
        self.forced.subscribe()
    }

    /// How often files could not be taken when they were read again, for the metrics.
    pub fn reload_failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// When the server's certificate ends, for the metrics.
    pub fn certificate_expires(&self) -> Option<SystemTime> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).expires
    }
}

//! Reading the files again.

use std::fs;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use kms_lib::Result;

use super::config::{self, TlsSettings};
use super::{TlsServer, warn_of_expiry};
use crate::auth::mtls::expiry;

/// What can be seen of the files without reading them. Links are followed, so that a directory of secrets that is
/// exchanged as a whole is noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint(Vec<Option<FileState>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct FileState {
    length: u64,
    modified: Option<SystemTime>,
    /// Device, inode and the time of its last change, which also tell a file that was put in another's place.
    identity: Identity,
}

#[cfg(unix)]
type Identity = (u64, u64, i64, i64);
#[cfg(not(unix))]
type Identity = ();

impl Fingerprint {
    pub(super) fn of(settings: &TlsSettings) -> Self {
        Self(settings.files().map(|path| fs::metadata(path).ok().map(|metadata| FileState::of(&metadata))).collect())
    }
}

impl FileState {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { length: metadata.len(), modified: metadata.modified().ok(), identity: identity(metadata) }
    }
}

#[cfg(unix)]
fn identity(metadata: &fs::Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
}
#[cfg(not(unix))]
fn identity(_: &fs::Metadata) -> Identity {}

impl TlsServer {
    /// Reads the files. On an error the former configuration stays.
    pub fn reload(&self) -> Result<()> {
        // Looked at before they are read: what changes meanwhile is then seen the next time.
        let seen = Fingerprint::of(&self.settings);
        let loaded = config::load(&self.settings);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        current.seen = seen;
        let loaded = loaded?;
        current.server = loaded.server;
        current.expires = expiry(&loaded.certificate);
        warn_of_expiry(current.expires);
        Ok(())
    }

    /// Reads the files if they look changed. Whether it did.
    pub fn reload_if_changed(&self) -> Result<bool> {
        let seen = Fingerprint::of(&self.settings);
        if self.current.read().unwrap_or_else(PoisonError::into_inner).seen == seen {
            return Ok(false);
        }
        self.reload().map(|()| true)
    }

    /// Reads the files again on SIGHUP, and when they change. Runs until it is dropped.
    pub async fn watch(self: Arc<Self>) {
        let mut hangup = Hangup::new();
        loop {
            let forced = tokio::select! {
                () = hangup.wait() => true,
                () = pause(self.settings.reload_seconds) => false,
            };
            let server = self.clone();
            let outcome = tokio::task::spawn_blocking(move || {
                if forced { server.reload().map(|()| true) } else { server.reload_if_changed() }
            })
            .await;
            match outcome {
                Ok(Ok(true)) => tracing::info!("TLS certificates read again"),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::error!(%error, "cannot take the new TLS files; the former stay in use"),
                Err(error) => tracing::error!(%error, "reading the TLS files came to a bad end"),
            }
        }
    }
}

async fn pause(seconds: u64) {
    match seconds {
        0 => std::future::pending().await,
        _ => tokio::time::sleep(Duration::from_secs(seconds)).await,
    }
}

/// The signal that asks for reading files again.
struct Hangup {
    #[cfg(unix)]
    signal: Option<tokio::signal::unix::Signal>,
}

impl Hangup {
    #[cfg(unix)]
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let signal = signal(SignalKind::hangup());
        if let Err(error) = &signal {
            tracing::warn!(%error, "SIGHUP cannot be listened to");
        }
        Self { signal: signal.ok() }
    }
    #[cfg(not(unix))]
    fn new() -> Self {
        Self {}
    }

    #[cfg(unix)]
    async fn wait(&mut self) {
        if let Some(signal) = &mut self.signal
            && signal.recv().await.is_some()
        {
            return;
        }
        std::future::pending().await
    }
    #[cfg(not(unix))]
    async fn wait(&mut self) {
        std::future::pending().await
    }
}

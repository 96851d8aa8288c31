//! Reloads the TLS files.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use kms_lib::Result;
use kms_lib::internals::run_blocking;
use tokio::signal::unix::{SignalKind, signal};

use super::fingerprint::Fingerprint;
use super::{TlsServer, config};

impl TlsServer {
    /// Reloads the files. On an error the former configuration stays in use.
    pub fn reload(&self) -> Result<()> {
        // Take the fingerprint before reading, so that a change in between is detected next time.
        let seen = Fingerprint::of(&self.settings);
        let loaded = config::load(&self.settings, seen);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        current.seen = seen;
        let loaded = loaded?;
        if current.judges != loaded.judges {
            self.trust.send_modify(|trust| *trust += 1);
        }
        *current = loaded;
        Ok(())
    }

    /// Reloads the files if they have changed; returns whether they had.
    pub fn reload_if_changed(&self) -> Result<bool> {
        let seen = Fingerprint::of(&self.settings);
        if self.current.read().unwrap_or_else(PoisonError::into_inner).seen == seen {
            return Ok(false);
        }
        self.reload().map(|()| true)
    }

    /// Reloads the files on SIGHUP and when they change, until the future is dropped.
    pub async fn watch(self: Arc<Self>) {
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => hangup,
            Err(error) => return tracing::warn!(%error, "cannot listen for SIGHUP; TLS files are not reloaded"),
        };
        loop {
            let forced = tokio::select! {
                _ = hangup.recv() => true,
                () = pause(self.settings.reload_seconds) => false,
            };
            let server = self.clone();
            let outcome = run_blocking(move || {
                Ok(if forced { server.reload().map(|()| true) } else { server.reload_if_changed() })
            })
            .await;
            if forced {
                self.forced.send_modify(|count| *count += 1);
            }
            match outcome {
                Ok(Ok(true)) => tracing::info!("TLS files reloaded"),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(%error, "cannot load the new TLS files; the former configuration stays in use");
                }
                Err(error) => tracing::error!(%error, "reloading the TLS files failed unexpectedly"),
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

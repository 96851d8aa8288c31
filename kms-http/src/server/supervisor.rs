//! Notifications to systemd (`sd_notify`, Type=notify-reload): ready, alive, reloading and stopping. Without a
//! supervisor that listens, nothing is sent.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::Signal;
use tokio::time::{sleep, timeout};

use crate::api::App;

/// How long a reload may take before the supervisor is told anyway that the service is ready.
const RELOAD: Duration = Duration::from_secs(10);

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify the supervisor");
    }
}

/// Reports that the service is stopping.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Reports that the service is ready, then sends watchdog notifications and reports reloads. Never returns.
pub async fn report(app: Arc<App>, mut hangup: Signal) {
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
    // Twice per watchdog interval.
    let pause = sd_notify::watchdog_enabled().map(|limit| limit / 2);
    loop {
        let is_due = async {
            match pause {
                Some(pause) => sleep(pause).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = is_due => {
                // A stopped ledger does not write again in this process. Without watchdog notifications the supervisor
                // restarts it.
                if app.kms.is_alive() {
                    tell(&[NotifyState::Watchdog]);
                }
            }
            asked = hangup.recv() => match asked {
                Some(()) => reload(&app).await,
                None => pending().await,
            },
        }
    }
}

/// Reports the beginning and the end of a reload; the TLS server reads the files.
async fn reload(app: &App) {
    match NotifyState::monotonic_usec_now() {
        Ok(since) => tell(&[NotifyState::Reloading, since]),
        Err(error) => tracing::warn!(%error, "cannot notify the supervisor of a reload: no monotonic clock"),
    }
    if let Some(tls) = app.tls.get() {
        let _ = timeout(RELOAD, tls.reloads().changed()).await;
    }
    tell(&[NotifyState::Ready]);
}

//! What systemd is told (`sd_notify`, Type=notify-reload): that the service is ready, alive, reads its files again, and
//! stops. Without such a supervisor nothing happens.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::Signal;
use tokio::time::{sleep, timeout};

use crate::api::App;

/// How long reading the files again may take before the supervisor is told that the service is ready anyway.
const RELOAD: Duration = Duration::from_secs(10);

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the supervisor cannot be told how the service stands");
    }
}

/// Says that the service stops.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says that the service is ready, and from then on that it is alive, and when it reads its files again.
pub async fn report(app: Arc<App>, mut hangup: Signal) {
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
    // Twice in the time that the supervisor allows.
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
                // A ledger that has stopped for good writes nothing again in this process: the supervisor restarts it.
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

/// The TLS files are read again by the TLS server; this tells when it begins and ends.
async fn reload(app: &App) {
    match NotifyState::monotonic_usec_now() {
        Ok(since) => tell(&[NotifyState::Reloading, since]),
        Err(error) => tracing::warn!(%error, "the supervisor is not told of a reload: there is no monotonic clock"),
    }
    if let Some(tls) = app.tls.get() {
        let _ = timeout(RELOAD, tls.reloads().changed()).await;
    }
    tell(&[NotifyState::Ready]);
}

//! What goes on while the service is open: the scheduler at its times, and every second a look at the store.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::config::Config;
use crate::scheduler::{self, Schedule, SchedulerConfig};
use crate::session::{Session, Shared, write_counted};
use crate::types::actor::Actor;
use crate::types::error::Result;
use crate::types::time::Clock;

/// How often the head is looked at, and expired material dropped.
const LOOK: Duration = Duration::from_secs(1);
/// The scheduler looks at the clock at least this often, so that a clock that jumps does not make it sleep for ever.
const WAKE: Duration = Duration::from_secs(30);

/// Starts the tasks. They hold the service weakly: it may be dropped without being closed.
pub(super) fn start(
    shared: &Arc<Shared>,
    config: &Config,
    stopped: &watch::Receiver<bool>,
) -> Result<Vec<JoinHandle<()>>> {
    let mut tasks = vec![tokio::spawn(look(Arc::downgrade(shared), config.high_water.clone(), stopped.clone()))];
    let config = &config.scheduler;
    if config.enabled {
        let schedule = Schedule::parse(&config.cron)?;
        tasks.push(tokio::spawn(schedule_jobs(
            Arc::downgrade(shared),
            config.clone(),
            schedule,
            shared.clock.clone(),
            stopped.clone(),
        )));
    }
    Ok(tasks)
}

/// Waits; answers whether the service goes on.
async fn pause(time: Duration, stopped: &mut watch::Receiver<bool>) -> bool {
    // Otherwise it was stopped, or is gone.
    timeout(time, stopped.wait_for(|stopped| *stopped)).await.is_err()
}

async fn look(shared: Weak<Shared>, high_water: Option<PathBuf>, mut stopped: watch::Receiver<bool>) {
    let mut noted = 0;
    while pause(LOOK, &mut stopped).await {
        let Some(shared) = shared.upgrade() else { return };
        shared.space.look().await;
        let fresh = shared.catalog.ensure_fresh().await;
        // Whatever another process has revoked must not stay in memory.
        shared.materials.drop_unusable(&shared.catalog).await;
        if let Err(error) = fresh {
            tracing::warn!(%error, "the store cannot be read");
            continue;
        }
        if let Err(error) = write_counted(&shared, shared.clock.now()).await {
            tracing::warn!(%error, "denials could not be counted in the log");
        }
        if let Some(path) = &high_water
            && let Err(error) = note_head(&shared, path, &mut noted).await
        {
            tracing::warn!(%error, "the high-water file is not up to date");
        }
    }
}

/// Notes the head in the high-water file, if it has moved.
async fn note_head(shared: &Shared, path: &Path, noted: &mut u64) -> Result<()> {
    let head = super::open::head(shared).await?;
    if head.seq > *noted {
        super::high_water::write(path, &head.checkpoint)?;
        *noted = head.seq;
    }
    Ok(())
}

async fn schedule_jobs(
    shared: Weak<Shared>,
    config: SchedulerConfig,
    schedule: Schedule,
    clock: Clock,
    mut stopped: watch::Receiver<bool>,
) {
    let mut last = clock.now();
    loop {
        let Some(next) = schedule.next_after(last) else { return };
        loop {
            let now = clock.now();
            if now >= next {
                break;
            }
            if !pause(next.distance(now).min(WAKE), &mut stopped).await {
                return;
            }
        }
        last = clock.now();
        let Some(shared) = shared.upgrade() else { return };
        let session = Session::new(shared, Actor::internal("scheduler"));
        if let Err(error) = scheduler::run(&session, &config).await {
            tracing::error!(%error, "the scheduler's jobs could not be done");
        }
        // Not twice in the same minute, whatever the clock does.
        drop(session);
        sleep(Duration::from_millis(10)).await;
    }
}

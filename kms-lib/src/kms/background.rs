//! What goes on while the service is open: the scheduler at its times, and every second a look at the store.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::schedule::Runner;
use crate::catalog::run_blocking;
use crate::config::Config;
use crate::outage::Outage;
use crate::scheduler::Schedule;
use crate::session::{Shared, write_counted};
use crate::storage::inspection;
use crate::types::error::Result;

/// How often the head is looked at, and expired material dropped.
const LOOK: Duration = Duration::from_secs(1);
/// How often the schema is inspected. On SQLite, a change that its counter shows is noticed at once. One that was found
/// altered is inspected at every look: it may have been amidst a migration.
const INSPECT: Duration = Duration::from_secs(60);
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
        let runner = Runner::new(shared, config.clone(), schedule, stopped.clone());
        tasks.push(tokio::spawn(runner.run()));
    }
    Ok(tasks)
}

/// Waits; answers whether the service goes on.
pub(super) async fn pause(time: Duration, stopped: &mut watch::Receiver<bool>) -> bool {
    // Otherwise it was stopped, or is gone.
    timeout(time, stopped.wait_for(|stopped| *stopped)).await.is_err()
}

async fn look(shared: Weak<Shared>, high_water: Option<PathBuf>, mut stopped: watch::Receiver<bool>) {
    let mut noted = 0;
    let mut connecting = JoinSet::new();
    let mut inspected = Instant::now();
    let outage = Outage::new("the store cannot be read");
    while pause(LOOK, &mut stopped).await {
        let Some(shared) = shared.upgrade() else { return };
        if inspected.elapsed() >= INSPECT || shared.ledger.seen().check_writable().is_err() {
            inspected = Instant::now();
            inspect_schema(&shared).await;
        }
        shared.space.look().await;
        shared.ledger.heed(&shared.space);
        let fresh = shared.catalog.ensure_fresh().await;
        // Whatever another process has revoked must not stay in memory: before anything that may take its time.
        shared.materials.drop_unusable(&shared.catalog).await;
        while connecting.try_join_next().is_some() {}
        if connecting.is_empty() {
            // A generation of the root key that another node added. It may be far away, and nothing waits for it.
            let envelope = shared.envelope.clone();
            connecting.spawn(async move { envelope.connect_missing().await });
        }
        if let Err(error) = fresh {
            outage.note(&error, 0);
            continue;
        }
        outage.end();
        if let Err(error) = write_counted(&shared, shared.clock.now()).await {
            tracing::debug!(%error, "denials could not be counted in the log");
        }
        if let Err(error) = note_head(&shared, high_water.as_deref(), &mut noted).await {
            tracing::warn!(%error, "the high-water file is not up to date");
        }
    }
}

/// Inspects the schema. One that was altered is neither written nor listed until it is sound again.
async fn inspect_schema(shared: &Shared) {
    let inspected = async {
        let mut connection = shared.store.reader().await?;
        inspection::inspect(connection.as_mut()).await
    };
    match inspected.await {
        Ok(found) => {
            let refusal = inspection::refuse(&found.faults).err();
            if let Some(error) = &refusal {
                tracing::error!(%error, "nothing is written until the schema is sound again");
            }
            shared.ledger.seen().set_refusal(refusal);
        }
        Err(error) => tracing::warn!(%error, "the schema of the store cannot be inspected"),
    }
}

/// Notes the head, if it has moved, as one that this process has seen; and in the high-water file.
async fn note_head(shared: &Shared, path: Option<&Path>, noted: &mut u64) -> Result<()> {
    super::head::see(shared).await?;
    let (size, checkpoint) = shared.ledger.seen().checkpoint();
    if size > *noted {
        if let Some(path) = path.map(Path::to_owned) {
            run_blocking(move || super::high_water::write(&path, &checkpoint)).await?;
        }
        *noted = size;
    }
    Ok(())
}

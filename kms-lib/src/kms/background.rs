//! Background tasks while the service is open: the scheduler, and a check of the store every second.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::schedule::{Runner, pause};
use crate::config::Config;
use crate::outage::Outage;
use crate::scheduler::Schedule;
use crate::session::{Shared, write_counted};
use crate::storage::inspection;
use crate::types::error::Result;
use crate::workers::run_blocking;

/// The interval at which the head is read and expired key material is dropped.
const LOOK: Duration = Duration::from_secs(1);
/// The interval at which the schema is inspected. On SQLite, the schema counter shows a change at once. While the
/// schema is altered it is inspected at every check, since the cause may be a migration in progress.
const INSPECT: Duration = Duration::from_secs(60);
/// Starts the tasks. They hold weak references to the service, which may be dropped without being closed.
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
        // Material that another process revoked must leave memory before any step that may take long.
        shared.materials.drop_unusable(&shared.catalog);
        while connecting.try_join_next().is_some() {}
        if connecting.is_empty() {
            // Another node may have added a generation of the root key. Its provider may be remote, so nothing waits
            // for it.
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

/// Inspects the schema. While it is altered, nothing is written and audit lists fail.
async fn inspect_schema(shared: &Shared) {
    let inspected = async {
        let mut connection = shared.store.reader().await?;
        inspection::inspect(connection.as_mut()).await
    };
    match inspected.await {
        Ok(found) => {
            let refusal = inspection::refuse(&found.faults).err();
            if let Some(error) = &refusal {
                tracing::error!(%error, "the schema of the store was altered; nothing is written until it is repaired");
            }
            shared.ledger.seen().set_refusal(refusal);
        }
        Err(error) => tracing::warn!(%error, "the schema of the store cannot be inspected"),
    }
}

/// Notes the head, if it has advanced, as seen by this process, and writes it to the high-water file.
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

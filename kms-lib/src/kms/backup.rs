//! Backups: made while the service works, and checked before they count.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::files::{self, Part};
use super::open;
use crate::config::Config;
use crate::session::Shared;
use crate::storage::Store;
use crate::storage::sqlite::SqliteStore;
use crate::types::error::{Error, ErrorCode, Result};
use crate::verification::{Progress, Report, Verifier, VerifyOptions};

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupReport {
    /// Its verification: the log, and the tables against it.
    pub verification: Report,
    /// Its signed head.
    pub checkpoint: String,
}

/// Copies the store as it is at one moment to a new file beside `to`, and verifies the copy, telling how far that is.
/// The copy gets its final name once its record is written.
pub(super) async fn backup(
    shared: &Arc<Shared>,
    config: &Config,
    to: &Path,
    progress: &Arc<Progress>,
) -> Result<(BackupReport, Part)> {
    config.store()?.file()?;
    files::check_is_free(to)?;
    let part = Part::of(to);
    shared.store.copy_to(part.path()).await?;
    // What cannot be verified goes with the part.
    let (report, inspected) = inspect(config, part.path(), progress).await?;
    inspected.store.close().await?;
    Ok((report, part))
}

/// Refuses what cannot be a backup.
pub(super) fn check(backup: &Path) -> Result<()> {
    if !backup.is_file() {
        return Err(Error::invalid(format!("{} is not a file", backup.display())));
    }
    files::check_is_whole(backup)
}

/// Opens a backup without writing to it, and verifies it.
pub(super) async fn inspect(
    config: &Config,
    backup: &Path,
    progress: &Arc<Progress>,
) -> Result<(BackupReport, Arc<Shared>)> {
    check(backup)?;
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open_read_only(backup).await?);
    // A backup is older than what was seen since.
    let shared = open::open_for_reading(&config.clone().no_high_water(), store).await?;
    let verifier = Verifier { store: &shared.store, catalog: &shared.catalog, signer: &shared.signer };
    let options = VerifyOptions { progress: Some(Arc::clone(progress)), ..VerifyOptions::default() };
    let verification = verifier.verify(&options).await?;
    if !verification.ok {
        let what = verification.faults.first().map(ToString::to_string).unwrap_or_default();
        return Err(Error::new(ErrorCode::IntegrityFailure, format!("the backup is not good: {what}")));
    }
    let checkpoint = open::head(&shared).await?.checkpoint;
    Ok((BackupReport { verification, checkpoint }, shared))
}

//! Backups: made while the service works, and checked before they count; and restoring them.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::comparison::{self, BackupComparison};
use super::files::{self, Part};
use super::{head, open};
use crate::config::Config;
use crate::ledger::Details;
use crate::session::{Session, Shared};
use crate::storage::Store;
use crate::storage::sqlite::SqliteStore;
use crate::types::attempt::Operation;
use crate::types::audit::Action;
use crate::types::error::{Error, ErrorCode, Result};
use crate::verification::{Progress, Report, Verifier, VerifyOptions};

/// How to make, verify or restore a backup.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BackupOptions {
    /// Told how many records of the copy are verified; its total is 0 while the store is being copied.
    pub progress: Option<Progress>,
}

impl BackupOptions {
    /// No progress is reported, and nothing else is set.
    pub fn new() -> Self {
        Self::default()
    }
    /// Telling how far the work is.
    #[must_use]
    pub fn progress(mut self, progress: &Progress) -> Self {
        self.progress = Some(progress.clone());
        self
    }
}

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct BackupReport {
    /// Its verification: the log, and the tables against it.
    pub verification: Report,
    /// Its signed head.
    pub checkpoint: String,
}

impl Session {
    /// Copies the store, as it is at one moment, to a new file (mode 0600), while the service goes on; verifies the
    /// copy, records it, and only then gives it its final name: until then it is called `NAME.<random>.part`. The
    /// backup is worth nothing without the root key. For admins, of a SQLite store; servers have tools of their own.
    ///
    /// Cancellation: dropping the future removes the copy, unless it is being recorded: then the backup is completed.
    pub async fn backup(&self, to: impl AsRef<Path>) -> Result<BackupReport> {
        self.backup_with(to, &BackupOptions::new()).await
    }

    /// Makes a backup as the options say.
    ///
    /// Cancellation: dropping the future removes the copy, unless it is being recorded: then the backup is completed.
    pub async fn backup_with(&self, to: impl AsRef<Path>, options: &BackupOptions) -> Result<BackupReport> {
        self.permit_reading(Action::StoreBackup, Operation::Backup, None).await?;
        let copying = copy(self.shared(), to.as_ref(), options);
        let (report, part) = self.shared().turns.alone(self.actor().principal(), copying).await?;
        // In a task of its own: a record that is on its way must not be left without its backup, whoever goes away.
        let session = self.clone();
        let recording = tokio::spawn(async move { session.record_backup(report, part).await });
        recording.await.map_err(|_| Error::new(ErrorCode::Internal, "a backup ended unexpectedly"))?
    }

    async fn record_backup(&self, report: BackupReport, part: Part) -> Result<BackupReport> {
        let mut details = Details::default();
        details.number("size", report.verification.size);
        let recorded = self.record_event(Action::StoreBackup, Operation::Backup, details).await;
        // No backup without its record, and no record without its backup: a copy that has or may have a record stays.
        let placed = match recorded {
            Err(error) if error.code() != ErrorCode::OutcomeUnknown => return Err(error),
            recorded => recorded.and_then(|()| part.place()),
        };
        placed.map(|()| report).map_err(|error| {
            let text = format!("{}; the verified copy of the store is {}", error.message(), part.keep().display());
            error.with_message(text)
        })
    }

    /// What restoring this backup would bring back that has been taken away since (revoked and disabled keys and
    /// versions, shortened windows, revoked and narrowed grants, tokens), and what would be lost (keys, versions,
    /// grants, tokens). To be looked at before a restore is accepted. For admins.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn compare_backup(&self, from: impl AsRef<Path>) -> Result<BackupComparison> {
        self.permit_reading(Action::StoreBackup, Operation::Backup, None).await?;
        let comparing = async {
            let (_, backup) = inspect(&self.shared().config, from.as_ref(), &BackupOptions::new()).await?;
            comparison::compare(&backup, self.shared()).await
        };
        self.shared().turns.alone(self.actor().principal(), comparing).await
    }
}

/// Copies the store as it is at one moment to a new file beside `to`, and verifies the copy. The copy gets its final
/// name once its record is written.
async fn copy(shared: &Shared, to: &Path, options: &BackupOptions) -> Result<(BackupReport, Part)> {
    shared.config.store()?.file()?;
    files::check_is_free(to)?;
    let part = Part::of(to);
    shared.store.copy_to(part.path()).await?;
    // What cannot be verified goes with the part.
    let (report, inspected) = inspect(&shared.config, part.path(), options).await?;
    inspected.store.close().await?;
    Ok((report, part))
}

/// Copies a backup to the place that `config` names, and gives it its name there once it is verified.
pub(super) async fn restore(config: &Config, backup: &Path, options: &BackupOptions) -> Result<BackupReport> {
    let store = config.store()?;
    let to = store.file()?;
    files::check_is_free(to)?;
    check(backup)?;
    let part = Part::copy(backup, to).await?;
    let (report, inspected) = inspect(config, part.path(), options).await?;
    inspected.store.close().await?;
    part.place()?;
    Ok(report)
}

/// Refuses what cannot be a backup.
fn check(backup: &Path) -> Result<()> {
    if !backup.is_file() {
        return Err(Error::invalid(format!("{} is not a file", backup.display())));
    }
    files::check_is_whole(backup)
}

/// Opens a backup without writing to it, and verifies it.
pub(super) async fn inspect(
    config: &Config,
    backup: &Path,
    options: &BackupOptions,
) -> Result<(BackupReport, Arc<Shared>)> {
    check(backup)?;
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open_read_only(backup).await?);
    // A backup is older than what was seen since.
    let shared = open::open_for_reading(&config.clone().no_high_water(), store).await?;
    let (store, catalog, signer) = (&shared.store, &shared.catalog, &shared.signer);
    let verifier = Verifier { store, catalog, signer, workers: &shared.workers, kept: None };
    let options = VerifyOptions { progress: options.progress.clone(), ..VerifyOptions::default() };
    let verification = verifier.verify(&options).await?;
    if !verification.ok {
        let what = verification.faults.first().map(ToString::to_string).unwrap_or_default();
        return Err(Error::new(ErrorCode::IntegrityFailure, format!("the backup is not good: {what}")));
    }
    let checkpoint = head::stored(&shared).await?.checkpoint;
    Ok((BackupReport { verification, checkpoint }, shared))
}

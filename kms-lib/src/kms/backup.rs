//! Making verified backups while the service runs, and restoring them.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::comparison::{self, BackupComparison};
use super::files::{self, Part};
use super::{head, open};
use crate::config::Config;
use crate::ledger::Details;
use crate::session::{Session, Shared};
use crate::storage::{StoreFuture, is_open_file, open_file_read_only};
use crate::types::attempt::Operation;
use crate::types::audit::Action;
use crate::types::error::{Error, ErrorCode, Result};
use crate::verification::{Progress, Report, Verifier, VerifyOptions};

/// Options for making, verifying or restoring a backup.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BackupOptions {
    /// Receives the number of verified records of the copy; the total is 0 while the store is being copied.
    pub progress: Option<Progress>,
}

impl BackupOptions {
    /// The default options: no progress is reported.
    pub fn new() -> Self {
        Self::default()
    }
    /// Reports progress to this value.
    #[must_use]
    pub fn progress(mut self, progress: &Progress) -> Self {
        self.progress = Some(progress.clone());
        self
    }
}

/// The contents of a verified backup.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct BackupReport {
    /// The result of verifying the backup: the log, and the tables compared with it.
    pub verification: Report,
    /// The signed head of the backup, as a C2SP checkpoint.
    pub checkpoint: String,
}

impl Session {
    /// Copies the store, as of one moment, to a new file (mode 0600) while the service continues; verifies the copy,
    /// records the backup, and only then gives the file its final name. Until then it is called `NAME.<random>.part`. A
    /// backup cannot be used without the root key. For admins, and for SQLite stores only; database servers have their
    /// own tools.
    ///
    /// Cancellation: dropping the future removes the copy, unless it is being recorded: then the backup is completed.
    pub async fn backup(&self, to: impl AsRef<Path>) -> Result<BackupReport> {
        self.backup_with(to, &BackupOptions::new()).await
    }

    /// Makes a backup with these options.
    ///
    /// Cancellation: dropping the future removes the copy, unless it is being recorded: then the backup is completed.
    pub async fn backup_with(&self, to: impl AsRef<Path>, options: &BackupOptions) -> Result<BackupReport> {
        self.permit_reading(Action::StoreBackup, Operation::Backup, None).await?;
        let copying = copy(self.shared(), to.as_ref(), options);
        let (report, part) = self.shared().turns.alone(self.actor().principal(), copying).await?;
        // A separate task: once the record is submitted the backup must be completed, even if the caller drops its
        // future.
        let session = self.clone();
        let recording = tokio::spawn(async move { session.record_backup(report, part).await });
        recording.await.map_err(|_| Error::new(ErrorCode::Internal, "a backup ended unexpectedly"))?
    }

    async fn record_backup(&self, report: BackupReport, part: Part) -> Result<BackupReport> {
        let mut details = Details::default();
        details.number("size", report.verification.size);
        let recorded = self.record_event(Action::StoreBackup, Operation::Backup, details).await;
        // The log must list exactly the backups that exist, so a copy whose record is or may be in the log is kept.
        let placed = match recorded {
            Err(error) if error.code() != ErrorCode::OutcomeUnknown => return Err(error),
            recorded => recorded.and_then(|()| part.place()),
        };
        placed.map(|()| report).map_err(|error| {
            let text = format!("{}; the verified copy of the store is {}", error.message(), part.keep().display());
            error.with_message(text)
        })
    }

    /// Compares this backup with the store: what a restore would bring back that was revoked, disabled or narrowed
    /// since (keys, versions, grace windows, grants, tokens), and what it would lose (keys, versions, grants, tokens).
    /// Read the result before you accept a restore. For admins.
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

/// Copies the store as of one moment to a new file beside `to`, and verifies the copy. The copy gets its final name
/// after its record is written.
fn copy<'a>(shared: &'a Shared, to: &'a Path, options: &'a BackupOptions) -> StoreFuture<'a, (BackupReport, Part)> {
    Box::pin(async move {
        shared.config.store()?.file()?;
        files::check_is_free(to)?;
        let part = Part::of(to);
        shared.store.copy_to(part.path()).await?;
        // On an error the part is dropped, which removes the file.
        let (report, inspected) = inspect(&shared.config, part.path(), options).await?;
        inspected.store.close().await?;
        Ok((report, part))
    })
}

/// Copies a backup to the place that `config` names, and gives the file its final name once it is verified.
pub(super) fn restore<'a>(
    config: &'a Config,
    backup: &'a Path,
    options: &'a BackupOptions,
) -> StoreFuture<'a, BackupReport> {
    Box::pin(async move {
        let store = config.store()?;
        let to = store.file()?;
        files::check_is_free(to)?;
        // Copying it would release SQLite's locks on it.
        if is_open_file(backup)? {
            let text = format!("{} is a store that this process has open; make a backup of it", backup.display());
            return Err(Error::new(ErrorCode::StoreInUse, text));
        }
        check(backup)?;
        let part = Part::copy(backup, to).await?;
        let (report, inspected) = inspect(config, part.path(), options).await?;
        inspected.store.close().await?;
        part.place()?;
        Ok(report)
    })
}

/// Refuses a path that cannot be a backup.
fn check(backup: &Path) -> Result<()> {
    if !backup.is_file() {
        return Err(Error::invalid(format!("{} is not a file", backup.display())));
    }
    files::check_is_whole(backup)
}

/// Opens a backup without writing to it, and verifies it.
pub(super) fn inspect<'a>(
    config: &'a Config,
    backup: &'a Path,
    options: &'a BackupOptions,
) -> StoreFuture<'a, (BackupReport, Arc<Shared>)> {
    Box::pin(async move {
        check(backup)?;
        let store = open_file_read_only(backup).await?;
        // A backup is older than the high-water file, so that file is not compared.
        let shared = open::open_for_reading(&config.clone().no_high_water(), store).await?;
        let (store, catalog, signer) = (&shared.store, &shared.catalog, &shared.signer);
        let verifier = Verifier { store, catalog, signer, workers: &shared.workers, kept: None };
        let options = VerifyOptions { progress: options.progress.clone(), ..VerifyOptions::default() };
        let verification = verifier.verify(&options).await?;
        if !verification.ok {
            let what = verification.faults.first().map(ToString::to_string).unwrap_or_default();
            return Err(Error::new(ErrorCode::IntegrityFailure, format!("the backup failed its verification: {what}")));
        }
        let checkpoint = head::stored(&shared).await?.checkpoint;
        Ok((BackupReport { verification, checkpoint }, shared))
    })
}

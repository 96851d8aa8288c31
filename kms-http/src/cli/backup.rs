//! `kms-http backup` and `kms-http restore`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use kms_lib::Kms;
use kms_lib::kms::{BackupReport, BroughtBack};
use kms_lib::verification::Progress;

use super::bootstrap::make_folders;
use super::exit::Failure;
use super::output;
use super::store::{for_one_command, run as run_async, watched, with_store};
use crate::settings::Settings;

/// Make a backup.
#[derive(Args)]
pub struct Backup {
    /// The new file
    to: PathBuf,
}

/// Restore a backup.
#[derive(Args)]
pub struct Restore {
    /// The backup
    from: PathBuf,
    /// Only say what a restore would bring back that has been taken away since
    #[arg(long)]
    compare: bool,
}

/// Copies the store while others work on it, and verifies the copy.
pub fn backup(command: Backup, settings: Settings, as_json: bool) -> Result<ExitCode, Failure> {
    let report = with_store(settings, |kms, session| async move {
        let progress = Arc::new(Progress::default());
        let copying = kms.backup_with_progress(session.actor(), &command.to, &progress);
        Ok(watched("copying the store", &progress, copying).await?)
    })?;
    show(&report, as_json)
}

/// Verifies a backup, and puts it where the store belongs; or compares it with the store that is there.
pub fn restore(command: Restore, settings: Settings, as_json: bool) -> Result<ExitCode, Failure> {
    if command.compare {
        let back = with_store(settings, |kms, session| async move {
            Ok(kms.compare_backup(session.actor(), &command.from).await?)
        })?;
        return show_brought_back(&back, as_json);
    }
    let settings = settings.with_default_key()?;
    make_folders(&settings)?;
    let config = for_one_command(settings)?;
    let report = run_async(async {
        let progress = Arc::new(Progress::default());
        let restoring = Kms::restore_with_progress(&config, &command.from, &progress);
        Ok(watched("copying the backup", &progress, restoring).await?)
    })?;
    show(&report, as_json)
}

fn show(report: &BackupReport, as_json: bool) -> Result<ExitCode, Failure> {
    output::show(as_json, report, [format!("good        {} records", report.verification.size)])?;
    Ok(ExitCode::SUCCESS)
}

fn show_brought_back(back: &BroughtBack, as_json: bool) -> Result<ExitCode, Failure> {
    let mut lines = vec![format!("records that would be lost: {}", back.lost_records)];
    lines.extend(back.keys.iter().map(|key| format!("key         {key}")));
    lines.extend(back.versions.iter().map(|(key, version)| format!("version     {key} v{version}")));
    lines.extend(back.grants.iter().map(|(principal, scope)| format!("grant       {principal} on {scope}")));
    lines.extend(back.credentials.iter().map(|principal| format!("token       {principal}")));
    output::show(as_json, back, lines)?;
    Ok(ExitCode::SUCCESS)
}

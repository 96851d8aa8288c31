//! `kms-http backup` and `kms-http restore`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use kms_lib::{BackupComparison, BackupOptions, BackupReport, Kms, Progress, Session};

use super::exit::Failure;
use super::folders::make_folders;
use super::output;
use super::store::{for_one_command, run as run_async, watched, with_store};
use crate::settings::Settings;

/// Options of `kms-http backup`.
#[derive(Args)]
pub struct Backup {
    /// Path of the new file
    to: PathBuf,
}

/// Options of `kms-http restore`.
#[derive(Args)]
pub struct Restore {
    /// Path of the backup
    from: PathBuf,
    /// Only compare the backup with the store: list what a restore would make usable again, and what would be lost
    #[arg(long)]
    compare: bool,
}

/// Refuses `-`: a backup is read again for verification, so it cannot be written to standard output.
fn check_is_file(path: &Path) -> Result<(), Failure> {
    if path.as_os_str() != "-" {
        return Ok(());
    }
    Err(Failure::new(
        2,
        "a backup cannot be written to standard output, because it is read again for verification; use ./- for a file \
         of that name",
    ))
}

/// Copies the store, which other processes may be using, and verifies the copy.
pub fn backup(command: Backup, settings: Settings, as_json: bool) -> Result<ExitCode, Failure> {
    check_is_file(&command.to)?;
    let report = with_store(settings, |_, session| async move {
        let progress = Progress::new();
        let options = BackupOptions::new().progress(&progress);
        let copying = session.backup_with(&command.to, &options);
        Ok(watched("copying the store", &progress, copying).await?)
    })?;
    show(&report, as_json)
}

/// Verifies a backup and restores it as the store, or compares it with the existing store.
pub fn restore(command: Restore, settings: Settings, as_json: bool) -> Result<ExitCode, Failure> {
    check_is_file(&command.from)?;
    if command.compare {
        let compare = |_, session: Session| async move { Ok(session.compare_backup(&command.from).await?) };
        let found = with_store(settings, compare)?;
        return show_comparison(&found, as_json);
    }
    let settings = settings.with_default_key()?;
    make_folders(&settings)?;
    let config = for_one_command(settings)?;
    let report = run_async(async {
        let progress = Progress::new();
        let options = BackupOptions::new().progress(&progress);
        let restoring = Kms::restore_with(&config, &command.from, &options);
        Ok(watched("copying the backup", &progress, restoring).await?)
    })?;
    show(&report, as_json)
}

fn show(report: &BackupReport, as_json: bool) -> Result<ExitCode, Failure> {
    output::show(as_json, report, [format!("ok          {} records", report.verification.size)])
}

fn show_comparison(found: &BackupComparison, as_json: bool) -> Result<ExitCode, Failure> {
    let version = |(key, version): &(String, u32)| format!("{key} v{version}");
    let grant = |(principal, scope): &(String, String)| format!("{principal} on {scope}");
    let lost = found.lost_versions.iter().map(|v| format!("{} v{} ({} encryptions)", v.key, v.version, v.encryptions));
    let sections = [
        section("usable again", "key", found.keys.iter().cloned()),
        section("usable again", "version", found.versions.iter().map(version)),
        section("usable again", "grant", found.grants.iter().map(grant)),
        section("usable again", "token", found.credentials.iter().cloned()),
        section("enabled again", "key", found.disabled_keys.iter().cloned()),
        section("enabled again", "version", found.disabled_versions.iter().map(version)),
        section(
            "in use again",
            "root key",
            found.retired_root_keys.iter().map(|generation| format!("generation {generation}")),
        ),
        section("readable for longer", "version", found.shortened_windows.iter().map(version)),
        section("as wide as before", "grant", found.narrowed_grants.iter().map(grant)),
        section("lost", "key", found.lost_keys.iter().cloned()),
        section("lost", "version", lost),
        section("lost", "grant", found.lost_grants.iter().map(grant)),
        section("lost", "token", found.lost_credentials.iter().cloned()),
    ];
    let first = format!("records that would be lost: {}", found.lost_records);
    output::show(as_json, found, [first].into_iter().chain(sections.into_iter().flatten()))
}

fn section(what: &str, kind: &str, items: impl Iterator<Item = String>) -> Vec<String> {
    items.map(|item| format!("{what:<20}{kind:<9}{item}")).collect()
}

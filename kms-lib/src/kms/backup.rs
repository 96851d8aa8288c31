//! Backups: made while the service works, checked before they count, and compared with what they would replace.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::files;
use super::open;
use crate::config::Config;
use crate::session::Shared;
use crate::storage::Store;
use crate::storage::sqlite::SqliteStore;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::key::{KeyState, VersionState};
use crate::types::view::View;
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

/// What restoring a backup would bring back that has been taken away since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BroughtBack {
    /// Records that the present store has and the backup has not.
    pub lost_records: u64,
    /// Keys that are revoked, destroyed or on their way out now, and were not then: by name.
    pub keys: Vec<String>,
    /// Versions that are revoked or destroyed now, and were not then: name of the key, and version.
    pub versions: Vec<(String, u32)>,
    /// Grants that are withdrawn now, and were not then: principal and scope.
    pub grants: Vec<(String, String)>,
    /// Credentials that are withdrawn now, and were not then: principal.
    pub credentials: Vec<String>,
}

/// Copies the store as it is at one moment to a new file, and verifies the copy, telling how far that is.
pub(super) async fn backup(
    shared: &Arc<Shared>,
    config: &Config,
    to: &Path,
    progress: &Arc<Progress>,
) -> Result<BackupReport> {
    config.store()?.file()?;
    files::check_is_free(to)?;
    shared.store.copy_to(to).await?;
    match inspect(config, to, progress).await {
        Ok((report, _)) => Ok(report),
        Err(error) => {
            // What cannot be verified must not be taken for a backup.
            let _ = fs::remove_file(to);
            Err(error)
        }
    }
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

/// What the present store has taken away since the backup was made.
pub(super) async fn compare(backup: &Arc<Shared>, present: &Arc<Shared>) -> Result<BroughtBack> {
    let (then, now) = (open::head(backup).await?, open::head(present).await?);
    if then.log_id != now.log_id {
        return Err(Error::invalid("the backup is of another store"));
    }
    let (old, new) = (backup.catalog.image(), present.catalog.image());
    let mut back = BroughtBack { lost_records: now.seq.saturating_sub(then.seq), ..BroughtBack::default() };
    let over = |state: KeyState| matches!(state, KeyState::Revoked | KeyState::PendingDeletion | KeyState::Destroyed);
    let ended = |state: VersionState| matches!(state, VersionState::Revoked | VersionState::Destroyed);
    for key in old.keys_by_name(None) {
        let Some(present) = new.key(key.id) else { continue };
        if over(present.state) && !over(key.state) {
            back.keys.push(key.name.clone());
        }
        old.each_version(key.id, &mut |version| {
            let is_ended = new.version(key.id, version.version).is_some_and(|present| ended(present.state));
            if is_ended && !ended(version.state) {
                back.versions.push((key.name.clone(), version.version));
            }
        });
    }
    for grant in old.grants() {
        if new.grant(grant.id).is_some_and(|present| present.withdrawn_at.is_some()) {
            back.grants.push((grant.principal.clone(), grant.scope.to_string()));
        }
    }
    for credential in old.credentials().filter(|credential| credential.withdrawn_at.is_none()) {
        if new.credential(credential.id).is_some_and(|present| present.withdrawn_at.is_some()) {
            back.credentials.push(credential.principal.clone());
        }
    }
    back.grants.sort();
    back.credentials.sort();
    Ok(back)
}

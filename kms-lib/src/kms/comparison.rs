//! Comparing a backup with the store: what a restore would bring back and what it would lose.

use std::sync::Arc;

use serde::Serialize;

use super::head;
use crate::catalog::Snapshot;
use crate::grants::is_in_force;
use crate::session::Shared;
use crate::storage::tables::entities;
use crate::storage::{Connection, StoreFuture};
use crate::types::error::{Error, Result};
use crate::types::grant::Grant;
use crate::types::key::{Key, KeyState, KeyVersion, VersionState};
use crate::types::limits::PAGE_LIMIT;
use crate::types::time::Timestamp;
use crate::types::view::CatalogView;

/// The changes that restoring a backup would make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct BackupComparison {
    /// The number of records in the current store that the backup lacks.
    pub lost_records: u64,
    /// The names of keys that are revoked, pending deletion or destroyed now, but were not at the time of the backup.
    pub keys: Vec<String>,
    /// Versions that are revoked or destroyed now, but were not at the time of the backup, each as key name and
    /// version.
    pub versions: Vec<(String, u32)>,
    /// Grants that were in force at the time of the backup and no longer are, each as principal and scope.
    pub grants: Vec<(String, String)>,
    /// The principals of tokens that were revoked since the backup.
    pub credentials: Vec<String>,
    /// The names of keys that were enabled at the time of the backup and are disabled now.
    pub disabled_keys: Vec<String>,
    /// Current versions that were enabled at the time of the backup and are disabled now, each as key name and version.
    pub disabled_versions: Vec<(String, u32)>,
    /// Former versions whose grace window now ends earlier than at the time of the backup, each as key name and
    /// version.
    pub shortened_windows: Vec<(String, u32)>,
    /// Grants that allow less than at the time of the backup, or under other conditions, each as principal and scope.
    pub narrowed_grants: Vec<(String, String)>,
    /// Generations of the root key that were in use at the time of the backup and are retired now. After a restore, key
    /// material is wrapped under them again.
    pub retired_root_keys: Vec<u32>,
    /// Keys that the backup lacks, by name. Data encrypted with them would be lost.
    pub lost_keys: Vec<String>,
    /// Versions that the backup lacks, or has with other key material.
    pub lost_versions: Vec<LostVersion>,
    /// Grants that the backup lacks, each as principal and scope.
    pub lost_grants: Vec<(String, String)>,
    /// Tokens that the backup lacks: principals.
    pub lost_credentials: Vec<String>,
}

/// A version that a restore would lose. Everything encrypted or signed with it would be lost too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LostVersion {
    /// The name of the key.
    pub key: String,
    /// The number of the version.
    pub version: u32,
    /// The number of messages encrypted under the version.
    pub encryptions: u64,
}

/// Compares a backup with the current store.
pub(super) fn compare<'a>(backup: &'a Arc<Shared>, present: &'a Shared) -> StoreFuture<'a, BackupComparison> {
    Box::pin(async move {
        let (then, now) = (head::stored(backup).await?, head::stored(present).await?);
        if then.log_id != now.log_id {
            return Err(Error::invalid("the backup belongs to another store"));
        }
        let (mut found, lost) = {
            let (old, new) = (backup.catalog.snapshot(), present.catalog.snapshot());
            let mut found = BackupComparison::default();
            found.compare_keys(&old, &new);
            found.compare_grants(&old, &new);
            found.compare_credentials(&old, &new);
            let is_retired = |generation: &u32| new.root_key(*generation).is_some_and(|root| !root.is_active());
            let then = old.root_keys().filter(|root| root.is_active()).map(|root| root.generation);
            found.retired_root_keys = then.filter(is_retired).collect();
            let lost = found.find_lost(&old, &new);
            (found, lost)
        };
        found.lost_records = now.seq.saturating_sub(then.seq);
        let mut connection = present.store.reader().await?;
        found.count_lost(connection.as_mut(), lost).await?;
        Ok(found)
    })
}

impl BackupComparison {
    fn compare_keys(&mut self, old: &Snapshot, new: &Snapshot) {
        for key in old.keys_by_name(None) {
            let Some(present) = new.key(key.id) else { continue };
            if is_over(present) && !is_over(key) {
                self.keys.push(key.name.clone());
            }
            if present.state == KeyState::Disabled && key.state == KeyState::Enabled {
                self.disabled_keys.push(key.name.clone());
            }
            old.each_version(key.id, &mut |version| {
                if let Some(now) = new.version(key.id, version.version) {
                    self.compare_version((key, version), (present, now));
                }
            });
        }
    }

    fn compare_version(&mut self, old: (&Key, &KeyVersion), new: (&Key, &KeyVersion)) {
        let place = || (old.0.name.clone(), old.1.version);
        let (then, now) = (old.0.state_of(old.1), new.0.state_of(new.1));
        let is_ended = |state: VersionState| matches!(state, VersionState::Revoked | VersionState::Destroyed);
        if is_ended(now) && !is_ended(then) {
            self.versions.push(place());
            return;
        }
        let is_current = new.0.current_version == new.1.version;
        if is_current && now == VersionState::Disabled && then == VersionState::Enabled {
            self.disabled_versions.push(place());
        }
        let end = |version: &KeyVersion| version.not_after.map_or(i64::MAX, Timestamp::micros);
        if !is_current && end(new.1) < end(old.1) {
            self.shortened_windows.push(place());
        }
    }

    fn compare_grants(&mut self, old: &Snapshot, new: &Snapshot) {
        for grant in old.grants().filter(|grant| is_in_force(old, grant)) {
            let Some(present) = new.grant(grant.id) else { continue };
            let is_over = present.withdrawn_at.is_some() || !is_in_force(new, present);
            let is_less = grant.permissions.iter().any(|permission| !present.permissions.contains(permission));
            if is_over {
                self.grants.push(place_of(grant));
            } else if is_less || grant.conditions != present.conditions {
                self.narrowed_grants.push(place_of(grant));
            }
        }
        self.grants.sort();
        self.narrowed_grants.sort();
        self.lost_grants = new.grants().filter(|grant| old.grant(grant.id).is_none()).map(place_of).collect();
        self.lost_grants.sort();
    }

    fn compare_credentials(&mut self, old: &Snapshot, new: &Snapshot) {
        for credential in old.credentials().filter(|credential| credential.withdrawn_at.is_none()) {
            if new.credential(credential.id).is_some_and(|present| present.withdrawn_at.is_some()) {
                self.credentials.push(credential.principal.clone());
            }
        }
        let lost = new.credentials().filter(|credential| credential.withdrawn_at.is_none());
        let lost = lost.filter(|credential| old.credential(credential.id).is_none());
        self.lost_credentials = lost.map(|credential| credential.principal.clone()).collect();
        self.credentials.sort();
        self.lost_credentials.sort();
    }

    /// Lists the versions that would be lost, by key.
    fn find_lost(&mut self, old: &Snapshot, new: &Snapshot) -> Vec<(Key, Vec<u32>)> {
        let mut lost = Vec::new();
        for key in new.keys_by_name(None) {
            if old.key(key.id).is_none() {
                self.lost_keys.push(key.name.clone());
            }
            let mut versions = Vec::new();
            new.each_version(key.id, &mut |version| {
                let kept = old.version(key.id, version.version);
                if kept.is_none_or(|kept| kept.fingerprint != version.fingerprint) {
                    versions.push(version.version);
                }
            });
            if !versions.is_empty() {
                lost.push((key.clone(), versions));
            }
        }
        lost
    }

    async fn count_lost(&mut self, connection: &mut dyn Connection, lost: Vec<(Key, Vec<u32>)>) -> Result<()> {
        for (key, versions) in lost {
            let facts = entities::facts(connection, key.id, PAGE_LIMIT).await?;
            self.lost_versions.extend(versions.into_iter().map(|version| LostVersion {
                key: key.name.clone(),
                version,
                encryptions: facts.get(&version).map_or(0, |facts| facts.usage.encryptions),
            }));
        }
        Ok(())
    }
}

fn is_over(key: &Key) -> bool {
    key.is_revoked() || matches!(key.state, KeyState::PendingDeletion | KeyState::Destroyed)
}

fn place_of(grant: &Grant) -> (String, String) {
    (grant.principal.clone(), grant.scope.to_string())
}

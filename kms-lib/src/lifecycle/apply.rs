//! Transitions: the rows that a command changes. Policy has allowed the command before, on the same view.

use sha2::{Digest, Sha256};

use super::command::{CheckedKey, Command, KeyEdit};
use super::new_version::NewVersion;
use super::permits::is_trimmable;
use crate::grants::CREATOR_PERMISSIONS;
use crate::types::actor::Role;
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::grant::{Conditions, Grant, GrantScope, Grantor, StoredConditions};
use crate::types::ids::KeyId;
use crate::types::key::{DisabledReason, Key, KeyState, KeyVersion, Origin, VersionState};
use crate::types::root_key::RootKeyGeneration;
use crate::types::time::Timestamp;
use crate::types::view::CatalogView;

/// The state and time that a command is applied to.
pub struct Context<'a> {
    /// The rows before the command.
    pub view: &'a dyn CatalogView,
    /// The time of the command's record.
    pub now: Timestamp,
    /// The sequence number of the command's record.
    pub revision: u64,
    /// The grace period, in days, of keys without their own; `None`: grace windows do not end.
    pub default_grace_days: Option<u32>,
    /// The maximum number of versions with material that a key can have (setting `limits.versions`).
    pub versions_max: u32,
    /// The grantor, for a command that makes a grant.
    pub grantor: Option<Grantor>,
}

/// The rows that `command` changes, in their new state. Rows that already are in that state are left out.
///
/// Fails with the code of the refusal if the rows do not allow the command, for example `NameTaken` or `LimitExceeded`,
/// and with `Internal` if a row is missing that the decision was based on.
pub fn apply(command: &Command, context: &Context<'_>) -> Result<Vec<Change>> {
    let mut changes = context.changes(command)?;
    changes.retain(|change| !context.is_present(change));
    Ok(changes)
}

impl Context<'_> {
    fn changes(&self, command: &Command) -> Result<Vec<Change>> {
        match command {
            Command::CreateKey(new) => self.create(new),
            Command::Rotate(key, new) => self.rotate(*key, new),
            Command::EnableKey(key) => self.enable_key(*key),
            Command::DisableKey(key) => self.edit_key(*key, |key| {
                key.state = KeyState::Disabled;
                key.disabled_reason = Some(DisabledReason::Admin);
            }),
            Command::RevokeKey(key) => self.revoke_key(*key),
            Command::EnableVersion(key, version) => {
                self.edit_version(*key, *version, |version| version.state = VersionState::Enabled)
            }
            Command::DisableVersion(key, version) => {
                self.edit_version(*key, *version, |version| version.state = VersionState::Disabled)
            }
            Command::RevokeVersion(key, version) => self.revoke_version(*key, *version),
            Command::SetWindow(key, version, not_after) => {
                self.edit_version(*key, *version, |version| version.not_after = *not_after)
            }
            Command::UpdateKey(key, edit) => self.update_key(*key, edit),
            Command::ScheduleDeletion(key, days) => self.schedule_deletion(*key, *days),
            Command::CancelDeletion(key) => self.edit_key(*key, |key| {
                key.state = key.state_before_deletion.take().unwrap_or(KeyState::Disabled);
                key.delete_at = None;
                key.deletion_wait_days = None;
            }),
            Command::Trim(key, versions) => self.trim(*key, versions),
            Command::BeginDestruction(key) => self.edit_key(*key, |key| {
                key.state_before_deletion = Some(KeyState::Destroyed);
                key.disabled_reason = None;
            }),
            // Only the key's row changes; `Key::state_of` derives the state of the versions.
            Command::DestroyKey(key, _) => self.edit_key(*key, |key| {
                key.state = KeyState::Destroyed;
                key.state_before_deletion = None;
                key.disabled_reason = None;
            }),
            Command::PutGrant(new) => self.put_grant(new),
            Command::WithdrawGrant(id, cascade) => self.withdraw_grant(*id, *cascade),
            Command::CreateCredential(new) => self.create_credential(new),
            Command::WithdrawCredential(id) => self.withdraw_credential(*id),
            Command::RemoveCredentials => Ok(self.remove_credentials()),
            Command::Quarantine(rows) => Ok(self.quarantine(rows)),
            Command::Release(rows) => Ok(self.release(rows)),
            Command::AddRootKey(new) => self.add_root_key(&new.root),
            Command::MarkCompromised(generation) => self.mark_compromised(*generation),
            Command::BeginRetirement(generation) => self.begin_retirement(*generation),
            Command::RetireRootKey(check) => self.retire_root_key(check.generation),
            Command::ReplaceSigningKey(new) => self.replace_signing_key(new),
            Command::ReplaceIntegrityKey(new) => self.replace_integrity_key(new),
            Command::EndResealing(number) => self.end_resealing(*number),
            Command::Reseal(resealing) => self.reseal(resealing),
            Command::ImportKey(imported) => self.import_key(imported),
            Command::RotateImported(rotation) => self.rotate_imported(rotation),
            Command::ImportGrants(imported) => Ok(self.import_grants(imported)),
            Command::FinalizeImport(end) => self.finalize_import(end),
            Command::AddWrappings(_)
            | Command::MarkVerified(_)
            | Command::EraseWrappings(..)
            | Command::EraseMaterial(..)
            | Command::BeginImport(_)
            | Command::ImportRows(_)
            | Command::Record(_) => Ok(Vec::new()),
        }
    }

    /// Whether the row already is in the new state, apart from its revision.
    fn is_present(&self, change: &Change) -> bool {
        match change {
            Change::UpdateKey(key) => self
                .view
                .key(key.id)
                .is_some_and(|present| *present == Key { revision: present.revision, ..key.clone() }),
            Change::UpdateVersion(version) => {
                let present = self.view.version(version.key_id, version.version);
                present.is_some_and(|present| *present == KeyVersion { revision: present.revision, ..version.clone() })
            }
            Change::UpdateRootKey(root) => self
                .root_key(root.generation)
                .is_ok_and(|present| RootKeyGeneration { revision: root.revision, ..present } == *root),
            _ => false,
        }
    }

    pub(super) fn key(&self, id: KeyId) -> Result<Key> {
        let mut key = self.view.key(id).cloned().ok_or_else(|| missing("key"))?;
        key.revision = self.revision;
        Ok(key)
    }

    pub(super) fn version(&self, key: KeyId, number: u32) -> Result<KeyVersion> {
        let mut version = self.view.version(key, number).cloned().ok_or_else(|| missing("version"))?;
        version.revision = self.revision;
        Ok(version)
    }

    fn edit_key(&self, id: KeyId, edit: impl FnOnce(&mut Key)) -> Result<Vec<Change>> {
        let mut key = self.key(id)?;
        edit(&mut key);
        key.rotate_at = self.rotation_due(&key, None);
        Ok(vec![Change::UpdateKey(key)])
    }

    fn edit_version(&self, key: KeyId, number: u32, edit: impl FnOnce(&mut KeyVersion)) -> Result<Vec<Change>> {
        let mut version = self.version(key, number)?;
        edit(&mut version);
        Ok(vec![Change::UpdateVersion(version)])
    }

    fn create(&self, new: &CheckedKey) -> Result<Vec<Change>> {
        if self.view.key_by_name(&new.name).is_some() {
            return Err(Error::new(ErrorCode::NameTaken, "a key of this name exists or existed"));
        }
        let mut key = Key {
            id: new.id,
            name: new.name.clone(),
            key_type: new.key_type,
            purpose: new.purpose,
            state: KeyState::Enabled,
            disabled_reason: None,
            state_before_deletion: None,
            rotation_period_days: new.rotation_period_days,
            grace_period_days: new.grace_period_days,
            current_version: new.first.version,
            rotate_at: None,
            delete_at: None,
            deletion_wait_days: None,
            audit_context: new.audit_context,
            metadata: new.metadata.clone(),
            import: None,
            created_at: self.now,
            revision: self.revision,
        };
        key.rotate_at = self.rotation_due(&key, Some(self.now));
        let mut changes = vec![Change::InsertKey(key), self.insert_version(new.id, &new.first)];
        if let Some((id, principal)) = &new.creator_grant {
            changes.push(Change::InsertGrant(Grant {
                id: *id,
                principal: principal.clone(),
                role: Role::App,
                scope: GrantScope::Key(new.id),
                permissions: {
                    let mut permissions = CREATOR_PERMISSIONS.to_vec();
                    permissions.sort_unstable();
                    permissions
                },
                conditions: StoredConditions::Known(Conditions::default()),
                created_at: self.now,
                withdrawn_at: None,
                grantor: Grantor::service(),
                cascade: false,
                revision: self.revision,
            }));
        }
        Ok(changes)
    }

    pub(super) fn insert_version(&self, key: KeyId, new: &NewVersion) -> Change {
        let version = KeyVersion {
            id: new.id,
            key_id: key,
            version: new.version,
            state: VersionState::Enabled,
            not_before: None,
            not_after: None,
            grace_period_days: None,
            created_at: self.now,
            origin: Origin::Generated,
            fingerprint: new.fingerprint,
            public_key_digest: new.material.public_key_pem.as_deref().map(|pem| Box::new(Sha256::digest(pem).into())),
            revision: self.revision,
        };
        Change::InsertVersion(version, new.material.clone())
    }

    fn rotate(&self, id: KeyId, new: &NewVersion) -> Result<Vec<Change>> {
        if self.view.live_versions(id) >= self.versions_max as usize {
            return Err(Error::new(ErrorCode::LimitExceeded, "the key has as many versions as limits.versions allows"));
        }
        let mut key = self.key(id)?;
        let mut former = self.version(id, key.current_version)?;
        let mut changes = Vec::with_capacity(3);
        if matches!(former.state, VersionState::Enabled | VersionState::Disabled) {
            former.state = VersionState::Disabled;
            let grace = key.grace_period_days.or(self.default_grace_days);
            if let (Some(days), None) = (grace, former.not_after) {
                former.not_after = Some(self.now.plus_days(days));
                former.grace_period_days = Some(days);
            }
            changes.push(Change::UpdateVersion(former));
        }
        key.current_version = new.version;
        if key.state == KeyState::Disabled {
            key.state = KeyState::Enabled;
            key.disabled_reason = None;
        }
        key.rotate_at = self.rotation_due(&key, Some(self.now));
        changes.push(Change::UpdateKey(key));
        changes.push(self.insert_version(id, new));
        Ok(changes)
    }

    fn enable_key(&self, id: KeyId) -> Result<Vec<Change>> {
        let current = self.view.key(id).map(|key| key.current_version).unwrap_or_default();
        // The current version may have been revoked while the key was disabled; then the key still cannot encrypt.
        let revoked = self.version(id, current)?.state == VersionState::Revoked;
        self.edit_key(id, |key| {
            if revoked {
                key.disabled_reason = Some(DisabledReason::CurrentVersionRevoked);
            } else {
                key.state = KeyState::Enabled;
                key.disabled_reason = None;
            }
        })
    }

    /// Changes only the key's row; [`Key::state_of`] derives that its versions are revoked.
    fn revoke_key(&self, id: KeyId) -> Result<Vec<Change>> {
        self.edit_key(id, |key| {
            match key.state {
                KeyState::PendingDeletion => key.state_before_deletion = Some(KeyState::Revoked),
                _ => key.state = KeyState::Revoked,
            }
            key.disabled_reason = None;
        })
    }

    fn revoke_version(&self, id: KeyId, number: u32) -> Result<Vec<Change>> {
        let (key, version) = (self.key(id)?, self.version(id, number)?);
        if key.state_of(&version) == VersionState::Revoked {
            return Ok(Vec::new());
        }
        let mut changes = self.edit_version(id, number, |version| {
            version.state = VersionState::Revoked;
            version.not_after = Some(version.not_after.map_or(self.now, |end| end.min(self.now)));
        })?;
        if number == key.current_version {
            changes.extend(self.edit_key(id, |key| {
                let state = match key.state {
                    KeyState::PendingDeletion => key.state_before_deletion.as_mut(),
                    _ => Some(&mut key.state),
                };
                if let Some(state) = state.filter(|state| **state == KeyState::Enabled) {
                    *state = KeyState::Disabled;
                    key.disabled_reason = Some(DisabledReason::CurrentVersionRevoked);
                }
            })?);
        }
        Ok(changes)
    }

    /// A deletion that is scheduled already keeps its date.
    fn schedule_deletion(&self, id: KeyId, days: u32) -> Result<Vec<Change>> {
        if self.key(id)?.state == KeyState::PendingDeletion {
            return Ok(Vec::new());
        }
        self.edit_key(id, |key| {
            key.state_before_deletion = Some(key.state);
            key.state = KeyState::PendingDeletion;
            key.delete_at = Some(self.now.plus_days(days));
            key.deletion_wait_days = Some(days);
        })
    }

    fn update_key(&self, id: KeyId, edit: &KeyEdit) -> Result<Vec<Change>> {
        self.edit_key(id, |key| {
            if let Some(days) = edit.rotation_period_days {
                key.rotation_period_days = days;
            }
            if let Some(days) = edit.grace_period_days {
                key.grace_period_days = days;
            }
            if let Some(metadata) = &edit.metadata {
                key.metadata.clone_from(metadata);
            }
            if let Some(form) = edit.audit_context {
                key.audit_context = form;
            }
        })
    }

    fn trim(&self, id: KeyId, versions: &[u32]) -> Result<Vec<Change>> {
        let key = self.key(id)?;
        let due = versions.iter().filter_map(|number| self.view.version(id, *number));
        let due = due.filter(|version| is_trimmable(&key, version, self.now));
        let erase = |version: &KeyVersion| {
            let (state, revision) = (VersionState::Destroyed, self.revision);
            Change::EraseVersion(KeyVersion { state, revision, ..version.clone() })
        };
        Ok(due.map(erase).collect())
    }

    /// When the scheduler rotates the key next; `None` if the key has no rotation period, is not in a state that can be
    /// rotated or belongs to an open import. `rotated` is the creation time of the current version if it is new.
    pub(super) fn rotation_due(&self, key: &Key, rotated: Option<Timestamp>) -> Option<Timestamp> {
        let days = key.rotation_period_days.filter(|_| !key.is_held_by_import())?;
        let rotatable = match key.state {
            KeyState::Enabled => true,
            KeyState::Disabled => key.disabled_reason == Some(DisabledReason::CurrentVersionRevoked),
            _ => false,
        };
        let since = rotated.or_else(|| self.view.version(key.id, key.current_version).map(|v| v.created_at))?;
        rotatable.then(|| since.plus_days(days))
    }
}

pub(super) fn missing(what: &str) -> Error {
    Error::new(ErrorCode::Internal, format!("the {what} to change is missing"))
}

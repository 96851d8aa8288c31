//! Transitions: which rows a command changes. Whether it is allowed has been decided before, on the same view.

use sha2::{Digest, Sha256};

use super::command::{Command, KeyEdit, NewGrant, NewKey, NewVersion};
use crate::grants::CREATOR_PERMISSIONS;
use crate::types::actor::Role;
use crate::types::change::Change;
use crate::types::credential::Credential;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::grant::{Conditions, Grant, GrantScope, StoredConditions};
use crate::types::ids::KeyId;
use crate::types::key::{DisabledReason, Key, KeyState, KeyVersion, Origin, VersionState};
use crate::types::time::Timestamp;
use crate::types::view::View;

/// The rows `command` changes, as they are afterwards. `now` is the time of its record and `revision` the record's
/// sequence number. `default_grace_days` is the service's grace period for keys without one.
///
/// Fails if a name is taken, or if a row is missing that the decision before must have seen.
pub fn apply(
    view: &dyn View,
    command: &Command,
    now: Timestamp,
    revision: u64,
    default_grace_days: Option<u32>,
) -> Result<Vec<Change>> {
    let context = Context { view, now, revision };
    match command {
        Command::CreateKey(new) => context.create(new),
        Command::Rotate(key, new) => context.rotate(*key, new, default_grace_days),
        Command::EnableKey(key) => context.enable_key(*key),
        Command::DisableKey(key) => context.edit_key(*key, |key| {
            key.state = KeyState::Disabled;
            key.disabled_reason = Some(DisabledReason::Admin);
        }),
        Command::RevokeKey(key) => context.revoke_key(*key),
        Command::EnableVersion(key, version) => {
            context.edit_version(*key, *version, |version| version.state = VersionState::Enabled)
        }
        Command::DisableVersion(key, version) => {
            context.edit_version(*key, *version, |version| version.state = VersionState::Disabled)
        }
        Command::RevokeVersion(key, version) => context.revoke_version(*key, *version),
        Command::SetWindow(key, version, not_after) => {
            context.edit_version(*key, *version, |version| version.not_after = *not_after)
        }
        Command::UpdateKey(key, edit) => context.update_key(*key, edit),
        Command::ScheduleDeletion(key, days) => context.edit_key(*key, |key| {
            key.state_before_deletion = Some(key.state);
            key.state = KeyState::PendingDeletion;
            key.delete_at = Some(now.plus_days(*days));
        }),
        Command::CancelDeletion(key) => context.edit_key(*key, |key| {
            key.state = key.state_before_deletion.take().unwrap_or(KeyState::Disabled);
            key.delete_at = None;
        }),
        Command::DestroyKey(key) => context.destroy(*key),
        Command::PutGrant(new) => context.put_grant(new),
        Command::WithdrawGrant(id) => {
            let grant = view.grant(*id).ok_or_else(|| missing("grant"))?;
            Ok(vec![Change::UpdateGrant(Grant { withdrawn_at: Some(now), revision, ..grant.clone() })])
        }
        Command::CreateCredential(new) if new.is_first && view.has_credentials() => {
            Err(Error::new(ErrorCode::Conflict, "the store has or had a credential already"))
        }
        Command::CreateCredential(new) => Ok(vec![Change::InsertCredential(Credential {
            id: new.id,
            principal: new.principal.clone(),
            role: new.role,
            secret_hash: new.secret_hash,
            label: new.label.clone(),
            created_at: now,
            expires_at: new.expires_at,
            withdrawn_at: None,
            revision,
        })]),
        Command::WithdrawCredential(id) => {
            let credential = view.credential(*id).ok_or_else(|| missing("credential"))?;
            let withdrawn = Credential { withdrawn_at: Some(now), revision, ..credential.clone() };
            Ok(vec![Change::UpdateCredential(withdrawn)])
        }
        Command::ReplaceSigningKey(_) | Command::Record(_) => Ok(Vec::new()),
    }
}

struct Context<'a> {
    view: &'a dyn View,
    now: Timestamp,
    revision: u64,
}

impl Context<'_> {
    fn key(&self, id: KeyId) -> Result<Key> {
        let mut key = self.view.key(id).cloned().ok_or_else(|| missing("key"))?;
        key.revision = self.revision;
        Ok(key)
    }

    fn version(&self, key: KeyId, number: u32) -> Result<KeyVersion> {
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

    fn create(&self, new: &NewKey) -> Result<Vec<Change>> {
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
            audit_context: new.audit_context,
            metadata: new.metadata.clone(),
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
                revision: self.revision,
            }));
        }
        Ok(changes)
    }

    fn insert_version(&self, key: KeyId, new: &NewVersion) -> Change {
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
            root_generation: new.root_generation,
            material_digest: new.material.wrapped.as_deref().map(|bytes| Sha256::digest(bytes).into()),
            public_key_digest: new.material.public_key_pem.as_deref().map(|pem| Sha256::digest(pem).into()),
            revision: self.revision,
        };
        Change::InsertVersion(version, new.material.clone())
    }

    fn rotate(&self, id: KeyId, new: &NewVersion, default_grace_days: Option<u32>) -> Result<Vec<Change>> {
        let mut key = self.key(id)?;
        let mut former = self.version(id, key.current_version)?;
        let mut changes = Vec::with_capacity(3);
        if matches!(former.state, VersionState::Enabled | VersionState::Disabled) {
            former.state = VersionState::Disabled;
            let grace = key.grace_period_days.or(default_grace_days);
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
        // A key that was disabled by hand, and whose current version was revoked meanwhile, still cannot encrypt.
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

    fn revoke_key(&self, id: KeyId) -> Result<Vec<Change>> {
        let mut changes = self.edit_key(id, |key| {
            key.state = KeyState::Revoked;
            key.disabled_reason = None;
        })?;
        self.view.each_version(id, &mut |version| {
            if matches!(version.state, VersionState::Enabled | VersionState::Disabled) {
                changes.push(Change::UpdateVersion(KeyVersion {
                    state: VersionState::Revoked,
                    revision: self.revision,
                    ..version.clone()
                }));
            }
        });
        Ok(changes)
    }

    fn revoke_version(&self, id: KeyId, number: u32) -> Result<Vec<Change>> {
        let mut changes = self.edit_version(id, number, |version| version.state = VersionState::Revoked)?;
        let key = self.key(id)?;
        if number == key.current_version && key.state == KeyState::Enabled {
            changes.extend(self.edit_key(id, |key| {
                key.state = KeyState::Disabled;
                key.disabled_reason = Some(DisabledReason::CurrentVersionRevoked);
            })?);
        }
        Ok(changes)
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

    fn destroy(&self, id: KeyId) -> Result<Vec<Change>> {
        let mut changes = self.edit_key(id, |key| {
            key.state = KeyState::Destroyed;
            key.state_before_deletion = None;
            key.disabled_reason = None;
        })?;
        self.view.each_version(id, &mut |version| {
            changes.push(Change::EraseVersion(KeyVersion {
                state: VersionState::Destroyed,
                material_digest: None,
                revision: self.revision,
                ..version.clone()
            }));
        });
        Ok(changes)
    }

    fn put_grant(&self, new: &NewGrant) -> Result<Vec<Change>> {
        if let GrantScope::Key(key) = new.scope {
            self.key(key)?;
        }
        let mut existing = None;
        self.view.each_grant(&new.principal, &mut |grant| {
            if grant.scope == new.scope {
                existing = Some(grant.clone());
            }
        });
        let grant = Grant {
            id: existing.as_ref().map_or(new.id, |grant| grant.id),
            principal: new.principal.clone(),
            role: new.role,
            scope: new.scope,
            permissions: new.permissions.clone(),
            conditions: StoredConditions::Known(new.conditions.clone()),
            created_at: existing.as_ref().map_or(self.now, |grant| grant.created_at),
            withdrawn_at: None,
            revision: self.revision,
        };
        Ok(vec![if existing.is_some() { Change::UpdateGrant(grant) } else { Change::InsertGrant(grant) }])
    }

    /// When the scheduler rotates the key next. `rotated` is the time of its current version, if that is new.
    fn rotation_due(&self, key: &Key, rotated: Option<Timestamp>) -> Option<Timestamp> {
        let days = key.rotation_period_days?;
        let rotatable = match key.state {
            KeyState::Enabled => true,
            KeyState::Disabled => key.disabled_reason == Some(DisabledReason::CurrentVersionRevoked),
            _ => false,
        };
        let since = rotated.or_else(|| self.view.version(key.id, key.current_version).map(|v| v.created_at))?;
        rotatable.then(|| since.plus_days(days))
    }
}

fn missing(what: &str) -> Error {
    Error::new(ErrorCode::Internal, format!("the {what} to change is not there"))
}

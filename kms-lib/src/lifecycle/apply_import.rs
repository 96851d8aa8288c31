//! Transitions of an import: keys, versions and grants are updated to match their source, except for those that were
//! revoked here.

use sha2::{Digest, Sha256};

use super::apply::Context;
use super::imported::{
    ImportFinalization, ImportRotation, ImportedGrant, ImportedGrants, ImportedKey, ImportedVersion,
};
use crate::types::actor::Role;
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::grant::{Grant, Grantor};
use crate::types::key::{AuditContext, DisabledReason, Key, KeyImport, KeyState, KeyVersion, Origin, VersionState};

/// The grantor of the grants of an import.
pub fn import_grantor(source: &str) -> Grantor {
    Grantor { principal: format!("import:{source}"), role: Role::System, through: Vec::new() }
}

impl Context<'_> {
    pub(super) fn import_key(&self, imported: &ImportedKey) -> Result<Vec<Change>> {
        if self.view.is_damaged(imported.id) {
            return Err(Error::new(ErrorCode::IntegrityFailure, "a row of the key is in quarantine"));
        }
        let present = self.view.key(imported.id);
        if let Some(present) = present.filter(|key| key.import.as_ref().is_some_and(|import| import.is_final)) {
            return self.restrict_final(present, imported);
        }
        let mut key = match present {
            Some(present) => self.followed(present, imported)?,
            None => self.first_seen(imported)?,
        };
        let mut versions = Vec::with_capacity(imported.versions.len());
        for version in &imported.versions {
            versions.extend(self.import_version(&key, version)?);
        }
        versions.extend(self.demoted(&key, imported));
        self.settle_state(&mut key, &versions)?;
        key.rotate_at = self.rotation_due(&key, None);
        let mut changes = vec![if present.is_some() { Change::UpdateKey(key) } else { Change::InsertKey(key) }];
        changes.append(&mut versions);
        Ok(changes)
    }

    fn first_seen(&self, imported: &ImportedKey) -> Result<Key> {
        if self.view.key_by_name(&imported.name).is_some() {
            return Err(Error::new(ErrorCode::NameTaken, "a key of this name exists or existed"));
        }
        Ok(Key {
            id: imported.id,
            name: imported.name.clone(),
            key_type: imported.key_type,
            purpose: imported.purpose,
            state: imported.state,
            disabled_reason: None,
            state_before_deletion: None,
            rotation_period_days: imported.rotation_period_days,
            grace_period_days: imported.grace_period_days,
            current_version: imported.current_version,
            rotate_at: None,
            delete_at: None,
            deletion_wait_days: None,
            audit_context: AuditContext::Clear,
            metadata: imported.metadata.clone(),
            import: Some(KeyImport { source: imported.run.source.clone(), is_final: false }),
            created_at: imported.created_at,
            revision: self.revision,
        })
    }

    /// A key that was imported before, updated to match its source. Its name stays.
    fn followed(&self, present: &Key, imported: &ImportedKey) -> Result<Key> {
        self.require_held(present, &imported.run.source)?;
        if present.is_erased() {
            return Err(conflict("the key's material is erased here"));
        }
        if (present.key_type, present.purpose) != (imported.key_type, imported.purpose) {
            return Err(conflict("the key has another type or purpose here"));
        }
        let is_own = self
            .view
            .version(present.id, present.current_version)
            .is_some_and(|version| version.origin == Origin::Generated);
        Ok(Key {
            state: if present.state == KeyState::Revoked { KeyState::Revoked } else { imported.state },
            disabled_reason: None,
            rotation_period_days: imported.rotation_period_days,
            grace_period_days: imported.grace_period_days,
            metadata: imported.metadata.clone(),
            current_version: if is_own { present.current_version } else { imported.current_version },
            revision: self.revision,
            ..present.clone()
        })
    }

    /// The changes that the source still makes to a key that is this store's own already, because a run was interrupted
    /// while it finalized the import: the key is revoked or disabled, versions are revoked, and new ones are added as
    /// former versions.
    fn restrict_final(&self, present: &Key, imported: &ImportedKey) -> Result<Vec<Change>> {
        self.require_source(present, &imported.run.source)?;
        let (mut key, mut changes) = (present.clone(), Vec::new());
        let is_new = |version: &ImportedVersion| {
            let has_place = !present.is_erased() && version.version < present.current_version;
            version.new.is_some() && has_place && self.view.version(present.id, version.version).is_none()
        };
        let is_due = |version: &&ImportedVersion| version.state == VersionState::Revoked || is_new(version);
        for version in imported.versions.iter().filter(is_due) {
            changes.extend(self.import_version(&key, version)?);
        }
        let current = key.current_version;
        let loses_current =
            changes.iter().any(|change| matches!(change, Change::UpdateVersion(version) if version.version == current));
        let state = match key.state {
            KeyState::PendingDeletion => key.state_before_deletion.as_mut(),
            _ => Some(&mut key.state),
        };
        if let Some(state) = state {
            (*state, key.disabled_reason) = match (*state, imported.state) {
                (KeyState::Enabled | KeyState::Disabled, KeyState::Revoked) => (KeyState::Revoked, None),
                (KeyState::Enabled | KeyState::Disabled, KeyState::Disabled) => {
                    (KeyState::Disabled, Some(DisabledReason::Admin))
                }
                (KeyState::Enabled, _) if loses_current => {
                    (KeyState::Disabled, Some(DisabledReason::CurrentVersionRevoked))
                }
                (state, _) => (state, key.disabled_reason),
            };
        }
        if key != *present {
            key.rotate_at = self.rotation_due(&key, None);
            key.revision = self.revision;
            changes.push(Change::UpdateKey(key));
        }
        Ok(changes)
    }

    fn import_version(&self, key: &Key, imported: &ImportedVersion) -> Result<Option<Change>> {
        let present = self.view.version(key.id, imported.version);
        let is_current = key.current_version == imported.version;
        let Some(present) = present else {
            let Some(new) = &imported.new else {
                return Err(conflict("a version of the key is missing in this store"));
            };
            let public_key = new.material.public_key_pem.as_deref();
            let version = KeyVersion {
                id: imported.id,
                key_id: key.id,
                version: imported.version,
                state: imported.state,
                not_before: imported.not_before,
                not_after: imported.not_after,
                grace_period_days: imported.grace_period_days,
                created_at: imported.created_at,
                origin: Origin::Imported,
                fingerprint: new.fingerprint,
                public_key_digest: public_key.map(|pem| Box::new(Sha256::digest(pem).into())),
                revision: self.revision,
            };
            let version = self.shaped(version, is_current);
            return Ok(Some(Change::InsertVersion(version, new.material.clone())));
        };
        if present.origin != Origin::Imported || present.id != imported.id {
            return Err(conflict("the key has another version of this number here"));
        }
        // A version that was revoked or erased here stays so.
        if !matches!(present.state, VersionState::Enabled | VersionState::Disabled) {
            return Ok(None);
        }
        let followed = KeyVersion {
            state: imported.state,
            not_before: imported.not_before,
            not_after: imported.not_after,
            grace_period_days: imported.grace_period_days,
            revision: self.revision,
            ..present.clone()
        };
        Ok(Some(Change::UpdateVersion(self.shaped(followed, is_current))))
    }

    /// Adapts a version to this store: only the current one is enabled, and the window of a revoked one has ended.
    fn shaped(&self, mut version: KeyVersion, is_current: bool) -> KeyVersion {
        match version.state {
            VersionState::Enabled if !is_current => version.state = VersionState::Disabled,
            VersionState::Revoked => {
                version.not_after = Some(version.not_after.map_or(self.now, |end| end.min(self.now)));
            }
            _ => {}
        }
        version
    }

    /// The change that disables the version that was current here, if it no longer is current at the source and the
    /// import does not change it otherwise.
    fn demoted(&self, key: &Key, imported: &ImportedKey) -> Option<Change> {
        let former = self.view.key(key.id)?.current_version;
        let is_there = imported.versions.iter().any(|version| version.version == former);
        let version = self.version(key.id, former).ok()?;
        let is_demoted = former != key.current_version && !is_there && version.state == VersionState::Enabled;
        is_demoted.then_some(Change::UpdateVersion(KeyVersion { state: VersionState::Disabled, ..version }))
    }

    /// Sets why a key is disabled, because a key whose current version is revoked still decrypts.
    fn settle_state(&self, key: &mut Key, versions: &[Change]) -> Result<()> {
        let changed = versions.iter().find_map(|change| match change {
            Change::InsertVersion(version, _) | Change::UpdateVersion(version)
                if version.version == key.current_version =>
            {
                Some(version.state)
            }
            _ => None,
        });
        let stored = || self.view.version(key.id, key.current_version).map(|version| version.state);
        let Some(state) = changed.or_else(stored) else {
            return Err(conflict("the current version of the key is missing in this store"));
        };
        (key.state, key.disabled_reason) = match (key.state, state) {
            (KeyState::Enabled, VersionState::Revoked) => {
                (KeyState::Disabled, Some(DisabledReason::CurrentVersionRevoked))
            }
            // Disabled at the source: the key does not decrypt, regardless of the state of its versions.
            (KeyState::Disabled, _) => (KeyState::Disabled, Some(DisabledReason::Admin)),
            (state, _) => (state, None),
        };
        Ok(())
    }

    pub(super) fn rotate_imported(&self, rotation: &ImportRotation) -> Result<Vec<Change>> {
        let mut key = self.key(rotation.key)?;
        self.require_held(&key, &rotation.run.source)?;
        let mut former = self.version(key.id, key.current_version)?;
        let is_imported = former.origin == Origin::Imported && former.state == VersionState::Enabled;
        if key.state != KeyState::Enabled || !is_imported || rotation.new.version <= key.current_version {
            let text = "an import rotates only an enabled key whose current version is imported and enabled";
            return Err(Error::new(ErrorCode::WrongState, text));
        }
        former.state = VersionState::Disabled;
        key.current_version = rotation.new.version;
        key.rotate_at = self.rotation_due(&key, Some(self.now));
        let new = self.insert_version(key.id, &rotation.new);
        Ok(vec![Change::UpdateVersion(former), Change::UpdateKey(key), new])
    }

    pub(super) fn finalize_import(&self, end: &ImportFinalization) -> Result<Vec<Change>> {
        let (source, mut changes) = (&end.run.source, Vec::with_capacity(end.keys.len()));
        for id in &end.keys {
            let mut key = self.key(*id)?;
            self.require_source(&key, source)?;
            key.import = Some(KeyImport { source: source.clone(), is_final: true });
            key.rotate_at = self.rotation_due(&key, None);
            changes.push(Change::UpdateKey(key));
        }
        Ok(changes)
    }

    /// Leaves grants unchanged that were revoked or replaced here.
    pub(super) fn import_grants(&self, imported: &ImportedGrants) -> Vec<Change> {
        let grantor = import_grantor(&imported.run.source);
        let is_open = |grant: &&Grant| grant.grantor == grantor && grant.withdrawn_at.is_none();
        let followed = imported.grants.iter().filter_map(|new| {
            let grant = self.imported_grant(new, grantor.clone());
            match self.view.grant(new.id) {
                None => Some(Change::InsertGrant(grant)),
                Some(present) => {
                    let is_same = *present == Grant { revision: present.revision, ..grant.clone() };
                    (is_open(&present) && !is_same).then_some(Change::UpdateGrant(grant))
                }
            }
        });
        let withdrawn = imported.withdrawn.iter().filter_map(|id| {
            let grant = self.view.grant(*id).filter(is_open)?;
            Some(Change::UpdateGrant(Grant { withdrawn_at: Some(self.now), revision: self.revision, ..grant.clone() }))
        });
        followed.chain(withdrawn).collect()
    }

    fn imported_grant(&self, new: &ImportedGrant, grantor: Grantor) -> Grant {
        Grant {
            id: new.id,
            principal: new.principal.clone(),
            role: new.role,
            scope: new.scope,
            permissions: new.permissions.clone(),
            conditions: new.conditions.clone(),
            created_at: new.created_at,
            withdrawn_at: None,
            grantor,
            cascade: false,
            revision: self.revision,
        }
    }

    fn require_source(&self, key: &Key, source: &str) -> Result<()> {
        match &key.import {
            Some(import) if import.source == source => Ok(()),
            _ => Err(conflict("this store has a key with this id that did not come from this source")),
        }
    }

    fn require_held(&self, key: &Key, source: &str) -> Result<()> {
        self.require_source(key, source)?;
        match key.is_held_by_import() {
            true => Ok(()),
            false => Err(Error::new(ErrorCode::WrongState, "the import of this key is finalized")),
        }
    }
}

fn conflict(text: &str) -> Error {
    Error::new(ErrorCode::Conflict, text)
}

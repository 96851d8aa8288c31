//! Restrictions from rows that are refused or missing: only revoking and disabling are applied. A revocation is applied
//! regardless of the rest of a row.

use super::material::OpenedMaterial;
use super::part::Part;
use super::run::Run;
use super::source::SourceVersion;
use crate::lifecycle::{Command, ImportedKey, ImportedVersion};
use crate::types::change::Change;
use crate::types::error::Result;
use crate::types::ids::KeyId;
use crate::types::key::{DisabledReason, Key, KeyState, KeyVersion, Origin, VersionState};
use crate::types::view::CatalogView;

/// The restriction of a key according to the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restriction {
    /// The key may be used at the source.
    None,
    /// The key may not be used at the source, or its state is unknown.
    Disabled,
    /// The key was revoked at the source.
    Revoked,
}

impl Restriction {
    /// The restriction that a key's state at the source means.
    fn of(state: &str) -> Self {
        match state {
            "ENABLED" => Self::None,
            "REVOKED" => Self::Revoked,
            _ => Self::Disabled,
        }
    }
}

impl Run<'_> {
    /// Revokes or disables a key whose row is refused, and revokes its versions, as the source says. Returns the
    /// changed rows.
    pub(super) async fn restrict(&self, part: &Part) -> Result<Vec<Change>> {
        let Ok(id) = part.row.id.parse::<KeyId>() else { return Ok(Vec::new()) };
        let revoked = part.versions.iter().filter_map(|row| self.revoked(id, row)).collect();
        self.restrict_as_source(id, &part.row.state, revoked, &[]).await
    }

    /// Restricts a key of this import according to its state at the source. Returns the changed rows.
    pub(super) async fn restrict_as_source(
        &self,
        id: KeyId,
        state: &str,
        versions: Vec<ImportedVersion>,
        opened: &[(u32, OpenedMaterial)],
    ) -> Result<Vec<Change>> {
        self.restrict_key(id, Restriction::of(state), versions, opened).await
    }

    /// Restricts a key of this import, with versions in their state at the source; new ones come with their material.
    /// Returns the changed rows.
    pub(super) async fn restrict_key(
        &self,
        id: KeyId,
        restriction: Restriction,
        versions: Vec<ImportedVersion>,
        opened: &[(u32, OpenedMaterial)],
    ) -> Result<Vec<Change>> {
        let restricted = {
            let snapshot = self.session.shared().catalog.snapshot();
            let Some(key) = self.view(&snapshot).key(id).filter(|key| self.is_of_source(key)).cloned() else {
                return Ok(Vec::new());
            };
            self.restricted(key, restriction, versions)
        };
        let command = Command::ImportKey(Box::new(restricted.clone()));
        let changes = self.preview(&command)?;
        if changes.is_empty() || self.job.dry_run {
            return Ok(changes);
        }
        self.commit_key(restricted, opened).await
    }

    /// A key of this import as it is here, with the restrictions applied.
    fn restricted(&self, key: Key, restriction: Restriction, versions: Vec<ImportedVersion>) -> ImportedKey {
        let state = match (restriction, key.state, key.disabled_reason) {
            (Restriction::Revoked, ..) => KeyState::Revoked,
            (Restriction::Disabled, KeyState::Enabled, _) => KeyState::Disabled,
            // Such a key still decrypts; a key that was disabled explicitly does not.
            (Restriction::None, KeyState::Disabled, Some(DisabledReason::CurrentVersionRevoked)) => KeyState::Enabled,
            (_, state, _) => state,
        };
        ImportedKey {
            run: self.run.clone(),
            id: key.id,
            name: key.name,
            key_type: key.key_type,
            purpose: key.purpose,
            state,
            rotation_period_days: key.rotation_period_days,
            grace_period_days: key.grace_period_days,
            metadata: key.metadata,
            created_at: key.created_at,
            current_version: key.current_version,
            versions,
        }
    }

    /// The version that a row describes, as revoked, if the row says so and the version belongs to this import.
    pub(super) fn revoked(&self, key: KeyId, row: &SourceVersion) -> Option<ImportedVersion> {
        let number = u32::try_from(row.version).ok().filter(|_| row.state == "REVOKED")?;
        let snapshot = self.session.shared().catalog.snapshot();
        let view = self.view(&snapshot);
        view.key(key).filter(|key| self.is_of_source(key))?;
        let present = view.version(key, number).filter(|version| version.origin == Origin::Imported)?;
        let is_revocable = matches!(present.state, VersionState::Enabled | VersionState::Disabled);
        is_revocable.then(|| revoked(present))
    }
}

fn revoked(present: &KeyVersion) -> ImportedVersion {
    ImportedVersion {
        id: present.id,
        version: present.version,
        state: VersionState::Revoked,
        not_before: present.not_before,
        not_after: present.not_after,
        grace_period_days: present.grace_period_days,
        created_at: present.created_at,
        new: None,
    }
}

//! Grants on all keys: how far they reach beyond the keys of their source.

use super::report::ImportFindingKind;
use super::run::Run;
use super::shown::shown;
use crate::lifecycle::import_grantor;
use crate::types::actor::Role;
use crate::types::grant::{Grant, GrantScope, Permission, StoredConditions};
use crate::types::ids::GrantId;
use crate::types::key::Key;
use crate::types::view::CatalogView;

/// Why a grant on all keys is denied.
pub(super) const REACHES_FURTHER: &str = "it is on all keys, and keys are here that did not come from this source";

impl Run<'_> {
    /// Whether a grant on all keys would allow more here than at the source, because this store has keys that did not
    /// come from it. This is decided when the grant is imported, and holds for as much as the grant allowed then.
    pub(super) fn reaches_further(
        &self,
        id: GrantId,
        principal: &str,
        permissions: &[Permission],
        conditions: &StoredConditions,
    ) -> bool {
        let snapshot = self.session.shared().catalog.snapshot();
        if let Some(present) = snapshot.grant(id).filter(|grant| grant.withdrawn_at.is_none()) {
            let is_allowed = present.scope == GrantScope::AllKeys
                && present.principal == principal
                && permissions.iter().all(|permission| present.permissions.contains(permission))
                && present.conditions == *conditions;
            match &present.conditions {
                StoredConditions::Unknown(text) if text.contains(REACHES_FURTHER) => return true,
                StoredConditions::Known(_) if is_allowed => return false,
                _ => {}
            }
        }
        let is_of_source = |key: &Key| key.import.as_ref().is_some_and(|import| import.source == self.job.name);
        snapshot.keys_by_name(None).any(|key| !is_of_source(key))
    }

    /// Names the grants on all keys that other imports brought: they cover the keys of this source too.
    pub(super) fn note_grants_of_others(&mut self) {
        if self.report.keys.total == 0 {
            return;
        }
        let own = import_grantor(&self.job.name);
        let is_others = |grant: &&Grant| {
            let is_imported = grant.grantor.role == Role::System && grant.grantor.principal.starts_with("import:");
            let allows = grant.withdrawn_at.is_none() && matches!(grant.conditions, StoredConditions::Known(_));
            is_imported && grant.grantor != own && allows && grant.scope == GrantScope::AllKeys
        };
        let mut others: Vec<Grant> =
            self.session.shared().catalog.snapshot().grants().filter(is_others).cloned().collect();
        others.sort_by_key(|grant| grant.id);
        for grant in others {
            let text = format!(
                "the grant to {:?} on all keys, which {:?} made, also covers the keys of this source; revoke it if \
                 that is not intended",
                shown(&grant.principal),
                grant.grantor.principal
            );
            self.report.note(ImportFindingKind::GrantChanged, &grant.id.to_string(), text);
        }
    }
}

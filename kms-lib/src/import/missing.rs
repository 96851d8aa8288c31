//! What was imported before and is not in the source any more. Nothing of it is destroyed, and none of it is silent: a
//! key is disabled until it is there again, since the original could not use it either; a version stays as it is.

use std::collections::HashSet;

use super::report::ImportFindingKind;
use super::restrict::Restriction;
use super::run::{Run, is_outage};
use super::source::SourceKey;
use crate::lifecycle::import_grantor;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::key::{Key, Origin, VersionState};
use crate::types::view::CatalogView;

/// Keys that are read at once.
const PAGE: usize = 100;

impl Run<'_> {
    /// Finds the keys of this import that are not in the source any more. Refuses a source that has none of them, and a
    /// log without keys under the name of a source with some.
    pub(super) async fn look_for_missing(&mut self) -> Result<()> {
        let mut held = self.keys_of_source();
        if !self.source.has_keys() && (!held.is_empty() || self.has_grants()) {
            return Err(self.other_source(held.len()));
        }
        let mut seen: HashSet<KeyId> = HashSet::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.source.keys(after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id.clone());
            seen.extend(page.iter().filter_map(|key| key.id.parse::<KeyId>().ok()));
        }
        let before = held.len();
        held.retain(|(id, _)| !seen.contains(id));
        if before > 0 && held.len() == before {
            return Err(self.other_source(before));
        }
        self.missing = held;
        Ok(())
    }

    /// Disables the keys that are not in the source any more, and says so.
    pub(super) async fn disable_missing(&mut self) -> Result<()> {
        for (id, name) in std::mem::take(&mut self.missing) {
            let text = format!(
                "the key {name:?} was imported before and is not in the source any more; it is kept, disabled until it \
                 is there again or the import is finalised and somebody enables it"
            );
            self.report.note(ImportFindingKind::KeyMissing, &id.to_string(), text);
            match self.restrict_key(id, Restriction::Disabled, Vec::new()).await {
                Ok(changes) => {
                    self.report.keys.withdrawn += u64::from(!changes.is_empty());
                    self.plan(&changes);
                }
                Err(error) if is_outage(&error) => return Err(error),
                Err(error) => self.report.refuse(ImportFindingKind::KeyMissing, &id.to_string(), None, &error),
            }
        }
        Ok(())
    }

    /// Names the versions of a key that were imported before and are not among those that the source has.
    pub(super) fn note_missing_versions(&mut self, row: &SourceKey, seen: &HashSet<i64>) {
        let Ok(id) = row.id.parse::<KeyId>() else { return };
        let mut missing: Vec<u32> = {
            let snapshot = self.session.shared().catalog.snapshot();
            if !snapshot.key(id).is_some_and(|key| self.is_of_source(key)) {
                return;
            }
            let imported = snapshot
                .versions_newest_first(id)
                .filter(|version| version.origin == Origin::Imported && version.state != VersionState::Destroyed);
            imported.map(|version| version.version).filter(|number| !seen.contains(&i64::from(*number))).collect()
        };
        missing.reverse();
        for number in missing {
            let text = "the version was imported before and is not in the source any more; it is kept, so that what \
                        it encrypted stays readable";
            self.report.note_version(ImportFindingKind::VersionMissing, &row.id, number.into(), text);
        }
    }

    /// The keys of this import, by id and name. Some may be this store's own already, if a run was cut off at its end.
    fn keys_of_source(&self) -> Vec<(KeyId, String)> {
        let snapshot = self.session.shared().catalog.snapshot();
        let keys = snapshot.keys_by_name(None).filter(|key| self.is_of_source(key) && !key.is_erased());
        keys.map(|key| (key.id, key.name.clone())).collect()
    }

    /// Whether a key came from this source.
    pub(super) fn is_of_source(&self, key: &Key) -> bool {
        key.import.as_ref().is_some_and(|import| import.source == self.job.name)
    }

    /// Whether a key is one of this import, which is not finalised.
    pub(super) fn is_held(&self, key: &Key) -> bool {
        key.import.as_ref().is_some_and(|import| import.source == self.job.name && !import.is_final)
    }

    /// Whether grants of this import are here that are not withdrawn.
    fn has_grants(&self) -> bool {
        let grantor = import_grantor(&self.job.name);
        self.session.shared().catalog.snapshot().grants().any(|grant| grant.grantor == grantor)
    }

    fn other_source(&self, keys: usize) -> Error {
        let text = format!(
            "the source has none of the {keys} keys that were imported from {:?} before: it is another one; give it a \
             name of its own",
            self.job.name
        );
        Error::new(ErrorCode::Conflict, text)
    }
}

//! Keys and versions that were imported before and are no longer in the source. They are not destroyed, and all are
//! reported: a key is disabled until it is in the source again, since the original could not use it either; a version
//! stays unchanged.

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

/// The number of keys that are read at once.
const PAGE: usize = 100;

impl Run<'_> {
    /// Finds the keys of this import that are no longer in the source. Refuses a source that has none of them, and a
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

    /// Disables the keys that are no longer in the source, and reports them.
    pub(super) async fn disable_missing(&mut self) -> Result<()> {
        for (id, name) in std::mem::take(&mut self.missing) {
            let text = format!(
                "the key {name:?} was imported before and is no longer in the source; it is kept, disabled until it \
                 is there again, or is enabled after the import is finalized"
            );
            self.report.note(ImportFindingKind::KeyMissing, &id.to_string(), text);
            match self.restrict_key(id, Restriction::Disabled, Vec::new(), &[]).await {
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

    /// Reports the versions of a key that were imported before and are no longer in the source.
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
            let text = "the version was imported before and is no longer in the source; it is kept, so that what \
                        it encrypted stays readable";
            self.report.note_version(ImportFindingKind::VersionMissing, &row.id, number.into(), text);
        }
    }

    /// The keys of this import, by id and name. If a run was interrupted at its end, some are this store's own already.
    fn keys_of_source(&self) -> Vec<(KeyId, String)> {
        let snapshot = self.session.shared().catalog.snapshot();
        let keys = snapshot.keys_by_name(None).filter(|key| self.is_of_source(key) && !key.is_erased());
        keys.map(|key| (key.id, key.name.clone())).collect()
    }

    /// Whether a key came from this source.
    pub(super) fn is_of_source(&self, key: &Key) -> bool {
        key.import.as_ref().is_some_and(|import| import.source == self.job.name)
    }

    /// Whether a key belongs to this import and is not finalized.
    pub(super) fn is_held(&self, key: &Key) -> bool {
        key.import.as_ref().is_some_and(|import| import.source == self.job.name && !import.is_final)
    }

    /// Whether there are grants of this import that are not withdrawn.
    fn has_grants(&self) -> bool {
        let grantor = import_grantor(&self.job.name);
        self.session.shared().catalog.snapshot().grants().any(|grant| grant.grantor == grantor)
    }

    fn other_source(&self, keys: usize) -> Error {
        let text = format!(
            "the source has none of the {keys} keys that were imported from {:?} before; as it is a different \
             one, give it a name of its own",
            self.job.name
        );
        Error::new(ErrorCode::Conflict, text)
    }
}

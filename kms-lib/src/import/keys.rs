//! Importing keys with their versions, page by page.

use std::collections::{HashMap, HashSet};

use futures_util::StreamExt;

use super::mapping::name_of;
use super::part::{Done, Failure, Part};
use super::report::{ImportFindingKind, ImportStage};
use super::run::{Run, is_outage};
use super::source::{Repeated, SourceKey, SourceVersion, Table};
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::{KeyId, VersionId};
use crate::types::key::VersionState;
use crate::types::view::CatalogView;

/// The number of keys that are read at once.
const PAGE: usize = 100;
/// The number of versions of a key that are read at once and written with one record.
const VERSIONS: usize = 100;
/// The number of keys processed concurrently: a remote root key takes some time for each.
const AT_ONCE: usize = 8;

/// State shared by all keys of a run.
#[derive(Default)]
pub(super) struct KeysSeen {
    /// Ids that several rows of the source have.
    repeated_keys: Repeated,
    /// Versions that several rows of the source have.
    repeated_versions: Repeated,
    /// The version that each id belongs to, here and in the source.
    version_ids: HashMap<VersionId, (KeyId, u32)>,
    /// The names given to keys of this run.
    names: HashMap<String, String>,
    /// The material of the versions, each hashed with a salt, and the version that had it first.
    materials: HashMap<[u8; 32], (String, i64)>,
    /// The number of version rows read.
    versions_read: u64,
    /// The repeated keys whose versions were read already.
    repeated_read: Repeated,
}

impl Run<'_> {
    /// Imports every key, page by page, and disables keys that are no longer in the source.
    pub(super) async fn import_keys(&mut self) -> Result<()> {
        let counts = self.source.counts().await?;
        self.report.keys.total = counts.keys;
        let mut seen = self.begin_keys().await?;
        let (mut after, mut done) = (None, 0);
        loop {
            self.job.tell(ImportStage::Keys, done, counts.keys.max(done));
            let page = self.source.keys(after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id.clone());
            done += page.len() as u64;
            self.import_page(page, &mut seen).await?;
        }
        self.report.keys.refused += self.unread("keys", counts.keys, done);
        let unread = self.unread("key_versions", counts.versions, seen.versions_read);
        self.report.versions.total += unread;
        self.report.versions.refused += unread;
        self.disable_missing().await
    }

    async fn begin_keys(&mut self) -> Result<KeysSeen> {
        let repeated_keys = self.source.repeated(Table::Keys).await?;
        let repeated_versions = self.source.repeated(Table::Versions).await?;
        let snapshot = self.session.shared().catalog.snapshot();
        let version_ids = snapshot.versions().map(|version| (version.id, (version.key_id, version.version))).collect();
        Ok(KeysSeen { repeated_keys, repeated_versions, version_ids, ..KeysSeen::default() })
    }

    /// The number of rows of a table that were not read; reports a finding if there are any.
    pub(super) fn unread(&mut self, table: &str, counted: u64, read: u64) -> u64 {
        if counted != read {
            let text = format!(
                "the source counts {counted} rows in {table}, but {read} were read: rows have the same id, belong to \
                 no key, or the table has no snapshots; correct the source and import again"
            );
            self.report.note(ImportFindingKind::SourceIncomplete, table, text);
        }
        // Reading more rows than counted also means that there was no snapshot.
        counted.abs_diff(read)
    }

    async fn import_page(&mut self, page: Vec<SourceKey>, seen: &mut KeysSeen) -> Result<()> {
        let mut parts = Vec::new();
        for row in page {
            let (mut after, mut is_first, mut is_early) = (0, true, false);
            let mut numbers = HashSet::new();
            if seen.repeated_keys.has(&row.id) {
                if seen.repeated_read.has(&row.id) {
                    // Its versions came with the first row of this id.
                    parts.push(self.part(row, Vec::new(), is_first, seen));
                    continue;
                }
                seen.repeated_read.add(Table::Keys, &row.id, 0)?;
            }
            loop {
                let mut versions = self.source.versions(&row.id, after, VERSIONS).await?;
                let is_last = versions.len() < VERSIONS;
                seen.versions_read += versions.len() as u64;
                after = versions.last().map_or(after, |version| version.version);
                numbers.extend(versions.iter().map(|version| version.version));
                if !is_first && is_early {
                    versions.retain(|version| version.version != row.current_version);
                }
                // A key cannot be here without its current version.
                if is_first && !numbers.contains(&row.current_version) {
                    versions.extend(self.source.version(&row.id, row.current_version).await?);
                    is_early = true;
                }
                parts.push(self.part(row.clone(), versions, is_first, seen));
                is_first = false;
                if is_last {
                    break;
                }
                // Parts of one key are not processed concurrently.
                self.import_parts(std::mem::take(&mut parts), seen).await?;
            }
            self.note_missing_versions(&row, &numbers);
            if parts.len() >= AT_ONCE {
                self.import_parts(std::mem::take(&mut parts), seen).await?;
            }
        }
        self.import_parts(parts, seen).await
    }

    /// A part, with its name and its ambiguous rows, which depend on all other rows.
    fn part(&self, row: SourceKey, versions: Vec<SourceVersion>, is_first: bool, seen: &mut KeysSeen) -> Part {
        let repeated = || Error::new(ErrorCode::Conflict, "several rows of the source have this id");
        let refusal = seen.repeated_keys.has(&row.id).then(repeated);
        let mut refused = HashMap::new();
        let key = row.id.parse::<KeyId>();
        for version in &versions {
            if seen.repeated_versions.has_version(&row.id, version.version) {
                let text = "several rows of the source have this number";
                refused.insert(version.version, Error::new(ErrorCode::Conflict, text));
            } else if let (Ok(key), Ok(id), Ok(number)) =
                (&key, version.id.parse::<VersionId>(), u32::try_from(version.version))
                && *seen.version_ids.entry(id).or_insert((*key, number)) != (*key, number)
            {
                let text = "another version, here or in the source, has this id";
                refused.insert(version.version, Error::new(ErrorCode::Conflict, text));
            }
        }
        let name = self.choose_name(&row, seen);
        Part { row, versions, is_first, name, refusal, refused }
    }

    /// The name of a key here, and the reason if it differs from the source's: its existing name, or one that no other
    /// key has.
    fn choose_name(&self, row: &SourceKey, seen: &mut KeysSeen) -> (String, Option<String>) {
        // A key without a valid id is refused whatever its name is.
        let Ok(id) = row.id.parse::<KeyId>() else { return (row.name.clone(), None) };
        let snapshot = self.session.shared().catalog.snapshot();
        let view = self.view(&snapshot);
        if let Some(present) = view.key(id) {
            return (present.name.clone(), None);
        }
        let is_reserved = |name: &str| seen.names.get(name).is_some_and(|other| *other != row.id);
        let (name, why) = name_of(row, |name| is_reserved(name) || view.key_by_name(name).is_some());
        seen.names.insert(name.clone(), row.id.clone());
        (name, why)
    }

    async fn import_parts(&mut self, parts: Vec<Part>, seen: &mut KeysSeen) -> Result<()> {
        let this = &*self;
        let work: Vec<_> = parts.iter().map(|part| this.import_part(part)).collect();
        let done: Vec<std::result::Result<Done, Failure>> =
            futures_util::stream::iter(work).buffered(AT_ONCE).collect().await;
        let mut outage = Ok(());
        for (part, done) in parts.iter().zip(done) {
            match done {
                Ok(done) => self.count(part, done, seen),
                Err(Failure::Run(error)) => outage = Err(error),
                Err(Failure::Rows(error)) => self.refuse_part(part, &error).await?,
            }
        }
        outage
    }

    /// Counts a refused part, and applies its revocations and disabling here.
    async fn refuse_part(&mut self, part: &Part, error: &Error) -> Result<()> {
        self.refused_keys.extend(part.row.id.parse::<KeyId>());
        if part.is_first {
            self.report.keys.refused += 1;
        }
        self.report.versions.total += part.versions.len() as u64;
        self.report.versions.refused += part.versions.len() as u64;
        self.report.refuse(ImportFindingKind::KeyRefused, &part.row.id, None, error);
        match self.restrict(part).await {
            Ok(changes) if changes.is_empty() => {}
            Ok(changes) => {
                self.plan(&changes);
                let text = "its revocations and disabling at the source were applied here";
                self.report.note(ImportFindingKind::KeyChanged, &part.row.id, text);
            }
            Err(error) if is_outage(&error) => return Err(error),
            Err(error) => self.report.refuse(ImportFindingKind::KeyRefused, &part.row.id, None, &error),
        }
        Ok(())
    }

    fn count(&mut self, part: &Part, done: Done, seen: &mut KeysSeen) {
        let id = &part.row.id;
        self.plan(&done.changes);
        let (keys, versions) = (&mut self.report.keys, &mut self.report.versions);
        let is_refused = |number: u32| done.refused.iter().any(|(refused, _)| *refused == i64::from(number));
        let mut is_counted = false;
        let before = (versions.imported, versions.updated);
        let mut restricted = HashSet::new();
        for change in &done.changes {
            match change {
                Change::InsertKey(_) => (keys.imported, is_counted) = (keys.imported + 1, true),
                Change::UpdateKey(_) if part.is_first => (keys.updated, is_counted) = (keys.updated + 1, true),
                Change::InsertVersion(..) => versions.imported += 1,
                Change::UpdateVersion(version) if is_refused(version.version) => {
                    let is_revoked = version.state == VersionState::Revoked;
                    restricted.extend(is_revoked.then_some(i64::from(version.version)));
                }
                Change::UpdateVersion(_) => versions.updated += 1,
                _ => {}
            }
        }
        let changed = versions.imported + versions.updated - before.0 - before.1;
        let refused = done.refused.len() as u64;
        versions.total += done.versions;
        versions.refused += refused;
        versions.unchanged += done.versions.saturating_sub(changed + refused);
        keys.unchanged += u64::from(part.is_first && !is_counted);
        if let Some((name, why)) = done.renamed {
            let text = format!("{:?} is called {name:?} here: {why}", part.row.name);
            self.report.note(ImportFindingKind::KeyRenamed, id, text);
        }
        for text in done.changed.iter().filter(|_| part.is_first) {
            self.report.note(ImportFindingKind::KeyChanged, id, text.as_str());
        }
        for (number, text) in &done.versions_changed {
            self.report.note_version(ImportFindingKind::KeyChanged, id, *number, text.as_str());
        }
        for (number, error) in &done.refused {
            self.report.refuse(ImportFindingKind::KeyRefused, id, Some(*number), error);
            if restricted.contains(number) {
                let text = "the version is revoked at the source, so it was revoked here";
                self.report.note_version(ImportFindingKind::KeyChanged, id, *number, text);
            }
        }
        self.note_repeated_material(id, &done.materials, seen);
    }

    /// Reports versions with the same material as another one: they protect less than they seem to.
    fn note_repeated_material(&mut self, id: &str, materials: &[(i64, [u8; 32])], seen: &mut KeysSeen) {
        for (number, digest) in materials {
            let (key, first) = seen.materials.entry(*digest).or_insert_with(|| (id.to_owned(), *number));
            if (key.as_str(), *first) != (id, *number) {
                let text = format!("the version has the same material as version {first} of key {key}");
                self.report.note_version(ImportFindingKind::MaterialRepeated, id, *number, text);
            }
        }
    }
}

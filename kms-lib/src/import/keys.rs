//! Keys with their versions.

use std::collections::HashSet;

use futures_util::StreamExt;

use super::mapping::{key_of, name_of, version_of};
use super::material::{Of, OpenedMaterial};
use super::report::{ImportFindingKind, ImportStage};
use super::run::Run;
use super::source::{SourceKey, SourceVersion};
use crate::envelope::{Binding, fingerprint};
use crate::ledger::Details;
use crate::lifecycle::{self, Command, ImportedKey, ImportedMaterial, ImportedVersion};
use crate::types::audit::Action;
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::key::{Key, KeyState, Material};
use crate::types::view::CatalogView;

/// Keys that are read at once.
const PAGE: usize = 100;
/// Versions of a key that are read, and written with one record, at once.
const VERSIONS: usize = 100;
/// Keys that are worked on at the same time: a remote root key takes a moment for each.
const AT_ONCE: usize = 8;
/// How often a key is wrapped again because the root keys changed meanwhile.
const TRIES: usize = 4;

/// A key of the source with some of its versions.
struct Part {
    row: SourceKey,
    versions: Vec<SourceVersion>,
    /// Versions that it has; with its first part only.
    is_first: bool,
}

/// What became of a part.
#[derive(Default)]
struct Done {
    changes: Vec<Change>,
    versions: u64,
    changed: Vec<String>,
    renamed: Option<(String, String)>,
    refused: Vec<(i64, Error)>,
}

impl Run<'_> {
    /// Brings every key here, page by page.
    pub(super) async fn import_keys(&mut self) -> Result<()> {
        let total = self.source.key_count().await?;
        self.report.keys.total = total;
        let (mut after, mut done) = (None, 0);
        loop {
            self.job.tell(ImportStage::Keys, done, total);
            let page = self.source.keys(after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id.clone());
            done += page.len() as u64;
            self.import_page(page).await?;
        }
    }

    async fn import_page(&mut self, page: Vec<SourceKey>) -> Result<()> {
        let mut parts = Vec::new();
        for row in page {
            let mut after = 0;
            let mut is_first = true;
            loop {
                let mut versions = self.source.versions(&row.id, after, VERSIONS).await?;
                let is_last = versions.len() < VERSIONS;
                after = versions.last().map_or(after, |version| version.version);
                let has_current = versions.iter().any(|version| version.version == row.current_version);
                // A key cannot be here without its current version.
                if is_first && !has_current {
                    versions.extend(self.source.version(&row.id, row.current_version).await?);
                }
                parts.push(Part { row: row.clone(), versions, is_first });
                is_first = false;
                if is_last {
                    break;
                }
                // What belongs to one key is not done at the same time.
                self.import_parts(std::mem::take(&mut parts)).await?;
            }
            if parts.len() >= AT_ONCE {
                self.import_parts(std::mem::take(&mut parts)).await?;
            }
        }
        self.import_parts(parts).await
    }

    async fn import_parts(&mut self, parts: Vec<Part>) -> Result<()> {
        let this = &*self;
        let work: Vec<_> = parts.iter().map(|part| this.import_part(part)).collect();
        let done: Vec<Result<Done>> = futures_util::stream::iter(work).buffered(AT_ONCE).collect().await;
        let mut outage = Ok(());
        // Revocation wins, also where the rest of a row cannot be taken.
        for (part, _) in parts.iter().zip(&done).filter(|(_, done)| done.as_ref().is_err_and(|e| !is_outage(e))) {
            this.restrict(&part.row).await?;
        }
        for (part, done) in parts.iter().zip(done) {
            match done {
                Ok(done) => self.count(part, done),
                Err(error) if is_outage(&error) => outage = Err(error),
                Err(error) => {
                    if part.is_first {
                        self.report.keys.refused += 1;
                    }
                    self.report.versions.total += part.versions.len() as u64;
                    self.report.versions.refused += part.versions.len() as u64;
                    self.report.refuse(ImportFindingKind::KeyRefused, &part.row.id, None, &error);
                }
            }
        }
        outage
    }

    fn count(&mut self, part: &Part, done: Done) {
        let id = &part.row.id;
        if self.job.dry_run {
            self.plan(&done.changes);
        }
        let (keys, versions) = (&mut self.report.keys, &mut self.report.versions);
        let mut is_counted = false;
        let before = (versions.imported, versions.updated);
        for change in &done.changes {
            match change {
                Change::InsertKey(_) => (keys.imported, is_counted) = (keys.imported + 1, true),
                Change::UpdateKey(_) if part.is_first => (keys.updated, is_counted) = (keys.updated + 1, true),
                Change::InsertVersion(..) => versions.imported += 1,
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
        if part.is_first {
            for text in done.changed {
                self.report.note(ImportFindingKind::KeyChanged, id, text);
            }
        }
        for (version, error) in done.refused {
            self.report.refuse(ImportFindingKind::KeyRefused, id, Some(version), &error);
        }
    }

    /// Keeps what a dry run would write of keys and their current versions.
    fn plan(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::InsertKey(key) | Change::UpdateKey(key) => {
                    let current = self.planned.remove(&key.id).and_then(|(_, current)| current);
                    let current = current.filter(|version| version.version == key.current_version);
                    self.planned.insert(key.id, (key.clone(), current));
                }
                Change::InsertVersion(version, _) | Change::UpdateVersion(version) => {
                    let Some((key, current)) = self.planned.get_mut(&version.key_id) else { continue };
                    if key.current_version == version.version {
                        *current = Some(version.clone());
                    }
                }
                _ => {}
            }
        }
    }

    async fn import_part(&self, part: &Part) -> Result<Done> {
        let (mut key, changed) = key_of(&part.row, &self.job.name)?;
        let mut done = Done { changed, versions: part.versions.len() as u64, ..Done::default() };
        if self.is_finished(&key)? {
            return Ok(done);
        }
        let mut opened = Vec::new();
        for row in &part.versions {
            match self.prepare(&key, row).await {
                Ok((version, material)) => {
                    if has_other_public_key(row, &version) {
                        let text =
                            "the public key beside the private key is another one; that of the private key is taken";
                        done.changed.push(format!("version {}: {text}", row.version));
                    }
                    key.versions.push(version);
                    opened.extend(material);
                }
                Err(error) if is_outage(&error) => return Err(error),
                Err(error) if row.version == part.row.current_version => {
                    return Err(error.clone().with_message(format!("the current version: {}", error.message())));
                }
                Err(error) => done.refused.push((row.version, error)),
            }
        }
        done.renamed = self.choose_name(&part.row, &mut key);
        done.changes = self.preview(&Command::ImportKey(Box::new(key.clone())))?;
        if !done.changes.is_empty() && !self.job.dry_run {
            done.changes = self.commit_key(key, &opened).await?;
        }
        Ok(done)
    }

    /// Carries over that a key is revoked or disabled at the source, and nothing else.
    async fn restrict(&self, row: &SourceKey) -> Result<()> {
        let Ok(id) = row.id.parse::<KeyId>() else { return Ok(()) };
        let Some(key) = self.session.shared().catalog.snapshot().key(id).cloned() else { return Ok(()) };
        let is_held = key.import.as_ref().is_some_and(|it| it.source == self.job.name && !it.is_final);
        let state = match (row.state.as_str(), key.state) {
            _ if !is_held || self.job.dry_run => return Ok(()),
            ("REVOKED", KeyState::Enabled | KeyState::Disabled) => KeyState::Revoked,
            ("DISABLED", KeyState::Enabled) => KeyState::Disabled,
            _ => return Ok(()),
        };
        let restricted = ImportedKey {
            source: self.job.name.clone(),
            id,
            name: key.name,
            key_type: key.key_type,
            purpose: key.purpose,
            state,
            rotation_period_days: key.rotation_period_days,
            grace_period_days: key.grace_period_days,
            metadata: key.metadata,
            created_at: key.created_at,
            current_version: key.current_version,
            versions: Vec::new(),
        };
        self.commit_key(restricted, &[]).await.map(drop)
    }

    /// Whether the import of a key has ended, so that its source is not looked at any more. An error if a key of its id
    /// is here and not of this import.
    fn is_finished(&self, key: &ImportedKey) -> Result<bool> {
        let snapshot = self.session.shared().catalog.snapshot();
        let Some(present) = snapshot.key(key.id) else { return Ok(false) };
        match &present.import {
            Some(import) if import.source == key.source => Ok(import.is_final),
            _ => Err(Error::new(
                ErrorCode::Conflict,
                "a key with this id is here already and did not come from this source; it was left as it is",
            )),
        }
    }

    /// The name of a key that is new here, if it cannot be its own: it, and why.
    fn choose_name(&self, row: &SourceKey, key: &mut ImportedKey) -> Option<(String, String)> {
        let snapshot = self.session.shared().catalog.snapshot();
        if let Some(present) = snapshot.key(key.id) {
            key.name.clone_from(&present.name);
            return None;
        }
        let (name, why) = name_of(row, |name| snapshot.key_by_name(name).is_some());
        key.name.clone_from(&name);
        why.map(|why| (name, why))
    }

    /// A version, and its material if it is not here yet.
    async fn prepare(
        &self,
        key: &ImportedKey,
        row: &SourceVersion,
    ) -> Result<(ImportedVersion, Option<(u32, OpenedMaterial)>)> {
        let mut version = version_of(row)?;
        let number = version.version;
        if self.session.shared().catalog.snapshot().version(key.id, number).is_some() {
            return Ok((version, None));
        }
        let of = Of { key: key.id, key_type: key.key_type, version: number };
        let opened = self.opener.open(of, row).await?;
        version.new = Some(ImportedMaterial {
            material: Material { wrapped: Vec::new(), public_key_pem: opened.public_key_pem.clone() },
            fingerprint: fingerprint(key.id, number, key.key_type, &opened.secret)?,
        });
        Ok((version, Some((number, opened))))
    }

    /// The rows that a command would change as things stand.
    pub(super) fn preview(&self, command: &Command) -> Result<Vec<Change>> {
        let shared = self.session.shared();
        let snapshot = shared.catalog.snapshot();
        let (now, revision) = (shared.clock.now(), snapshot.revision());
        lifecycle::apply(
            command,
            &lifecycle::Context {
                view: &*snapshot,
                now,
                revision,
                default_grace_days: None,
                versions_max: u32::MAX,
                grantor: None,
            },
        )
    }

    /// Wraps what is new, and commits the key. Root keys that change meanwhile are wrapped under anew.
    async fn commit_key(&self, mut key: ImportedKey, opened: &[(u32, OpenedMaterial)]) -> Result<Vec<Change>> {
        let mut failure = None;
        for _ in 0..TRIES {
            self.wrap(&mut key, opened).await?;
            let mut details = Details::default();
            details.text("source", &key.source).text("name", &key.name).text("type", key.key_type.as_str());
            details.number("versions", key.versions.len() as u64);
            let intent = self.intent(Action::KeyImport, details);
            match self.session.change(intent, Command::ImportKey(Box::new(key.clone()))).await {
                Ok((changes, _)) => return Ok(changes),
                Err(error) if error.code() == ErrorCode::StoreContended => failure = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(failure.unwrap_or_else(|| Error::new(ErrorCode::StoreContended, "the root keys changed each time")))
    }

    async fn wrap(&self, key: &mut ImportedKey, opened: &[(u32, OpenedMaterial)]) -> Result<()> {
        for version in &mut key.versions {
            let Some(new) = &mut version.new else { continue };
            let found = opened.iter().find(|(number, _)| *number == version.version);
            let (_, material) = found.ok_or_else(|| Error::new(ErrorCode::Internal, "material without its version"))?;
            let binding = Binding::Version { key: key.id, version: version.version, key_type: key.key_type };
            new.material.wrapped = self.session.shared().envelope.wrap(&binding, &material.secret).await?;
        }
        Ok(())
    }

    /// Refuses a source that has none of the keys that were imported under its name. Notes those that are not in it any
    /// more: nothing is done about them, because the original cannot delete keys.
    pub(super) async fn look_for_missing(&mut self) -> Result<()> {
        let mut seen: HashSet<KeyId> = HashSet::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.source.keys(after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id.clone());
            seen.extend(page.iter().filter_map(|key| key.id.parse::<KeyId>().ok()));
        }
        let held = self.held_keys();
        if !held.is_empty() && held.iter().all(|(id, _)| !seen.contains(id)) {
            let text = format!(
                "the source has none of the {} keys that were imported from {:?} before: it is another one; give it a \
                 name of its own",
                held.len(),
                self.job.name
            );
            return Err(Error::new(ErrorCode::Conflict, text));
        }
        for (id, name) in held.into_iter().filter(|(id, _)| !seen.contains(id)) {
            let text = format!("the key {name:?} was imported before and is not in the source any more; it is kept");
            self.report.note(ImportFindingKind::KeyMissing, &id.to_string(), text);
        }
        Ok(())
    }

    /// The keys of this import that are not finalised, by id and name.
    pub(super) fn held_keys(&self) -> Vec<(KeyId, String)> {
        let snapshot = self.session.shared().catalog.snapshot();
        let is_held =
            |key: &&Key| key.import.as_ref().is_some_and(|import| import.source == self.job.name && !import.is_final);
        snapshot.keys_by_name(None).filter(is_held).map(|key| (key.id, key.name.clone())).collect()
    }
}

/// Whether the source has another public key than the private key gives.
fn has_other_public_key(row: &SourceVersion, version: &ImportedVersion) -> bool {
    let made = version.new.as_ref().and_then(|new| new.material.public_key_pem.as_deref());
    let (Some(made), Some(stored)) = (made, row.public_key_pem.as_deref()) else { return false };
    let lines = |pem: &str| pem.lines().map(|line| line.trim().to_owned()).collect::<String>();
    lines(made) != lines(stored)
}

/// Whether it is the store or the root key service that fails, and not one key.
pub(super) fn is_outage(error: &Error) -> bool {
    error.is_retryable()
        || matches!(
            error.code(),
            ErrorCode::Closed
                | ErrorCode::StoreReadOnly
                | ErrorCode::StoreCorrupt
                | ErrorCode::InvalidRootKey
                | ErrorCode::AccessDenied
                | ErrorCode::NotAuthenticated
                | ErrorCode::OutcomeUnknown
        )
}

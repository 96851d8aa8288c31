//! The end of a run: if requested, keys get a version that encrypts and signs, and the import is finalized.

use super::report::{ImportFindingKind, ImportStage};
use super::run::Run;
use crate::ledger::Details;
use crate::lifecycle::{Command, ImportFinalization, ImportRotation, next_version};
use crate::types::audit::Action;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::key::{Key, KeyPurpose, KeyState, KeyType, KeyVersion, Origin, VersionState};
use crate::types::view::CatalogView;

/// The number of keys that are finalized with one record.
const PAGE: usize = 100;
/// The number of version numbers that are left free for rotations at the source. They are left even by a run that is to
/// finalize the import: if it is killed before that, the source may rotate before the next run.
const LEFT_TO_SOURCE: u32 = 1_000;

/// A key that is due for rotation.
struct Due {
    id: KeyId,
    key_type: KeyType,
    current: u32,
}

impl Run<'_> {
    pub(super) async fn finish(&mut self) -> Result<()> {
        if self.job.finalize && !self.job.allow_incomplete && !self.report.is_complete() {
            let text = "the import is not finalized: keys, versions, grants or rows of the log were refused; see the \
                        report of a run without finalize, and correct the source, or allow an incomplete import if \
                        this store does not need them";
            return Err(Error::new(ErrorCode::WrongState, text));
        }
        let (due, not_rotated) = self.keys_to_rotate();
        self.report.keys_to_rotate = due.len() as u64;
        if self.job.rotate {
            for (id, why) in not_rotated {
                self.report.note(ImportFindingKind::KeyNotRotated, &id.to_string(), why);
            }
            let total = due.len() as u64;
            for (n, due) in due.into_iter().enumerate() {
                self.job.tell(ImportStage::Finish, n as u64, total);
                if !self.job.dry_run {
                    self.rotate(&due).await?;
                }
                self.report.keys_rotated += 1;
                self.report.keys_to_rotate -= 1;
            }
            self.job.tell(ImportStage::Finish, total, total);
        }
        if self.job.finalize && !self.job.dry_run {
            self.finalize().await?;
        }
        self.report.finalized = self.job.finalize;
        Ok(())
    }

    /// The keys of this import that are not finalized, each with its current version; in a dry run as planned.
    fn held_with_versions(&self) -> Vec<(Key, KeyVersion)> {
        let snapshot = self.session.shared().catalog.snapshot();
        let view = self.view(&snapshot);
        let here = snapshot.keys_by_name(None).filter(|key| self.is_held(key) && !self.planned.has_key(key.id));
        let with_current = |key: &Key| view.current_version(key).map(|current| (key.clone(), current.clone()));
        let mut all: Vec<(Key, KeyVersion)> = here.chain(self.planned.keys()).filter_map(with_current).collect();
        all.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        all
    }

    /// The keys whose current version is an imported one that would encrypt or sign; and those that an import does not
    /// rotate, with the reason.
    fn keys_to_rotate(&self) -> (Vec<Due>, Vec<(KeyId, String)>) {
        let (mut due, mut others) = (Vec::new(), Vec::new());
        for (key, version) in self.held_with_versions() {
            if version.origin != Origin::Imported {
                continue;
            }
            let why = match (key.state, version.state) {
                _ if key.key_type == KeyType::Aes256Gcm && key.purpose == KeyPurpose::Signing => {
                    "an AES256_GCM key with the purpose SIGNING can only decrypt what it encrypted"
                }
                (KeyState::Enabled, VersionState::Enabled) => {
                    due.push(Due { id: key.id, key_type: key.key_type, current: key.current_version });
                    continue;
                }
                (KeyState::Revoked, _) => "the key is revoked",
                (_, VersionState::Revoked) => "its current version is revoked; rotate it to use it again",
                _ => "the key or its current version is disabled",
            };
            others.push((key.id, why.to_owned()));
        }
        (due, others)
    }

    async fn rotate(&self, due: &Due) -> Result<()> {
        let number = {
            let snapshot = self.session.shared().catalog.snapshot();
            let least = due.current.saturating_add(LEFT_TO_SOURCE);
            next_version(least, |number| snapshot.version(due.id, number)).ok_or_else(|| {
                Error::new(ErrorCode::LimitExceeded, "no version number is left for the key; use another key")
            })?
        };
        let made = self.session.generate(due.key_type).await?;
        let new = self.session.wrap(due.id, number, due.key_type, &made).await?;
        let rotation = ImportRotation { run: self.run.clone(), key: due.id, new };
        let mut intent = self.intent(Action::KeyRotate, Details::default());
        intent.version = Some(number);
        self.session.change(intent, Command::RotateImported(Box::new(rotation))).await.map(drop)
    }

    async fn finalize(&mut self) -> Result<()> {
        let held: Vec<KeyId> = {
            let snapshot = self.session.shared().catalog.snapshot();
            snapshot.keys_by_name(None).filter(|key| self.is_held(key)).map(|key| key.id).collect()
        };
        let mut pages = held.chunks(PAGE);
        let mut done = 0;
        loop {
            self.job.tell(ImportStage::Finish, done, held.len() as u64);
            // Also without keys: the import of a log alone is finalized too.
            let page = pages.next().unwrap_or_default();
            done += page.len() as u64;
            let is_last = done == held.len() as u64;
            let mut details = Details::default();
            details.number("keys", page.len() as u64);
            let intent = self.intent(Action::ImportFinalize, details);
            let end = ImportFinalization { run: self.run.clone(), keys: page.to_vec(), is_last };
            self.session.change(intent, Command::FinalizeImport(end)).await?;
            if is_last {
                self.job.tell(ImportStage::Finish, done, done);
                return Ok(());
            }
        }
    }
}

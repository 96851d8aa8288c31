//! The end of a run: keys get a version that encrypts and signs, and the import is finalised, if that was asked for.

use super::report::{ImportFindingKind, ImportStage};
use super::run::Run;
use crate::ledger::Details;
use crate::lifecycle::{Command, ImportRotation};
use crate::types::audit::Action;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::key::{Key, KeyPurpose, KeyState, KeyType, KeyVersion, Origin, VersionState};
use crate::types::view::CatalogView;

/// Keys that are finalised with one record.
const PAGE: usize = 100;
/// Version numbers that are left to the source for its own rotations, while it goes on.
const LEFT_TO_SOURCE: u32 = 1_000;

/// What a rotation needs to know of a key.
struct Due {
    id: KeyId,
    key_type: KeyType,
    current: u32,
}

impl Run<'_> {
    pub(super) async fn finish(&mut self) -> Result<()> {
        if self.job.finalise && !self.report.is_complete() {
            let text = "the import is not finalised: keys or versions were refused; see the report of a dry run, and \
                        correct the source";
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
        }
        if self.job.finalise && !self.job.dry_run {
            self.finalise().await?;
        }
        self.report.finalised = self.job.finalise;
        Ok(())
    }

    /// The keys of this import that are not finalised, each with its current version; in a dry run as they would be.
    fn held_with_versions(&self) -> Vec<(Key, KeyVersion)> {
        let snapshot = self.session.shared().catalog.snapshot();
        let is_held =
            |key: &&Key| key.import.as_ref().is_some_and(|import| import.source == self.job.name && !import.is_final);
        let here = snapshot.keys_by_name(None).filter(is_held).filter(|key| !self.planned.contains_key(&key.id));
        let planned = self.planned.values().map(|(key, current)| (key, current.as_ref()));
        let mut all: Vec<(Key, KeyVersion)> = here
            .map(|key| (key, None))
            .chain(planned)
            .filter_map(|(key, current)| {
                let current = current.or_else(|| snapshot.version(key.id, key.current_version));
                current.map(|current| (key.clone(), current.clone()))
            })
            .collect();
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
        let gap = if self.job.finalise { 0 } else { LEFT_TO_SOURCE };
        let number = due.current.saturating_add(1).saturating_add(gap);
        let made = self.session.generate(due.key_type).await?;
        let new = self.session.wrap(due.id, number, due.key_type, &made).await?;
        let rotation = ImportRotation { source: self.job.name.clone(), key: due.id, new, finalise: self.job.finalise };
        let mut intent = self.intent(Action::KeyRotate, Details::default());
        intent.version = Some(number);
        self.session.change(intent, Command::RotateImported(Box::new(rotation))).await.map(drop)
    }

    async fn finalise(&mut self) -> Result<()> {
        let held: Vec<KeyId> = self.held_keys().into_iter().map(|(id, _)| id).collect();
        for (n, page) in held.chunks(PAGE).enumerate() {
            self.job.tell(ImportStage::Finish, (n * PAGE) as u64, held.len() as u64);
            let mut details = Details::default();
            details.number("keys", page.len() as u64);
            let intent = self.intent(Action::ImportFinalise, details);
            let command = Command::FinaliseImport(self.job.name.clone(), page.to_vec());
            self.session.change(intent, command).await?;
        }
        Ok(())
    }
}

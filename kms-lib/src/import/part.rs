//! A key with some of its versions: its material is unwrapped and wrapped again, and its rows follow the source.

use std::collections::HashMap;

use super::mapping::{key_of, version_of};
use super::material::{Of, OpenedMaterial};
use super::planned::PlannedView;
use super::run::{Run, is_outage};
use super::source::{SourceKey, SourceVersion};
use crate::catalog::Snapshot;
use crate::envelope::{Binding, fingerprint};
use crate::ledger::Details;
use crate::lifecycle::{self, Command, ImportedKey, ImportedMaterial, ImportedVersion};
use crate::types::audit::Action;
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::key::{KeyVersion, Material, Origin};
use crate::types::view::CatalogView;

/// How often a key is wrapped again because the root keys changed in the meantime.
const TRIES: usize = 4;

/// A key of the source with some of its versions.
pub(super) struct Part {
    pub row: SourceKey,
    pub versions: Vec<SourceVersion>,
    /// Whether these are the first versions read of the key.
    pub is_first: bool,
    /// The name of the key here, and the reason if it differs from the source's.
    pub name: (String, Option<String>),
    /// The error for which the whole key is refused.
    pub refusal: Option<Error>,
    /// The errors for which versions are refused, by version number.
    pub refused: HashMap<i64, Error>,
}

/// The result of importing a part.
#[derive(Default)]
pub(super) struct Done {
    pub changes: Vec<Change>,
    pub versions: u64,
    pub changed: Vec<String>,
    pub versions_changed: Vec<(i64, String)>,
    pub renamed: Option<(String, String)>,
    pub refused: Vec<(i64, Error)>,
    /// The material of versions, hashed with the salt of the run.
    pub materials: Vec<(i64, [u8; 32])>,
}

/// The failure of a part.
pub(super) enum Failure {
    /// The failure ends the run: this store, or the service, cannot continue.
    Run(Error),
    /// The failure concerns these rows only, and the run continues with others.
    Rows(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        if is_outage(&error) { Self::Run(error) } else { Self::Rows(error) }
    }
}

/// A version that is ready to be written.
struct Prepared {
    version: ImportedVersion,
    /// The version's material, if it is not stored here yet.
    opened: Option<OpenedMaterial>,
    /// The material's hash, if it was opened.
    digest: Option<[u8; 32]>,
    /// A remark if the version was not imported unchanged.
    changed: Option<&'static str>,
    /// Why its material is not taken, although the rest of its row is.
    refused: Option<Error>,
}

impl Run<'_> {
    pub(super) async fn import_part(&self, part: &Part) -> std::result::Result<Done, Failure> {
        if let Some(refusal) = &part.refusal {
            return Err(Failure::Rows(refusal.clone()));
        }
        let (mut key, changed) = key_of(&part.row, &self.run)?;
        let mut done = Done { changed, versions: part.versions.len() as u64, ..Done::default() };
        if self.is_final(&key)? {
            return self.restrict_final(&key, part, done).await;
        }
        let mut opened = Vec::new();
        for row in &part.versions {
            let number = row.version;
            match self.prepare(&key, part, row).await {
                Ok(prepared) => {
                    done.refused.extend(prepared.refused.map(|error| (number, error)));
                    done.versions_changed.extend(prepared.changed.map(|text| (number, text.to_owned())));
                    done.materials.extend(prepared.digest.map(|digest| (number, digest)));
                    opened.extend(prepared.opened.map(|material| (prepared.version.version, material)));
                    key.versions.push(prepared.version);
                }
                Err(Failure::Run(error)) => return Err(Failure::Run(error)),
                Err(Failure::Rows(error)) if number == part.row.current_version => {
                    let text = format!("the current version: {}", error.message());
                    return Err(Failure::Rows(error.with_message(text)));
                }
                Err(Failure::Rows(error)) => {
                    key.versions.extend(self.revoked(key.id, row));
                    done.refused.push((number, error));
                }
            }
        }
        key.name.clone_from(&part.name.0);
        done.renamed = part.name.1.clone().map(|why| (key.name.clone(), why)).filter(|_| part.is_first);
        done.changes = self.preview(&Command::ImportKey(Box::new(key.clone())))?;
        if !done.changes.is_empty() && !self.job.dry_run {
            done.changes = self.commit_key(key, &opened).await?;
        }
        Ok(done)
    }

    /// Whether a key is this store's own already, because a run was interrupted while it finalized the import. Fails
    /// with `Conflict` if a key with this id exists here that is not of this import.
    fn is_final(&self, key: &ImportedKey) -> Result<bool> {
        let snapshot = self.session.shared().catalog.snapshot();
        let Some(present) = snapshot.key(key.id) else { return Ok(false) };
        match &present.import {
            Some(import) if import.source == key.run.source => Ok(import.is_final),
            _ => Err(Error::new(
                ErrorCode::Conflict,
                "a key with this id exists here and did not come from this source; it was not changed",
            )),
        }
    }

    /// Imports revocations and disabling of a key that is this store's own already, and versions that were added at the
    /// source afterwards, so that their ciphertexts stay readable. Reports that nothing else is imported.
    async fn restrict_final(
        &self,
        key: &ImportedKey,
        part: &Part,
        mut done: Done,
    ) -> std::result::Result<Done, Failure> {
        let text = "the key belongs to this store already, because a run was interrupted while it finalized the \
                    import; only revocations, disabling, and versions for decrypting and verifying are still \
                    imported";
        done.changed = vec![text.to_owned()];
        let (mut versions, mut opened) = (Vec::new(), Vec::new());
        for row in &part.versions {
            if self.is_late(key.id, row) {
                let text = "the version was added at the source after the key had become this store's own, and its \
                            number is not free here; decrypt its ciphertexts with the original, or import into a new \
                            store";
                done.refused.push((row.version, Error::new(ErrorCode::Conflict, text)));
                continue;
            }
            match self.prepare(key, part, row).await {
                Ok(Prepared { version, opened: Some(material), digest, .. }) => {
                    let text =
                        "the version was added at the source afterwards; it is imported only to decrypt and verify";
                    done.versions_changed.push((row.version, text.to_owned()));
                    done.materials.extend(digest.map(|digest| (row.version, digest)));
                    opened.push((version.version, material));
                    versions.push(version);
                }
                Ok(prepared) => {
                    done.refused.extend(prepared.refused.map(|error| (row.version, error)));
                    versions.extend(self.revoked(key.id, row));
                }
                Err(Failure::Run(error)) => return Err(Failure::Run(error)),
                Err(Failure::Rows(error)) => {
                    versions.extend(self.revoked(key.id, row));
                    done.refused.push((row.version, error));
                }
            }
        }
        done.changes = self.restrict_as_source(key.id, &part.row.state, versions, &opened).await?;
        Ok(done)
    }

    /// Whether a version that is missing here can no longer be added: its number is one that the key gives to its own
    /// later versions, or the key's material is erased.
    fn is_late(&self, id: KeyId, row: &SourceVersion) -> bool {
        let snapshot = self.session.shared().catalog.snapshot();
        let is_here = u32::try_from(row.version).is_ok_and(|number| snapshot.version(id, number).is_some());
        let has_place =
            snapshot.key(id).is_some_and(|key| !key.is_erased() && row.version < i64::from(key.current_version));
        !is_here && !has_place
    }

    /// A version, and its material if it is not here yet.
    async fn prepare(
        &self,
        key: &ImportedKey,
        part: &Part,
        row: &SourceVersion,
    ) -> std::result::Result<Prepared, Failure> {
        if let Some(refused) = part.refused.get(&row.version) {
            return Err(Failure::Rows(refused.clone()));
        }
        let version = version_of(row)?;
        let of = Of { key: key.id, key_type: key.key_type, version: version.version };
        let present = self.session.shared().catalog.snapshot().version(key.id, version.version).cloned();
        match present {
            Some(present) => Ok(self.compare(of, version, row, &present)?),
            None => self.open(of, version, row).await,
        }
    }

    /// Prepares a version that exists here. Its material is compared with the source's if that opens without AWS KMS.
    fn compare(&self, of: Of, version: ImportedVersion, row: &SourceVersion, present: &KeyVersion) -> Result<Prepared> {
        if present.origin == Origin::Imported && present.id != version.id {
            let text = "the version was imported with another id before";
            return Err(Error::new(ErrorCode::Conflict, text));
        }
        if present.origin != Origin::Imported {
            let text = format!(
                "version {} of the key is a different one here, created by an import with rotate: the source rotated \
                 the key more often than the numbers that were left for it allow; import into a new store, without \
                 rotate until the clients are switched",
                version.version
            );
            return Err(Error::new(ErrorCode::Conflict, text));
        }
        let (mut digest, mut changed, mut refused) = (None, None, None);
        match self.opener.reopen(of, row) {
            Ok(None) => {}
            Ok(Some(secret)) if fingerprint(of.key, of.version, of.key_type, &secret)? == present.fingerprint => {
                digest = Some(self.digest(of.key_type, &secret));
            }
            Ok(Some(_)) => {
                let text = "the source has other material for the version now, which is not imported, because \
                            imported material is never replaced; restore the former material there, or import into a \
                            new store";
                refused = Some(Error::new(ErrorCode::Conflict, text));
            }
            Err(_) => changed = Some("the source's material can no longer be unwrapped; the imported material is kept"),
        }
        Ok(Prepared { version, opened: None, digest, changed, refused })
    }

    async fn open(
        &self,
        of: Of,
        mut version: ImportedVersion,
        row: &SourceVersion,
    ) -> std::result::Result<Prepared, Failure> {
        let opened = self.opener.open(of, row).await.map_err(|error| match error.code() {
            // A root key of the source does not respond, and others may.
            ErrorCode::RootKeyUnavailable => Failure::Rows(error),
            _ => error.into(),
        })?;
        version.new = Some(ImportedMaterial {
            material: Material { wrapped: Vec::new(), public_key_pem: opened.public_key_pem.clone() },
            fingerprint: fingerprint(of.key, of.version, of.key_type, &opened.secret)?,
        });
        let digest = Some(self.digest(of.key_type, &opened.secret));
        let text = "the stored public key does not match the private key; the one derived from the private key is used";
        let changed = has_other_public_key(row, &version).then_some(text);
        Ok(Prepared { version, opened: Some(opened), digest, changed, refused: None })
    }

    /// The catalog with the changes that a dry run would have written.
    pub(super) fn view<'v>(&'v self, snapshot: &'v Snapshot) -> PlannedView<'v> {
        PlannedView { snapshot, planned: &self.planned }
    }

    /// Records the changes that a dry run would write.
    pub(super) fn plan(&mut self, changes: &[Change]) {
        if self.job.dry_run {
            self.planned.add(changes);
        }
    }

    /// The rows that a command would change in the current state.
    pub(super) fn preview(&self, command: &Command) -> Result<Vec<Change>> {
        let shared = self.session.shared();
        let snapshot = shared.catalog.snapshot();
        let (now, revision) = (shared.clock.now(), snapshot.revision());
        lifecycle::apply(
            command,
            &lifecycle::Context {
                view: &self.view(&snapshot),
                now,
                revision,
                default_grace_days: None,
                versions_max: u32::MAX,
                grantor: None,
            },
        )
    }

    /// Wraps new material and commits the key. If the root keys change in the meantime, the material is wrapped again.
    pub(super) async fn commit_key(
        &self,
        mut key: ImportedKey,
        opened: &[(u32, OpenedMaterial)],
    ) -> Result<Vec<Change>> {
        let mut failure = None;
        for _ in 0..TRIES {
            self.wrap(&mut key, opened).await?;
            let mut details = Details::default();
            details.text("name", &key.name).text("type", key.key_type.as_str());
            details.number("versions", key.versions.len() as u64);
            let intent = self.intent(Action::KeyImport, details);
            match self.session.change(intent, Command::ImportKey(Box::new(key.clone()))).await {
                Ok((changes, _)) => return Ok(changes),
                Err(error) if error.code() == ErrorCode::StoreContended => failure = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(failure.unwrap_or_else(|| {
            Error::new(ErrorCode::StoreContended, "the root keys changed during every attempt; import again")
        }))
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
}

/// Whether the source's public key differs from the one derived from the private key.
fn has_other_public_key(row: &SourceVersion, version: &ImportedVersion) -> bool {
    let made = version.new.as_ref().and_then(|new| new.material.public_key_pem.as_deref());
    let (Some(made), Some(stored)) = (made, row.public_key_pem.as_deref()) else { return false };
    let lines = |pem: &str| pem.lines().map(|line| line.trim().to_owned()).collect::<String>();
    lines(made) != lines(stored)
}

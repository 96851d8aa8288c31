//! The lifecycle of keys: creating, rotating, updating, disabling, revoking and deleting them.

use sha2::{Digest, Sha256};

use super::change::{Changed, Intent, REDO, overtaken};
use super::idempotency::Once;
use super::refusal::refusal;
use super::requests::{KeyUpdate, NewKey};
use super::{KeyRef, Session};
use crate::catalog::KeyDescription;
use crate::envelope::{Binding, fingerprint};
use crate::ledger::{Details, Idempotency};
use crate::lifecycle::{
    CheckedKey, Command, KeyEdit, NewVersion, check_metadata, check_name, check_period, check_type_and_purpose,
    next_version,
};
use crate::types::actor::Role;
use crate::types::attempt::{Decision, Operation};
use crate::types::audit::{Action, hex};
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::{GrantId, KeyId, VersionId};
use crate::types::key::{AuditContext, KeyType, Material};
use crate::types::limits::PERIOD_DAYS;
use crate::types::time::Timestamp;
use crate::types::view::CatalogView;
use crate::workers::Length;
use zeroize::Zeroizing;

impl Session {
    /// Creates a key with its first version. A caller that is not an admin gets a grant on it: read, encrypt, decrypt,
    /// sign, verify, rotate, revoke.
    ///
    /// Cancellation: before the change is submitted, dropping the future does nothing; afterwards the change is made
    /// and its answer is lost. Sent again under an idempotency key, the request gets that answer.
    pub async fn create_key(&self, new: NewKey) -> Result<KeyDescription> {
        check_name(&new.name)?;
        check_type_and_purpose(new.key_type, new.purpose)?;
        check_period("rotation period", new.rotation_period_days, 1)?;
        check_period("grace period", new.grace_period_days, 0)?;
        let metadata = check_metadata(new.metadata.as_ref())?;
        let mut details = Details::default();
        details.text("name", &new.name).text("type", new.key_type.as_str()).text("purpose", new.purpose.as_str());
        for (name, days) in
            [("rotationPeriodDays", new.rotation_period_days), ("gracePeriodDays", new.grace_period_days)]
        {
            if let Some(days) = days {
                details.number(name, days.into());
            }
        }
        if let Some(metadata) = &metadata {
            details.text("metadataSha256", &hex(&Sha256::digest(metadata)));
        }
        if let Some(form) = new.audit_context {
            details.text("auditContext", form.as_str());
        }
        let id = KeyId::random();
        let once = self.once(Action::KeyCreate, "", None, &details, *id.as_bytes());
        let work = self.create_checked(new, id, metadata, details, once.clone());
        let done = self.do_once(once.clone(), None, work).await?;
        let id = match &done {
            Once::Now(_) => id,
            Once::Before(kept) => {
                // A caller that may no longer read the key is refused, as in every other read.
                let id = KeyId::from_bytes(kept.subject);
                self.permit_reading(Action::KeyRead, Operation::ReadKey, Some(id)).await?;
                id
            }
        };
        self.answer(id, done, once.as_ref()).await
    }

    async fn create_checked(
        &self,
        new: NewKey,
        id: KeyId,
        metadata: Option<String>,
        details: Details,
        once: Option<Idempotency>,
    ) -> Result<Vec<Change>> {
        let admission = self.admit_change()?;
        let mut intent = Intent {
            action: Action::KeyCreate,
            attempt: self.attempt(Operation::CreateKey, None),
            version: Some(1),
            details,
            once,
        };
        let creator = (self.actor.role() == Role::App).then(|| (GrantId::random(), self.actor.principal().to_owned()));
        let mut command: Option<Command> = None;
        let mut material: Option<Generated> = None;
        let mut retry = None;
        for _ in 0..=REDO {
            let (decision, revision) = self.decide(&intent.attempt);
            let is_allowed = matches!(decision, Decision::Allowed { .. });
            intent.version = Some(1).filter(|_| is_allowed);
            // Checked before the material is generated, which takes a tenth of a second for an RSA key.
            if is_allowed && self.shared.catalog.snapshot().key_by_name(&new.name).is_some() {
                intent.version = None;
                let taken =
                    Error::new(ErrorCode::NameTaken, "a key of this name exists or existed; names are never reused");
                return Err(self.fail(&admission, &intent, taken).await);
            }
            // The generations of the root key may have changed since the material was wrapped.
            let under = self.shared.envelope.wrapping_generations();
            if is_allowed && command.as_ref().and_then(Command::wrapped_under) != Some(under) {
                let made = match material.take() {
                    Some(made) => made,
                    None => self.generate(new.key_type).await?,
                };
                let first = self.wrap(id, 1, new.key_type, &made).await;
                material = Some(made);
                let first = match first {
                    Ok(first) => first,
                    Err(error) => return Err(self.fail(&admission, &intent, error).await),
                };
                let checked =
                    CheckedKey { metadata: metadata.clone(), ..checked_key(&new, id, first, creator.clone()) };
                command = Some(Command::CreateKey(Box::new(checked)));
            }
            match self.commit(&admission, &intent, decision, revision, command.clone(), retry.take()).await? {
                Changed::Done(changes, _) => return Ok(changes),
                // The permission was granted or revoked meanwhile.
                Changed::Redo(slot) => retry = slot,
            }
        }
        Err(overtaken())
    }

    /// Creates a new current version. The former one stays usable for decryption and verification, for the grace period
    /// if there is one, otherwise without limit. With `expected_current`, `Conflict` if another rotation came first;
    /// without it, simultaneous rotations all succeed, each with its own version. `LimitExceeded` if the key already
    /// has the maximum number of versions with material (setting `limits.versions`); [`trim_key`](Self::trim_key) makes
    /// room.
    ///
    /// Cancellation: before the change is submitted, dropping the future does nothing; afterwards the change is made
    /// and its answer is lost. Sent again under an idempotency key, the request gets that answer.
    pub async fn rotate_key(&self, key: impl Into<KeyRef>, expected_current: Option<u32>) -> Result<KeyDescription> {
        let id = self.locate(&key.into()).await?;
        let target = id.map(|id| id.to_string()).unwrap_or_default();
        let subject = id.map_or([0; 16], |id| *id.as_bytes());
        let once = self.once(Action::KeyRotate, &target, expected_current, &Details::default(), subject);
        let right = self.attempt(Operation::Rotate { new_version: 0, expected_current }, id);
        let work = self.rotate_once(id, expected_current, once.clone());
        let done = self.do_once(once.clone(), Some(right), work).await?;
        self.answer_about(id, done, once).await
    }

    pub(crate) async fn rotate_located(&self, id: Option<KeyId>, expected_current: Option<u32>) -> Result<()> {
        self.rotate_once(id, expected_current, None).await.map(drop)
    }

    async fn rotate_once(
        &self,
        id: Option<KeyId>,
        expected_current: Option<u32>,
        once: Option<Idempotency>,
    ) -> Result<Vec<Change>> {
        let admission = self.admit_change()?;
        let _turn = match id {
            Some(id) => Some(self.shared.rotations.turn(id, self.actor.principal()).await),
            None => None,
        };
        let mut material: Option<Zeroizing<Vec<u8>>> = None;
        let mut pem = None;
        let mut retry = None;
        for _ in 0..=REDO {
            let (new_version, key_type, is_full) = {
                let snapshot = self.shared.catalog.snapshot();
                let key = id.and_then(|id| snapshot.key(id));
                let versions = id.map_or(0, |id| snapshot.live_versions(id));
                let is_full = versions >= self.shared.config.versions_max as usize;
                let next = key.map(|key| next_version(key.current_version, |number| snapshot.version(key.id, number)));
                (next.map_or(1, |next| next.unwrap_or(u32::MAX)), key.map(|key| key.key_type), is_full)
            };
            let mut details = Details::default();
            if let Some(expected) = expected_current {
                details.number("expectedCurrentVersion", expected.into());
            }
            let intent = Intent {
                action: Action::KeyRotate,
                attempt: self.attempt(Operation::Rotate { new_version, expected_current }, id),
                version: Some(new_version).filter(|_| key_type.is_some()),
                details,
                once: once.clone(),
            };
            let (decision, revision) = self.decide(&intent.attempt);
            if matches!(decision, Decision::Allowed { .. }) && is_full {
                return Err(self.fail(&admission, &intent, refusal(ErrorCode::LimitExceeded)).await);
            }
            let command = match (&decision, id, key_type) {
                (Decision::Allowed { .. }, Some(id), Some(key_type)) => {
                    // Generated once: superseded material is only wrapped again for its new version number.
                    if material.is_none() {
                        let generated = self.generate(key_type).await?;
                        pem = generated.public_key_pem;
                        material = Some(generated.secret);
                    }
                    let secret = material.clone().unwrap_or_default();
                    let generated = Generated { secret, public_key_pem: pem.clone() };
                    match self.wrap(id, new_version, key_type, &generated).await {
                        Ok(new) => Some(Command::Rotate(id, new)),
                        Err(error) => return Err(self.fail(&admission, &intent, error).await),
                    }
                }
                _ => None,
            };
            match self.commit(&admission, &intent, decision, revision, command, retry.take()).await? {
                Changed::Done(changes, _) => return Ok(changes),
                Changed::Redo(slot) => retry = slot,
            }
        }
        Err(overtaken())
    }

    /// Enables a key that was disabled. Like every state change, it succeeds without a change if the key is already in
    /// that state.
    ///
    /// Cancellation: before the change is submitted, dropping the future does nothing; afterwards the change is made
    /// and its answer is lost. Sent again under an idempotency key, the request gets that answer.
    pub async fn enable_key(&self, key: impl Into<KeyRef>) -> Result<KeyDescription> {
        self.simple(key.into(), Action::KeyEnable, None, Operation::EnableKey, Command::EnableKey).await
    }
    /// Disables a key: it refuses cryptographic operations and rotation until it is enabled again.
    ///
    /// Cancellation: before the change is submitted, dropping the future does nothing; afterwards the change is made
    /// and its answer is lost. Sent again under an idempotency key, the request gets that answer.
    pub async fn disable_key(&self, key: impl Into<KeyRef>) -> Result<KeyDescription> {
        self.simple(key.into(), Action::KeyDisable, None, Operation::DisableKey, Command::DisableKey).await
    }
    /// Revokes a key and all its versions permanently. Its ciphertexts can no longer be decrypted. A key that is
    /// pending deletion keeps its date; cancelling the deletion then leaves a revoked key.
    ///
    /// Cancellation: before the change is submitted, dropping the future does nothing; afterwards the change is made
    /// and its answer is lost. Sent again under an idempotency key, the request gets that answer.
    pub async fn revoke_key(&self, key: impl Into<KeyRef>) -> Result<KeyDescription> {
        self.simple(key.into(), Action::KeyRevoke, None, Operation::RevokeKey, Command::RevokeKey).await
    }
    /// Enables the current version again after it was disabled.
    ///
    /// Cancellation: before the change is submitted, dropping the future does nothing; afterwards the change is made
    /// and its answer is lost. Sent again under an idempotency key, the request gets that answer.
    pub async fn enable_version(&self, key: impl Into<KeyRef>, version: u32) -> Result<KeyDescription> {
        let command = |id| Command::EnableVersion(id, version);
        self.simple(key.into(), Action::KeyEnable, Some(version), Operation::EnableVersion { version }, command).await
    }
    /// Disables a version: it no longer encrypts or signs. Its grace window is not changed.
    ///
    /// Cancellation: before the change is submitted, dropping the future does nothing; afterwards the change is made
    /// and its answer is lost. Sent again under an idempotency key, the request gets that answer.
    pub async fn disable_version(&self, key: impl Into<KeyRef>, version: u32) -> Result<KeyDescription> {
        let command = |id| Command::DisableVersion(id, version);
        self.simple(key.into(), Action::KeyDisable, Some(version), Operation::DisableVersion { version }, command).await
    }
    /// Revokes a version permanently and ends its grace window now. If it is the current version, the key is disabled
    /// until it is rotated.
    ///
    /// Cancellation: before the change is submitted, dropping the future does nothing; afterwards the change is made
    /// and its answer is lost. Sent again under an idempotency key, the request gets that answer.
    pub async fn revoke_version(&self, key: impl Into<KeyRef>, version: u32) -> Result<KeyDescription> {
        let command = |id| Command::RevokeVersion(id, version);
        self.simple(key.into(), Action::KeyRevoke, Some(version), Operation::RevokeVersion { version }, command).await
    }

    /// Sets the time until which a former version decrypts and verifies; without a time, there is no limit. Ending or
    /// shortening a window needs `revoke`, extending it `manage`. `WrongState` for the current version, which has no
    /// window.
    ///
    /// Cancellation: before the change is submitted, dropping the future does nothing; afterwards the change is made
    /// and its answer is lost. Sent again under an idempotency key, the request gets that answer.
    pub async fn set_window(
        &self,
        key: impl Into<KeyRef>,
        version: u32,
        not_after: Option<Timestamp>,
    ) -> Result<KeyDescription> {
        let operation = Operation::SetWindow { version, not_after };
        let mut details = Details::default();
        match not_after {
            Some(end) => details.text("notAfter", &end.to_string()),
            None => details.raw("notAfter", "null"),
        };
        let command = |id| Command::SetWindow(id, version, not_after);
        self.detailed(key.into(), Action::KeyWindow, Some(version), operation, details, command).await
    }

    /// Edits periods, metadata, and how contexts are recorded. `Conflict` if the key's revision is not the one that the
    /// update expects; this is decided at the update's place in the log.
    ///
    /// Cancellation: before the change is submitted, dropping the future does nothing; afterwards the change is made
    /// and its answer is lost. Sent again under an idempotency key, the request gets that answer.
    pub async fn update_key(&self, key: impl Into<KeyRef>, update: KeyUpdate) -> Result<KeyDescription> {
        check_period("rotation period", update.rotation_period_days.flatten(), 1)?;
        check_period("grace period", update.grace_period_days.flatten(), 0)?;
        let metadata = match &update.metadata {
            None => None,
            Some(metadata) => Some(check_metadata(metadata.as_ref())?),
        };
        let mut details = Details::default();
        let mut period = |name, days: Option<Option<u32>>| {
            if let Some(days) = days {
                details.raw(name, days.map_or_else(|| "null".into(), |days| days.to_string()));
            }
        };
        period("rotationPeriodDays", update.rotation_period_days);
        period("gracePeriodDays", update.grace_period_days);
        match &metadata {
            Some(Some(metadata)) => {
                details.text("metadataSha256", &hex(&Sha256::digest(metadata)));
            }
            Some(None) => {
                details.raw("metadataSha256", "null");
            }
            None => {}
        }
        if let Some(form) = update.audit_context {
            details.text("auditContext", form.as_str());
        }
        if let Some(revision) = update.expected_revision {
            details.number("expectedRevision", revision);
        }
        let edit = KeyEdit {
            rotation_period_days: update.rotation_period_days,
            grace_period_days: update.grace_period_days,
            metadata,
            audit_context: update.audit_context,
        };
        if edit == KeyEdit::default() {
            return Err(Error::invalid("the update sets no field; name at least one"));
        }
        let command = |id| Command::UpdateKey(id, edit);
        let operation = Operation::UpdateKey { expected_revision: update.expected_revision };
        self.detailed(key.into(), Action::KeyUpdate, None, operation, details, command).await
    }

    /// Schedules the erasure of the key's material after `waiting_days` (by default 30; at least 7 unless configured
    /// otherwise). Repeating the request with the same number keeps the date; with another number it fails with
    /// `KeyPendingDeletion`.
    ///
    /// Cancellation: before the change is submitted, dropping the future does nothing; afterwards the change is made
    /// and its answer is lost. Sent again under an idempotency key, the request gets that answer.
    pub async fn schedule_deletion(&self, key: impl Into<KeyRef>, waiting_days: Option<u32>) -> Result<KeyDescription> {
        let days = waiting_days.unwrap_or(self.shared.deletion_wait_days);
        let least = self.shared.deletion_wait_min_days;
        if !(least..=PERIOD_DAYS).contains(&days) {
            return Err(Error::invalid(format!(
                "the wait before a deletion must be {least} to {PERIOD_DAYS} days, not {days}"
            )));
        }
        let mut details = Details::default();
        details.number("waitingDays", days.into());
        let command = |id| Command::ScheduleDeletion(id, days);
        let operation = Operation::ScheduleDeletion { waiting_days: days };
        self.detailed(key.into(), Action::KeyScheduleDeletion, None, operation, details, command).await
    }

    /// Cancels a scheduled deletion: the key returns to the state it was in before.
    ///
    /// Cancellation: before the change is submitted, dropping the future does nothing; afterwards the change is made
    /// and its answer is lost. Sent again under an idempotency key, the request gets that answer.
    pub async fn cancel_deletion(&self, key: impl Into<KeyRef>) -> Result<KeyDescription> {
        self.simple(key.into(), Action::KeyCancelDeletion, None, Operation::CancelDeletion, Command::CancelDeletion)
            .await
    }

    /// Revokes a version whose window is over. Only the scheduler calls this.
    pub(crate) async fn revoke_located(&self, id: KeyId, version: u32) -> Result<()> {
        let intent = Intent {
            action: Action::KeyRevoke,
            attempt: self.attempt(Operation::RevokeVersion { version }, Some(id)),
            version: Some(version),
            details: Details::default(),
            once: None,
        };
        self.change(intent, Command::RevokeVersion(id, version)).await.map(drop)
    }

    async fn simple(
        &self,
        key: KeyRef,
        action: Action,
        version: Option<u32>,
        operation: Operation,
        command: impl FnOnce(KeyId) -> Command,
    ) -> Result<KeyDescription> {
        self.detailed(key, action, version, operation, Details::default(), command).await
    }

    pub(super) async fn detailed(
        &self,
        key: KeyRef,
        action: Action,
        version: Option<u32>,
        operation: Operation,
        details: Details,
        command: impl FnOnce(KeyId) -> Command,
    ) -> Result<KeyDescription> {
        let id = self.locate(&key).await?;
        let target = id.map(|id| id.to_string()).unwrap_or_default();
        let subject = id.map_or([0; 16], |id| *id.as_bytes());
        let once = self.once(action, &target, version, &details, subject);
        let intent = Intent { action, attempt: self.attempt(operation, id), version, details, once: once.clone() };
        // An unknown key is refused before the command is used.
        let command = command(id.unwrap_or_else(KeyId::random));
        let right = intent.attempt.clone();
        let work = async { self.change(intent, command).await.map(|(changes, _)| changes) };
        let done = self.do_once(once.clone(), Some(right), work).await?;
        self.answer_about(id, done, once).await
    }

    async fn answer_about(
        &self,
        id: Option<KeyId>,
        done: Once<Vec<Change>>,
        once: Option<Idempotency>,
    ) -> Result<KeyDescription> {
        match id {
            Some(id) => self.answer(id, done, once.as_ref()).await,
            None => Err(refusal(ErrorCode::KeyNotFound)),
        }
    }

    pub(crate) async fn generate(&self, key_type: KeyType) -> Result<Generated> {
        match key_type {
            KeyType::Aes256Gcm => {
                let mut secret = Zeroizing::new(vec![0; 32]);
                self.shared.provider.random(&mut secret)?;
                Ok(Generated { secret, public_key_pem: None })
            }
            KeyType::Rsa2048 => {
                let provider = std::sync::Arc::clone(&self.shared.provider);
                let generate = move || provider.rsa_generate();
                let made = self.shared.workers.run(self.actor.principal(), Length::Long, generate).await?;
                Ok(Generated { secret: made.pkcs8, public_key_pem: Some(made.public_pem) })
            }
        }
    }

    pub(crate) async fn wrap(
        &self,
        key: KeyId,
        version: u32,
        key_type: KeyType,
        made: &Generated,
    ) -> Result<NewVersion> {
        let binding = Binding::Version { key, version, key_type };
        let wrapped = self.shared.envelope.wrap(&binding, &made.secret).await?;
        Ok(NewVersion {
            id: VersionId::random(),
            version,
            material: Material { wrapped, public_key_pem: made.public_key_pem.clone() },
            fingerprint: fingerprint(key, version, key_type, &made.secret)?,
        })
    }
}

/// The key to be created, without metadata.
fn checked_key(new: &NewKey, id: KeyId, first: NewVersion, creator_grant: Option<(GrantId, String)>) -> CheckedKey {
    CheckedKey {
        id,
        name: new.name.clone(),
        key_type: new.key_type,
        purpose: new.purpose,
        rotation_period_days: new.rotation_period_days,
        grace_period_days: new.grace_period_days,
        audit_context: new.audit_context.unwrap_or(AuditContext::Clear),
        metadata: None,
        first,
        creator_grant,
    }
}

/// New key material that is not wrapped yet.
pub(crate) struct Generated {
    pub secret: Zeroizing<Vec<u8>>,
    pub public_key_pem: Option<String>,
}

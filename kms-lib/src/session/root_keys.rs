//! Generations of the root key: listing, adding and retiring them.

use std::sync::Arc;

use serde::Serialize;

use super::change::Intent;
use super::root_key_report::RootKeyJob;
use super::{Session, Shared};
use crate::catalog::Trust;
use crate::envelope::{self, Envelope, KnownGeneration, NewRootKey, RootKey, RootKeySource, connect_new};
use crate::keys::{Command, NewGeneration, NewWrapping};
use crate::ledger::Details;
use crate::storage::tables::secrets;
use crate::storage::tables::usage;
use crate::storage::tables::wrappings;
use crate::types::attempt::Operation;
use crate::types::audit::Action;
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::RootKeyId;
use crate::types::key::Key;
use crate::types::root_key::{RootKeyGeneration, RootKeyProvider, RootKeyState, ServiceKeyKind, Wrapped};
use crate::types::time::Timestamp;
use crate::types::view::View;

/// Wrappings that one step erases.
const ERASED: usize = 500;
/// So many materials may have been made during a verification; more means that something was not rewrapped.
const TAIL: u64 = 1_000;

/// A generation of the root key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RootKeyDescription {
    /// Counted from 1.
    pub generation: u32,
    /// What holds the key.
    pub provider: RootKeyProvider,
    /// The key's name at its provider, such as an ARN; none for a local key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Whether it is in use.
    pub state: RootKeyState,
    /// When it was said that somebody else may have the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compromised_at: Option<Timestamp>,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it was retired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retired_at: Option<Timestamp>,
    /// Materials that are wrapped under it: of versions, and of the service's own keys.
    pub wrappings: u64,
    /// Those of them that [`Session::verify_root_key`] has opened since they were written.
    pub verified: u64,
    /// Whether this process has the key.
    pub at_hand: bool,
    /// When this process last wrapped or unwrapped with it. Other processes and former runs do not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
}

/// How a generation is retired.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RetireOptions {
    /// Somebody else may have the key. Then the key that signs the log and the key that seals rows must be new ones
    /// that were never wrapped under it.
    pub compromised: bool,
    /// Verify what was made since the last verification first, wrap nothing new under the generation from then on, and
    /// verify the rest: on a service that makes keys all the time there is always something that is not verified yet.
    /// If it is cut off or refused in between, the generation stays `RETIRING` until it is called again.
    pub verify_new: bool,
}

impl RetireOptions {
    /// With this said about the key.
    #[must_use]
    pub fn compromised(mut self, compromised: bool) -> Self {
        self.compromised = compromised;
        self
    }
    /// Whether what was made since the last verification is verified first.
    #[must_use]
    pub fn verify_new(mut self, verify_new: bool) -> Self {
        self.verify_new = verify_new;
        self
    }
}

/// What retiring a generation did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Retirement {
    /// The generation, as it is now.
    pub root_key: RootKeyDescription,
    /// Wrappings that this call erased.
    pub erased: u64,
    /// Of a compromised key: the keys whose current version was wrapped under it. Whoever has the key and a copy of the
    /// database from before can read what these versions encrypted; rotate them, and encrypt anew what matters.
    pub rotate: Vec<String>,
    /// The hours in which backups were made before the retirement. What they hold may be wrapped under this key alone:
    /// keep the key for as long as the backups, or make a new backup and delete them.
    pub backups: Vec<BackupHour>,
}

/// Backups of one hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupHour {
    /// When the hour begins.
    pub from: Timestamp,
    /// How many backups were made in it.
    pub backups: u64,
}

impl Session {
    /// The generations of the root key, oldest first, retired ones too. For admins and auditors.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn list_root_keys(&self) -> Result<Vec<RootKeyDescription>> {
        self.permit_reading(Action::RootKeyRead, Operation::ReadRootKeys, None).await?;
        describe_all(self.shared()).await
    }

    /// Adds a generation of the root key: from then on every new version is wrapped under it too, and the store opens
    /// with it. What is there already follows with [`Session::rewrap`]. For admins.
    ///
    /// Other nodes need the key in their configuration: those without it refuse to create and rotate
    /// (`RootKeyUnavailable`), and go on with everything that they can open. `Conflict` if the key is a generation
    /// already, retired ones included, or if another generation was added at the same moment.
    ///
    /// Cancellation: before the change is submitted, dropping the future does nothing; afterwards the change is made
    /// and only the answer is lost.
    pub async fn add_root_key(&self, source: &RootKeySource) -> Result<RootKeyDescription> {
        self.refuse_idempotency_key()?;
        self.permit_managing(Action::RootKeyAdd).await?;
        let shared = self.shared();
        // Counted before the source is compared: a generation that another node adds meanwhile makes this a conflict.
        let generation = self.next_generation();
        if let Some(generation) = shared.envelope.identify(source).await? {
            let text = format!("this root key is generation {generation} already");
            return Err(Error::new(ErrorCode::Conflict, text));
        }
        let new = connect_new(source, generation, &shared.provider).await?;
        let root = new_generation(&new, shared.clock.now()).await?;
        let wrappings = self.wrap_service_keys(new.key.as_ref()).await?;
        let mut details = Details::default();
        details.number("generation", generation.into()).text("provider", root.provider.as_str());
        if let Some(reference) = &root.reference {
            details.text("reference", reference);
        }
        shared.envelope.offer(root.id, Arc::clone(&new.key), source.clone());
        let command = Command::AddRootKey(Box::new(NewGeneration { root, wrappings }));
        let (changes, _) = self.change(self.root_key_intent(Action::RootKeyAdd, details), command).await?;
        match (self.describe_root_key(generation).await, changes.into_iter().next()) {
            // It is committed: that is answered whatever can be read.
            (Err(_), Some(Change::InsertRootKey(row))) => {
                Ok(describe(KnownGeneration { row, is_at_hand: true, last_used_at: None }, &[]))
            }
            (described, _) => described,
        }
    }

    /// Retires a generation of the root key: it opens nothing any more, and its wrappings are erased. A call that did
    /// not come to its end can be repeated, and goes on erasing. For admins.
    ///
    /// `WrongState` unless every material that it wraps has a verified wrapping under another generation
    /// ([`Session::verify_root_key`]), if it is the last one, or if the demands of a compromised one are not met.
    ///
    /// Cancellation: dropping the future ends the job; pages that were submitted stay done, and calling again goes on.
    pub async fn retire_root_key(&self, generation: u32, options: &RetireOptions) -> Result<Retirement> {
        self.refuse_idempotency_key()?;
        self.permit_managing(Action::RootKeyRetire).await?;
        let root = self.generation(generation)?;
        // Also of a retired one: old copies of the database can be read with it.
        if options.compromised && !root.is_active() {
            self.hold_compromised(&root).await?;
        }
        if root.is_active() {
            let others = |other: &&RootKeyGeneration| other.wraps() && other.generation != generation;
            if self.shared().catalog.image().root_keys().filter(others).count() == 0 {
                let text = format!("generation {generation} is the last of the root key; add another one first");
                return Err(Error::new(ErrorCode::WrongState, text));
            }
            if options.compromised || root.compromised_at.is_some() {
                self.hold_compromised(&root).await?;
            }
            self.require_remaining(generation).await?;
            self.retire_active(generation, options).await?;
        }
        let erased = self.erase_wrappings(generation).await?;
        let root_key = self.describe_root_key(generation).await?;
        let leaked_until = root_key.compromised_at.map(|since| root_key.retired_at.map_or(since, |at| at.min(since)));
        let rotate = leaked_until.map(|time| self.keys_made_before(time)).unwrap_or_default();
        let backups = self.backups_before(root_key.retired_at).await?;
        Ok(Retirement { root_key, erased, rotate, backups })
    }

    /// Erases what is left of the wrappings under retired generations.
    pub(crate) async fn erase_retired(&self) -> Result<()> {
        let retired: Vec<u32> = {
            let image = self.shared().catalog.image();
            if image.trust() != Trust::Verified {
                return Ok(());
            }
            image.root_keys().filter(|root| !root.is_active()).map(|root| root.generation).collect()
        };
        for generation in retired {
            self.erase_wrappings(generation).await?;
        }
        Ok(())
    }

    pub(super) fn root_key_intent(&self, action: Action, details: Details) -> Intent {
        let attempt = self.attempt(Operation::ManageRootKeys, None);
        Intent { action, attempt, version: None, details, once: None }
    }

    /// Whether the actor may manage root keys, and whether it is known which generations there are: after rows of
    /// `root_keys` were altered, one that was retired may look as if it were in use.
    pub(super) async fn permit_managing(&self, action: Action) -> Result<()> {
        self.permit_reading(action, Operation::ManageRootKeys, None).await?;
        if self.shared().catalog.image().trust() == Trust::Verified {
            return Ok(());
        }
        let text = "rows of the store were altered, and it cannot be told which generations of the root key are right; \
                    verify the log, and restore a backup";
        Err(Error::new(ErrorCode::IntegrityFailure, text))
    }

    /// The number of the generation that is added next.
    pub(super) fn next_generation(&self) -> u32 {
        1 + self.shared().catalog.image().root_keys().map(|root| root.generation).max().unwrap_or_default()
    }

    pub(super) fn refuse_idempotency_key(&self) -> Result<()> {
        if self.has_idempotency_key() {
            return Err(Error::invalid("operations on root keys can be repeated; they take no idempotency key"));
        }
        Ok(())
    }

    /// A generation by its number.
    pub(super) fn generation(&self, generation: u32) -> Result<RootKeyGeneration> {
        let image = self.shared().catalog.image();
        let found = image.root_keys().find(|root| root.generation == generation).cloned();
        found.ok_or_else(|| Error::invalid(format!("there is no generation {generation} of the root key")))
    }

    async fn describe_root_key(&self, generation: u32) -> Result<RootKeyDescription> {
        self.shared().catalog.ensure_fresh().await?;
        let all = describe_all(self.shared()).await?;
        let found = all.into_iter().find(|root| root.generation == generation);
        found.ok_or_else(|| Error::new(ErrorCode::Internal, "a generation of the root key is not in the catalog"))
    }

    /// The service's own keys under one more root key.
    async fn wrap_service_keys(&self, root: &dyn RootKey) -> Result<Vec<NewWrapping>> {
        let mut wrappings = Vec::new();
        for target in self.service_targets().await? {
            let plaintext = self.shared().envelope.unwrap(&target.binding, &target.wrapped).await?;
            target.check(&plaintext)?;
            let bytes = root.wrap(&target.binding, &plaintext).await?;
            wrappings.push(target.wrapping(root.generation(), bytes));
        }
        Ok(wrappings)
    }

    /// Whether this process can open the service's own keys with a generation that stays: its marks may be of a time
    /// when that key was not yet disabled, and a node without it would lock itself out.
    async fn require_remaining(&self, retiring: u32) -> Result<()> {
        let stays: Vec<u32> = {
            let image = self.shared().catalog.image();
            let stays = |root: &&RootKeyGeneration| root.wraps() && root.generation != retiring;
            image.root_keys().filter(stays).map(|root| root.generation).collect()
        };
        for target in self.service_targets().await? {
            let wrapped: Vec<Wrapped> =
                target.wrapped.iter().filter(|wrapped| stays.contains(&wrapped.generation)).cloned().collect();
            // Without one it counts as not verified.
            if !wrapped.is_empty() {
                target.check(&self.shared().envelope.unwrap(&target.binding, &wrapped).await?)?;
            }
        }
        Ok(())
    }

    /// Retires. If that is asked for, what is not verified yet is verified first; then nothing new is wrapped under the
    /// generation any more, so that what is made meanwhile is no hindrance.
    async fn retire_active(&self, generation: u32, options: &RetireOptions) -> Result<()> {
        let mut details = Details::default();
        details.number("generation", generation.into());
        if options.verify_new {
            self.verify_new_wrappings(generation).await?;
        }
        let unverified = self.count_unverified(generation).await?;
        if options.verify_new && unverified <= TAIL {
            let intent = self.root_key_intent(Action::RootKeyRetireStart, details.clone());
            self.change(intent, Command::BeginRetirement(generation)).await?;
            self.verify_new_wrappings(generation).await?;
        } else if unverified > 0 {
            return Err(unverified_error(generation, unverified));
        }
        let intent = self.root_key_intent(Action::RootKeyRetire, details);
        match self.change(intent, Command::RetireRootKey(generation)).await {
            Err(error) if error.code() == ErrorCode::WrongState => {
                Err(unverified_error(generation, self.count_unverified(generation).await?.max(1)))
            }
            done => done.map(drop),
        }
    }

    /// Verifies what is not verified yet under the generations that stay.
    async fn verify_new_wrappings(&self, retiring: u32) -> Result<()> {
        let others: Vec<u32> = {
            let image = self.shared().catalog.image();
            let stays = |root: &&RootKeyGeneration| root.wraps() && root.generation != retiring;
            image.root_keys().filter(stays).map(|root| root.generation).collect()
        };
        for generation in others {
            self.verify_root_key(generation, &RootKeyJob::default().only_new(true)).await?;
        }
        Ok(())
    }

    /// What a compromised generation must meet before it is retired. Nothing new is wrapped under it from here on.
    async fn hold_compromised(&self, root: &RootKeyGeneration) -> Result<()> {
        let generation = root.generation;
        if root.compromised_at.is_none() {
            let mut details = Details::default();
            details.number("generation", generation.into());
            let intent = self.root_key_intent(Action::RootKeyCompromise, details);
            self.change(intent, Command::MarkCompromised(generation)).await?;
        }
        let marked = self.generation(generation)?.revision;
        let mut connection = self.shared().store.reader().await?;
        let keys = secrets::service_keys(connection.as_mut()).await?;
        drop(connection);
        let mut wanting = Vec::new();
        for (kind, advice) in [
            (ServiceKeyKind::Signing, "replace the key that signs the log (replace_signing_key)"),
            (ServiceKeyKind::Integrity, "replace the key that seals rows, which this version cannot do yet"),
        ] {
            let newest = keys.iter().filter(|key| key.kind == kind).max_by_key(|key| key.number);
            let is_new = newest.is_some_and(|key| {
                key.first_seq > marked && key.wrapped.iter().all(|wrapped| wrapped.generation != generation)
            });
            if !is_new {
                wanting.push(advice);
            }
        }
        if wanting.is_empty() {
            return Ok(());
        }
        let text = format!(
            "generation {generation} of the root key is marked as compromised, and nothing new is wrapped under it; \
             before it can be retired, {}",
            wanting.join(" and ")
        );
        Err(Error::new(ErrorCode::WrongState, text))
    }

    /// Erases the wrappings under a retired generation, step by step.
    async fn erase_wrappings(&self, generation: u32) -> Result<u64> {
        let mut erased = 0;
        let mut after = [0; 16];
        loop {
            let mut connection = self.shared().store.reader().await?;
            let subjects = wrappings::subjects_under(connection.as_mut(), generation, after, ERASED).await?;
            drop(connection);
            let Some(last) = subjects.last() else { return Ok(erased) };
            after = *last;
            let mut details = Details::default();
            details.number("generation", generation.into()).number("erased", subjects.len() as u64);
            erased += subjects.len() as u64;
            let intent = self.root_key_intent(Action::WrappingsErase, details);
            self.change(intent, Command::EraseWrappings(generation, subjects)).await?;
        }
    }

    /// The keys in use whose current version is older than this.
    fn keys_made_before(&self, time: Timestamp) -> Vec<String> {
        let image = self.shared().catalog.image();
        let is_older = |key: &&Key| {
            let current = image.version(key.id, key.current_version);
            !key.is_revoked() && current.is_some_and(|version| version.created_at <= time)
        };
        image.keys_by_name(None).filter(is_older).map(|key| key.name.clone()).collect()
    }

    async fn backups_before(&self, time: Option<Timestamp>) -> Result<Vec<BackupHour>> {
        let mut connection = self.shared().store.reader().await?;
        let hours = usage::hours_of(connection.as_mut(), Action::StoreBackup.as_str()).await?;
        let hour = time.unwrap_or_else(|| self.shared().clock.now()).hour();
        let before = hours.into_iter().filter(|(of, _)| *of <= hour);
        Ok(before.map(|(hour, backups)| BackupHour { from: Timestamp::from_hour(hour), backups }).collect())
    }
}

/// The row of a new generation. Time and revision are those of its record.
async fn new_generation(new: &NewRootKey, now: Timestamp) -> Result<RootKeyGeneration> {
    Ok(RootKeyGeneration {
        id: RootKeyId::random(),
        generation: new.key.generation(),
        provider: new.provider,
        reference: new.reference.clone(),
        derivation: new.derivation.clone(),
        salt: new.salt.map(Vec::from),
        check_value: envelope::make_check_value(new.key.as_ref()).await?,
        state: RootKeyState::Active,
        compromised_at: None,
        created_at: now,
        retired_at: None,
        revision: 0,
    })
}

fn unverified_error(generation: u32, count: u64) -> Error {
    let text = format!(
        "{count} materials that generation {generation} of the root key wraps have no verified wrapping under another \
         one; rewrap, then verify the other generation (material of quarantined rows counts too, and so do wrappings \
         that belong to nothing: a verification of the log names them)"
    );
    Error::new(ErrorCode::WrongState, text)
}

async fn describe_all(shared: &Shared) -> Result<Vec<RootKeyDescription>> {
    let mut connection = shared.store.reader().await?;
    let counts = wrappings::counts(connection.as_mut()).await?;
    drop(connection);
    let envelope: &Envelope = &shared.envelope;
    Ok(envelope.generations().into_iter().map(|known| describe(known, &counts)).collect())
}

/// A generation with its counts: generation, wrappings, verified ones.
fn describe(known: KnownGeneration, counts: &[(u32, u64, u64)]) -> RootKeyDescription {
    let KnownGeneration { row, is_at_hand, last_used_at } = known;
    let count = counts.iter().find(|(generation, ..)| *generation == row.generation);
    let (wrappings, verified) = count.map_or((0, 0), |(_, all, verified)| (*all, *verified));
    RootKeyDescription {
        generation: row.generation,
        provider: row.provider,
        reference: row.reference,
        state: row.state,
        compromised_at: row.compromised_at,
        created_at: row.created_at,
        retired_at: row.retired_at,
        wrappings,
        verified,
        at_hand: is_at_hand,
        last_used_at,
    }
}

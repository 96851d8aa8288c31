//! Generations of the root key: listing and adding them, and what all operations on them have in common.

use std::sync::Arc;

use serde::Serialize;

use super::change::{Changed, Intent, REDO, overtaken};
use super::{Session, Shared};
use crate::catalog::Trust;
use crate::envelope::{self, Envelope, KnownGeneration, NewRootKey, RootKey, RootKeySource, connect_new};
use crate::ledger::Details;
use crate::lifecycle::{Command, NewGeneration, NewWrapping};
use crate::storage::tables::wrappings;
use crate::types::attempt::Operation;
use crate::types::audit::Action;
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::RootKeyId;
use crate::types::root_key::{RootKeyGeneration, RootKeyProvider, RootKeyState};
use crate::types::time::Timestamp;

/// A generation of the root key, with its state and the number of its wrappings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RootKeyDescription {
    /// The generation's number, counted from 1.
    pub generation: u32,
    /// The provider that holds the root key.
    pub provider: RootKeyProvider,
    /// The key's name at its provider, such as an ARN; none for a local key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The state of the generation.
    pub state: RootKeyState,
    /// The time at which the root key was reported as compromised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compromised_at: Option<Timestamp>,
    /// The time at which the generation was added.
    pub created_at: Timestamp,
    /// The time at which the generation was retired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retired_at: Option<Timestamp>,
    /// The number of materials wrapped under it: of versions and of the service's own keys.
    pub wrappings: u64,
    /// The number of wrappings that [`Session::verify_root_key`] has opened since they were written.
    pub verified: u64,
    /// Whether this process can use the root key.
    pub at_hand: bool,
    /// The last time at which this process wrapped or unwrapped with it. Other processes and earlier runs do not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
}

impl Session {
    /// Lists the generations of the root key, oldest first, including retired ones. For admins and auditors.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn list_root_keys(&self) -> Result<Vec<RootKeyDescription>> {
        self.permit_reading(Action::RootKeyRead, Operation::ReadRootKeys, None).await?;
        describe_all(self.shared()).await
    }

    /// Adds a generation of the root key: from now on every new version is wrapped under it too, and the store can be
    /// opened with it. [`Session::rewrap`] wraps existing material under it. For admins.
    ///
    /// Other nodes need the root key in their configuration. Nodes without it refuse to create and rotate keys
    /// (`RootKeyUnavailable`), and continue with everything that they can open. `Conflict` if the root key already is a
    /// generation, including retired ones, or if another generation was added at the same moment.
    ///
    /// Cancellation: before the change is submitted, dropping the future does nothing; afterwards the change is made
    /// and only the answer is lost.
    pub async fn add_root_key(&self, source: &RootKeySource) -> Result<RootKeyDescription> {
        self.permit_changing(Action::RootKeyAdd).await?;
        // Counted before the source is compared: a generation that another node adds meanwhile causes a conflict.
        let generation = self.next_generation();
        let prepared = async {
            let new = self.connect_unknown(source, generation).await?;
            let root = new_generation(&new, self.shared().clock.now()).await?;
            Ok((new.key, root))
        };
        let (key, root) = match prepared.await {
            Ok(prepared) => prepared,
            Err(error) => return Err(self.refuse(Action::RootKeyAdd, of_generation(generation), error).await),
        };
        self.shared().envelope.offer(root.id, Arc::clone(&key), source.clone());
        let changes = self.commit_generation(root, key.as_ref()).await?;
        match (self.describe_root_key(generation).await, changes.into_iter().next()) {
            // The change is committed and reported even if the store cannot be read now.
            (Err(_), Some(Change::InsertRootKey(row))) => {
                Ok(describe(KnownGeneration { row, is_at_hand: true, last_used_at: None }, &[]))
            }
            (described, _) => described,
        }
    }

    /// Adds a generation, with the service's own keys wrapped under it. They are wrapped again if one of them was
    /// replaced meanwhile.
    async fn commit_generation(&self, root: RootKeyGeneration, key: &dyn RootKey) -> Result<Vec<Change>> {
        let mut details = of_generation(root.generation);
        details.text("provider", root.provider.as_str());
        if let Some(reference) = &root.reference {
            details.text("reference", reference);
        }
        let intent = self.root_key_intent(Action::RootKeyAdd, details);
        let admission = self.admit_change()?;
        let mut retry = None;
        for _ in 0..=REDO {
            let wrappings = match self.wrap_service_keys(key).await {
                Ok(wrappings) => wrappings,
                Err(error) => return Err(self.fail(&admission, &intent, error).await),
            };
            let command = Command::AddRootKey(Box::new(NewGeneration { root: root.clone(), wrappings }));
            let (decision, revision) = self.decide(&intent.attempt);
            match self.commit(&admission, &intent, decision, revision, Some(command), retry.take()).await? {
                Changed::Done(changes, _) => return Ok(changes),
                Changed::Redo(slot) => retry = slot,
            }
        }
        Err(overtaken())
    }

    /// Connects to the root key of a source; `Conflict` if it already is a generation.
    pub(super) async fn connect_unknown(&self, source: &RootKeySource, generation: u32) -> Result<NewRootKey> {
        let shared = self.shared();
        if let Some(generation) = shared.envelope.identify(source).await? {
            let text = format!("this root key already is generation {generation}");
            return Err(Error::new(ErrorCode::Conflict, text));
        }
        connect_new(source, generation, &shared.provider).await
    }

    pub(super) fn root_key_intent(&self, action: Action, details: Details) -> Intent {
        let attempt = self.attempt(Operation::ManageRootKeys, None);
        Intent { action, attempt, version: None, details, once: None }
    }

    /// Fails unless the actor may manage root keys and the generations are trusted: after rows of `root_keys` were
    /// altered, a retired generation may look as if it were in use.
    pub(super) async fn permit_managing(&self, action: Action) -> Result<()> {
        self.permit_reading(action, Operation::ManageRootKeys, None).await?;
        if self.shared().catalog.snapshot().trust() == Trust::Verified {
            return Ok(());
        }
        let text = "rows of the store were altered, so the generations of the root key cannot be trusted; verify the \
                    log, and restore a backup";
        Err(self.refuse(action, Details::default(), Error::new(ErrorCode::IntegrityFailure, text)).await)
    }

    /// Like [`Self::permit_managing`], for operations that change something; they take no idempotency key.
    pub(super) async fn permit_changing(&self, action: Action) -> Result<()> {
        self.permit_managing(action).await?;
        if self.has_idempotency_key() {
            let error = Error::invalid("operations on root keys can be repeated; they take no idempotency key");
            return Err(self.refuse(action, Details::default(), error).await);
        }
        Ok(())
    }

    /// Records that an operation on root keys was allowed but cannot be done, and returns the error.
    pub(super) async fn refuse(&self, action: Action, details: Details, error: Error) -> Error {
        match self.admit_change() {
            Ok(admission) => self.fail(&admission, &self.root_key_intent(action, details), error).await,
            Err(overloaded) => overloaded,
        }
    }

    /// The number of the next generation to be added.
    pub(super) fn next_generation(&self) -> u32 {
        1 + self.shared().catalog.snapshot().root_keys().map(|root| root.generation).max().unwrap_or_default()
    }

    /// Returns a generation by its number.
    pub(super) fn generation(&self, generation: u32) -> Result<RootKeyGeneration> {
        let snapshot = self.shared().catalog.snapshot();
        let found = snapshot.root_keys().find(|root| root.generation == generation).cloned();
        found.ok_or_else(|| Error::invalid(format!("the root key has no generation {generation}")))
    }

    pub(super) async fn describe_root_key(&self, generation: u32) -> Result<RootKeyDescription> {
        self.shared().catalog.ensure_fresh().await?;
        let all = describe_all(self.shared()).await?;
        let found = all.into_iter().find(|root| root.generation == generation);
        found.ok_or_else(|| Error::new(ErrorCode::Internal, "a generation of the root key is not in the catalog"))
    }

    /// Wraps the service's own keys under one more root key.
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
}

/// The details of records about a generation.
pub(super) fn of_generation(generation: u32) -> Details {
    let mut details = Details::default();
    details.number("generation", generation.into());
    details
}

/// The row of a new generation. Its time and revision are set by its record.
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
        closed_seq: None,
        created_at: now,
        retired_at: None,
        revision: 0,
    })
}

async fn describe_all(shared: &Shared) -> Result<Vec<RootKeyDescription>> {
    let mut connection = shared.store.reader().await?;
    let counts = wrappings::counts(connection.as_mut()).await?;
    drop(connection);
    let envelope: &Envelope = &shared.envelope;
    Ok(envelope.generations().into_iter().map(|known| describe(known, &counts)).collect())
}

/// Describes a generation with its counts: generation, wrappings, verified wrappings.
pub(super) fn describe(known: KnownGeneration, counts: &[(u32, u64, u64)]) -> RootKeyDescription {
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

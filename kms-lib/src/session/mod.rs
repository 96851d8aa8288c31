//! What one actor may do. Every method: admit, decide, act, commit through the ledger, return.

mod anchors;
mod audit;
mod batches;
mod change;
mod credentials;
mod crypto;
mod decision;
mod denials;
mod describe;
mod erasure;
mod grants;
mod hidden;
mod idempotency;
mod imported;
mod imported_log;
mod integrity_key;
mod item;
mod items;
mod job;
mod key_tally;
mod keys;
mod listing;
mod operate;
mod quarantine;
mod records;
mod refusal;
mod requests;
mod results;
mod root_key_jobs;
mod root_key_report;
mod root_key_retirement;
mod root_key_targets;
mod root_keys;
mod rotations;
mod signatures;
mod stream;
mod verify;
mod versions;
mod work;

mod call_scratch;
#[cfg(test)]
mod erasure_tests;
#[cfg(test)]
mod forgery_tests;
#[cfg(test)]
mod tests;

pub use crate::catalog::{GrantDescription, KeyDescription, VersionDescription};
pub(crate) use audit::doubtful_times;
pub use audit::{AuditKey, AuditQuery};
pub(crate) use change::Intent;
pub(crate) use credentials::authenticate;
pub use credentials::{CreatedToken, CredentialDescription};
pub use denials::Denials;
pub(crate) use denials::write_counted;
pub use imported_log::ImportedRow;
pub use integrity_key::IntegrityKeyReplacement;
pub use items::{DecryptItem, EncryptItem, ReencryptItem, SignItem, VerifyItem};
pub use quarantine::QuarantinedRow;
pub use requests::{GrantFilter, KeyFilter, KeyUpdate, NewGrant, NewKey, NewToken, Page, Paging};
pub use results::{DataKey, Decrypted, Encrypted, Reencrypted, Signature, SignatureCheck};
pub use root_key_report::{FailedMaterial, RewrapPlan, RootKeyCalls, RootKeyJob, RootKeyProgress, RootKeyReport};
pub use root_key_retirement::{BackupHour, RetireOptions, Retirement};
pub use root_keys::RootKeyDescription;
pub(crate) use rotations::Rotations;
pub use stream::{StreamDecryptor, StreamEncryptor, StreamSummary};
pub(crate) use stream::{pump_decryption, pump_encryption};
pub(crate) use verify::LAST_VERIFICATION;
pub use verify::VerificationSettings;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use crate::catalog::{Catalog, MaterialCache, PublicKeys, Snapshot};
use crate::config::Config;
use crate::crypto::provider::Provider;
use crate::envelope::Envelope;
use crate::fair::{Fair, Turn};
use crate::ledger::{Ledger, Signer, Space};
use crate::policy;
use crate::storage::{Connection, Store};
use crate::types::actor::Actor;
use crate::types::attempt::{Attempt, Decision, Operation};
use crate::types::error::Result;
use crate::types::ids::KeyId;
use crate::types::time::{Clock, Timestamp};
use crate::types::view::CatalogView;
use crate::verification::Turns;
use crate::workers::Workers;

/// What all sessions share.
pub struct Shared {
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// Cryptography.
    pub provider: Arc<dyn Provider>,
    /// The root keys.
    pub envelope: Envelope,
    /// Keys, versions and grants.
    pub catalog: Arc<Catalog>,
    /// Ready keys.
    pub materials: Arc<MaterialCache>,
    /// Public keys of RSA versions.
    pub public_keys: PublicKeys,
    /// The threads that compute.
    pub workers: Workers,
    /// The way to write.
    pub ledger: Ledger,
    /// Knows how much room the store has.
    pub space: Arc<Space>,
    /// Signs the log, and knows its key.
    pub signer: Arc<Signer>,
    /// The present.
    pub clock: Clock,
    /// Denials of the last minute.
    pub denials: Denials,
    /// Rotations under way, by key.
    pub(crate) rotations: Rotations,
    /// Keys that the scheduler could not rotate because they have too many versions, and when that was last recorded.
    pub(crate) full_keys: Mutex<HashMap<KeyId, Timestamp>>,
    /// Days before a scheduled deletion unless the caller says otherwise.
    pub deletion_wait_days: u32,
    /// The least of them.
    pub deletion_wait_min_days: u32,
    /// Whose turn it is to read from the store what takes a moment.
    pub(crate) reads: Fair,
    /// Whose turn it is to read a list of the log.
    pub(crate) lists: Fair,
    /// Whose turn it is to verify the log.
    pub(crate) turns: Turns,
    /// How the log is verified.
    pub verification: VerificationSettings,
    /// The settings that the store was opened with: what opens a copy of it.
    pub config: Config,
}

/// The operations of one actor. Cheap to make and to clone.
///
/// # Cancellation
///
/// A future that is dropped is a call that was given up, not one that was undone. Until an operation is submitted to
/// the ledger, dropping its future does nothing. From then on the ledger commits it together with others, whoever still
/// waits: its record is written, a change is made, and only the answer is lost. A request that is sent again under an
/// idempotency key ([`with_idempotency_key`](Self::with_idempotency_key)) gets the first answer. Each method says which
/// of this holds for it. A future under a timeout should therefore be given more time than the store needs to commit.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
    actor: Actor,
    idempotency_key: Option<Arc<str>>,
}

impl Session {
    /// A session of this actor.
    pub(crate) fn new(shared: Arc<Shared>, actor: Actor) -> Self {
        Self { shared, actor, idempotency_key: None }
    }
    /// Who acts.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }
    /// What it shares with the other sessions.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn attempt(&self, operation: Operation, key: Option<KeyId>) -> Attempt {
        Attempt { actor: self.actor.clone(), operation, key, key_type: None, context: None }
    }

    /// A connection that reads, in a turn of this principal.
    pub(crate) async fn reader(&self) -> Result<Reading> {
        let turn = self.shared.reads.turn(self.actor.principal()).await;
        Ok(Reading { connection: self.shared.store.reader().await?, _turn: turn })
    }

    /// The key a caller means. A name is looked up in a fresh snapshot whether or not it is known already, so that the
    /// time of an answer does not tell; whether there is a key of an id, the ledger decides under the head's lock.
    async fn locate(&self, key: &KeyRef) -> Result<Option<KeyId>> {
        let looked = match key {
            KeyRef::Name(_) => self.shared.catalog.ensure_fresh().await,
            KeyRef::Id(_) => Ok(()),
        };
        let found = key.resolve(&self.shared.catalog.snapshot());
        // A name stays a key's for ever: a store that cannot be read now is no reason not to revoke.
        if found.is_none() { looked.map(|()| None) } else { Ok(found) }
    }

    /// Decides on the snapshot as it is. Answers the revision it decided at.
    fn decide(&self, attempt: &Attempt) -> (Decision, u64) {
        let snapshot = self.shared.catalog.snapshot();
        (policy::decide(&*snapshot, attempt, self.shared.clock.now()), snapshot.revision())
    }
}

/// A connection that reads for a caller.
pub(crate) struct Reading {
    connection: Box<dyn Connection>,
    _turn: Turn,
}

impl Reading {
    /// The connection.
    pub(crate) fn as_mut(&mut self) -> &mut dyn Connection {
        self.connection.as_mut()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("actor", &self.actor).finish_non_exhaustive()
    }
}

/// A key as callers name it: by its id or by its name. A text of the shape of a UUID is an id; no name has that shape.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyRef {
    /// By id.
    Id(KeyId),
    /// By name.
    Name(String),
}

impl KeyRef {
    /// The id it stands for; none for a name that no key has. There need not be a key of an id.
    fn resolve(&self, snapshot: &Snapshot) -> Option<KeyId> {
        match self {
            Self::Id(id) => Some(*id),
            Self::Name(name) => snapshot.key_by_name(name),
        }
    }
}

impl From<KeyId> for KeyRef {
    fn from(id: KeyId) -> Self {
        Self::Id(id)
    }
}
impl From<&KeyId> for KeyRef {
    fn from(id: &KeyId) -> Self {
        Self::Id(*id)
    }
}
impl From<&str> for KeyRef {
    fn from(text: &str) -> Self {
        KeyId::read(text).map_or_else(|| Self::Name(text.to_owned()), Self::Id)
    }
}
impl From<String> for KeyRef {
    fn from(text: String) -> Self {
        KeyId::read(&text).map_or_else(|| Self::Name(text), Self::Id)
    }
}
impl From<&String> for KeyRef {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}
impl From<&Self> for KeyRef {
    fn from(key: &Self) -> Self {
        key.clone()
    }
}
impl From<&KeyDescription> for KeyRef {
    fn from(key: &KeyDescription) -> Self {
        Self::Id(key.id)
    }
}

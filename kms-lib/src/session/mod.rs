//! The operations of one actor. Every method admits the call, decides, acts, commits through the ledger, and returns.

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
mod set_backs;
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
pub use audit::{AuditKey, AuditQuery};
#[cfg(feature = "import")]
pub(crate) use change::Intent;
pub(crate) use credentials::authenticate;
pub use credentials::{CreatedToken, CredentialDescription};
pub use denials::Denials;
pub(crate) use denials::{write_counted, write_last};
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
pub(crate) use set_backs::{SetBacks, doubtful_times};
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

/// The parts of the service that all sessions share.
pub struct Shared {
    /// The store with all keys, grants and the log.
    pub store: Arc<dyn Store>,
    /// The cryptography provider: aws-lc or RustCrypto.
    pub provider: Arc<dyn Provider>,
    /// Wraps and unwraps key material with the root keys.
    pub envelope: Envelope,
    /// Keys, versions, grants and credentials in memory.
    pub catalog: Arc<Catalog>,
    /// The cache of ready keys.
    pub materials: Arc<MaterialCache>,
    /// The cache of public keys of RSA versions.
    pub public_keys: PublicKeys,
    /// The threads for long computations.
    pub workers: Workers,
    /// The only path by which changes and records are written.
    pub ledger: Ledger,
    /// The free disk space of the store, and its reserve.
    pub space: Arc<Space>,
    /// Signs the log with its signing key.
    pub signer: Arc<Signer>,
    /// The clock that dates records and decides on expiry.
    pub clock: Clock,
    /// Denials of the last minute, counted per principal.
    pub denials: Denials,
    /// Rotations in progress, by key.
    pub(crate) rotations: Rotations,
    /// Keys that the scheduler could not rotate because they have too many versions, and when that was last recorded.
    pub(crate) full_keys: Mutex<HashMap<KeyId, Timestamp>>,
    /// The wait before a scheduled deletion unless the caller names one, in days.
    pub deletion_wait_days: u32,
    /// The shortest wait that a caller may name, in days.
    pub deletion_wait_min_days: u32,
    /// Admits short reads from the store in turn.
    pub(crate) reads: Fair,
    /// Admits lists of the log in turn.
    pub(crate) lists: Fair,
    /// Admits verifications of the log in turn.
    pub(crate) turns: Turns,
    /// The places at which the times of the log go back.
    pub(crate) set_backs: SetBacks,
    /// The settings for verifying the log.
    pub verification: VerificationSettings,
    /// The settings with which the store was opened; they also open a copy of it.
    pub config: Config,
}

/// The operations of one actor. Cheap to create and to clone.
///
/// # Cancellation
///
/// Dropping a future abandons the call without undoing it. Until an operation is submitted to the ledger, dropping its
/// future does nothing. After that the ledger commits it together with others, whether or not the caller still waits:
/// its record is written, a change is made, and only the answer is lost. A request that is sent again under an
/// idempotency key ([`with_idempotency_key`](Self::with_idempotency_key)) gets the first answer. Each method documents
/// which of this applies. A timeout on a future should therefore exceed the time that the store needs to commit.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
    actor: Actor,
    idempotency_key: Option<Arc<str>>,
}

impl Session {
    /// Creates a session of this actor.
    pub(crate) fn new(shared: Arc<Shared>, actor: Actor) -> Self {
        Self { shared, actor, idempotency_key: None }
    }
    /// The actor of this session.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }
    /// The parts of the service that all sessions share.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn attempt(&self, operation: Operation, key: Option<KeyId>) -> Attempt {
        Attempt { actor: self.actor.clone(), operation, key, key_type: None, context: None }
    }

    /// Waits for this principal's turn, and returns a reading connection.
    pub(crate) async fn reader(&self) -> Result<Reading> {
        let turn = self.shared.reads.turn(self.actor.principal()).await;
        Ok(Reading { connection: self.shared.store.reader().await?, _turn: turn })
    }

    /// Resolves a key as a caller named it. A name is looked up in a fresh snapshot whether or not it is known already,
    /// so that response times reveal nothing. The ledger decides under the head's lock whether an id belongs to a key.
    async fn locate(&self, key: &KeyRef) -> Result<Option<KeyId>> {
        let looked = match key {
            KeyRef::Name(_) => self.shared.catalog.ensure_fresh().await,
            KeyRef::Id(_) => Ok(()),
        };
        let found = key.resolve(&self.shared.catalog.snapshot());
        // A name always belongs to the same key, so an unreadable store does not prevent a revocation.
        if found.is_none() { looked.map(|()| None) } else { Ok(found) }
    }

    /// Decides on the current snapshot. Also returns the revision at which it decided.
    fn decide(&self, attempt: &Attempt) -> (Decision, u64) {
        let snapshot = self.shared.catalog.snapshot();
        (policy::decide(&*snapshot, attempt, self.shared.clock.now()), snapshot.revision())
    }
}

/// A reading connection for a caller, with the turn in which it is used.
pub(crate) struct Reading {
    connection: Box<dyn Connection>,
    _turn: Turn,
}

impl Reading {
    /// The reading connection, while the turn is held.
    pub(crate) fn as_mut(&mut self) -> &mut dyn Connection {
        self.connection.as_mut()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("actor", &self.actor).finish_non_exhaustive()
    }
}

/// A reference to a key, by id or by name. A text in the form of a UUID is an id, since no name has that form.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyRef {
    /// The key's identifier.
    Id(KeyId),
    /// The key's name.
    Name(String),
}

impl KeyRef {
    /// The id of the referenced key; none for an unknown name. An id may be one of no existing key.
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

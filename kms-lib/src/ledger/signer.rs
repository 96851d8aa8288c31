//! Signing and checking the head of the log, and the succession of the signing keys.

use std::sync::{Arc, PoisonError, RwLock};

use zeroize::Zeroizing;

use crate::audit::checkpoint::{self, Checkpoint};
use crate::audit::signing_keys::{SigningKey, SigningKeys};
use crate::audit::tree::Frontier;
use crate::crypto::provider::{Ed25519, Provider};
use crate::envelope::{Binding, Envelope, service_fingerprint};
use crate::lifecycle::NewSigningKey;
use crate::storage::Store;
use crate::storage::tables::audit;
use crate::storage::tables::secrets::{self, ServiceKeyRow};
use crate::types::audit::{Head, StoredCheckpoint};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::{LogId, ServiceKeyId};
use crate::types::root_key::ServiceKeyKind;

/// Signs heads with the log's signing key (Ed25519, RFC 8032), and checks the signatures of other processes that have
/// it.
///
/// The key can be replaced, here or by another process: [`Signer::keys`] returns the current set.
pub struct Signer {
    log: LogId,
    envelope: Envelope,
    provider: Arc<dyn Provider>,
    keys: RwLock<Arc<HeadKeys>>,
}

/// The log's signing keys at one moment, with the private part of the newest.
pub struct HeadKeys {
    public: SigningKeys,
    newest: Arc<dyn Ed25519>,
    /// The former key, kept only during a replacement, when both keys sign.
    former: Option<Arc<dyn Ed25519>>,
    provider: Arc<dyn Provider>,
}

impl Signer {
    /// The signer of a log with these stored keys, of which the newest is unwrapped.
    pub async fn load(
        log: LogId,
        rows: &[ServiceKeyRow],
        envelope: Envelope,
        provider: Arc<dyn Provider>,
    ) -> Result<Self> {
        let keys = unwrap_newest(log, rows, &envelope, &provider).await?;
        Ok(Self { log, envelope, provider, keys: RwLock::new(Arc::new(keys)) })
    }

    /// The keys as they are now.
    pub fn keys(&self) -> Arc<HeadKeys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over committed keys, unless newer ones are known already: another task may have read newer ones first.
    pub fn install(&self, keys: Arc<HeadKeys>) {
        let mut known = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if known.public.newest().number <= keys.public.newest().number {
            *known = keys;
        }
    }

    /// Takes over the keys that another process added to the store, like [`Signer::catch_up`]. Checkpoints are read
    /// only if there are such keys: their number grows with the log.
    pub async fn refresh(&self, store: &Arc<dyn Store>) -> Result<bool> {
        let mut connection = store.reader().await?;
        let rows = secrets::service_keys(connection.as_mut()).await?;
        let known = self.keys();
        if public_keys(self.log, &rows)? == known.public {
            return Ok(false);
        }
        // Read after the keys: the checkpoint that a key begins with is stored in the key's transaction.
        let kept = audit::checkpoints(connection.as_mut(), known.public.newest().first_seq).await?;
        // The connection is released first: unwrapping under the root key may involve a remote call.
        drop(connection);
        self.catch_up(&rows, &kept).await
    }

    /// Takes over the keys that another process added, and returns whether there were any. Fails with
    /// `IntegrityFailure` unless the stored keys are the known ones followed by new ones, each confirmed by its
    /// predecessor's signature in a stored checkpoint: a leaked root key is not enough to introduce a signing key.
    pub async fn catch_up(&self, rows: &[ServiceKeyRow], kept: &[StoredCheckpoint]) -> Result<bool> {
        let stored = public_keys(self.log, rows)?;
        let known = self.keys();
        if stored == known.public {
            return Ok(false);
        }
        if !stored.all().starts_with(known.public.all()) {
            // This process may itself have replaced the key since the rows were read.
            if known.public.all().starts_with(stored.all()) {
                return Ok(false);
            }
            return Err(Error::new(ErrorCode::IntegrityFailure, "the log's signing keys were altered in the store"));
        }
        let verify =
            |key: &[u8; 32], message: &[u8], signature: &[u8]| self.provider.ed25519_verify(key, message, signature);
        for key in &stored.all()[known.public.all().len()..] {
            let state = kept.iter().find(|kept| kept.size == key.first_seq);
            let signed = state.and_then(|state| stored.open(&state.note, &verify).ok());
            if signed.is_none_or(|signed| signed.size != key.first_seq) {
                let text = "the store has a signing key of the log that its predecessor did not sign for";
                return Err(Error::new(ErrorCode::IntegrityFailure, text));
            }
        }
        let keys = unwrap_newest(self.log, rows, &self.envelope, &self.provider).await?;
        self.install(Arc::new(keys));
        Ok(true)
    }

    /// Generates and wraps a new signing key: the successor of the `present` ones.
    pub async fn generate(&self, present: &HeadKeys) -> Result<NewSigningKey> {
        let number = present.public.newest().number + 1;
        let mut secret = Zeroizing::new([0; 32]);
        self.provider.random(secret.as_mut_slice())?;
        let binding = Binding::SigningKey { log: self.log, number };
        let wrapped = self.envelope.wrap(&binding, secret.as_slice()).await?;
        let key: Arc<dyn Ed25519> = Arc::from(self.provider.ed25519(&secret)?);
        let fingerprint = service_fingerprint(ServiceKeyKind::Signing, self.log, number, secret.as_slice())?;
        Ok(NewSigningKey { number, id: ServiceKeyId::random(), wrapped, fingerprint, key })
    }

    /// Opens a note of this log; fails unless the key for its size signed it.
    pub fn open(&self, note: &str) -> Result<Checkpoint> {
        self.keys().open(note)
    }
}

impl HeadKeys {
    /// The keys of a new log.
    pub fn first(log: LogId, key: Arc<dyn Ed25519>, provider: Arc<dyn Provider>) -> Result<Self> {
        let first = SigningKey { number: 1, first_seq: 1, public_key: key.public_key() };
        let public = SigningKeys::new(checkpoint::origin(log), vec![first])?;
        Ok(Self { public, newest: key, former: None, provider })
    }

    /// These keys, followed by a new one that signs from the record `seq` on.
    pub fn succeeded_by(&self, new: &NewSigningKey, seq: u64) -> Result<Self> {
        let key = SigningKey { number: new.number, first_seq: seq, public_key: new.key.public_key() };
        Ok(Self {
            public: self.public.with(key)?,
            newest: Arc::clone(&new.key),
            former: Some(Arc::clone(&self.newest)),
            provider: Arc::clone(&self.provider),
        })
    }

    /// These keys, once the replacement is committed: the former one is not kept.
    pub fn settled(&self) -> Self {
        Self {
            public: self.public.clone(),
            newest: Arc::clone(&self.newest),
            former: None,
            provider: Arc::clone(&self.provider),
        }
    }

    /// The public keys and their ranges.
    pub fn public(&self) -> &SigningKeys {
        &self.public
    }

    /// The newest public key in the form verifiers pin (C2SP signed note).
    pub fn verifier_key(&self) -> String {
        self.public.verifier_key(self.public.newest())
    }

    /// Signs the head: its checkpoint becomes a note over its size, root and revision, and the row commitment.
    pub fn sign(&self, head: &mut Head, rows: Option<[u8; 32]>) -> Result<()> {
        head.checkpoint = self.note(head.seq, &head.frontier, head.revision, rows)?;
        Ok(())
    }

    /// A signed note over a state of the log.
    pub fn note(&self, size: u64, frontier: &[[u8; 32]], revision: u64, rows: Option<[u8; 32]>) -> Result<String> {
        let newest = self.public.newest();
        if size < newest.first_seq {
            return Err(Error::new(ErrorCode::Internal, "a state from before the signing key's range"));
        }
        let origin = self.public.origin();
        let root = Frontier::from_parts(size, frontier.to_vec())?.root();
        let body = Checkpoint { origin: origin.to_owned(), size, root, revision: Some(revision), rows };
        let mut note = checkpoint::sign(&body, origin, &newest.public_key, &|message| self.newest.sign(message));
        if size == newest.first_seq
            && let Some(former) = &self.former
        {
            let sign = |message: &[u8]| former.sign(message);
            note.push_str(&checkpoint::signature_line(&body.body(), origin, &former.public_key(), &sign));
        }
        Ok(note)
    }

    /// Fails unless the head carries the newest key's signature over its size, revision and the root of its frontier.
    pub fn check(&self, head: &Head) -> Result<()> {
        let root = Frontier::from_parts(head.seq, head.frontier.clone())?.root();
        // A former key's signature is never accepted: only its public part is stored, and that is not sealed.
        if head.seq < self.public.newest().first_seq {
            return Err(Error::new(ErrorCode::IntegrityFailure, "the head of the log is older than its signing key"));
        }
        let signed = self.open(&head.checkpoint)?;
        if signed.size != head.seq || signed.root != root || signed.revision != Some(head.revision) {
            return Err(Error::new(ErrorCode::IntegrityFailure, "the head of the log is not the one that was signed"));
        }
        Ok(())
    }

    /// Opens a note of this log; fails unless the key for its size signed it.
    pub fn open(&self, note: &str) -> Result<Checkpoint> {
        self.public.open(note, &|key, message, signature| self.provider.ed25519_verify(key, message, signature))
    }
}

fn public_keys(log: LogId, rows: &[ServiceKeyRow]) -> Result<SigningKeys> {
    let mut keys = Vec::new();
    for ServiceKeyRow { key, .. } in rows.iter().filter(|row| row.key.kind == ServiceKeyKind::Signing) {
        let public_key = key
            .public_key
            .ok_or_else(|| Error::new(ErrorCode::IntegrityFailure, "a signing key of the log has no public key"))?;
        keys.push(SigningKey { number: key.number, first_seq: key.first_seq, public_key });
    }
    SigningKeys::new(checkpoint::origin(log), keys)
}

async fn unwrap_newest(
    log: LogId,
    rows: &[ServiceKeyRow],
    envelope: &Envelope,
    provider: &Arc<dyn Provider>,
) -> Result<HeadKeys> {
    let bad = |why: &str| Error::new(ErrorCode::IntegrityFailure, format!("the log's signing key {why}"));
    let public = public_keys(log, rows)?;
    let number = public.newest().number;
    let row = rows.iter().find(|row| row.key.kind == ServiceKeyKind::Signing && row.key.number == number);
    let row = row.ok_or_else(|| bad("is missing"))?;
    let unwrapped = envelope.unwrap(&Binding::SigningKey { log, number }, &row.wrapped).await?;
    let mut secret = Zeroizing::new([0; 32]);
    if unwrapped.len() != secret.len() {
        return Err(bad("has the wrong length"));
    }
    if service_fingerprint(ServiceKeyKind::Signing, log, number, &unwrapped)? != row.key.fingerprint {
        return Err(bad("does not match its stored fingerprint"));
    }
    secret.copy_from_slice(&unwrapped);
    let newest: Arc<dyn Ed25519> = Arc::from(provider.ed25519(&secret)?);
    if newest.public_key() != public.newest().public_key {
        return Err(bad("does not belong to its public key"));
    }
    Ok(HeadKeys { public, newest, former: None, provider: Arc::clone(provider) })
}

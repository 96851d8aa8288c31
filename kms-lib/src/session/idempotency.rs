//! Idempotent requests: they take effect once, however often they are sent.

use std::future::Future;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::Session;
use super::refusal::refusal;
use crate::catalog::KeyDescription;
use crate::envelope::row;
use crate::ledger::{Details, Idempotency};
use crate::policy;
use crate::storage::tables::idempotency::{self, KeptRequest};
use crate::types::attempt::{Attempt, Operation};
use crate::types::audit::Action;
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::limits::TEXT_BYTES;
use crate::types::text::is_printable;

/// Whether an idempotent request took effect now or earlier.
pub(super) enum Once<T> {
    /// The request took effect now.
    Now(T),
    /// The request took effect earlier; its idempotency record.
    Before(KeptRequest),
}

impl Session {
    /// The same session for one request with this idempotency key. If the same principal sends the request again within
    /// 24 hours, also through another process or after a restart, it takes effect only once and gets the first answer
    /// again. An answer longer than 64 KiB, about a key with very many versions, is not kept; the repeated request then
    /// gets the key's current description. Another request under the same key fails with `IdempotencyConflict`. The key
    /// has 1 to 256 printable bytes. Reads ignore it; [`Session::create_token`] refuses it, since a token cannot be
    /// shown again.
    pub fn with_idempotency_key(&self, key: &str) -> Result<Self> {
        if !is_printable(key, TEXT_BYTES) {
            return Err(Error::invalid("an idempotency key has 1 to 256 bytes and no control or invisible characters"));
        }
        Ok(Self { idempotency_key: Some(Arc::from(key)), ..self.clone() })
    }

    pub(crate) fn has_idempotency_key(&self) -> bool {
        self.idempotency_key.is_some()
    }

    /// The idempotency record of this request; none without an idempotency key.
    pub(super) fn once(
        &self,
        action: Action,
        target: &str,
        version: Option<u32>,
        details: &Details,
        subject: [u8; 16],
    ) -> Option<Idempotency> {
        let key = self.idempotency_key.as_deref()?;
        let mut hash = Sha256::new();
        for part in [action.as_str(), target, &version.map_or_else(String::new, |v| v.to_string()), &details.render()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Some(Idempotency { key: key.to_owned(), request_digest: hash.finalize().into(), subject })
    }

    /// Performs a request unless it took effect earlier. If the answer describes something, `right` is the permission
    /// needed to get that answer again. Without the permission the request is processed as usual, which refuses it and
    /// records the refusal.
    pub(super) async fn do_once<T>(
        &self,
        once: Option<Idempotency>,
        right: Option<Attempt>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<Once<T>> {
        let Some(once) = once else { return work.await.map(Once::Now) };
        let may_be_told = || {
            let (snapshot, now) = (self.shared.catalog.snapshot(), self.shared.clock.now());
            right.as_ref().is_none_or(|attempt| policy::has_right(&*snapshot, attempt, now))
        };
        if let Some(kept) = self.find_request(&once).await?.filter(|_| may_be_told()) {
            return Ok(Once::Before(kept));
        }
        match work.await {
            Ok(done) => Ok(Once::Now(done)),
            // If it was sent twice at the same time, the other one may have taken effect by now. If that cannot be
            // determined, the first error is returned, which may be `OutcomeUnknown`.
            Err(error) => match self.find_request(&once).await {
                Ok(kept) => kept.filter(|_| may_be_told()).map(Once::Before).ok_or(error),
                Err(other) if other.code() == ErrorCode::IdempotencyConflict => Err(other),
                Err(_) => Err(error),
            },
        }
    }

    /// The answer to a change of a key: the stored first answer of the same request if there is one, otherwise the key
    /// as it is now. A change that was made now is answered even if the store cannot be read.
    pub(super) async fn answer(
        &self,
        id: KeyId,
        done: Once<Vec<Change>>,
        once: Option<&Idempotency>,
    ) -> Result<KeyDescription> {
        let changes = match done {
            Once::Now(changes) => changes,
            Once::Before(kept) => {
                return match first_answer(&kept) {
                    Some(answer) => Ok(answer),
                    None => self.describe(id).await,
                };
            }
        };
        let kept = match once {
            Some(once) => self.find_request(once).await.unwrap_or_default(),
            None => None,
        };
        match kept.as_ref().and_then(first_answer) {
            Some(answer) => Ok(answer),
            None => self.describe_changed(id, &changes).await,
        }
    }

    async fn find_request(&self, once: &Idempotency) -> Result<Option<KeptRequest>> {
        let now = self.shared.clock.now();
        let attempt = self.attempt(Operation::ReadKey, None);
        if !policy::is_authenticated(&*self.shared.catalog.snapshot(), &attempt, now) {
            return Err(refusal(ErrorCode::NotAuthenticated));
        }
        let mut connection = self.reader().await?;
        let found = idempotency::find(connection.as_mut(), self.actor.principal(), &once.key, now).await?;
        drop(connection);
        if found.as_ref().is_some_and(|kept| !self.is_same_request(once, kept)) {
            // Another process may have replaced the integrity key that seals it.
            self.shared.catalog.ensure_fresh().await?;
        }
        match found {
            None => Ok(None),
            Some(kept) if self.is_same_request(once, &kept) => {
                // The answer may describe changes of another process.
                self.shared.catalog.ensure_fresh().await?;
                Ok(Some(kept))
            }
            // Another request, or a record that this service did not write: the new request has no effect in both
            // cases.
            Some(_) => Err(Error::new(
                ErrorCode::IdempotencyConflict,
                "the idempotency key was used for another request in the last 24 hours",
            )),
        }
    }

    fn is_same_request(&self, once: &Idempotency, kept: &KeptRequest) -> bool {
        let KeptRequest { principal, key, subject, answer, seq, expires_at, .. } = kept;
        let row = row::request(principal, key, &once.request_digest, subject, answer.as_deref(), *seq, *expires_at);
        // A seal under the former key is not accepted while rows are resealed: an attacker with that key could forge
        // answers.
        self.shared.catalog.seals().alone().is_sealed(&row, &kept.request_seal)
    }
}

/// The stored answer. One in an unknown format counts as missing.
pub(super) fn first_answer<T: serde::de::DeserializeOwned>(kept: &KeptRequest) -> Option<T> {
    let read = serde_json::from_str(kept.answer.as_deref()?);
    read.inspect_err(
        |error| tracing::warn!(%error, seq = kept.seq, "the answer in an idempotency record cannot be read"),
    )
    .ok()
}

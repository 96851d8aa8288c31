//! Reading the log and managing its signing keys.

use std::sync::Arc;

use serde::Serialize;

use super::change::{Changed, Intent, REDO, overtaken};
use super::refusal::refusal;
use super::requests::{Page, Paging};
use super::{KeyRef, Session, set_backs};
use crate::audit::checkpoint;
use crate::audit::signing_keys::SigningKey;
use crate::ledger::{Details, HeadKeys};
use crate::lifecycle::Command;
use crate::storage::Connection;
use crate::storage::tables::audit::{self, Selection};
use crate::storage::tables::head;
use crate::types::attempt::{Decision, Operation};
use crate::types::audit::{Action, AuditRecord, Status};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::time::Timestamp;

/// A filter of the log's records, and their order. The default is all records, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditQuery {
    /// Oldest first instead of newest first.
    pub oldest_first: bool,
    /// Only records of this action.
    pub action: Option<Action>,
    /// Only records of this actor, by its principal.
    pub actor: Option<String>,
    /// Only records about this key. An id may be one of no existing key; a name must be one of a key (`KeyNotFound`).
    pub key: Option<KeyRef>,
    /// Only records with this status.
    pub status: Option<Status>,
    /// Only records of the request with this id.
    pub request_id: Option<String>,
    /// Only records of this time or later.
    pub since: Option<Timestamp>,
    /// Only records before this time.
    pub until: Option<Timestamp>,
}

impl AuditQuery {
    /// All records, newest first.
    pub fn new() -> Self {
        Self::default()
    }
    /// In the order of the log, oldest record first.
    #[must_use]
    pub fn oldest_first(mut self) -> Self {
        self.oldest_first = true;
        self
    }
    /// Only records of this action.
    #[must_use]
    pub fn action(mut self, action: Action) -> Self {
        self.action = Some(action);
        self
    }
    /// Only records of this actor, by its principal.
    #[must_use]
    pub fn actor(mut self, principal: impl Into<String>) -> Self {
        self.actor = Some(principal.into());
        self
    }
    /// Only records about this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<KeyRef>) -> Self {
        self.key = Some(key.into());
        self
    }
    /// Only records with this status.
    #[must_use]
    pub fn status(mut self, status: Status) -> Self {
        self.status = Some(status);
        self
    }
    /// Only records of the request with this id.
    #[must_use]
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.request_id = Some(id.into());
        self
    }
    /// Only records of this time or later.
    #[must_use]
    pub fn since(mut self, time: Timestamp) -> Self {
        self.since = Some(time);
        self
    }
    /// Only records before this time.
    #[must_use]
    pub fn until(mut self, time: Timestamp) -> Self {
        self.until = Some(time);
        self
    }
}

/// A public key of the log, with the range of checkpoints that it signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct AuditKey {
    /// The public key as verifiers pin it (C2SP signed note: name, id and key).
    pub verifier_key: String,
    /// The number of the record that introduced the key. It signs checkpoints from this size on.
    pub first_seq: u64,
    /// The size of the last checkpoint it signs, which its successor signs too. None for the current key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seq: Option<u64>,
}

/// The number of records that are examined for one page of a list whose filters no index serves.
const LOOKED_AT: u64 = 20_000;
/// The number of records of the table that are compared with the result of an index.
const HELD: u64 = 2_000;

impl Session {
    /// Lists the records of the log. A cursor is the sequence number of a record, after which the list continues. The
    /// work for one page is bounded: with a filter that few records pass, a page may be shorter than the limit, even
    /// empty, and still have a cursor. Times, a key or an actor narrow the search; other filters have no index, since
    /// every operation would have to maintain it. The first list by time after a start begins with an empty page for
    /// every 50,000 records since the last verification. For admins and auditors.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn list_audit(&self, query: &AuditQuery, paging: &Paging) -> Result<Page<AuditRecord>> {
        paging.check()?;
        let (limit, cursor): (usize, Option<u64>) = (paging.limit, paging.cursor_as()?);
        self.permit_reading(Action::AuditRead, Operation::ReadAudit, None).await?;
        let _admission = self.admit_list()?;
        let key = match &query.key {
            Some(key) => Some(self.locate(key).await?.ok_or_else(|| refusal(ErrorCode::KeyNotFound))?),
            None => None,
        };
        let _turn = self.shared.lists.turn(self.actor.principal()).await;
        let mut connection = self.shared.store.long_reader().await?;
        // Objects added to the schema since its last inspection might hide records.
        self.shared.ledger.seen().check_writable()?;
        connection.check_schema_change().await?;
        let last = audit::last_seq(connection.as_mut()).await?;
        let indexed = indexed(connection.as_mut(), last).await?;
        let within = (query.since, query.until);
        let Some(ranges) = set_backs::ranges(&self.shared, connection.as_mut(), within, last).await? else {
            // The next page continues at the same place.
            let place = cursor.unwrap_or(if query.oldest_first { 0 } else { last + 1 });
            return Ok(Page { items: Vec::new(), next_cursor: Some(place.to_string()) });
        };
        let mut ranges = split(ranges, indexed);
        if !query.oldest_first {
            ranges.reverse();
        }
        let mut records = Vec::new();
        for (mut first, mut end, is_indexed) in ranges {
            match cursor {
                Some(cursor) if query.oldest_first => first = first.max(cursor.saturating_add(1)),
                Some(cursor) => end = end.min(cursor.saturating_sub(1)),
                None => {}
            }
            if first > end || records.len() > limit {
                continue;
            }
            let selection = Selection {
                first: Some(first),
                last: Some(end),
                key,
                actor: query.actor.clone(),
                action: query.action,
                status: query.status,
                request_id: query.request_id.clone(),
                ascending: query.oldest_first,
                limit: limit + 1 - records.len(),
            };
            let (found, last) = audit::select_among(connection.as_mut(), &selection, is_indexed, LOOKED_AT).await?;
            if is_indexed {
                hold_against_table(connection.as_mut(), &selection, &found, last).await?;
            }
            records.extend(found);
            if let Some(last) = last.filter(|_| records.len() <= limit) {
                return Ok(Page { items: records, next_cursor: Some(last.to_string()) });
            }
        }
        Ok(Page::of(records, limit, |record| record.seq))
    }

    /// Returns the signed head of the log (C2SP checkpoint).
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn checkpoint(&self) -> Result<String> {
        self.permit_reading(Action::AuditRead, Operation::ReadAudit, None).await?;
        let mut connection = self.reader().await?;
        head::require(connection.as_mut()).await.map(|head| head.checkpoint)
    }

    /// Returns the checkpoint of the log at this size, if it is kept. Checkpoints are kept where a signing key was
    /// replaced, and at intervals in between. An export includes the former, so that a verifier can follow the keys.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn kept_checkpoint(&self, size: u64) -> Result<Option<String>> {
        self.permit_reading(Action::AuditRead, Operation::ReadAudit, None).await?;
        let mut connection = self.reader().await?;
        audit::checkpoint_at(connection.as_mut(), size).await
    }

    /// Returns the current public key of the log, as verifiers pin it.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn audit_public_key(&self) -> Result<String> {
        self.permit_reading(Action::AuditRead, Operation::ReadAudit, None).await?;
        Ok(self.signing_keys().await?.verifier_key())
    }

    /// Returns all public keys of the log, oldest first, each with the range of checkpoints it signs.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn audit_public_keys(&self) -> Result<Vec<AuditKey>> {
        self.permit_reading(Action::AuditRead, Operation::ReadAudit, None).await?;
        let keys = self.signing_keys().await?;
        let all = keys.public().all();
        let ends = all.iter().skip(1).map(|next| Some(next.first_seq)).chain([None]);
        let describe = |(key, last_seq): (&SigningKey, Option<u64>)| AuditKey {
            verifier_key: keys.public().verifier_key(key),
            first_seq: key.first_seq,
            last_seq,
        };
        Ok(all.iter().zip(ends).map(describe).collect())
    }

    /// Replaces the signing key of the log and returns the new public key, for verifiers to pin. For admins.
    ///
    /// The checkpoint that ends with the record of the replacement is signed by both keys, so that a verifier with the
    /// former key can trust the new one. The private part of the former key is erased. `Conflict` if another process
    /// replaced the key at the same moment.
    ///
    /// Cancellation: before the change is submitted, dropping the future does nothing; afterwards the change is made
    /// and its answer is lost. [`audit_public_key`](Self::audit_public_key) says which key signs now.
    pub async fn replace_signing_key(&self) -> Result<String> {
        if self.has_idempotency_key() {
            return Err(Error::invalid("replacing the signing key does not accept an idempotency key"));
        }
        self.permit_reading(Action::SigningKeyReplace, Operation::ReplaceSigningKey, None).await?;
        let admission = self.admit_change()?;
        let mut retry = None;
        for _ in 0..=REDO {
            let former = self.signing_keys().await?;
            let new = self.shared.signer.generate(&former).await?;
            let verifier_key = checkpoint::verifier_key(former.public().origin(), &new.key.public_key());
            let mut details = Details::default();
            details
                .number("number", u64::from(new.number))
                .text("previousKey", &former.verifier_key())
                .text("verifierKey", &verifier_key);
            let attempt = self.attempt(Operation::ReplaceSigningKey, None);
            let (decision, revision) = self.decide(&attempt);
            let intent = Intent { action: Action::SigningKeyReplace, attempt, version: None, details, once: None };
            let command = Some(Command::ReplaceSigningKey(Box::new(new)));
            match self.commit(&admission, &intent, decision, revision, command, retry.take()).await? {
                Changed::Done(..) => return Ok(verifier_key),
                // The key was wrapped under other generations of the root key than those now in use.
                Changed::Redo(slot) => retry = slot,
            }
        }
        Err(overtaken())
    }

    /// The log's signing keys, including those that another process has added.
    async fn signing_keys(&self) -> Result<Arc<HeadKeys>> {
        self.shared.signer.refresh(&self.shared.store).await?;
        Ok(self.shared.signer.keys())
    }

    /// Records an event of the service itself that is not an operation of a caller.
    pub(crate) async fn record_event(&self, action: Action, operation: Operation, details: Details) -> Result<()> {
        let admission = self.admit_change()?;
        let intent = Intent { action, attempt: self.attempt(operation, None), version: None, details, once: None };
        let decision = Decision::Allowed { grant: None, valid_until: None };
        let revision = self.shared.catalog.snapshot().revision();
        // A command is in the log before this returns, even if results of operations are released earlier.
        match self.commit(&admission, &intent, decision, revision, Some(Command::Record(action)), None).await? {
            Changed::Done(..) | Changed::Redo(_) => Ok(()),
        }
    }
}

/// The number of records that the indexes have: all, up to `last`, where the engine keeps them. Otherwise it is as the
/// head says, so that records which an attacker appended do not count.
async fn indexed(connection: &mut dyn Connection, last: u64) -> Result<u64> {
    if connection.dialect().keeps_log_indexes {
        return Ok(last);
    }
    Ok(head::read(connection).await?.map_or(0, |head| head.indexed))
}

/// Splits ranges of records where the indexes end. The flag of each part says whether the indexes have its records.
fn split(ranges: Vec<(u64, u64)>, indexed: u64) -> Vec<(u64, u64, bool)> {
    let parts = |(first, end): (u64, u64)| {
        let parts = [(first, end.min(indexed), true), (first.max(indexed + 1), end, false)];
        parts.into_iter().filter(|(first, end, _)| first <= end)
    };
    ranges.into_iter().flat_map(parts).collect()
}

/// Compares the result of an index with the table: the nearest matching records of the table, up to a bound, must all
/// be in the result, up to the last `examined` one. Older records missing from an index are found by a verification.
async fn hold_against_table(
    connection: &mut dyn Connection,
    selection: &Selection,
    found: &[AuditRecord],
    examined: Option<u64>,
) -> Result<()> {
    if selection.key.is_none() && selection.actor.is_none() {
        return Ok(());
    }
    let damaged = |seq: u64| {
        Err(Error::new(
            ErrorCode::StoreCorrupt,
            format!("an index of the log lacks record {seq}; find the cause, then rebuild the index"),
        ))
    };
    let is_beyond = |seq: u64, end: u64| if selection.ascending { seq > end } else { seq < end };
    for seq in audit::matching_near(connection, selection, HELD).await? {
        if examined.is_some_and(|end| is_beyond(seq, end)) {
            continue;
        }
        if found.len() < selection.limit && found.iter().all(|row| row.seq != seq) {
            return damaged(seq);
        }
        // A full page ends with its last record.
        let Some(end) = found.last().map(|row| row.seq) else { continue };
        if !is_beyond(seq, end) && found.iter().all(|row| row.seq != seq) {
            return damaged(seq);
        }
    }
    Ok(())
}

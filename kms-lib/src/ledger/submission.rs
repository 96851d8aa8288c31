//! Submissions that sessions hand to the ledger, and the outcomes they receive.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::budget::Bytes;
use super::details::Details;
use super::few::Few;
use super::retry::RetrySlot;
use super::shares::Share;
use crate::audit::record::Body;
use crate::lifecycle::Command;
use crate::types::actor::Actor;
use crate::types::attempt::Attempt;
use crate::types::audit::{Action, Receipt, Status};
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode};
use crate::types::ids::KeyId;
use crate::types::time::Timestamp;

/// The cost of a record or row in bytes, in addition to its text.
const RECORD_COST: usize = 512;
/// The cost in bytes of a decision, or of counting a use.
const DECISION_COST: usize = 64;

/// An audit record that has no place in the log yet.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The actor that requested the operation.
    pub actor: Actor,
    /// The action that the record describes.
    pub action: Action,
    /// The key that the action concerns.
    pub key_id: Option<KeyId>,
    /// The version of the key that was used.
    pub key_version: Option<u32>,
    /// The other members of the record, written as JSON.
    pub details: Details,
}

/// A draft rendered for one status, and hashed. Sessions do this, to relieve the ledger's single task.
#[derive(Clone, Debug)]
pub struct Rendered {
    pub(super) status: Status,
    pub(super) details: String,
    pub(super) digest: [u8; 32],
}

impl Rendered {
    /// The details, as canonical JSON.
    pub fn details(&self) -> &str {
        &self.details
    }
    /// The SHA-256 of the body.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

impl Draft {
    /// Renders the record's body for this status and hashes it.
    pub fn render(&self, status: Status) -> Rendered {
        self.render_with(&self.details, status)
    }

    /// Like [`render`](Self::render), with other details than the draft's own.
    pub(super) fn render_with(&self, details: &Details, status: Status) -> Rendered {
        let details = details.render();
        let body = Body {
            actor: self.actor.principal(),
            role: self.actor.role().as_str(),
            action: self.action.as_str(),
            status: status.as_str(),
            request_id: self.actor.request_id(),
            key_id: self.key_id,
            key_version: self.key_version,
            details: Some(&details),
        };
        let digest = body.digest();
        Rendered { status, details, digest }
    }
}

/// The result of an operation as its session knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The attempt was allowed, and the work is done.
    Allowed {
        /// The time from which the decision no longer holds.
        valid_until: Option<Timestamp>,
    },
    /// The attempt was allowed, but the work failed, for example because of a bad ciphertext.
    Failed(ErrorCode),
    /// The attempt was denied.
    Denied(ErrorCode),
}

/// The idempotency key of a request, which takes effect only once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The caller's key for the request.
    pub key: String,
    /// The SHA-256 of the request.
    pub request_digest: [u8; 32],
    /// The subject of the answer: the id of a key, a grant or a credential.
    pub subject: [u8; 16],
}

/// The use of a version, to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// The key that was used.
    pub key: KeyId,
    /// The number of the version that was used.
    pub version: u32,
    /// The number of messages encrypted; zero for other uses.
    pub encryptions: u64,
}

/// One record to be written, with the attempts that it represents.
#[derive(Debug)]
pub struct Entry {
    /// The attempts, allowed or denied as `verdict` says. A batch has several; a released result has none.
    pub attempts: Few<Arc<Attempt>>,
    /// The result of the attempts.
    pub verdict: Verdict,
    /// The record to be written.
    pub draft: Draft,
    /// The rendered record, if the session has rendered it.
    pub rendered: Option<Rendered>,
    /// The uses that are counted if the operation succeeds.
    pub uses: Few<Use>,
    /// The numbers of succeeded and of failed operations that the record represents. Outside a batch they add up to 1.
    pub tally: (u64, u64),
    /// The idempotency record to be stored, so that the same request has no second effect.
    pub idempotency: Option<Box<Idempotency>>,
    /// Small values, by name, that are stored in the same transaction.
    pub remember: Vec<(&'static str, String)>,
}

impl Entry {
    /// The status of the record as the session determined it.
    pub fn status(&self) -> Status {
        match self.verdict {
            Verdict::Allowed { .. } => Status::Success,
            Verdict::Failed(_) | Verdict::Denied(_) => Status::Failure,
        }
    }

    /// The principal and the idempotency key of this entry's request, if it has one.
    pub(super) fn request(&self) -> Option<(&str, &Idempotency)> {
        Some((self.draft.actor.principal(), self.idempotency.as_deref()?))
    }

    /// Like [`request`](Self::request), but only if the request takes effect with this entry and is stored.
    pub(super) fn effective_request(&self) -> Option<(&str, &Idempotency)> {
        self.request().filter(|_| matches!(self.verdict, Verdict::Allowed { .. }))
    }
}

/// The approximate cost of records and a command: the bytes of the records, plus the size of a small record for each
/// row that the command reads or writes.
pub(super) fn cost_of(entries: &[Entry], command: Option<&Command>) -> usize {
    let records = entries.iter().map(|entry| {
        RECORD_COST + entry.draft.details.bytes() + DECISION_COST * (entry.attempts.len() + entry.uses.len())
    });
    let rows = command.map_or(0, Command::rows);
    records.sum::<usize>().saturating_add(rows.saturating_mul(RECORD_COST))
}

/// An operation on its way into the log.
#[derive(Debug)]
pub struct Submission {
    /// The revision of the catalog at which the session decided.
    pub decided_at: u64,
    /// The records to be written.
    pub entries: Vec<Entry>,
    /// The change, if there is one. Boxed, because most submissions have none and are moved several times.
    pub command: Option<Box<Command>>,
    /// The cost of the submission: [`cost_of`] its entries and command.
    pub cost: usize,
    /// Set if the submission was superseded before: then it has precedence.
    pub retry: Option<RetrySlot>,
    /// The time at which its result was released, if that was before the commit (`audit.ack = "queued"`).
    pub released_at: Option<Timestamp>,
    /// The admission, which is held until the submission is answered.
    pub admission: Arc<Admission>,
    /// The channel for the outcome; none if the result was released.
    pub reply: Option<oneshot::Sender<Outcome>>,
}

impl Submission {
    /// Notes that the result is released at this time. It is not decided again, so the attempts are dropped: on the
    /// thread that allocated them, which costs less than on the ledger's thread.
    pub(super) fn release(&mut self, now: Timestamp) {
        self.released_at = Some(now);
        for entry in &mut self.entries {
            entry.attempts = Few::default();
        }
    }
    /// The principal that the cost is charged to.
    pub(super) fn principal(&self) -> &Arc<str> {
        self.admission._share.holder()
    }
    /// Whether the submission encrypts with one of these versions.
    pub(super) fn encrypts_with(&self, versions: &HashSet<(KeyId, u32)>) -> bool {
        let mut uses = self.entries.iter().flat_map(|entry| entry.uses.iter());
        !versions.is_empty() && uses.any(|u| u.encryptions > 0 && versions.contains(&(u.key, u.version)))
    }
    /// Whether the submission uses one of these versions, for any operation.
    pub(super) fn uses_any(&self, versions: &HashSet<(KeyId, u32)>) -> bool {
        let mut uses = self.entries.iter().flat_map(|entry| entry.uses.iter());
        !versions.is_empty() && uses.any(|u| versions.contains(&(u.key, u.version)))
    }
    /// Whether the submission acknowledges the clock: its record may have an earlier time than the log's last one.
    pub(super) fn acknowledges_clock(&self) -> bool {
        matches!(self.command.as_deref(), Some(Command::Record(Action::ClockAcknowledge)))
    }
    /// Whether all its decisions still hold at this time.
    pub(super) fn holds_at(&self, now: Timestamp) -> bool {
        self.entries.iter().all(|entry| match entry.verdict {
            Verdict::Allowed { valid_until } => valid_until.is_none_or(|end| now < end),
            Verdict::Failed(_) | Verdict::Denied(_) => true,
        })
    }
}

/// The outcome of a submission.
#[derive(Debug)]
pub enum Outcome {
    /// The records are in the log, as the session submitted them.
    Committed {
        /// One receipt for each entry.
        receipts: Few<Receipt>,
        /// The rows that were changed.
        changes: Vec<Change>,
    },
    /// The attempt is in the log as refused: a change that precedes it in the log forbids it.
    Refused(ErrorCode),
    /// Nothing is in the log: the session must decide and work again. It holds the slot until the submission is back in
    /// the queue.
    Redo(Option<RetrySlot>),
    /// Nothing is in the log; with `OutcomeUnknown` the records may be.
    Failed(Error),
}

/// A place in the ledger's queue, held while an operation is in flight.
#[derive(Debug)]
pub struct Admission {
    pub(super) _bytes: Option<Bytes>,
    pub(super) _share: Share,
}

impl Admission {
    /// Ends admissions. The places of the same principal that follow each other end together.
    pub(super) fn end_all(admissions: Vec<Arc<Self>>) {
        let mut last: Option<Self> = None;
        // The caller still holds an admission whose result was not released; it ends with the call.
        for mut ended in admissions.into_iter().filter_map(Arc::into_inner) {
            if !last.as_mut().is_some_and(|last| last._share.absorb(&mut ended._share)) {
                last = Some(ended);
            }
        }
    }
}

//! What sessions hand to the ledger, and what they get back.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::budget::Bytes;
use super::details::Details;
use super::retry::RetrySlot;
use super::shares::Share;
use crate::audit::record::Body;
use crate::lifecycle::Command;
use crate::types::actor::Actor;
use crate::types::attempt::Attempt;
use crate::types::audit::{Action, Receipt, Status};
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode};
use crate::types::ids::{KeyId, RecordId};
use crate::types::time::Timestamp;

/// The cost of a record, or of a row, beside its text.
const RECORD_COST: usize = 512;
/// The cost of a decision, or of counting a use.
const DECISION_COST: usize = 64;

/// A record to be, without its place in the log.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Its id.
    pub id: RecordId,
    /// Who acts.
    pub actor: Actor,
    /// What is done.
    pub action: Action,
    /// To which key.
    pub key_id: Option<KeyId>,
    /// With which version.
    pub key_version: Option<u32>,
    /// What else is known.
    pub details: Details,
}

/// A draft written out for one status, and hashed. Sessions do this, so that the ledger's one task need not.
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
    /// Writes the body for this status and hashes it.
    pub fn render(&self, status: Status) -> Rendered {
        self.render_with(&self.details, status)
    }

    /// The same with these details instead of the draft's own.
    pub(super) fn render_with(&self, details: &Details, status: Status) -> Rendered {
        let id = self.id;
        let details = details.render();
        let body = Body {
            id,
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

/// How an operation went as far as its session knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was allowed, and the work is done.
    Allowed {
        /// From when on the decision is void.
        valid_until: Option<Timestamp>,
    },
    /// It was allowed, and the work failed: a bad ciphertext.
    Failed(ErrorCode),
    /// It was not allowed.
    Denied(ErrorCode),
}

/// A request that is to have its effect once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The caller's key for the request.
    pub key: String,
    /// SHA-256 of what is asked.
    pub request_digest: [u8; 32],
    /// What the answer is about: the id of a key, a grant or a credential.
    pub subject: [u8; 16],
}

/// Use of a version, to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// The key.
    pub key: KeyId,
    /// The version.
    pub version: u32,
    /// Messages encrypted.
    pub encryptions: u64,
}

/// One record to be, with the attempts it stands for.
#[derive(Debug)]
pub struct Entry {
    /// What was attempted, and allowed or denied as `verdict` says. Several for a batch.
    pub attempts: Vec<Attempt>,
    /// How it went.
    pub verdict: Verdict,
    /// The record.
    pub draft: Draft,
    /// The record written out, if the session has.
    pub rendered: Option<Rendered>,
    /// What is counted if it succeeds.
    pub uses: Vec<Use>,
    /// Operations it stands for: succeeded and failed ones. One of them is 1 unless it is for a batch.
    pub tally: (u64, u64),
    /// What is kept so that the same request changes nothing a second time.
    pub idempotency: Option<Box<Idempotency>>,
    /// Small values that are kept with it, by name.
    pub remember: Vec<(&'static str, String)>,
}

impl Entry {
    /// The status of the record as the session sees it.
    pub fn status(&self) -> Status {
        match self.verdict {
            Verdict::Allowed { .. } => Status::Success,
            Verdict::Failed(_) | Verdict::Denied(_) => Status::Failure,
        }
    }

    /// The request that this entry is about, if it is one that has its effect once, with its caller.
    pub(super) fn request(&self) -> Option<(&str, &Idempotency)> {
        Some((self.draft.actor.principal(), self.idempotency.as_deref()?))
    }

    /// The same, if it has its effect with this entry and is kept then.
    pub(super) fn effective_request(&self) -> Option<(&str, &Idempotency)> {
        self.request().filter(|_| matches!(self.verdict, Verdict::Allowed { .. }))
    }
}

/// What records and a command cost the ledger, about: the bytes of the records, with as much for each row that the
/// command reads or writes as a small record has.
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
    /// The revision its session decided at.
    pub decided_at: u64,
    /// Its records.
    pub entries: Vec<Entry>,
    /// What it changes.
    pub command: Option<Command>,
    /// What it costs the ledger: [`cost_of`] these.
    pub cost: usize,
    /// Set if it comes back after it was superseded: then it goes first.
    pub retry: Option<RetrySlot>,
    /// When its result was released before the commit (`audit.ack = "queued"`).
    pub released_at: Option<Timestamp>,
    /// The admission it holds until it is answered.
    pub admission: Arc<Admission>,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Outcome>,
}

impl Submission {
    /// Whom its cost is charged to.
    pub(super) fn principal(&self) -> &Arc<str> {
        self.admission._share.holder()
    }
    /// Whether it encrypts with one of these versions.
    pub(super) fn encrypts_with(&self, versions: &HashSet<(KeyId, u32)>) -> bool {
        let uses = self.entries.iter().flat_map(|entry| &entry.uses);
        !versions.is_empty() && uses.into_iter().any(|u| u.encryptions > 0 && versions.contains(&(u.key, u.version)))
    }
    /// Whether it uses one of these versions, for whatever operation.
    pub(super) fn uses_any(&self, versions: &HashSet<(KeyId, u32)>) -> bool {
        let uses = self.entries.iter().flat_map(|entry| &entry.uses);
        !versions.is_empty() && uses.into_iter().any(|u| versions.contains(&(u.key, u.version)))
    }
    /// Whether its record says that time, which was ahead, is the present again.
    pub(super) fn acknowledges_clock(&self) -> bool {
        matches!(self.command, Some(Command::Record(Action::ClockAcknowledge)))
    }
    /// Whether no window that its decisions relied on has ended.
    pub(super) fn holds_at(&self, now: Timestamp) -> bool {
        self.entries.iter().all(|entry| match entry.verdict {
            Verdict::Allowed { valid_until } => valid_until.is_none_or(|end| now < end),
            Verdict::Failed(_) | Verdict::Denied(_) => true,
        })
    }
}

/// What the ledger answers.
#[derive(Debug)]
pub enum Outcome {
    /// It is in the log, as the session saw it.
    Committed {
        /// One for each entry.
        receipts: Vec<Receipt>,
        /// The rows it changed.
        changes: Vec<Change>,
    },
    /// It is in the log as refused: its place in the log comes after a change that forbids it.
    Refused(ErrorCode),
    /// It is not in the log: decide and work again. The slot is held until it is back in the queue.
    Redo(Option<RetrySlot>),
    /// It is not in the log, or (with `OutcomeUnknown`) it may be.
    Failed(Error),
}

/// Room in the ledger's queue, held while an operation is under way.
#[derive(Debug)]
pub struct Admission {
    pub(super) _operations: OwnedSemaphorePermit,
    pub(super) _bytes: Option<Bytes>,
    pub(super) _share: Share,
}

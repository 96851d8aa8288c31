//! The common path of every change, and of every read that is recorded only when it is refused.

use std::sync::Arc;

use smallvec::smallvec;

use super::refusal::refusal;
use super::{KeyRef, Session};
use crate::ledger::{Admission, Details, Draft, Entry, Few, Idempotency, Lane, Outcome, RetrySlot, Verdict};
use crate::lifecycle::Command;
use crate::storage::StoreFuture;
use crate::types::attempt::{Attempt, Decision, Operation};
use crate::types::audit::{Action, Receipt};
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;

/// A change to be decided on and committed.
pub(crate) struct Intent {
    pub action: Action,
    pub attempt: Attempt,
    pub version: Option<u32>,
    pub details: Details,
    /// The idempotency record to write; none without an idempotency key.
    pub once: Option<Idempotency>,
}

/// The outcome of a commit.
pub(super) enum Changed {
    Done(Vec<Change>, Receipt),
    /// The change was prepared for an outdated state; prepare it again.
    Redo(Option<RetrySlot>),
}

/// The number of times an operation is prepared again because another change overtook it. Within one process once is
/// enough, since a retry precedes the next rotation. Rotations of other nodes cannot be held back, and some of them
/// overtake each attempt.
pub(super) const REDO: usize = 64;

/// The error of an operation that was overtaken on every attempt.
pub(super) fn overtaken() -> Error {
    Error::new(ErrorCode::StoreContended, "other changes came first on every attempt; nothing was done, retry later")
}

impl Session {
    /// Admits a change to its own lane, which cryptographic operations cannot fill.
    pub(super) fn admit_change(&self) -> Result<Arc<Admission>> {
        self.shared.ledger.admit(Lane::Change, self.actor.principal(), 0)
    }

    /// Makes a change that needs no preparation.
    pub(crate) fn change<'a>(&'a self, intent: Intent, command: Command) -> StoreFuture<'a, (Vec<Change>, Receipt)> {
        Box::pin(async move {
            let admission = self.admit_change()?;
            let mut retry = None;
            for _ in 0..=REDO {
                let (decision, revision) = self.decide(&intent.attempt);
                match self.commit(&admission, &intent, decision, revision, Some(command.clone()), retry.take()).await? {
                    Changed::Done(changes, receipt) => return Ok((changes, receipt)),
                    Changed::Redo(slot) => retry = slot,
                }
            }
            Err(overtaken())
        })
    }

    /// Commits the change, or records the refusal, as the decision says.
    #[tracing::instrument(level = "debug", name = "kms.change", skip_all,
        fields(action = intent.action.as_str(), principal = self.actor.principal()))]
    pub(super) fn commit<'a>(
        &'a self,
        admission: &'a Arc<Admission>,
        intent: &'a Intent,
        decision: Decision,
        revision: u64,
        command: Option<Command>,
        retry: Option<RetrySlot>,
    ) -> StoreFuture<'a, Changed> {
        Box::pin(async move {
            if let Decision::Denied(code) = decision
                && self.is_only_counted(intent, code).await?
            {
                return Err(refusal(code));
            }
            let (verdict, command) = match &decision {
                Decision::Allowed { valid_until, .. } => (Verdict::Allowed { valid_until: *valid_until }, command),
                Decision::Denied(code) => (Verdict::Denied(*code), None),
                Decision::Superseded => return Ok(Changed::Redo(None)),
            };
            let entry = self.entry(intent, verdict, &decision, revision, command.as_ref());
            match self.shared.ledger.submit(admission, revision, vec![entry], command, retry).await {
                Outcome::Committed { receipts, changes } => match verdict {
                    Verdict::Denied(code) | Verdict::Failed(code) => Err(refusal(code)),
                    Verdict::Allowed { .. } => match receipts.first() {
                        Some(receipt) => Ok(Changed::Done(changes, *receipt)),
                        None => Err(Error::new(ErrorCode::Internal, "a change was committed without a record")),
                    },
                },
                Outcome::Refused(code) => Err(refusal(code)),
                Outcome::Redo(retry) => Ok(Changed::Redo(retry)),
                Outcome::Failed(error) => Err(error),
            }
        })
    }

    /// Whether a denial is only counted because there are too many. Only a denial decided on a fresh snapshot may be.
    async fn is_only_counted(&self, intent: &Intent, code: ErrorCode) -> Result<bool> {
        let now = self.shared.clock.now();
        let fresh = self.shared.denials.is_flooding(&self.actor, code, now);
        if fresh {
            self.shared.catalog.ensure_fresh().await?;
            if !matches!(self.decide(&intent.attempt), (Decision::Denied(again), _) if again == code) {
                return Ok(false);
            }
        }
        if self.shared.denials.is_recorded(&self.actor, code, now, fresh) {
            return Ok(false);
        }
        self.shared.denials.count(&self.actor, intent.action, code, now, 1);
        Ok(true)
    }

    /// Records that a change was allowed but cannot be made.
    pub(super) async fn fail(&self, admission: &Arc<Admission>, intent: &Intent, error: Error) -> Error {
        let verdict = Verdict::Failed(error.code());
        let decision = Decision::Denied(error.code());
        let revision = self.shared.catalog.snapshot().revision();
        let entry = self.entry(intent, verdict, &decision, revision, None);
        match self.shared.ledger.submit(admission, revision, vec![entry], None, None).await {
            Outcome::Failed(outage) => outage,
            _ => error,
        }
    }

    /// The record of a change, with the decision made at this revision.
    fn entry(
        &self,
        intent: &Intent,
        verdict: Verdict,
        decision: &Decision,
        revision: u64,
        command: Option<&Command>,
    ) -> Entry {
        let mut details = intent.details.clone();
        details.decision(decision, revision).source(&intent.attempt);
        if let Verdict::Denied(code) | Verdict::Failed(code) = verdict {
            details.text("error", code.as_str());
        }
        // A new key has its id already, though no operation could be attempted on it yet.
        let subject = match command {
            Some(Command::CreateKey(new)) => Some(new.id),
            Some(Command::ImportKey(imported)) => Some(imported.id),
            Some(Command::RotateImported(rotation)) => Some(rotation.key),
            _ => intent.attempt.key,
        };
        let draft = Draft {
            actor: self.actor.clone(),
            action: intent.action,
            key_id: subject,
            key_version: intent.version,
            details,
        };
        Entry {
            attempts: smallvec![Arc::new(intent.attempt.clone())],
            verdict,
            draft,
            rendered: None,
            uses: Few::default(),
            tally: (1, 0),
            idempotency: intent.once.clone().map(Box::new),
            remember: Vec::new(),
        }
    }

    /// Fails unless the actor may read this now. Only a refusal is recorded.
    pub(crate) async fn permit_reading(&self, action: Action, operation: Operation, key: Option<KeyId>) -> Result<()> {
        self.shared.catalog.ensure_fresh().await?;
        self.decide_reading(action, operation, key).await
    }

    /// Returns the key if the actor may read it. The store is queried once, whether or not the key exists.
    pub(super) async fn permit_reading_key(&self, key: &KeyRef) -> Result<KeyId> {
        self.shared.catalog.ensure_fresh().await?;
        let id = key.resolve(&self.shared.catalog.snapshot());
        self.decide_reading(Action::KeyRead, Operation::ReadKey, id).await?;
        id.ok_or_else(|| refusal(ErrorCode::KeyNotFound))
    }

    pub(super) async fn decide_reading(&self, action: Action, operation: Operation, key: Option<KeyId>) -> Result<()> {
        let attempt = self.attempt(operation, key);
        let (decision, revision) = self.decide(&attempt);
        if matches!(decision, Decision::Allowed { .. }) {
            return Ok(());
        }
        let admission = self.shared.ledger.admit(Lane::Use, self.actor.principal(), 0)?;
        let intent = Intent { action, attempt, version: None, details: Details::default(), once: None };
        match self.commit(&admission, &intent, decision, revision, None, None).await? {
            // The read has become allowed: the snapshot has caught up, and the read may continue.
            Changed::Redo(_) | Changed::Done(..) => Ok(()),
        }
    }
}

//! Anchors: checkpoints of the log that are kept outside the database.

use std::sync::Arc;

use smallvec::smallvec;

use super::Session;
use crate::ledger::{Details, Draft, Entry, Few, Lane, Outcome, Verdict};
use crate::types::attempt::Operation;
use crate::types::audit::Action;
use crate::types::error::{ErrorCode, Result};
use crate::verification::{AnchorReport, anchors};

/// The maximum length of a recorded reason, in bytes.
const REASON: usize = 512;

impl Session {
    /// Compares the log with checkpoints of it that were kept outside the database: those of
    /// [`checkpoint`](Self::checkpoint), also from other nodes. If the log does not continue an anchored state, the
    /// database was rolled back or truncated, or nodes work on two copies of it. Such a finding is recorded. For admins
    /// and auditors.
    ///
    /// Read the anchors before you call this, since a busy service extends the log meanwhile.
    ///
    /// Cancellation: dropping the future changes nothing, or leaves the finding recorded.
    pub async fn compare_anchors(&self, checkpoints: &[String]) -> Result<AnchorReport> {
        self.permit_reading(Action::AuditAnchor, Operation::VerifyAudit, None).await?;
        let report = anchors::compare(&self.shared.store, &self.shared.signer, checkpoints).await?;
        if let Some(fault) = report.faults.first() {
            self.shared.ledger.counters().fault();
            let mut details = Details::default();
            details.number("size", report.size).text("fault", &fault.to_string());
            // A log that was rolled back may refuse the record; returning the report matters more.
            if let Err(error) = self.record_anchoring(details, ErrorCode::RestoreDetected).await {
                tracing::warn!(%error, "the finding of an anchor comparison could not be recorded");
            }
        }
        Ok(report)
    }

    /// Records that the log could not be anchored, with the reason. For admins and auditors.
    ///
    /// Cancellation: dropping the future changes nothing, or leaves the record.
    pub async fn record_anchor_failure(&self, reason: &str) -> Result<()> {
        self.permit_reading(Action::AuditAnchor, Operation::VerifyAudit, None).await?;
        let end = reason.floor_char_boundary(REASON);
        let mut details = Details::default();
        details.text("reason", &reason[..end]);
        self.record_anchoring(details, ErrorCode::InputOutput).await
    }

    async fn record_anchoring(&self, mut details: Details, code: ErrorCode) -> Result<()> {
        let admission = self.shared.ledger.admit(Lane::Use, self.actor.principal(), 0)?;
        let attempt = self.attempt(Operation::VerifyAudit, None);
        let (decision, revision) = self.decide(&attempt);
        details.text("error", code.as_str());
        details.decision(&decision, revision).source(&attempt);
        let draft =
            Draft { actor: self.actor.clone(), action: Action::AuditAnchor, key_id: None, key_version: None, details };
        let entry = Entry {
            verdict: Verdict::Failed(code),
            attempts: smallvec![Arc::new(attempt)],
            draft,
            rendered: None,
            uses: Few::default(),
            tally: (1, 0),
            idempotency: None,
            remember: Vec::new(),
        };
        match self.shared.ledger.submit(&admission, revision, vec![entry], None, None).await {
            Outcome::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }
}

//! Reading and verifying the log.

use serde::Serialize;

use super::Session;
use super::change::{Changed, Intent};
use crate::ledger::{Details, Draft, Entry, Lane, Outcome, Verdict};
use crate::storage::Connection;
use crate::storage::tables::audit::{self, Selection};
use crate::storage::tables::{head, usage};
use crate::types::attempt::{Decision, Operation};
use crate::types::audit::{Action, AuditRow, Status};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::{KeyId, RecordId};
use crate::types::limits::PAGE_LIMIT;
use crate::types::time::Timestamp;
use crate::verification::{Report, Verifier, VerifyOptions};

/// Which records are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// How many, at most 1,000; 100 if 0.
    pub limit: usize,
    /// Go on behind the record with this sequence number: the `next_cursor` of the page before.
    pub cursor: Option<u64>,
    /// Oldest first instead of newest first.
    pub ascending: bool,
    /// Only this action.
    pub action: Option<Action>,
    /// Only by this actor.
    pub actor: Option<String>,
    /// Only about this key.
    pub key: Option<KeyId>,
    /// Only with this status.
    pub status: Option<Status>,
    /// Only from this time on.
    pub since: Option<Timestamp>,
    /// Only before this time.
    pub until: Option<Timestamp>,
}

/// A page of records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditPage {
    /// The records.
    #[serde(skip)]
    pub records: Vec<AuditRow>,
    /// Give this to get the next page; none on the last one.
    pub next_cursor: Option<u64>,
}

/// What is kept of the last verification.
pub(crate) const LAST_VERIFICATION: &str = "audit.last_verification";
/// How far the log was verified without a fault.
pub(crate) const VERIFIED_SIZE: &str = "audit.verified_size";

impl Session {
    /// A page of the log, newest first unless asked otherwise.
    pub async fn list_audit(&self, query: &AuditQuery) -> Result<AuditPage> {
        let limit = if query.limit == 0 { 100 } else { query.limit };
        if limit > PAGE_LIMIT {
            return Err(Error::invalid(format!("a page has 1 to {PAGE_LIMIT} entries")));
        }
        self.permit_reading(Action::AuditRead, Operation::ReadAudit, None).await?;
        let mut connection = self.shared.store.reader().await?;
        let last = audit::last_seq(connection.as_mut()).await?;
        let mut first = 1;
        let mut end = last;
        if let Some(since) = query.since {
            first = first_at(connection.as_mut(), since, last).await?;
        }
        if let Some(until) = query.until {
            end = first_at(connection.as_mut(), until, last).await?.saturating_sub(1);
        }
        match query.cursor {
            Some(cursor) if query.ascending => first = first.max(cursor.saturating_add(1)),
            Some(cursor) => end = end.min(cursor.saturating_sub(1)),
            None => {}
        }
        let selection = Selection {
            first: Some(first),
            last: Some(end),
            key: query.key,
            actor: query.actor.clone(),
            action: query.action,
            status: query.status,
            ascending: query.ascending,
            limit: limit + 1,
        };
        let mut records = audit::select(connection.as_mut(), &selection).await?;
        let more = records.len() > limit;
        records.truncate(limit);
        let next_cursor = records.last().filter(|_| more).map(|record| record.seq);
        Ok(AuditPage { records, next_cursor })
    }

    /// The signed head of the log (C2SP checkpoint).
    pub async fn checkpoint(&self) -> Result<String> {
        self.permit_reading(Action::AuditRead, Operation::ReadAudit, None).await?;
        let mut connection = self.shared.store.reader().await?;
        let head = head::read(connection.as_mut(), false).await?;
        head.map(|head| head.checkpoint)
            .ok_or_else(|| Error::new(ErrorCode::StoreCorrupt, "the head of the log is missing"))
    }

    /// The public key of the log, in the form verifiers pin.
    pub async fn audit_public_key(&self) -> Result<String> {
        self.permit_reading(Action::AuditRead, Operation::ReadAudit, None).await?;
        Ok(self.shared.signer.verifier_key())
    }

    /// Verifies the whole log. The verification is itself recorded, and what it found kept for the metrics.
    pub async fn verify_audit(&self) -> Result<Report> {
        self.verify_audit_with(&VerifyOptions::default()).await
    }

    /// Verifies what came since the last verification that found no fault.
    pub async fn verify_audit_incrementally(&self) -> Result<Report> {
        let mut connection = self.shared.store.reader().await?;
        let trusted = usage::meta(connection.as_mut(), VERIFIED_SIZE).await?.and_then(|size| size.parse().ok());
        drop(connection);
        self.verify_audit_with(&VerifyOptions { trusted_size: trusted, pinned_key: None }).await
    }

    /// Verifies as the options say.
    pub async fn verify_audit_with(&self, options: &VerifyOptions) -> Result<Report> {
        self.permit_reading(Action::AuditVerify, Operation::VerifyAudit, None).await?;
        let shared = self.shared();
        let verifier = Verifier {
            store: &shared.store,
            catalog: &shared.catalog,
            signer: &shared.signer,
            provider: shared.provider.as_ref(),
        };
        let report = verifier.verify(options).await?;
        // A log that is broken may refuse the record of its verification; the report matters more.
        if let Err(error) = self.record_verification(&report).await {
            tracing::warn!(%error, "a verification could not be recorded");
        }
        Ok(report)
    }

    async fn record_verification(&self, report: &Report) -> Result<()> {
        let admission = self.shared.ledger.admit(Lane::Use, self.actor.principal(), 0)?;
        let attempt = self.attempt(Operation::VerifyAudit, None);
        let (decision, revision) = self.decide(&attempt);
        let mut details = Details::default();
        details.raw("ok", report.ok.to_string()).number("size", report.size).number("from", report.from);
        details.decision(&decision, revision).source(&attempt);
        if let Some(seq) = report.broken_at {
            details.number("brokenAt", seq).text("error", ErrorCode::IntegrityFailure.as_str());
        }
        if let Some(fault) = report.faults.first() {
            details.text("fault", &fault.to_string());
        }
        let id = RecordId::random();
        let kept = serde_json::json!({
            "id": id, "timestamp": self.shared.clock.now(), "ok": report.ok, "brokenAt": report.broken_at,
        });
        let mut remember = vec![(LAST_VERIFICATION, kept.to_string())];
        if report.ok {
            remember.push((VERIFIED_SIZE, report.size.to_string()));
        }
        let entry = Entry {
            verdict: if report.ok {
                Verdict::Allowed { valid_until: None }
            } else {
                Verdict::Failed(ErrorCode::IntegrityFailure)
            },
            attempts: vec![attempt],
            draft: Draft {
                id,
                actor: self.actor.clone(),
                action: Action::AuditVerify,
                key_id: None,
                key_version: None,
                details,
            },
            rendered: None,
            uses: Vec::new(),
            tally: (1, 0),
            idempotency: None,
            remember,
        };
        match self.shared.ledger.submit(&admission, revision, vec![entry], None, None).await {
            Outcome::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Records something the service did that is no operation of a caller.
    pub(crate) async fn record_event(&self, action: Action, operation: Operation, details: Details) -> Result<()> {
        let admission = self.admit_change()?;
        let intent = Intent { action, attempt: self.attempt(operation, None), version: None, details, once: None };
        let decision = Decision::Allowed { grant: None, valid_until: None };
        let revision = self.shared.catalog.image().revision();
        match self.commit(&admission, &intent, decision, revision, None, None).await? {
            Changed::Done(..) | Changed::Redo(_) => Ok(()),
        }
    }
}

/// The first sequence number of a record at or after `time`: times never run backwards, so halving finds it.
async fn first_at(connection: &mut dyn Connection, time: Timestamp, last: u64) -> Result<u64> {
    let (mut low, mut high) = (1, last + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        match audit::time_at(connection, middle).await? {
            Some(found) if found < time => low = middle + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

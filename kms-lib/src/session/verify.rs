//! Verifying the log and recording the result.

use std::path::PathBuf;
use std::sync::Arc;

use smallvec::smallvec;

use super::{Session, Shared};
use crate::audit::verify::{Fault, Finding};
use crate::ledger::{Details, Draft, Entry, Few, Lane, Outcome, Verdict};
use crate::storage::StoreFuture;
use crate::storage::tables::usage;
use crate::types::attempt::Operation;
use crate::types::audit::Action;
use crate::types::error::{ErrorCode, Result};
use crate::types::time::Timestamp;
use crate::verification::{
    KeptVerification, Pinned, REVERIFY_WINDOW, Report, VERIFIED_SIZE, Verified, Verifier, VerifyOptions, Window,
    high_water, rolled_back,
};
use crate::workers::run_blocking;

/// The name under which the last verification is stored.
pub(crate) const LAST_VERIFICATION: &str = "audit.last_verification";

/// The settings for verifying the log.
#[derive(Clone, Debug)]
pub struct VerificationSettings {
    /// The path of the high-water file.
    pub high_water: Option<PathBuf>,
    /// The number of days within which incremental verifications read the whole log again; with 0, each of them does.
    pub reverify_days: u32,
}

impl Session {
    /// Verifies the whole log, the tables, imported logs, and the schema and indexes of the database. The verification
    /// itself is recorded, and its result is kept for the metrics.
    ///
    /// Only one verification runs at a time, in turns by principal. Callers that ask for the same verification while
    /// they wait share one that begins after they asked; each has its own record. `CallerOverloaded` if too many calls
    /// of this principal are waiting.
    ///
    /// Cancellation: dropping the future ends the verification; it may have been recorded already.
    pub async fn verify_audit(&self) -> Result<Report> {
        self.verify_audit_with(&VerifyOptions::default()).await
    }

    /// Verifies the records since the last verification without faults, and reads a part of the older records again,
    /// large enough to read the whole log within the configured time (`audit.reverify_days`).
    ///
    /// Verifies everything if the results of earlier verifications are missing, altered or older than that time.
    ///
    /// Cancellation: dropping the future ends the verification; it may have been recorded already.
    pub async fn verify_audit_incrementally(&self) -> Result<Report> {
        let (trusted, window) = self.kept_verification().await?;
        let now = self.shared.clock.now();
        let due = window.and_then(|window| window.due(now, self.shared.verification.reverify_days));
        match (trusted, window, due) {
            (Some(size), Some(window), Some(due)) if self.shared.verification.reverify_days > 0 => {
                let options = VerifyOptions { trusted_size: Some(size), reread: Some(due), ..VerifyOptions::default() };
                self.verify_log(&options, Some(window), now).await
            }
            _ => self.verify_audit().await,
        }
    }

    /// Verifies with these options. A pinned key that does not belong to the log is reported at once, without reading
    /// the log.
    ///
    /// Cancellation: dropping the future ends the verification; it may have been recorded already.
    pub async fn verify_audit_with(&self, options: &VerifyOptions) -> Result<Report> {
        self.verify_log(options, None, self.shared.clock.now()).await
    }

    /// Verifies and records the result. `window` is the current round of reading old records again.
    fn verify_log<'a>(
        &'a self,
        options: &'a VerifyOptions,
        window: Option<Window>,
        begun: Timestamp,
    ) -> StoreFuture<'a, Report> {
        Box::pin(async move {
            self.permit_reading(Action::AuditVerify, Operation::VerifyAudit, None).await?;
            let options = match verifier(&self.shared, None).hold_pinned_key(options).await? {
                Pinned::Known(options) => options,
                Pinned::Unknown(report) => {
                    // A caller's pinned key says nothing about the log, so this result is not kept for the metrics.
                    self.note_verification(&report, None).await?;
                    return Ok(report);
                }
            };
            let shared = Arc::clone(&self.shared);
            let verify = |options| async move { verify_once(&shared, &options).await };
            let verified = self.shared.turns.join(&options, self.actor.principal(), verify).await?;
            let (report, head) = verified.as_ref();
            if let Some(head) = head.as_ref().filter(|_| report.ok) {
                self.shared.ledger.seen().note(head);
            }
            // A verification whose start another party chose leaves earlier records unverified.
            let has_gap = report.from > 0 && window.is_none();
            let window = match (window, report.reread) {
                (_, _) if report.from == 0 => Some(Window::new(report.size, begun)),
                (Some(window), Some((_, end))) => Some(window.advanced(end, report.from, begun)),
                _ => None,
            };
            self.note_verification(report, Some(Kept { window, has_gap })).await?;
            Ok(Arc::try_unwrap(verified).unwrap_or_else(|shared| Verified::clone(&shared)).0)
        })
    }

    /// Records a verification, and stores where later ones start. A broken log may refuse the record; returning the
    /// report matters more. A caller with too many calls in flight gets that error instead of a report without a
    /// record.
    async fn note_verification(&self, report: &Report, kept: Option<Kept>) -> Result<()> {
        match self.record_verification(report, kept).await {
            Err(error) if matches!(error.code(), ErrorCode::Overloaded | ErrorCode::CallerOverloaded) => Err(error),
            Err(error) => {
                tracing::warn!(%error, "a verification could not be recorded");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// The size up to which the log was verified, and the current round of reading old records again; none if this
    /// service did not write the stored values itself.
    async fn kept_verification(&self) -> Result<(Option<u64>, Option<Window>)> {
        let kept = kept_verification(&self.shared).await?;
        let mut connection = self.reader().await?;
        let window = usage::meta(connection.as_mut(), REVERIFY_WINDOW).await?;
        let window = window.and_then(|window| Window::open(&window, &self.shared.catalog.seals()));
        Ok((kept.map(|kept| kept.size), window))
    }

    async fn record_verification(&self, report: &Report, kept: Option<Kept>) -> Result<()> {
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
        let mut remember = Vec::new();
        if let Some(Kept { window, has_gap }) = kept {
            let last = serde_json::json!({
                "timestamp": self.shared.clock.now(), "ok": report.ok, "brokenAt": report.broken_at,
            });
            remember.push((LAST_VERIFICATION, last.to_string()));
            if report.ok && !has_gap {
                let seals = self.shared.catalog.seals();
                remember.push((VERIFIED_SIZE, KeptVerification::of(report).sealed(&seals)));
                remember.extend(window.map(|window| (REVERIFY_WINDOW, window.sealed(&seals))));
            }
        }
        let entry = Entry {
            verdict: if report.ok {
                Verdict::Allowed { valid_until: None }
            } else {
                Verdict::Failed(ErrorCode::IntegrityFailure)
            },
            attempts: smallvec![Arc::new(attempt)],
            draft: Draft {
                actor: self.actor.clone(),
                action: Action::AuditVerify,
                key_id: None,
                key_version: None,
                details,
            },
            rendered: None,
            uses: Few::default(),
            tally: (1, 0),
            idempotency: None,
            remember,
        };
        match self.shared.ledger.submit(&admission, revision, vec![entry], None, None).await {
            Outcome::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }
}

/// The stored result of the last verification; none if this service did not write it itself.
async fn kept_verification(shared: &Shared) -> Result<Option<KeptVerification>> {
    let mut connection = shared.store.reader().await?;
    KeptVerification::read(connection.as_mut(), &shared.catalog.seals()).await
}

/// The results of a verification that later ones start from.
struct Kept {
    /// The round of reading old records again that the next verification continues.
    window: Option<Window>,
    /// Whether earlier records may never have been verified.
    has_gap: bool,
}

fn verifier<'a>(shared: &'a Shared, kept: Option<&'a KeptVerification>) -> Verifier<'a> {
    let Shared { store, catalog, signer, workers, .. } = shared;
    Verifier { store, catalog, signer, workers, kept }
}

/// Verifies the log, and checks that it continues what was seen before.
async fn verify_once(shared: &Shared, options: &VerifyOptions) -> Result<Verified> {
    // Read before the head, which moves.
    let seen = shared.ledger.seen().state();
    let note = match shared.verification.high_water.clone() {
        None => None,
        Some(path) => Some(run_blocking(move || Ok((path.clone(), high_water::read(&path)?))).await),
    };
    let kept = kept_verification(shared).await?;
    let (store, signer) = (&shared.store, &shared.signer);
    let (mut report, head) = verifier(shared, kept.as_ref()).verify_and_see(options).await?;
    let (note, unreadable) = match note.transpose() {
        Ok(note) => (note.and_then(|(path, note)| Some((path, note?))), None),
        Err(error) => (None, Some(error)),
    };
    report.warnings.extend(unreadable.map(|error: crate::Error| error.message().to_owned()));
    match rolled_back(store, signer, seen, note).await {
        Ok((fault, warning)) => {
            report.warnings.extend(warning);
            put_rollback(&mut report, fault);
        }
        // The report already contains a fault.
        Err(error) if !report.ok => tracing::warn!(%error, "the check for a rollback failed"),
        Err(error) => return Err(error),
    }
    if !report.ok {
        shared.ledger.counters().fault();
    }
    Ok((report, head))
}

/// Adds a rollback to the report. A log that became shorter is the first fault to report. A record that differs from
/// the one seen before may have been altered in place, which is another fault and comes first.
fn put_rollback(report: &mut Report, fault: Option<Fault>) {
    match fault {
        Some(Fault { finding: Finding::RolledBack { size, seen }, .. }) if size >= seen => {
            report.put_last(Finding::RolledBack { size, seen });
        }
        Some(fault) => report.put_first(fault),
        None => {}
    }
}

//! Verifying the log.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Session, Shared};
use crate::audit::verify::{Fault, Finding};
use crate::catalog::run_blocking;
use crate::ledger::{Details, Draft, Entry, Lane, Outcome, Verdict};
use crate::storage::tables::usage;
use crate::types::attempt::Operation;
use crate::types::audit::Action;
use crate::types::error::{ErrorCode, Result};
use crate::types::ids::RecordId;
use crate::types::time::Timestamp;
use crate::verification::{
    KeptVerification, Pinned, REVERIFY_WINDOW, Report, VERIFIED_SIZE, Verified, Verifier, VerifyOptions, Window,
    high_water, rolled_back,
};

/// The name under which the last verification is kept.
pub(crate) const LAST_VERIFICATION: &str = "audit.last_verification";

/// What the configuration says of verification.
#[derive(Clone, Debug)]
pub struct VerificationSettings {
    /// The high-water file.
    pub high_water: Option<PathBuf>,
    /// Days within which incremental verifications read the whole log again; 0: each of them does.
    pub reverify_days: u32,
}

impl Session {
    /// Verifies the whole log, the tables, imported logs, and the schema and indexes of the database. The verification
    /// is itself recorded, and what it found kept for the metrics.
    ///
    /// One verification goes on at a time, in turns by principal. Callers who ask for the same while they wait for
    /// their turn share one, which begins after they asked; each has its record. `CallerOverloaded` if too many calls
    /// of this principal wait.
    ///
    /// Cancellation: dropping the future ends the verification; it may have been recorded already.
    pub async fn verify_audit(&self) -> Result<Report> {
        self.verify_audit_with(&VerifyOptions::default()).await
    }

    /// Verifies what came since the last verification that found no fault, and reads a part of the older records again:
    /// so many that the whole log is read within the configured time (`audit.reverify_days`).
    ///
    /// Everything is verified if what is kept of earlier verifications is missing, altered or older than that time.
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

    /// Verifies as the options say. A pinned key that is none of the log's is reported at once, and nothing is read
    /// then.
    ///
    /// Cancellation: dropping the future ends the verification; it may have been recorded already.
    pub async fn verify_audit_with(&self, options: &VerifyOptions) -> Result<Report> {
        self.verify_log(options, None, self.shared.clock.now()).await
    }

    /// Verifies, and records it. `window` is the round of reading again that the options go on with.
    async fn verify_log(&self, options: &VerifyOptions, window: Option<Window>, begun: Timestamp) -> Result<Report> {
        self.permit_reading(Action::AuditVerify, Operation::VerifyAudit, None).await?;
        let options = match verifier(&self.shared, None).hold_pinned_key(options).await? {
            Pinned::Known(options) => options,
            Pinned::Unknown(report) => {
                // What one caller pins says nothing of the log: it is not kept for the metrics.
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
        // A verification from where somebody else says, and not this service, leaves a gap behind it.
        let has_gap = report.from > 0 && window.is_none();
        let window = match (window, report.reread) {
            (_, _) if report.from == 0 => Some(Window::new(report.size, begun)),
            (Some(window), Some((_, end))) => Some(window.advanced(end, report.from, begun)),
            _ => None,
        };
        self.note_verification(report, Some(Kept { window, has_gap })).await?;
        Ok(Arc::try_unwrap(verified).unwrap_or_else(|shared| Verified::clone(&shared)).0)
    }

    /// Records a verification, and keeps what later ones begin with. A log that is broken may refuse that; the report
    /// matters more. A caller who has too much under way is told that, and not what no record stands for.
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

    /// The size up to which the log was verified, and the round of reading again: none of what this service did not
    /// write itself.
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
        let id = RecordId::random();
        let mut remember = Vec::new();
        if let Some(Kept { window, has_gap }) = kept {
            let last = serde_json::json!({
                "id": id, "timestamp": self.shared.clock.now(), "ok": report.ok, "brokenAt": report.broken_at,
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
}

/// What is kept of the last verification: nothing of what this service did not write itself.
async fn kept_verification(shared: &Shared) -> Result<Option<KeptVerification>> {
    let mut connection = shared.store.reader().await?;
    let kept = usage::meta(connection.as_mut(), VERIFIED_SIZE).await?;
    Ok(kept.and_then(|kept| KeptVerification::open(&kept, &shared.catalog.seals())))
}

/// What a verification leaves to later ones.
struct Kept {
    /// The round of reading again that the next one goes on with.
    window: Option<Window>,
    /// Whether records before those that were verified may never have been.
    has_gap: bool,
}

fn verifier<'a>(shared: &'a Shared, kept: Option<&'a KeptVerification>) -> Verifier<'a> {
    let Shared { store, catalog, signer, workers, .. } = shared;
    Verifier { store, catalog, signer, workers, kept }
}

/// Verifies the log, and whether it continues what was seen before.
async fn verify_once(shared: &Shared, options: &VerifyOptions) -> Result<Verified> {
    // Before the head is read, which moves.
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
        // What is wrong is in the report already.
        Err(error) if !report.ok => tracing::warn!(%error, "a rollback cannot be looked for"),
        Err(error) => return Err(error),
    }
    if !report.ok {
        shared.ledger.counters().fault();
    }
    Ok((report, head))
}

/// That the log is shorter than it was is the first thing to know. A record that differs from the one that was seen may
/// have been altered in place, which is then a fault ahead of this one.
fn put_rollback(report: &mut Report, fault: Option<Fault>) {
    match fault {
        Some(Fault { finding: Finding::RolledBack { size, seen }, .. }) if size >= seen => {
            report.put_last(Finding::RolledBack { size, seen });
        }
        Some(fault) => report.put_first(fault),
        None => {}
    }
}

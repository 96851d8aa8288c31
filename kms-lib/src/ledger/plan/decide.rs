//! Deciding again on a submission at its place in the log.

use super::super::details::Details;
use super::super::remaining::Retirable;
use super::super::skew;
use super::super::sound::Soundness;
use super::super::submission::{Entry, Submission, Verdict};
use super::replay::replay_details;
use super::{Commit, Disposition, Planner};
use crate::catalog::Trust;
use crate::lifecycle::{Command, NewWrapping, Wrapping};
use crate::policy;
use crate::storage::corrupt;
use crate::storage::tables::idempotency::CLOCK_ACKNOWLEDGED;
use crate::types::attempt::{Attempt, Decision};
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode};
use crate::types::key::AuditContext;
use crate::types::quarantine::EntityTable;
use crate::types::root_key::{ServiceKey, generations_of};
use crate::types::time::Timestamp;
use crate::types::view::{CatalogView, has_material, wrapping_generations};

impl Planner<'_> {
    pub(super) fn disposition(&self, submission: &Submission) -> Disposition {
        let now = self.time(submission);
        // A released result is recorded even if its use cannot be counted.
        if submission.released_at.is_none() && submission.uses_any(self.place.uncountable) {
            return Disposition::Fail(corrupt("the row of a version of a key is missing or altered; verify the log"));
        }
        // Released results have taken effect: the few released when the limit was reached exceed it.
        if submission.released_at.is_none() && submission.encrypts_with(self.place.exhausted) {
            return single(submission, Disposition::Refuse(ErrorCode::KeyExhausted));
        }
        if let Some(command) = submission.command.as_deref() {
            return self.change(submission, command, now);
        }
        // The copy of a request may fail because of the first one's effect: such a failure is not recorded.
        let attempt = submission.entries.first().and_then(|entry| entry.attempts.first());
        if let Some(repeated) = attempt.and_then(|attempt| self.repeated(submission, attempt, now)) {
            return repeated;
        }
        // A released result cannot be revoked; the queue lets no change precede it.
        let still_holds = self.overlay.revision() == submission.decided_at && submission.holds_at(now);
        if submission.released_at.is_some() || still_holds {
            return Disposition::Commit(Commit::default());
        }
        self.decide_again(submission, now)
    }

    /// Decides on a change at its place, and applies it.
    fn change(&self, submission: &Submission, command: &Command, now: Timestamp) -> Disposition {
        let Some(attempt) = submission.entries.first().and_then(|entry| entry.attempts.first()) else {
            return Disposition::Fail(Error::new(ErrorCode::Internal, "a change without an attempt"));
        };
        if let Some(repeated) = self.repeated(submission, attempt, now) {
            return repeated;
        }
        let destroys = matches!(command, Command::BeginDestruction(_));
        let decision = policy::decide(&self.overlay, attempt, if destroys { self.place.surely } else { now });
        match decision {
            Decision::Allowed { .. } => {}
            Decision::Denied(code) => return Disposition::Refuse(code),
            Decision::Superseded => return Disposition::Redo,
        }
        if matches!(command, Command::ReplaceSigningKey(_)) && self.plan.signing_key.is_some() {
            return Disposition::Refuse(ErrorCode::Conflict);
        }
        if let Some(disposition) = self.hold_root_keys(command).or_else(|| self.hold_imported(command)) {
            return disposition;
        }
        let decisions = vec![Some(decision); submission.entries.len()];
        if submission.acknowledges_clock() {
            return self.set_back(decisions);
        }
        let context = crate::lifecycle::Context {
            view: &self.overlay,
            now: if matches!(command, Command::Trim(..) | Command::RemoveCredentials) {
                self.place.surely
            } else {
                now
            },
            revision: self.plan.head.seq + 1,
            default_grace_days: self.place.default_grace_days,
            versions_max: self.place.versions_max,
            grantor: matches!(command, Command::PutGrant(_)).then(|| policy::grantor(&self.overlay, attempt, now)),
        };
        match crate::lifecycle::apply(command, &context) {
            Ok(changes) => match replay_details(command, &changes) {
                Ok(details) => {
                    let details = Some(Box::new(details));
                    Disposition::Commit(Commit { changes, decisions, details, remember: Vec::new() })
                }
                Err(error) => Disposition::Fail(error),
            },
            Err(error) if error.code() == ErrorCode::Internal => Disposition::Fail(error),
            Err(error) => Disposition::Refuse(error.code()),
        }
    }

    /// Compares a command with the generations of the root key at its place. None if the command may proceed.
    fn hold_root_keys(&self, command: &Command) -> Option<Disposition> {
        // Any other change in the same batch would need seals under both keys.
        let is_alone = self.plan.changes.is_empty() && self.plan.resealed.is_empty() && self.plan.wrappings.is_empty();
        let is_behind = self.plan.seals.is_some() && !matches!(command, Command::Record(_));
        if is_behind || (matches!(command, Command::ReplaceIntegrityKey(_)) && !is_alone) {
            return Some(Disposition::Redo);
        }
        // The material was wrapped under other generations than those now in use: the session must wrap it again.
        if command.wrapped_under().is_some_and(|under| under != wrapping_generations(&self.overlay)) {
            return Some(Disposition::Redo);
        }
        // It is unknown which generations exist: a retired one may appear to be in use.
        if command.is_of_root_keys() && self.place.snapshot.trust() != Trust::Verified {
            return Some(Disposition::Refuse(ErrorCode::IntegrityFailure));
        }
        // Versions created in this batch have no verified wrapping yet, and a generation that it retires cannot be
        // relied on.
        let hinders = |change: &Change, generation: u32| match change {
            Change::InsertVersion(_, made) => generations_of(&made.wrapped).contains(&generation),
            Change::InsertRootKey(_) | Change::UpdateRootKey(_) => true,
            Change::InsertServiceKey(..) | Change::UpdateServiceKey(_) => true,
            _ => false,
        };
        match command {
            Command::ReplaceIntegrityKey(_) if self.place.soundness != Some(Soundness::Sound) => {
                let is_altered = self.place.soundness == Some(Soundness::Altered);
                Some(if is_altered { Disposition::Refuse(ErrorCode::IntegrityFailure) } else { Disposition::Redo })
            }
            Command::AddRootKey(new) if !self.has_service_keys(&new.wrappings) => Some(Disposition::Redo),
            Command::RetireRootKey(check)
                if self.plan.changes.iter().any(|change| hinders(change, check.generation)) =>
            {
                Some(Disposition::Redo)
            }
            // Marks that this batch removes were still present when the generation was checked.
            Command::RetireRootKey(_) if self.plan.wrappings.checked.iter().any(|mark| !mark.opens) => {
                Some(Disposition::Redo)
            }
            Command::RetireRootKey(check) => match self.place.retirable.get(&check.generation) {
                Some(Retirable::Yes) => None,
                Some(Retirable::No) => Some(Disposition::Refuse(ErrorCode::WrongState)),
                Some(Retirable::Unknown) | None => Some(Disposition::Redo),
            },
            _ => None,
        }
    }

    /// Compares a command of an import with the latest run of its source: only that run may write, and no run may once
    /// the import is finalized. Rows of a log must follow those that were stored when they were read. None if the
    /// command may proceed.
    fn hold_imported(&self, command: &Command) -> Option<Disposition> {
        let run = command.import_run()?;
        let places = [&self.plan.import_states, self.place.import_states];
        let state = places.into_iter().find_map(|states| states.get(&run.source));
        let begins = matches!(command, Command::BeginImport(_));
        match command {
            _ if !begins && state.is_none_or(|state| state.run != run.id) => {
                Some(Disposition::Refuse(ErrorCode::ImportSuperseded))
            }
            _ if state.is_some_and(|state| state.is_final) => Some(Disposition::Refuse(ErrorCode::WrongState)),
            Command::ImportRows(page) => {
                let is_next = self.place.imported.get(&run.source) == Some(&page.sealed);
                let is_first = self.plan.imported.iter().all(|(other, _)| other.run.source != run.source);
                (!is_next || !is_first).then_some(Disposition::Refuse(ErrorCode::Conflict))
            }
            _ => None,
        }
    }

    /// Whether the material of a new wrapping still exists.
    pub(super) fn is_present(&self, new: &NewWrapping) -> bool {
        match new.subject {
            Wrapping::Version(key, number, id) => self.overlay.version(key, number).is_some_and(|version| {
                version.id == id
                    && version.fingerprint == new.fingerprint
                    && has_material(&self.overlay, version)
                    && !self.overlay.is_quarantined(EntityTable::KeyVersions, *id.as_bytes())
            }),
            Wrapping::Service(_, _, id) => {
                let mut is_present = false;
                self.overlay.each_service_key(&mut |key| {
                    is_present |= key.id == id && key.fingerprint == new.fingerprint && key.has_material();
                });
                is_present
            }
        }
    }

    /// Whether a new generation wraps exactly the service's own keys as they are at this place.
    fn has_service_keys(&self, wrappings: &[NewWrapping]) -> bool {
        let is_wrapped = |key: &ServiceKey| wrappings.iter().any(|new| new.subject.subject() == *key.id.as_bytes());
        let mut are_all = wrappings.iter().all(|new| self.is_present(new));
        self.overlay.each_service_key(&mut |key| are_all &= !key.has_material() || is_wrapped(key));
        are_all
    }

    /// Sets the log's time back, unless another caller has done so already: then there is nothing to record.
    fn set_back(&self, decisions: Vec<Option<Decision>>) -> Disposition {
        let last = self.plan.head.timestamp;
        if !skew::is_to_come(last, self.place.now) {
            return Disposition::Fail(Error::new(ErrorCode::Conflict, "the log's last record is not in the future"));
        }
        let mut details = Details::default();
        details.text("last", &last.to_string());
        let remember = vec![(CLOCK_ACKNOWLEDGED, self.place.now.to_string())];
        let details = Some(Box::new(details));
        Disposition::Commit(Commit { changes: Vec::new(), decisions, details, remember })
    }

    fn decide_again(&self, submission: &Submission, now: Timestamp) -> Disposition {
        // A single operation can be refused here; operations that share an attempt fail individually.
        let alone = submission.entries.len() == 1 && submission.entries[0].tally.0 + submission.entries[0].tally.1 == 1;
        let mut decisions = Vec::with_capacity(submission.entries.len());
        for entry in &submission.entries {
            if self.shows_hidden_context(entry) {
                return Disposition::Redo;
            }
            let mut last = None;
            for attempt in entry.attempts.iter() {
                let decision = policy::decide(&self.overlay, attempt, now);
                match (&entry.verdict, &decision) {
                    (Verdict::Failed(_), _) | (Verdict::Allowed { .. }, Decision::Allowed { .. }) => {}
                    (Verdict::Denied(before), Decision::Denied(code)) if before == code => {}
                    (Verdict::Allowed { .. } | Verdict::Denied(_), Decision::Denied(code)) if alone => {
                        return Disposition::Refuse(*code);
                    }
                    _ => return Disposition::Redo,
                }
                last = Some(decision);
            }
            decisions.push(last);
        }
        Disposition::Commit(Commit { decisions, ..Commit::default() })
    }

    /// Whether a record would reveal a context that its key has been set to hide since the session rendered it.
    fn shows_hidden_context(&self, entry: &Entry) -> bool {
        let key = entry.draft.key_id.and_then(|id| self.overlay.key(id));
        key.is_some_and(|key| key.audit_context == AuditContext::Hmac)
            && ["context", "contexts"].into_iter().any(|name| entry.draft.details.has(name))
    }

    /// The disposition of a request that was sent twice at the same time: the session looks up the answer to the first
    /// one. None if it was not sent twice, or if the caller lacks the permission for it.
    fn repeated(&self, submission: &Submission, attempt: &Attempt, now: Timestamp) -> Option<Disposition> {
        if !self.is_repeated(submission) || !policy::has_right(&self.overlay, attempt, now) {
            return None;
        }
        let text = "a request with the same idempotency key came first";
        Some(Disposition::Fail(Error::new(ErrorCode::Conflict, text)))
    }

    /// Whether a request of this submission has already taken effect, in this batch or before.
    fn is_repeated(&self, submission: &Submission) -> bool {
        submission.entries.iter().filter_map(Entry::request).any(|(principal, request)| {
            let request = (principal.to_owned(), request.key.clone());
            self.place.kept.contains(&request) || self.requests.contains(&request)
        })
    }
}

/// A submission of several records cannot be refused because of one of them: it is redone, item by item.
fn single(submission: &Submission, disposition: Disposition) -> Disposition {
    if submission.entries.len() == 1 { disposition } else { Disposition::Redo }
}

//! Walking a batch in order: what was decided elsewhere is decided again at its place, and gets its place in the log.
//! Pure: nothing is written here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::details::Details;
use super::idempotency::Keeping;
use super::import_runs::ImportState;
use super::signer::HeadKeys;
use super::skew;
use super::sound::Soundness;
use super::submission::{Entry, Outcome, Rendered, Submission, Use, Verdict};
use super::wrappings::WrappingChanges;
use crate::audit::record::{FORMAT, record_hash};
use crate::audit::tree::Frontier;
use crate::catalog::{Overlay, Snapshot, Trust, change_row};
use crate::envelope::{Seals, row};
use crate::lifecycle::{Command, LegacyPage, NewSigningKey, NewWrapping, ResealedRow, Wrapping};
use crate::policy;
use crate::storage::corrupt;
use crate::storage::tables::idempotency::CLOCK_ACKNOWLEDGED;
use crate::types::attempt::{Attempt, Decision};
use crate::types::audit::{AuditRecord, Head, Receipt, Status, hex};
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::key::{AuditContext, KeyVersion};
use crate::types::quarantine::EntityTable;
use crate::types::root_key::{ServiceKey, generations_of};
use crate::types::time::Timestamp;
use crate::types::view::{CatalogView, has_material, wrapping_generations};

/// What a batch writes.
pub(super) struct Plan {
    pub rows: Vec<AuditRecord>,
    pub changes: Vec<Change>,
    /// Encryptions by key and version; zero for other uses.
    pub uses: BTreeMap<(KeyId, u32), u64>,
    /// Records by hour, action and status.
    pub counts: BTreeMap<(i64, &'static str, &'static str), u64>,
    /// Small values to be kept, by name.
    pub remember: Vec<(&'static str, String)>,
    /// Wrappings that are added, verified and erased.
    pub wrappings: WrappingChanges,
    /// Rows that get another seal.
    pub resealed: Vec<ResealedRow>,
    /// Rows of imported logs, each page with its record.
    pub imported: Vec<(LegacyPage, u64)>,
    /// Imports that begin a run or end, by source.
    pub import_states: HashMap<String, ImportState>,
    /// The seals from here on, if their key is replaced.
    pub seals: Option<Arc<Seals>>,
    /// Whether wrappings are erased: then they are removed from the engine's own log too.
    pub has_erased: bool,
    /// Requests that have had their effect.
    pub kept_requests: Vec<Keeping>,
    /// One for each submission.
    pub outcomes: Vec<Outcome>,
    /// The key that takes over the signing, if one does.
    pub signing_key: Option<Replacement>,
    /// The keys then, once the head is signed by them.
    pub keys: Option<Arc<HeadKeys>>,
    /// The head afterwards, not signed yet.
    pub head: Head,
    /// What stands in it for all rows then; none while some are known to be altered.
    pub standing: Option<[u8; 32]>,
}

/// A replacement of the signing key, with the state of the log that ends with its record: both keys sign it.
pub(super) struct Replacement {
    pub new: NewSigningKey,
    pub state: Head,
    pub rows: Option<[u8; 32]>,
}

/// What the planner needs to know beside the batch.
pub(super) struct Place<'a> {
    pub snapshot: &'a Snapshot,
    pub head: &'a Head,
    pub now: Timestamp,
    /// The earlier of this machine's and the database's time: what cannot be undone waits for both.
    pub surely: Timestamp,
    pub default_grace_days: Option<u32>,
    /// Most versions with material that a key has.
    pub versions_max: u32,
    /// Folds rows.
    pub seals: &'a Seals,
    /// Versions that have encrypted as much as they may.
    pub exhausted: &'a HashSet<(KeyId, u32)>,
    /// Versions whose uses cannot be counted, because their row was deleted or altered.
    pub uncountable: &'a HashSet<(KeyId, u32)>,
    /// Requests of the batch that are kept already: their principal and idempotency key.
    pub kept: &'a HashSet<(String, String)>,
    /// Whether these generations of the root key may be retired.
    pub retirable: &'a HashMap<u32, bool>,
    /// How many rows the imported logs have, by source: of those that the batch appends to.
    pub imported: &'a HashMap<String, u64>,
    /// The latest runs of the imports that the batch belongs to, by source.
    pub import_states: &'a HashMap<String, ImportState>,
    /// What the rows are, if the key that seals them is to be replaced.
    pub soundness: Option<Soundness>,
}

/// What becomes of a submission at its place.
enum Disposition {
    Commit(Commit),
    Refuse(ErrorCode),
    Redo,
    Fail(Error),
}

/// What a submission commits.
#[derive(Default)]
struct Commit {
    changes: Vec<Change>,
    /// The decisions that were made again, one for each entry; empty where those of the session still hold.
    decisions: Vec<Option<Decision>>,
    /// What the record of a change says beside what its session knew.
    details: Details,
    /// Small values to be kept, by name.
    remember: Vec<(&'static str, String)>,
}

/// Plans what the batch writes. The submissions stay as they are: a plan may be discarded, and the next one must say
/// nothing of it.
pub(super) fn plan_batch(batch: &[Submission], place: &Place<'_>) -> Result<Plan> {
    let mut planner = Planner {
        overlay: Overlay::new(place.snapshot),
        frontier: Frontier::from_parts(place.head.seq, place.head.frontier.clone())?,
        plan: Plan {
            rows: Vec::with_capacity(batch.len()),
            changes: Vec::new(),
            uses: BTreeMap::new(),
            counts: BTreeMap::new(),
            remember: Vec::new(),
            wrappings: WrappingChanges::default(),
            resealed: Vec::new(),
            imported: Vec::new(),
            import_states: HashMap::new(),
            seals: None,
            has_erased: false,
            kept_requests: Vec::new(),
            outcomes: Vec::with_capacity(batch.len()),
            signing_key: None,
            keys: None,
            head: place.head.clone(),
            standing: None,
        },
        requests: HashSet::new(),
        place,
    };
    for submission in batch {
        let disposition = planner.disposition(submission);
        let outcome = planner.settle(submission, disposition)?;
        planner.plan.outcomes.push(outcome);
    }
    // What a later submission of the batch destroys is not wrapped again.
    let added = std::mem::take(&mut planner.plan.wrappings.added);
    planner.plan.wrappings.added = added.into_iter().filter(|new| planner.is_present(new)).collect();
    planner.plan.head.frontier = planner.frontier.roots().to_vec();
    planner.plan.standing = planner.rows();
    Ok(planner.plan)
}

struct Planner<'a> {
    place: &'a Place<'a>,
    overlay: Overlay<'a>,
    frontier: Frontier,
    plan: Plan,
    /// Requests that have their effect with this batch: their principal and idempotency key.
    requests: HashSet<(String, String)>,
}

impl Planner<'_> {
    fn disposition(&self, submission: &Submission) -> Disposition {
        let now = self.time(submission);
        // A result that was released is recorded although its use cannot be counted.
        if submission.released_at.is_none() && submission.uses_any(self.place.uncountable) {
            return Disposition::Fail(corrupt("the row of a version of a key is missing or altered; verify the log"));
        }
        // What was released has happened: the few that were when the limit was reached count beyond it.
        if submission.released_at.is_none() && submission.encrypts_with(self.place.exhausted) {
            return single(submission, Disposition::Refuse(ErrorCode::KeyExhausted));
        }
        if let Some(command) = &submission.command {
            return self.change(submission, command, now);
        }
        // The copy of a request may fail because of what the first one did: that is no failure to be recorded.
        let attempt = submission.entries.first().and_then(|entry| entry.attempts.first());
        if let Some(repeated) = attempt.and_then(|attempt| self.repeated(submission, attempt, now)) {
            return repeated;
        }
        // A released result cannot be taken back; the queue lets no change come before it.
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
            now: if matches!(command, Command::Trim(..)) { self.place.surely } else { now },
            revision: self.plan.head.seq + 1,
            default_grace_days: self.place.default_grace_days,
            versions_max: self.place.versions_max,
            grantor: matches!(command, Command::PutGrant(_)).then(|| policy::grantor(&self.overlay, attempt, now)),
        };
        match crate::lifecycle::apply(command, &context) {
            Ok(changes) => match replay_details(command, &changes) {
                Ok(details) => Disposition::Commit(Commit { changes, decisions, details, remember: Vec::new() }),
                Err(error) => Disposition::Fail(error),
            },
            Err(error) if error.code() == ErrorCode::Internal => Disposition::Fail(error),
            Err(error) => Disposition::Refuse(error.code()),
        }
    }

    /// Holds a command against the generations of the root key as they are at its place. None if it may go on.
    fn hold_root_keys(&self, command: &Command) -> Option<Disposition> {
        // Everything else in its batch would need seals under both keys.
        let is_alone = self.plan.changes.is_empty() && self.plan.resealed.is_empty() && self.plan.wrappings.is_empty();
        let is_behind = self.plan.seals.is_some() && !matches!(command, Command::Record(_));
        if is_behind || (matches!(command, Command::ReplaceIntegrityKey(_)) && !is_alone) {
            return Some(Disposition::Redo);
        }
        // Made under other generations than those in use now: wrapped again, it is right.
        if command.wrapped_under().is_some_and(|under| under != wrapping_generations(&self.overlay)) {
            return Some(Disposition::Redo);
        }
        // Nobody knows which generations there are: one that was retired may look as if it were in use.
        if command.is_of_root_keys() && self.place.snapshot.trust() != Trust::Verified {
            return Some(Disposition::Refuse(ErrorCode::IntegrityFailure));
        }
        // What is made in this batch has no verified wrapping yet, and what it retires cannot be relied on.
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
            Command::RetireRootKey(generation)
                if self.plan.changes.iter().any(|change| hinders(change, *generation)) =>
            {
                Some(Disposition::Redo)
            }
            // Marks that this batch withdraws were still there when the generation was looked at.
            Command::RetireRootKey(_) if self.plan.wrappings.checked.iter().any(|mark| !mark.opens) => {
                Some(Disposition::Redo)
            }
            Command::RetireRootKey(generation) if self.place.retirable.get(generation) != Some(&true) => {
                Some(Disposition::Refuse(ErrorCode::WrongState))
            }
            _ => None,
        }
    }

    /// Holds a command of an import against the latest run of its source: only that one writes, and none does once the
    /// import is finalised. Rows of a log come behind those that were there when they were read. None if it may go on.
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

    /// Whether the material of a new wrapping is still to be had, and its generation still in use.
    fn is_present(&self, new: &NewWrapping) -> bool {
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

    /// Whether a new generation wraps just the service's own keys as they are at this place.
    fn has_service_keys(&self, wrappings: &[NewWrapping]) -> bool {
        let is_wrapped = |key: &ServiceKey| wrappings.iter().any(|new| new.subject.subject() == *key.id.as_bytes());
        let mut are_all = wrappings.iter().all(|new| self.is_present(new));
        self.overlay.each_service_key(&mut |key| are_all &= !key.has_material() || is_wrapped(key));
        are_all
    }

    /// The wrappings of a command that are still wanted at its place.
    fn collect_wrappings(&mut self, command: &Command) {
        let active = wrapping_generations(&self.overlay);
        let is_wanted = |new: &&NewWrapping| active.contains(&new.wrapped.generation) && self.is_present(new);
        match command {
            Command::AddRootKey(new) => self.plan.wrappings.added.extend(new.wrappings.iter().cloned()),
            Command::AddWrappings(new) => {
                let wanted: Vec<NewWrapping> = new.iter().filter(is_wanted).cloned().collect();
                self.plan.wrappings.added.extend(wanted);
            }
            Command::Reseal(resealing) => self.plan.resealed.extend(resealing.rows.iter().cloned()),
            Command::EraseMaterial(key, (first, last)) | Command::DestroyKey(key, (first, last)) => {
                let versions = (*first..=*last).filter_map(|number| self.overlay.version(*key, number));
                self.plan.wrappings.erased_subjects.extend(versions.map(|version| *version.id.as_bytes()));
                self.plan.has_erased = true;
            }
            Command::MarkVerified(checked) => self.plan.wrappings.checked.extend(checked.iter().cloned()),
            Command::EraseWrappings(generation, subjects) => {
                let mut is_retired = false;
                self.overlay.each_root_key(&mut |root| {
                    is_retired |= root.generation == *generation && !root.is_active();
                });
                let erased = subjects.iter().map(|subject| (*generation, *subject));
                self.plan.has_erased |= is_retired;
                self.plan.wrappings.erased.extend(erased.filter(|_| is_retired));
            }
            _ => {}
        }
    }

    /// Lets time go back, unless somebody else has done so meanwhile: then there is nothing to record.
    fn set_back(&self, decisions: Vec<Option<Decision>>) -> Disposition {
        let last = self.plan.head.timestamp;
        if !skew::is_to_come(last, self.place.now) {
            return Disposition::Fail(Error::new(
                ErrorCode::Conflict,
                "the log's last record is not of a time to come",
            ));
        }
        let mut details = Details::default();
        details.text("last", &last.to_string());
        let remember = vec![(CLOCK_ACKNOWLEDGED, self.place.now.to_string())];
        Disposition::Commit(Commit { changes: Vec::new(), decisions, details, remember })
    }

    fn decide_again(&self, submission: &Submission, now: Timestamp) -> Disposition {
        // Of one operation, not of many that share an attempt: those fail each for itself.
        let alone = submission.entries.len() == 1 && submission.entries[0].tally.0 + submission.entries[0].tally.1 == 1;
        let mut decisions = Vec::with_capacity(submission.entries.len());
        for entry in &submission.entries {
            if self.shows_hidden_context(entry) {
                return Disposition::Redo;
            }
            let mut last = None;
            for attempt in &entry.attempts {
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

    /// Whether a record would show a context that its key has begun to hide since the session wrote it.
    fn shows_hidden_context(&self, entry: &Entry) -> bool {
        let key = entry.draft.key_id.and_then(|id| self.overlay.key(id));
        key.is_some_and(|key| key.audit_context == AuditContext::Hmac)
            && ["context", "contexts"].into_iter().any(|name| entry.draft.details.has(name))
    }

    fn settle(&mut self, submission: &Submission, disposition: Disposition) -> Result<Outcome> {
        match disposition {
            Disposition::Redo => Ok(Outcome::Redo(None)),
            Disposition::Fail(error) => Ok(Outcome::Failed(error)),
            Disposition::Refuse(code) => {
                let entry = &submission.entries[0];
                let mut details = entry.draft.details.clone();
                details.decision(&Decision::Denied(code), self.overlay.revision()).text("error", code.as_str());
                let rendered = entry.draft.render_with(&details, Status::Failure);
                self.record(entry, rendered, self.time(submission));
                Ok(Outcome::Refused(code))
            }
            Disposition::Commit(commit) => self.commit(submission, commit),
        }
    }

    /// What becomes of a request that was sent twice at the same time: the caller looks up the answer to the first one.
    /// None if it was not, or if who sends it has no right to what it asks for.
    fn repeated(&self, submission: &Submission, attempt: &Attempt, now: Timestamp) -> Option<Disposition> {
        if !self.is_repeated(submission) || !policy::has_right(&self.overlay, attempt, now) {
            return None;
        }
        let text = "a request with the same idempotency key came first";
        Some(Disposition::Fail(Error::new(ErrorCode::Conflict, text)))
    }

    /// Whether a request of this submission has had its effect already, in this batch or before.
    fn is_repeated(&self, submission: &Submission) -> bool {
        submission.entries.iter().filter_map(Entry::request).any(|(principal, request)| {
            let request = (principal.to_owned(), request.key.clone());
            self.place.kept.contains(&request) || self.requests.contains(&request)
        })
    }

    fn commit(&mut self, submission: &Submission, commit: Commit) -> Result<Outcome> {
        let Commit { changes, decisions, details, remember } = commit;
        let time = self.time(submission);
        let mut receipts = Vec::with_capacity(submission.entries.len());
        for (n, entry) in submission.entries.iter().enumerate() {
            let decision = decisions.get(n).and_then(Option::as_ref);
            let rendered = self.render(entry, decision, (n == 0).then_some(&details));
            receipts.push(self.record(entry, rendered, time));
            self.plan.remember.extend(entry.remember.iter().cloned());
            let is_countable = |used: &&Use| !self.place.uncountable.contains(&(used.key, used.version));
            for used in entry.uses.iter().filter(is_countable) {
                *self.plan.uses.entry((used.key, used.version)).or_default() += used.encryptions;
            }
        }
        self.plan.remember.extend(remember);
        if let Some(command) = &submission.command {
            self.collect_wrappings(command);
            if let Command::ImportRows(page) = command {
                self.plan.imported.push((page.clone(), self.plan.head.seq));
            }
            if let Some((source, state)) = ImportState::after(command) {
                self.plan.import_states.insert(source, state);
            }
        }
        if !changes.is_empty() {
            self.plan.head.revision = self.plan.head.seq;
            if let Some(Command::ReplaceIntegrityKey(new)) = &submission.command {
                let seals = Arc::new(new.seals.beside(self.place.seals, self.plan.head.seq));
                self.overlay.refold(&seals);
                self.plan.seals = Some(seals);
            }
            let seals = self.plan.seals.as_deref().unwrap_or(self.place.seals);
            self.overlay.apply(&changes, self.plan.head.seq, seals)?;
            self.plan.changes.extend(changes.iter().cloned());
        }
        if let Some(Command::ReplaceSigningKey(new)) = &submission.command {
            let frontier = self.frontier.roots().to_vec();
            let state = Head { frontier, ..self.plan.head.clone() };
            self.plan.signing_key = Some(Replacement { new: new.as_ref().clone(), state, rows: self.rows() });
        }
        for (principal, request) in submission.entries.iter().filter_map(Entry::effective_request) {
            let kept = Keeping::new(request, principal, self.plan.head.seq, time, &self.overlay, &changes);
            self.plan.kept_requests.push(kept?);
            self.requests.insert((principal.to_owned(), request.key.clone()));
        }
        Ok(Outcome::Committed { receipts, changes })
    }

    /// The record of an entry: as its session wrote it out, unless something has to be added.
    fn render(&self, entry: &Entry, decision: Option<&Decision>, added: Option<&Details>) -> Rendered {
        let added = added.filter(|added| !added.is_empty());
        match &entry.rendered {
            Some(rendered) if decision.is_none() && added.is_none() => rendered.clone(),
            _ => {
                let mut details = entry.draft.details.clone();
                if let Some(decision) = decision {
                    details.decision(decision, self.overlay.revision());
                }
                if let Some(added) = added {
                    details.extend(added);
                }
                entry.draft.render_with(&details, entry.status())
            }
        }
    }

    /// What stands for all rows as they are at this place.
    fn rows(&self) -> Option<[u8; 32]> {
        let is_verified = self.place.snapshot.trust() == Trust::Verified;
        let seals = self.plan.seals.as_deref().unwrap_or(self.place.seals);
        is_verified.then(|| seals.commitment(self.plan.head.revision, self.overlay.rows()))
    }

    /// Gives a record its place.
    fn record(&mut self, entry: &Entry, rendered: Rendered, time: Timestamp) -> Receipt {
        let draft = &entry.draft;
        let head = &mut self.plan.head;
        let seq = head.seq + 1;
        let hash = record_hash(head.log_id, seq, time, &head.hash, &rendered.digest);
        self.frontier.push(hash);
        let (succeeded, failed) = match rendered.status {
            // A single operation that its session saw succeed, and the planner refused.
            Status::Failure => (0, entry.tally.0 + entry.tally.1),
            Status::Success => entry.tally,
        };
        for (status, count) in [(Status::Success, succeeded), (Status::Failure, failed)] {
            if count > 0 {
                *self.plan.counts.entry((time.hour(), draft.action.as_str(), status.as_str())).or_default() += count;
            }
        }
        self.plan.rows.push(AuditRecord {
            seq,
            id: draft.id,
            timestamp: time,
            actor: draft.actor.principal().to_owned(),
            role: draft.actor.role().as_str().to_owned(),
            action: draft.action.as_str().to_owned(),
            status: rendered.status.as_str().to_owned(),
            request_id: draft.actor.request_id().map(str::to_owned),
            key_id: draft.key_id,
            key_version: draft.key_version,
            details: Some(rendered.details),
            prev_hash: head.hash,
            hash,
            format: FORMAT,
        });
        head.seq = seq;
        head.hash = hash;
        head.timestamp = time;
        Receipt { seq, hash }
    }

    /// The time of a submission's records: never before the record ahead, unless just that was asked for.
    fn time(&self, submission: &Submission) -> Timestamp {
        let last = self.plan.head.timestamp;
        if submission.acknowledges_clock() && skew::is_to_come(last, self.place.now) {
            return self.place.now;
        }
        submission.released_at.unwrap_or(self.place.now).max(last)
    }
}

/// A submission of several records cannot be refused by one of them: it is done again, item by item.
fn single(submission: &Submission, disposition: Disposition) -> Disposition {
    if submission.entries.len() == 1 { disposition } else { Disposition::Redo }
}

/// What the record of a change says so that it can be replayed: the rows afterwards, and what the service decided
/// itself.
fn replay_details(command: &Command, changes: &[Change]) -> Result<Details> {
    let mut details = Details::default();
    if changes.is_empty() {
        let changes_no_row = matches!(
            command,
            Command::AddWrappings(_)
                | Command::MarkVerified(_)
                | Command::EraseWrappings(..)
                | Command::EraseMaterial(..)
                | Command::Reseal(_)
                | Command::BeginImport(_)
                | Command::ImportRows(_)
                | Command::Record(_)
        );
        if !changes_no_row {
            details.raw("changed", "false".into());
        }
        return Ok(details);
    }
    details.raw("rows", changed_rows(changes)?);
    let (mut rows, mut trimmed) = (Vec::new(), Vec::new());
    let quoted = |time: Timestamp| format!("\"{time}\"");
    for change in changes {
        match (command, change) {
            (Command::Rotate(..), Change::UpdateVersion(former)) => {
                details.raw("formerNotAfter", former.not_after.map_or_else(|| "null".into(), quoted));
                if let Some(days) = former.grace_period_days {
                    details.number("graceDays", days.into());
                }
            }
            (Command::Trim(..), Change::EraseVersion(version)) => trimmed.push(version.version.to_string()),
            (Command::RevokeVersion(..), Change::UpdateVersion(KeyVersion { not_after: Some(end), .. })) => {
                details.raw("notAfter", quoted(*end));
            }
            (Command::PutGrant(_), Change::InsertGrant(grant) | Change::UpdateGrant(grant))
                if grant.withdrawn_at.is_none() && !grant.grantor.through.is_empty() =>
            {
                let through: Vec<String> = grant.grantor.through.iter().map(|id| format!("\"{id}\"")).collect();
                details.raw("through", format!("[{}]", through.join(",")));
            }
            (_, Change::InsertQuarantined(entry) | Change::UpdateQuarantined(entry)) => {
                rows.push(format!("[\"{}\",\"{}\"]", entry.table, KeyId::from_bytes(entry.row)));
            }
            _ => {}
        }
    }
    if !trimmed.is_empty() {
        details.raw("versions", format!("[{}]", trimmed.join(",")));
    }
    if !rows.is_empty() {
        details.raw("quarantine", format!("[{}]", rows.join(",")));
    }
    Ok(details)
}

/// The rows a record changes, each with the SHA-256 of the row afterwards, so that verification can hold the tables
/// against the log.
pub fn changed_rows(changes: &[Change]) -> Result<String> {
    let mut json = String::from("[");
    for change in changes {
        let (table, id) = match change {
            Change::InsertKey(key) | Change::UpdateKey(key) => ("keys", key.id.to_string()),
            Change::InsertVersion(v, _) | Change::UpdateVersion(v) | Change::EraseVersion(v) => {
                ("key_versions", v.id.to_string())
            }
            Change::InsertGrant(grant) | Change::UpdateGrant(grant) => ("grants", grant.id.to_string()),
            Change::InsertCredential(c) | Change::UpdateCredential(c) => ("credentials", c.id.to_string()),
            Change::InsertQuarantined(entry) | Change::UpdateQuarantined(entry) => ("quarantine", entry.id.to_string()),
            Change::InsertRootKey(root) | Change::UpdateRootKey(root) => ("root_keys", root.id.to_string()),
            Change::InsertServiceKey(key, _) | Change::UpdateServiceKey(key) => ("service_keys", key.id.to_string()),
        };
        if json.len() > 1 {
            json.push(',');
        }
        let digest = hex(&row::digest(&change_row(change)?));
        json.push_str(&format!("[\"{table}\",\"{id}\",\"{digest}\"]"));
    }
    json.push(']');
    Ok(json)
}

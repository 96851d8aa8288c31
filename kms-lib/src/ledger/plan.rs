//! Planning a batch in order: each submission is decided again at its place and gets its position in the log. Nothing
//! is written here.

mod decide;
mod replay;

pub use replay::changed_rows;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::details::Details;
use super::idempotency::Keeping;
use super::import_runs::ImportState;
use super::remaining::Retirable;
use super::signer::HeadKeys;
use super::skew;
use super::sound::Soundness;
use super::submission::{Entry, Outcome, Rendered, Submission, Use};
use super::wrappings::WrappingChanges;
use crate::audit::record::record_hash;
use crate::audit::tree::Frontier;
use crate::catalog::{Overlay, Snapshot, Trust};
use crate::envelope::Seals;
use crate::lifecycle::{Command, LegacyPage, NewSigningKey, NewWrapping, ResealedRow};
use crate::storage::tables::audit::NewRecord;
use crate::storage::tables::wrappings::MARKS_WITHDRAWN;
use crate::types::attempt::Decision;
use crate::types::audit::{Head, Receipt, Status};
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::time::Timestamp;
use crate::types::view::{CatalogView, wrapping_generations};

/// The writes of a batch, and the outcomes of its submissions.
pub(super) struct Plan {
    pub rows: Vec<NewRecord>,
    pub changes: Vec<Change>,
    /// Encryptions by key and version; zero for other uses.
    pub uses: BTreeMap<(KeyId, u32), u64>,
    /// Records by hour, action and status.
    pub counts: BTreeMap<(i64, &'static str, &'static str), u64>,
    /// Small values to be stored, by name.
    pub remember: Vec<(&'static str, String)>,
    /// Wrappings that are added, verified and erased.
    pub wrappings: WrappingChanges,
    /// Rows that are resealed.
    pub resealed: Vec<ResealedRow>,
    /// Pages of rows of imported logs, each with the sequence number of its record.
    pub imported: Vec<(LegacyPage, u64)>,
    /// Imports that begin a run or end, by source.
    pub import_states: HashMap<String, ImportState>,
    /// The new seals, if the integrity key is replaced.
    pub seals: Option<Arc<Seals>>,
    /// Whether wrappings are erased: then they must be removed from the engine's own log too.
    pub has_erased: bool,
    /// Idempotency records of requests that take effect in this batch.
    pub kept_requests: Vec<Keeping>,
    /// One outcome for each submission.
    pub outcomes: Vec<Outcome>,
    /// The replacement of the signing key, if there is one.
    pub signing_key: Option<Replacement>,
    /// The signing keys after the replacement, once they are known.
    pub keys: Option<Arc<HeadKeys>>,
    /// The head after the batch, not signed yet.
    pub head: Head,
    /// The row commitment of that head; none while some rows are known to be altered.
    pub standing: Option<[u8; 32]>,
}

/// A replacement of the signing key, with the state of the log that ends with its record; both keys sign that state.
pub(super) struct Replacement {
    pub new: NewSigningKey,
    pub state: Head,
    pub rows: Option<[u8; 32]>,
}

/// The state at which a batch is planned.
pub(super) struct Place<'a> {
    pub snapshot: &'a Snapshot,
    pub head: &'a Head,
    pub now: Timestamp,
    /// The earlier of this machine's time and the database's: irreversible changes wait for both.
    pub surely: Timestamp,
    pub default_grace_days: Option<u32>,
    /// The maximum number of versions with material that a key has.
    pub versions_max: u32,
    /// The seals under the current integrity key; they compute the row commitment.
    pub seals: &'a Seals,
    /// Versions that have reached their limit of encryptions.
    pub exhausted: &'a HashSet<(KeyId, u32)>,
    /// Versions whose uses cannot be counted, because their row was deleted or altered.
    pub uncountable: &'a HashSet<(KeyId, u32)>,
    /// Requests of the batch that have an idempotency record already: their principal and idempotency key.
    pub kept: &'a HashSet<(String, String)>,
    /// Whether these generations of the root key may be retired.
    pub retirable: &'a HashMap<u32, Retirable>,
    /// The number of rows, by source, of the imported logs that the batch appends to.
    pub imported: &'a HashMap<String, u64>,
    /// The latest runs of the imports that the batch belongs to, by source.
    pub import_states: &'a HashMap<String, ImportState>,
    /// Whether the rows match the log, if the integrity key is to be replaced.
    pub soundness: Option<Soundness>,
}

/// The decision on a submission at its place.
enum Disposition {
    Commit(Commit),
    Refuse(ErrorCode),
    Redo,
    Fail(Error),
}

/// The parts of the plan that come from one submission.
#[derive(Default)]
struct Commit {
    changes: Vec<Change>,
    /// The new decisions, one for each entry; empty if those of the session still hold.
    decisions: Vec<Option<Decision>>,
    /// Details of a change's record that its session did not know, if there are any.
    details: Option<Box<Details>>,
    /// Small values to be stored, by name.
    remember: Vec<(&'static str, String)>,
}

/// Plans what the batch writes. The submissions are not modified: a plan may be discarded, and must leave no trace in
/// the next one.
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
    // Material that a later submission of the batch destroys gets no new wrapping.
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
    /// Requests that take effect in this batch: their principal and idempotency key.
    requests: HashSet<(String, String)>,
}

impl Planner<'_> {
    /// Collects the wrappings of a command that are still needed at its place.
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
            Command::MarkVerified(checked) => {
                if checked.iter().any(|mark| !mark.opens) {
                    self.plan.remember.push((MARKS_WITHDRAWN, self.plan.head.seq.to_string()));
                }
                self.plan.wrappings.checked.extend(checked.iter().cloned());
            }
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

    fn commit(&mut self, submission: &Submission, commit: Commit) -> Result<Outcome> {
        let Commit { changes, decisions, details, remember } = commit;
        let time = self.time(submission);
        let mut append = |(n, entry): (usize, &Entry)| {
            let decision = decisions.get(n).and_then(Option::as_ref);
            let rendered = self.render(entry, decision, details.as_deref().filter(|_| n == 0));
            let receipt = self.record(entry, rendered, time);
            self.plan.remember.extend(entry.remember.iter().cloned());
            let is_countable = |used: &&Use| !self.place.uncountable.contains(&(used.key, used.version));
            for used in entry.uses.iter().filter(is_countable) {
                *self.plan.uses.entry((used.key, used.version)).or_default() += used.encryptions;
            }
            receipt
        };
        let receipts = submission.entries.iter().enumerate().map(&mut append).collect();
        self.plan.remember.extend(remember);
        if let Some(command) = submission.command.as_deref() {
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
            if let Some(Command::ReplaceIntegrityKey(new)) = submission.command.as_deref() {
                let seals = Arc::new(new.seals.beside(self.place.seals, self.plan.head.seq));
                self.overlay.refold(&seals);
                self.plan.seals = Some(seals);
            }
            let seals = self.plan.seals.as_deref().unwrap_or(self.place.seals);
            self.overlay.apply(&changes, self.plan.head.seq, seals)?;
            self.plan.changes.extend(changes.iter().cloned());
        }
        if let Some(Command::ReplaceSigningKey(new)) = submission.command.as_deref() {
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

    /// The record of an entry: as its session rendered it, unless details must be added.
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

    /// The row commitment at this place; none unless the rows are verified.
    fn rows(&self) -> Option<[u8; 32]> {
        let is_verified = self.place.snapshot.trust() == Trust::Verified;
        let seals = self.plan.seals.as_deref().unwrap_or(self.place.seals);
        is_verified.then(|| seals.commitment(self.plan.head.revision, self.overlay.rows()))
    }

    /// Appends a record to the planned log.
    fn record(&mut self, entry: &Entry, rendered: Rendered, time: Timestamp) -> Receipt {
        let draft = &entry.draft;
        let head = &mut self.plan.head;
        let seq = head.seq + 1;
        let hash = record_hash(head.log_id, seq, time, &head.hash, &rendered.digest);
        self.frontier.push(hash);
        let (succeeded, failed) = match rendered.status {
            // All operations of the record failed, also those that the session saw succeed and the planner refused.
            Status::Failure => (0, entry.tally.0 + entry.tally.1),
            Status::Success => entry.tally,
        };
        for (status, count) in [(Status::Success, succeeded), (Status::Failure, failed)] {
            if count > 0 {
                *self.plan.counts.entry((time.hour(), draft.action.as_str(), status.as_str())).or_default() += count;
            }
        }
        self.plan.rows.push(NewRecord {
            seq,
            timestamp: time,
            actor: (draft.actor.principal().to_owned(), draft.actor.role().as_str()),
            action: draft.action,
            status: rendered.status,
            request_id: draft.actor.request_id().map(str::to_owned),
            key_id: draft.key_id,
            key_version: draft.key_version,
            details: rendered.details,
            hash,
        });
        head.seq = seq;
        head.hash = hash;
        head.timestamp = time;
        Receipt { seq, hash }
    }

    /// The time of a submission's records: never before the preceding record, unless the submission acknowledges the
    /// clock.
    fn time(&self, submission: &Submission) -> Timestamp {
        let last = self.plan.head.timestamp;
        if submission.acknowledges_clock() && skew::is_to_come(last, self.place.now) {
            return self.place.now;
        }
        submission.released_at.unwrap_or(self.place.now).max(last)
    }
}

//! Walking a batch in order: what was decided elsewhere is decided again at its place, and gets its place in the log.
//! Pure: nothing is written here.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::kept::Keeping;
use super::signer::HeadKeys;
use super::skew;
use super::submission::{Entry, Outcome, Submission, Verdict};
use crate::audit::record::{FORMAT, record_hash};
use crate::audit::tree::Frontier;
use crate::catalog::{Image, Overlay, Trust, change_row};
use crate::envelope::{Seals, row};
use crate::keys::{Command, NewSigningKey};
use crate::policy;
use crate::storage::tables::idempotency::CLOCK_ACKNOWLEDGED;
use crate::types::attempt::Decision;
use crate::types::audit::{AuditRow, Head, Receipt, Status, hex};
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::time::Timestamp;

/// What a batch writes.
pub(super) struct Plan {
    pub rows: Vec<AuditRow>,
    pub changes: Vec<Change>,
    /// Encryptions by key and version; zero for other uses.
    pub uses: BTreeMap<(KeyId, u32), u64>,
    /// Records by hour, action and status.
    pub counts: BTreeMap<(i64, &'static str, &'static str), u64>,
    /// Small values to be kept, by name.
    pub remember: Vec<(&'static str, String)>,
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

/// What the walk needs to know beside the batch.
pub(super) struct Place<'a> {
    pub image: &'a Image,
    pub head: &'a Head,
    pub now: Timestamp,
    /// The earlier of this machine's and the database's time: what cannot be undone waits for both.
    pub surely: Timestamp,
    pub default_grace_days: Option<u32>,
    /// Folds rows.
    pub seals: &'a Seals,
    /// The number of the key that signs the log.
    pub signing_number: u32,
    /// Versions that have encrypted as much as they may.
    pub exhausted: &'a HashSet<(KeyId, u32)>,
}

/// What becomes of a submission at its place.
enum Fate {
    Commit(Vec<Change>),
    Refuse(ErrorCode),
    Redo,
    Fail(Error),
}

/// Plans what the batch writes.
pub(super) fn walk(batch: &mut [Submission], place: &Place<'_>) -> Result<Plan> {
    let mut walk = Walk {
        overlay: Overlay::new(place.image),
        frontier: Frontier::from_parts(place.head.seq, place.head.frontier.clone())?,
        plan: Plan {
            rows: Vec::with_capacity(batch.len()),
            changes: Vec::new(),
            uses: BTreeMap::new(),
            counts: BTreeMap::new(),
            remember: Vec::new(),
            kept_requests: Vec::new(),
            outcomes: Vec::with_capacity(batch.len()),
            signing_key: None,
            keys: None,
            head: place.head.clone(),
            standing: None,
        },
        place,
    };
    for submission in batch {
        let fate = walk.fate(submission);
        let outcome = walk.settle(submission, fate)?;
        walk.plan.outcomes.push(outcome);
    }
    walk.plan.head.frontier = walk.frontier.roots().to_vec();
    walk.plan.standing = walk.rows();
    Ok(walk.plan)
}

struct Walk<'a> {
    place: &'a Place<'a>,
    overlay: Overlay<'a>,
    frontier: Frontier,
    plan: Plan,
}

impl Walk<'_> {
    fn fate(&mut self, submission: &mut Submission) -> Fate {
        let now = self.time(submission);
        let revision = self.overlay.revision();
        // What was released has happened: the few that were when the limit was reached count beyond it.
        if submission.released_at.is_none() && submission.encrypts_with(self.place.exhausted) {
            return single(submission, Fate::Refuse(ErrorCode::KeyExhausted));
        }
        if let Some(command) = &submission.command {
            let Some(attempt) = submission.entries.first().and_then(|entry| entry.attempts.first()) else {
                return Fate::Fail(Error::new(ErrorCode::Internal, "a change without an attempt"));
            };
            let destroys = matches!(command, Command::DestroyKey(_));
            let decision = policy::decide(&self.overlay, attempt, if destroys { self.place.surely } else { now });
            return match decision {
                Decision::Allowed { .. } => {
                    if let Command::ReplaceSigningKey(new) = command
                        && (new.number != self.place.signing_number + 1 || self.plan.signing_key.is_some())
                    {
                        return Fate::Refuse(ErrorCode::Conflict);
                    }
                    if submission.acknowledges_clock() {
                        return self.set_back(submission, &decision);
                    }
                    let seq = self.plan.head.seq + 1;
                    let changes = crate::keys::apply(&self.overlay, command, now, seq, self.place.default_grace_days);
                    match changes {
                        Ok(changes) => {
                            for entry in &mut submission.entries {
                                entry.draft.details.decision(&decision, revision);
                            }
                            Fate::Commit(changes)
                        }
                        Err(error) if error.code() == ErrorCode::Internal => Fate::Fail(error),
                        Err(error) => Fate::Refuse(error.code()),
                    }
                }
                Decision::Denied(code) => Fate::Refuse(code),
                Decision::Superseded => Fate::Redo,
            };
        }
        // A released result cannot be taken back; the queue lets no change come before it.
        if submission.released_at.is_some() {
            return Fate::Commit(Vec::new());
        }
        if revision == submission.decided_at && submission.holds_at(now) {
            return Fate::Commit(Vec::new());
        }
        self.decide_again(submission, now, revision)
    }

    /// Lets time go back, unless somebody else has done so meanwhile: then there is nothing to record.
    fn set_back(&self, submission: &mut Submission, decision: &Decision) -> Fate {
        let last = self.plan.head.timestamp;
        if !skew::is_to_come(last, self.place.now) {
            return Fate::Fail(Error::new(ErrorCode::Conflict, "the log's last record is not of a time to come"));
        }
        for entry in &mut submission.entries {
            entry.draft.details.text("last", &last.to_string());
            entry.remember = vec![(CLOCK_ACKNOWLEDGED, self.place.now.to_string())];
            entry.draft.details.decision(decision, self.overlay.revision());
            entry.rendered = None;
        }
        Fate::Commit(Vec::new())
    }

    fn decide_again(&self, submission: &mut Submission, now: Timestamp, revision: u64) -> Fate {
        // Of one operation, not of many that share an attempt: those fail each for itself.
        let alone = submission.entries.len() == 1 && submission.entries[0].tally.0 + submission.entries[0].tally.1 == 1;
        for entry in &mut submission.entries {
            let mut last = None;
            for attempt in &entry.attempts {
                let decision = policy::decide(&self.overlay, attempt, now);
                match (&entry.verdict, &decision) {
                    (Verdict::Failed(_), _) | (Verdict::Allowed { .. }, Decision::Allowed { .. }) => {}
                    (Verdict::Denied(before), Decision::Denied(code)) if before == code => {}
                    (Verdict::Allowed { .. } | Verdict::Denied(_), Decision::Denied(code)) if alone => {
                        return Fate::Refuse(*code);
                    }
                    _ => return Fate::Redo,
                }
                last = Some(decision);
            }
            if let Some(decision) = last {
                entry.draft.details.decision(&decision, revision);
                entry.rendered = None;
            }
        }
        Fate::Commit(Vec::new())
    }

    fn settle(&mut self, submission: &mut Submission, fate: Fate) -> Result<Outcome> {
        let time = self.time(submission);
        match fate {
            Fate::Redo => Ok(Outcome::Redo(None)),
            Fate::Fail(error) => Ok(Outcome::Failed(error)),
            Fate::Refuse(code) => {
                let entry = &mut submission.entries[0];
                entry.draft.details.text("error", code.as_str());
                entry.draft.details.number("revision", self.overlay.revision());
                entry.draft.details.remove("grant");
                // From a walk that was given up, which would have changed them.
                entry.draft.details.remove("rows");
                entry.rendered = None;
                let receipt = self.record(entry, Status::Failure, time);
                Ok(Outcome::Refused(code, receipt))
            }
            Fate::Commit(changes) => {
                if !changes.is_empty()
                    && let Some(entry) = submission.entries.first_mut()
                {
                    entry.draft.details.raw("rows", changed_rows(&changes)?);
                    entry.rendered = None;
                }
                let mut receipts = Vec::with_capacity(submission.entries.len());
                for entry in &mut submission.entries {
                    // A batch that is walked again may let through what it refused before.
                    if matches!(entry.verdict, Verdict::Allowed { .. }) && entry.draft.details.remove("error") {
                        entry.rendered = None;
                    }
                    receipts.push(self.record(entry, entry.status(), time));
                    self.plan.remember.extend(entry.remember.iter().cloned());
                    for used in &entry.uses {
                        *self.plan.uses.entry((used.key, used.version)).or_default() += used.encryptions;
                    }
                }
                if let Some(Command::ReplaceSigningKey(new)) = &submission.command {
                    let frontier = self.frontier.roots().to_vec();
                    let state = Head { frontier, ..self.plan.head.clone() };
                    self.plan.signing_key = Some(Replacement { new: new.as_ref().clone(), state, rows: self.rows() });
                }
                if !changes.is_empty() {
                    self.plan.head.revision = self.plan.head.seq;
                    self.overlay.apply(&changes, self.plan.head.seq, self.place.seals)?;
                    self.plan.changes.extend(changes.iter().cloned());
                }
                let entries = submission.entries.iter().filter(|e| matches!(e.verdict, Verdict::Allowed { .. }));
                for entry in entries {
                    let Some(idempotency) = entry.idempotency.as_deref() else { continue };
                    let principal = entry.draft.actor.principal();
                    let kept = Keeping::new(idempotency, principal, self.plan.head.seq, time, &self.overlay, &changes);
                    self.plan.kept_requests.push(kept?);
                }
                Ok(Outcome::Committed { receipts, changes })
            }
        }
    }

    /// What stands for all rows as they are at this place.
    fn rows(&self) -> Option<[u8; 32]> {
        let whole = self.place.image.trust() == Trust::Whole;
        whole.then(|| self.place.seals.commitment(self.plan.head.revision, self.overlay.rows()))
    }

    /// Gives a record its place.
    fn record(&mut self, entry: &mut Entry, status: Status, time: Timestamp) -> Receipt {
        let rendered = match entry.rendered.take() {
            Some(rendered) if rendered.status == status => rendered,
            _ => entry.draft.render(status),
        };
        let draft = &entry.draft;
        let head = &mut self.plan.head;
        let seq = head.seq + 1;
        let hash = record_hash(head.log_id, seq, time, &head.hash, &rendered.digest);
        self.frontier.push(hash);
        let (succeeded, failed) = match status {
            // A single operation that its session saw succeed, and the walk refused.
            Status::Failure => (0, entry.tally.0 + entry.tally.1),
            Status::Success => entry.tally,
        };
        for (status, count) in [(Status::Success, succeeded), (Status::Failure, failed)] {
            if count > 0 {
                *self.plan.counts.entry((time.hour(), draft.action.as_str(), status.as_str())).or_default() += count;
            }
        }
        self.plan.rows.push(AuditRow {
            seq,
            id: draft.id,
            timestamp: time,
            actor: draft.actor.principal().to_owned(),
            role: draft.actor.role().as_str().to_owned(),
            action: draft.action.as_str().to_owned(),
            status: status.as_str().to_owned(),
            request_id: draft.actor.request_id().map(str::to_owned),
            key_id: draft.key_id,
            key_version: draft.key_version,
            details: Some(rendered.details.clone()),
            prev_hash: head.hash,
            hash,
            format: FORMAT,
        });
        // Kept for the case that the batch has to be walked again.
        entry.rendered = Some(rendered);
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
fn single(submission: &Submission, fate: Fate) -> Fate {
    if submission.entries.len() == 1 { fate } else { Fate::Redo }
}

/// The rows a record changes, each with the SHA-256 of the row afterwards, so that verification can hold the tables
/// against the log.
fn changed_rows(changes: &[Change]) -> Result<String> {
    let mut json = String::from("[");
    for change in changes {
        let (table, id) = match change {
            Change::InsertKey(key) | Change::UpdateKey(key) => ("keys", key.id.to_string()),
            Change::InsertVersion(v, _) | Change::UpdateVersion(v) | Change::EraseVersion(v) => {
                ("key_versions", v.id.to_string())
            }
            Change::InsertGrant(grant) | Change::UpdateGrant(grant) => ("grants", grant.id.to_string()),
            Change::InsertCredential(c) | Change::UpdateCredential(c) => ("credentials", c.id.to_string()),
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

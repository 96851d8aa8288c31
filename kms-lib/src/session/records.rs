//! The records of a call: one for a single operation, or one for each key of a batch.

use std::borrow::Cow;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use smallvec::smallvec;

use super::Session;
use super::item::{Decided, Item, Ruling, Target, Worked};
use super::job::{Job, Product};
use super::key_tally::{KeyTally, settled, used};
use crate::ledger::{AuditAck, Details, Draft, Entry, Few, Verdict, context_json, is_recorded_whole};
use crate::types::attempt::Decision;
use crate::types::audit::{Action, hex};
use crate::types::context::Context;
use crate::types::ids::KeyId;
use crate::types::key::AuditContext;
use crate::types::limits::CONTEXT_RECORDED_BYTES;

/// A call whose operations were decided and performed, and are to be recorded.
pub(super) struct WorkedCall<'a> {
    pub action: Action,
    pub items: &'a [Item<'a>],
    /// The decision on each item.
    pub decided: &'a [Arc<Decided>],
    /// The outcome of each item.
    pub worked: &'a [Worked],
    /// The revision at which the decisions were made.
    pub revision: u64,
    pub session: &'a Session,
}

/// The records of a call, and the assignment of its items to them.
pub(super) struct Records {
    pub entries: Vec<Entry>,
    /// For each item the index of its record; none if the record was removed.
    pub of_item: Few<Option<usize>>,
}

impl Records {
    /// Builds the records of a call.
    pub fn of(call: &WorkedCall<'_>) -> Self {
        let (entries, of_item) = match (call.items, call.decided, call.worked) {
            ([item], [decided], [worked]) => (vec![call.single(item, decided, worked)], smallvec![Some(0)]),
            _ => call.by_key(),
        };
        Self { entries, of_item }
    }

    /// Keeps only the records for which `is_wanted` is true.
    pub fn retain(&mut self, mut is_wanted: impl FnMut(&Entry) -> bool) {
        let mut kept = 0;
        let places: Vec<Option<usize>> = self
            .entries
            .iter()
            .map(|entry| {
                let place = is_wanted(entry).then_some(kept);
                kept += usize::from(place.is_some());
                place
            })
            .collect();
        let mut place = places.iter();
        self.entries.retain(|_| place.next().is_some_and(Option::is_some));
        for of_item in self.of_item.iter_mut() {
            *of_item = of_item.and_then(|record| places.get(record).copied().flatten());
        }
    }
}

impl WorkedCall<'_> {
    /// One entry for each key of a batch, and for each item the index of its entry.
    fn by_key(&self) -> (Vec<Entry>, Few<Option<usize>>) {
        let mut groups: Vec<(Option<KeyId>, Vec<usize>)> = Vec::new();
        let mut entry_of = Vec::with_capacity(self.items.len());
        for (i, decided) in self.decided.iter().enumerate() {
            let key = decided.attempt.key;
            let place = match groups.iter().position(|(group, _)| *group == key) {
                Some(place) => place,
                None => {
                    groups.push((key, Vec::new()));
                    groups.len() - 1
                }
            };
            groups[place].1.push(i);
            entry_of.push(Some(place));
        }
        (groups.into_iter().map(|(key, members)| self.of_key(key, &members)).collect(), entry_of.into())
    }

    /// The entry for the only operation of a call.
    fn single(&self, item: &Item<'_>, decided: &Decided, worked: &Worked) -> Entry {
        let version = worked.as_ref().map_or(decided.version, |(_, version)| Some(*version));
        let (verdict, details) = self.single_details(item, decided, worked);
        self.finished(Entry {
            attempts: smallvec![settled(decided, worked)],
            verdict,
            draft: self.draft(decided.attempt.key, version, details),
            rendered: None,
            uses: used(item, decided, worked).into_iter().collect(),
            tally: if worked.is_ok() { (1, 0) } else { (0, 1) },
            idempotency: None,
            remember: Vec::new(),
        })
    }

    fn single_details(&self, item: &Item<'_>, decided: &Decided, worked: &Worked) -> (Verdict, Details) {
        let mut details = Details::default();
        let verdict = match (&decided.ruling, worked) {
            (Ruling::Work { grant, .. }, Ok((_, version))) => {
                details.decision(&Decision::Allowed { grant: *grant, valid_until: None }, self.revision);
                Verdict::Allowed { valid_until: decided.valid_until(*version) }
            }
            (Ruling::Denied(code), _) => Verdict::Denied(*code),
            (_, Err(error)) => Verdict::Failed(error.code()),
            (Ruling::Bad(error), Ok(_)) => Verdict::Failed(error.code()),
        };
        if let Verdict::Denied(code) | Verdict::Failed(code) = verdict {
            details.text("error", code.as_str()).number("revision", self.revision);
        }
        details.source(&decided.attempt);
        if let Some(context) = item.job.context() {
            let (name, json) = recorded_context(context, decided.audit_context, self.session);
            details.raw(name, json);
        }
        if matches!(item.target, Target::Imported(..)) {
            details.raw("imported", "true");
        }
        if let Job::Sign(_, algorithm) | Job::Verify(_, _, algorithm) = item.job {
            details.text("signingAlgorithm", algorithm.as_str());
        }
        if let Some(is_returned) = item.data_key {
            details.number("dataKeyBytes", item.job.bytes() as u64).raw("plaintextReturned", json_bool(is_returned));
        }
        if let Ok((Product::Valid(valid), _)) = worked {
            details.raw("valid", json_bool(*valid));
        }
        (verdict, details)
    }

    /// The entry for the operations of a batch with one key.
    fn of_key(&self, key: Option<KeyId>, members: &[usize]) -> Entry {
        let mut tally = KeyTally::default();
        for &i in members {
            tally.add(&self.items[i], &self.decided[i], &self.worked[i]);
        }
        let mut details = Details::default();
        details.number("items", members.len() as u64).number("revision", self.revision);
        if let Some(&first) = members.first() {
            details.source(&self.decided[first].attempt);
            if !tally.contexts().is_empty() {
                let form = self.decided[first].audit_context;
                let (name, json) = recorded_contexts(tally.contexts(), form, self.session);
                details.raw(name, json);
            }
        }
        tally.describe(&mut details);
        self.finished(Entry {
            verdict: tally.verdict(),
            draft: self.draft(key, tally.only_version(), details),
            rendered: None,
            uses: tally.uses().into(),
            tally: tally.successes_and_failures(),
            attempts: tally.attempts.into(),
            idempotency: None,
            remember: Vec::new(),
        })
    }

    fn draft(&self, key_id: Option<KeyId>, key_version: Option<u32>, details: Details) -> Draft {
        let actor = self.session.actor.clone();
        Draft { actor, action: self.action, key_id, key_version, details }
    }

    /// Adds the record's text to the entry. If results are released before the record is written, the ledger adds it
    /// instead.
    fn finished(&self, mut entry: Entry) -> Entry {
        if self.session.shared.ledger.ack() == AuditAck::Durable {
            entry.rendered = Some(entry.draft.render(entry.status()));
        }
        entry
    }
}

/// A context as it is recorded: in clear, as its SHA-256 if it is long, or as its HMAC if the key says so.
fn recorded_context(context: &Context, form: AuditContext, session: &Session) -> (&'static str, Cow<'static, str>) {
    match form {
        AuditContext::Clear if context.is_empty() => ("context", "{}".into()),
        AuditContext::Clear if is_recorded_whole(context) => ("context", context_json(context).into()),
        _ => {
            let (name, json) = protected("context", &context_json(context), form, session);
            (name, json.into())
        }
    }
}

fn json_bool(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

fn recorded_contexts(contexts: &[&Arc<Context>], form: AuditContext, session: &Session) -> (&'static str, String) {
    let all: Vec<String> = contexts.iter().map(|context| context_json(context)).collect();
    let json = format!("[{}]", all.join(","));
    match form {
        AuditContext::Clear if json.len() <= CONTEXT_RECORDED_BYTES => ("contexts", json),
        _ => protected("contexts", &json, form, session),
    }
}

fn protected(name: &'static str, json: &str, form: AuditContext, session: &Session) -> (&'static str, String) {
    let (digest, name): ([u8; 32], _) = match (form, name) {
        (AuditContext::Hmac, "context") => (session.shared.catalog.seals().context_mac(json.as_bytes()), "contextHmac"),
        (AuditContext::Hmac, _) => (session.shared.catalog.seals().context_mac(json.as_bytes()), "contextsHmac"),
        (AuditContext::Clear, "context") => (Sha256::digest(json.as_bytes()).into(), "contextSha256"),
        (AuditContext::Clear, _) => (Sha256::digest(json.as_bytes()).into(), "contextsSha256"),
    };
    (name, format!("\"{}\"", hex(&digest)))
}

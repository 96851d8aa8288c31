//! The records of a call: one for a single operation, or one for each key that a batch touched.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::Session;
use super::engine::{Decided, Item, Ruling, Worked};
use super::job::{Job, Product};
use crate::ledger::{AuditAck, Details, Draft, Entry, Use, Verdict, context_json, is_recorded_whole};
use crate::types::attempt::{Attempt, Decision, Operation};
use crate::types::audit::{Action, hex};
use crate::types::context::Context;
use crate::types::ids::{KeyId, RecordId};
use crate::types::key::AuditContext;
use crate::types::limits::CONTEXT_RECORDED_BYTES;
use crate::types::time::Timestamp;

/// The records of a call, and which of them stands for which item.
pub(super) struct Records {
    pub entries: Vec<Entry>,
    /// For each item the place of its record; none if it was taken out.
    pub of_item: Vec<Option<usize>>,
}

impl Records {
    /// The records of a call that went like this.
    pub fn of(
        action: Action,
        items: &[Item<'_>],
        decided: &[Arc<Decided>],
        worked: &[Worked],
        revision: u64,
        session: &Session,
    ) -> Self {
        let (entries, of_item) = match (items, decided, worked) {
            ([item], [decided], [worked]) => (vec![single(action, item, decided, worked, revision, session)], vec![0]),
            _ => entries(action, items, decided, worked, revision, session),
        };
        Self { entries, of_item: of_item.into_iter().map(Some).collect() }
    }

    /// Takes the records out that are not wanted.
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
        for of_item in &mut self.of_item {
            *of_item = of_item.and_then(|record| places.get(record).copied().flatten());
        }
    }
}

/// The entries for a batch, and for each item the entry that stands for it.
fn entries(
    action: Action,
    items: &[Item<'_>],
    decided: &[Arc<Decided>],
    worked: &[Worked],
    revision: u64,
    session: &Session,
) -> (Vec<Entry>, Vec<usize>) {
    let mut groups: Vec<(Option<KeyId>, Vec<usize>)> = Vec::new();
    let mut entry_of = Vec::with_capacity(items.len());
    for (i, decided) in decided.iter().enumerate() {
        let key = decided.attempt.key;
        let place = match groups.iter().position(|(group, _)| *group == key) {
            Some(place) => place,
            None => {
                groups.push((key, Vec::new()));
                groups.len() - 1
            }
        };
        groups[place].1.push(i);
        entry_of.push(place);
    }
    let group = |(key, members): (Option<KeyId>, Vec<usize>)| {
        grouped(action, key, &members, items, decided, worked, revision, session)
    };
    (groups.into_iter().map(group).collect(), entry_of)
}

fn single(
    action: Action,
    item: &Item<'_>,
    decided: &Decided,
    worked: &Worked,
    revision: u64,
    session: &Session,
) -> Entry {
    let mut details = Details::default();
    let verdict = match (&decided.ruling, worked) {
        (Ruling::Work { grant, .. }, Ok((_, version))) => {
            details.decision(&Decision::Allowed { grant: *grant, valid_until: None }, revision);
            Verdict::Allowed { valid_until: decided.valid_until(*version) }
        }
        (Ruling::Denied(code), _) => Verdict::Denied(*code),
        (_, Err(error)) => Verdict::Failed(error.code()),
        (Ruling::Bad(error), Ok(_)) => Verdict::Failed(error.code()),
    };
    if let Verdict::Denied(code) | Verdict::Failed(code) = verdict {
        details.text("error", code.as_str()).number("revision", revision);
    }
    details.source(&decided.attempt);
    if let Some(context) = item.job.context() {
        let (name, json) = recorded_context(context, decided.audit_context, session);
        details.raw(name, json);
    }
    if let Job::Sign(_, algorithm) | Job::Verify(_, _, algorithm) = item.job {
        details.text("signingAlgorithm", algorithm.as_str());
    }
    if let Some(is_returned) = item.data_key {
        details.number("dataKeyBytes", item.job.bytes() as u64).raw("plaintextReturned", is_returned.to_string());
    }
    if let Ok((Product::Valid(valid), _)) = worked {
        details.raw("valid", valid.to_string());
    }
    let version = worked.as_ref().map_or(decided.version, |(_, version)| Some(*version));
    let draft = Draft {
        id: RecordId::random(),
        actor: session.actor.clone(),
        action,
        key_id: decided.attempt.key,
        key_version: version,
        details,
    };
    let mut entry = Entry {
        attempts: vec![settled(decided, worked)],
        verdict,
        draft,
        rendered: None,
        uses: used(item, decided, worked).into_iter().collect(),
        tally: if worked.is_ok() { (1, 0) } else { (0, 1) },
        idempotency: None,
        remember: Vec::new(),
    };
    // Released results do not wait for their record: there the ledger writes it out.
    if session.shared.ledger.ack() == AuditAck::Durable {
        entry.rendered = Some(entry.draft.render(entry.status()));
    }
    entry
}

#[expect(clippy::too_many_arguments, reason = "one group of a call, seen from all its sides")]
fn grouped(
    action: Action,
    key: Option<KeyId>,
    members: &[usize],
    items: &[Item<'_>],
    decided: &[Arc<Decided>],
    worked: &[Worked],
    revision: u64,
    session: &Session,
) -> Entry {
    let mut versions: BTreeMap<u32, u64> = BTreeMap::new();
    let mut errors: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut grants: Vec<String> = Vec::new();
    let mut contexts: Vec<&Arc<Context>> = Vec::new();
    let mut seen: HashSet<&Arc<Context>> = HashSet::new();
    let mut attempts = Vec::new();
    let mut attempted: Option<&Arc<Decided>> = None;
    let mut uses: BTreeMap<(KeyId, u32), u64> = BTreeMap::new();
    let mut valid_until: Option<Timestamp> = None;
    let mut invalid = 0u64;
    let mut first_error = None;
    let mut all_denied = true;
    for &i in members {
        if let Some(context) = items[i].job.context()
            && contexts.last() != Some(&context)
            && seen.insert(context)
        {
            contexts.push(context);
        }
        match (&worked[i], &decided[i].ruling) {
            (Ok((product, version)), Ruling::Work { grant, .. }) => {
                *versions.entry(*version).or_default() += 1;
                invalid += u64::from(matches!(product, Product::Valid(false)));
                valid_until = [valid_until, decided[i].valid_until(*version)].into_iter().flatten().min();
                if let Some(grant) = grant.map(|grant| grant.to_string())
                    && !grants.contains(&grant)
                {
                    grants.push(grant);
                }
                // One stands for all that share a decision, unless the work settles something in it.
                let is_open = matches!(decided[i].attempt.operation, Operation::Verify { version: None });
                if is_open || !attempted.is_some_and(|before| Arc::ptr_eq(before, &decided[i])) {
                    attempts.push(settled(&decided[i], &worked[i]));
                }
                attempted = Some(&decided[i]);
                if let Some(used) = used(&items[i], &decided[i], &worked[i]) {
                    *uses.entry((used.key, used.version)).or_default() += used.encryptions;
                }
            }
            (Err(error), ruling) => {
                *errors.entry(error.code().as_str()).or_default() += 1;
                first_error.get_or_insert(error.code());
                all_denied &= matches!(ruling, Ruling::Denied(_));
            }
            (Ok(_), _) => {}
        }
    }
    let verdict = match first_error {
        _ if !versions.is_empty() => Verdict::Allowed { valid_until },
        Some(code) if all_denied => Verdict::Denied(code),
        Some(code) => Verdict::Failed(code),
        None => Verdict::Allowed { valid_until },
    };
    let tally = (versions.values().sum(), errors.values().sum());
    let mut details = Details::default();
    details.number("items", members.len() as u64).number("revision", revision);
    if let Some(&first) = members.first() {
        details.source(&decided[first].attempt);
        if !contexts.is_empty() {
            let (name, json) = recorded_contexts(&contexts, decided[first].audit_context, session);
            details.raw(name, json);
        }
    }
    if !errors.is_empty() {
        details.raw("errors", counted(errors.iter().map(|(code, n)| (code.to_string(), *n))));
    }
    if !versions.is_empty() {
        let mut by_name: Vec<(String, u64)> = versions.iter().map(|(v, n)| (v.to_string(), *n)).collect();
        by_name.sort_unstable();
        details.raw("versions", counted(by_name.into_iter()));
    }
    if !grants.is_empty() {
        let quoted: Vec<String> = grants.iter().map(|grant| format!("\"{grant}\"")).collect();
        details.raw("grants", format!("[{}]", quoted.join(",")));
    }
    if invalid > 0 {
        details.number("invalid", invalid);
    }
    let mut only_version = versions.keys();
    let key_version = only_version.next().copied().filter(|_| only_version.next().is_none());
    let draft =
        Draft { id: RecordId::random(), actor: session.actor.clone(), action, key_id: key, key_version, details };
    let uses = uses.into_iter().map(|((key, version), encryptions)| Use { key, version, encryptions }).collect();
    let mut entry =
        Entry { attempts, verdict, draft, rendered: None, uses, tally, idempotency: None, remember: Vec::new() };
    // Released results do not wait for their record: there the ledger writes it out.
    if session.shared.ledger.ack() == AuditAck::Durable {
        entry.rendered = Some(entry.draft.render(entry.status()));
    }
    entry
}

/// The attempt as it came out: with the version that did the work, where the caller had left it open.
fn settled(decided: &Decided, worked: &Worked) -> Attempt {
    let mut attempt = decided.attempt.clone();
    if let (Operation::Verify { version }, Ok((Product::Valid(true), found))) = (&mut attempt.operation, worked) {
        *version = Some(*found);
    }
    attempt
}

fn used(item: &Item<'_>, decided: &Decided, worked: &Worked) -> Option<Use> {
    let (key, version) = (decided.attempt.key?, worked.as_ref().ok()?.1);
    Some(Use { key, version, encryptions: u64::from(matches!(item.job, Job::Encrypt(..))) })
}

fn counted(counts: impl Iterator<Item = (String, u64)>) -> String {
    let members: Vec<String> = counts.map(|(name, count)| format!("\"{name}\":{count}")).collect();
    format!("{{{}}}", members.join(","))
}

/// How a context appears in a record: itself, its SHA-256 if it is long, or its HMAC if the key says so.
fn recorded_context(context: &Context, form: AuditContext, session: &Session) -> (&'static str, String) {
    match form {
        AuditContext::Clear if is_recorded_whole(context) => ("context", context_json(context)),
        _ => protected("context", &context_json(context), form, session),
    }
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

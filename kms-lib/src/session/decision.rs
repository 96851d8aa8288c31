//! Deciding on the items of a call: whether each is permitted, and with which versions.

use std::sync::Arc;

use smallvec::smallvec;

use super::Session;
use super::item::{Decided, Item, Ruling, Target, Usable};
use super::job::Job;
use super::refusal::refusal;
use crate::catalog::Snapshot;
use crate::ledger::Few;
use crate::policy;
use crate::types::attempt::{Attempt, Decision, Operation};
use crate::types::error::{Error, ErrorCode};
use crate::types::ids::KeyId;
use crate::types::key::{AuditContext, Key, KeyVersion, Origin};
use crate::types::limits::VERSIONS_TRIED;
use crate::types::time::Timestamp;
use crate::types::view::CatalogView;

/// The number of items that are decided while the snapshot is locked, and the number of attempts to do so.
const SLICE: usize = 64;
const TRIES: usize = 3;
/// The number of versions that are examined, on average, to find a usable one.
const LOOKED_AT: usize = 10;

/// The state in which the items of a call are decided.
struct View<'a> {
    snapshot: &'a Snapshot,
    /// The number of versions that are tried for an item without a version.
    tried: usize,
    now: Timestamp,
}

impl Session {
    /// Decides on every item at one revision. Equal items share a decision.
    pub(super) fn decide_items(&self, items: &[Item<'_>]) -> (u64, Few<Arc<Decided>>) {
        if let [item] = items {
            let snapshot = self.shared.catalog.snapshot();
            let view = View { snapshot: &snapshot, tried: VERSIONS_TRIED, now: self.shared.clock.now() };
            return (snapshot.revision(), smallvec![Arc::new(self.decide_item(&view, item))]);
        }
        // If changes come continuously, the last attempt locks the snapshot until all items are decided.
        let mut slices = [SLICE; TRIES].into_iter().chain(std::iter::repeat(usize::MAX));
        loop {
            let slice = slices.next().unwrap_or(usize::MAX);
            if let Some((revision, decided)) = self.decide_in_slices(items, slice) {
                return (revision, decided.into());
            }
        }
    }

    /// Decides with the snapshot locked for `slice` items at a time, since a committed change waits for the lock, and
    /// every other caller for the change. None if a change came in between.
    fn decide_in_slices(&self, items: &[Item<'_>], slice: usize) -> Option<(u64, Vec<Arc<Decided>>)> {
        let mut revision = None;
        let now = self.shared.clock.now();
        let without_version = items.iter().filter(|item| matches!(item.target, Target::AnyUsable(_))).count();
        let tried = VERSIONS_TRIED / without_version.max(1);
        let mut all: Vec<Arc<Decided>> = Vec::with_capacity(items.len());
        loop {
            let snapshot = self.shared.catalog.snapshot();
            if *revision.get_or_insert(snapshot.revision()) != snapshot.revision() && slice < items.len() {
                return None;
            }
            let view = View { snapshot: &snapshot, tried, now };
            for item in items.iter().skip(all.len()).take(slice) {
                let n = all.len();
                // The last two are compared, since the items of a pair alternate.
                let alike = (n.saturating_sub(2)..n).rev().find(|&before| items[before].is_decided_like(item));
                let decided = match alike {
                    Some(before) => Arc::clone(&all[before]),
                    None => Arc::new(self.decide_item(&view, item)),
                };
                all.push(decided);
            }
            if all.len() == items.len() {
                return Some((snapshot.revision(), all));
            }
        }
    }

    fn decide_item(&self, view: &View<'_>, item: &Item<'_>) -> Decided {
        let snapshot = view.snapshot;
        let named = item.target.named().and_then(|key| key.resolve(snapshot));
        let (id, asked, contradiction) = match &item.target {
            Target::Current(_) | Target::AnyUsable(_) => (named, None, None),
            Target::Version(_, version) => (named, Some(*version), None),
            Target::Imported(_, version) => (named, version.or_else(|| newest_imported(snapshot, named?)), None),
            Target::Sealed(Ok((key, version)), beside) if beside.is_none() || named == Some(*key) => {
                (Some(*key), Some(*version), None)
            }
            Target::Sealed(Ok(_), _) => (named, None, Some(refusal(ErrorCode::InvalidCiphertext))),
            Target::Sealed(Err(error), _) => (named, None, Some(error.clone())),
        };
        let key = id.and_then(|id| snapshot.key(id));
        let current = key.map_or(0, |key| key.current_version);
        let version = asked.unwrap_or(current);
        let operation = match item.job {
            Job::Encrypt(..) => Operation::Encrypt { version },
            Job::Decrypt(..) | Job::DecryptOaep(_) | Job::DecryptImported(_) => Operation::Decrypt { version },
            Job::Sign(..) => Operation::Sign { version },
            Job::Verify(..) => Operation::Verify { version: asked },
        };
        let attempt = Attempt {
            actor: self.actor.clone(),
            operation,
            key: id,
            key_type: item.key_type,
            context: item.job.context().cloned(),
        };
        // The key determines how contexts are recorded. If the key is not known, contexts stay out of the log.
        let audit_context = match key {
            Some(key) if contradiction.is_none() && !snapshot.is_damaged(key.id) => key.audit_context,
            _ => AuditContext::Hmac,
        };
        let has_version = contradiction.is_none() && !matches!(item.target, Target::AnyUsable(_));
        let mut decided = Decided {
            attempt: Arc::new(attempt),
            version: key.is_some().then_some(version).filter(|_| has_version),
            audit_context,
            disagrees: contradiction.is_some() && item.target.named().is_some(),
            ruling: Ruling::Denied(ErrorCode::AccessDenied),
        };
        decided.ruling = match contradiction {
            Some(error) => rule_contradiction(view, &decided, error),
            None => rule(view, item, &decided.attempt, key),
        };
        decided
    }
}

/// Decides on an operation with this key that has no contradiction in its input.
fn rule(view: &View<'_>, item: &Item<'_>, attempt: &Attempt, key: Option<&Key>) -> Ruling {
    let (snapshot, now) = (view.snapshot, view.now);
    let current = key.map_or(0, |key| key.current_version);
    let version = match item.target {
        Target::Version(_, version) | Target::Sealed(Ok((_, version)), _) => version,
        Target::Imported(_, version) => version.or_else(|| newest_imported(snapshot, attempt.key?)).unwrap_or(current),
        _ => current,
    };
    // Signing with a version other than the current one is refused and not repeated with the current one.
    if matches!(item.job, Job::Sign(..)) && version != current && key.is_some() {
        let operation = Operation::Sign { version: current };
        return match policy::decide(snapshot, &Attempt { operation, ..attempt.clone() }, now) {
            Decision::Denied(code) => Ruling::Denied(code),
            _ => Ruling::Bad(refusal(ErrorCode::VersionNotCurrent)),
        };
    }
    match (policy::decide(snapshot, attempt, now), key) {
        (Decision::Denied(code), _) => Ruling::Denied(code),
        (Decision::Superseded, _) => Ruling::Bad(refusal(ErrorCode::VersionNotCurrent)),
        (Decision::Allowed { .. }, None) => Ruling::Denied(ErrorCode::KeyNotFound),
        (Decision::Allowed { grant, valid_until }, Some(key)) => {
            let named = snapshot.version(key.id, version);
            let is_own = |version: &KeyVersion| version.origin != Origin::Imported;
            if matches!(item.target, Target::Imported(..)) && named.is_none_or(is_own) {
                return Ruling::Bad(not_imported(&item.target));
            }
            let (versions, has_more) = match item.target {
                Target::AnyUsable(_) => newest_usable(snapshot, key, view.tried, now),
                _ => (named.cloned().map(|version| Usable { version, until: None }).into_iter().collect(), false),
            };
            Ruling::Work { key_type: key.key_type, versions, has_more, grant, valid_until }
        }
    }
}

/// Decides on a ciphertext that cannot be decrypted with any key. The result is the same whether the key named beside
/// it is another one or unknown. A caller that may not decrypt with the named key learns only that.
fn rule_contradiction(view: &View<'_>, decided: &Decided, error: Error) -> Ruling {
    let (snapshot, now) = (view.snapshot, view.now);
    if !decided.disagrees {
        // A caller without the permission on any key is denied as usual.
        return match policy::is_authenticated(snapshot, &decided.attempt, now) {
            false => Ruling::Denied(ErrorCode::NotAuthenticated),
            true if policy::has_right_somewhere(snapshot, &decided.attempt, now) => Ruling::Bad(error),
            true => Ruling::Denied(ErrorCode::AccessDenied),
        };
    }
    match policy::decide(snapshot, &decided.attempt, now) {
        Decision::Denied(code @ (ErrorCode::AccessDenied | ErrorCode::NotAuthenticated)) => Ruling::Denied(code),
        _ => Ruling::Bad(error),
    }
}

/// The newest imported version of a key.
fn newest_imported(snapshot: &Snapshot, key: KeyId) -> Option<u32> {
    let mut versions = snapshot.versions_newest_first(key).take(LOOKED_AT * VERSIONS_TRIED);
    versions.find(|version| version.origin == Origin::Imported).map(|version| version.version)
}

fn not_imported(target: &Target) -> Error {
    let text = match target {
        Target::Imported(_, Some(version)) => format!(
            "version {version} of the key was not imported; a ciphertext of this version contains its nonce and tag, \
             and is decrypted with a context instead of additional data"
        ),
        _ => {
            "no version of the key was imported; name the version whose public key was used, or pass the ciphertext as \
             encrypting returned it"
                .to_owned()
        }
    };
    Error::new(ErrorCode::InvalidCiphertext, text)
}

/// Returns the versions that may verify now, newest first, at most `tried`, and whether there may be more. At most
/// `LOOKED_AT` versions are examined for each, since the snapshot is locked meanwhile.
fn newest_usable(snapshot: &Snapshot, key: &Key, tried: usize, now: Timestamp) -> (Few<Usable>, bool) {
    let mut versions = Vec::new();
    let mut newest_first = snapshot.versions_newest_first(key.id).enumerate();
    let has_more = loop {
        let Some((looked_at, version)) = newest_first.next() else { break false };
        if looked_at >= LOOKED_AT * tried {
            break true;
        }
        let operation = Operation::Verify { version: Some(version.version) };
        let Ok(until) = crate::lifecycle::permits(&operation, key, |_| Some(version), now) else { continue };
        if versions.len() == tried {
            break true;
        }
        versions.push(Usable { version: version.clone(), until });
    };
    (versions.into(), has_more)
}

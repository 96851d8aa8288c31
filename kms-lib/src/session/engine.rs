//! The way of every cryptographic operation, alone or in a batch: decide, work, commit the record, only then return.

use std::sync::Arc;

use super::batch;
use super::change::{REDO, overtaken};
use super::job::{Job, Product};
use super::refusal::refusal;
use super::workbench::Workbench;
use super::{KeyRef, Session};
use crate::ledger::{Lane, Outcome};
use crate::policy;
use crate::types::attempt::{Attempt, Decision, Operation};
use crate::types::audit::{Action, Receipt};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::{GrantId, KeyId};
use crate::types::key::{AuditContext, KeyType, KeyVersion};
use crate::types::time::Timestamp;
use crate::types::view::View;

/// Which key and version an operation is for.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// The current version.
    Current(KeyRef),
    /// This version.
    Version(KeyRef, u32),
    /// Any version that is usable, the newest first.
    AnyUsable(KeyRef),
    /// The key and version that a ciphertext names, or why it cannot be decrypted; and the key that the caller named
    /// beside it, which must be the same.
    Sealed(Result<(KeyId, u32)>, Option<KeyRef>),
}

impl Target {
    /// The key as the caller named it.
    fn named(&self) -> Option<&KeyRef> {
        match self {
            Self::Current(key) | Self::Version(key, _) | Self::AnyUsable(key) => Some(key),
            Self::Sealed(_, key) => key.as_ref(),
        }
    }
}

/// One operation of a call.
#[derive(Clone)]
pub(super) struct Item<'a> {
    pub target: Target,
    pub job: Job<'a>,
    /// The type the key must have.
    pub key_type: Option<KeyType>,
    /// Of a data key: whether the caller gets its plaintext.
    pub data_key: Option<bool>,
}

impl<'a> Item<'a> {
    /// An operation with a key of any type.
    pub fn new(target: Target, job: Job<'a>) -> Self {
        Self { target, job, key_type: None, data_key: None }
    }

    /// An operation with an RSA key.
    pub fn rsa(target: Target, job: Job<'a>) -> Self {
        Self { key_type: Some(KeyType::Rsa2048), ..Self::new(target, job) }
    }

    /// Whether what is decided on one is decided on the other too.
    fn is_decided_like(&self, other: &Self) -> bool {
        let is_same_target = match (&self.target, &other.target) {
            (Target::Current(a), Target::Current(b)) | (Target::AnyUsable(a), Target::AnyUsable(b)) => a == b,
            (Target::Version(a, m), Target::Version(b, n)) => a == b && m == n,
            (Target::Sealed(Ok(a), named), Target::Sealed(Ok(b), other)) => a == b && named == other,
            // What is wrong with each is its own matter.
            _ => false,
        };
        is_same_target
            && self.key_type == other.key_type
            && std::mem::discriminant(&self.job) == std::mem::discriminant(&other.job)
            && self.job.context() == other.job.context()
    }
}

/// What an operation gave.
pub(super) struct Done {
    pub product: Product,
    pub key: KeyId,
    pub key_type: KeyType,
    pub version: u32,
    pub receipt: Receipt,
}

/// An item with the decision on it.
pub(super) struct Decided {
    pub attempt: Attempt,
    pub version: Option<u32>,
    pub audit_context: AuditContext,
    /// What was passed beside a ciphertext does not agree with it, as far as this image knows.
    disagrees: bool,
    pub ruling: Ruling,
}

impl Decided {
    /// Why it is not even tried.
    fn error(&self) -> Option<Error> {
        match &self.ruling {
            Ruling::Denied(code) => Some(refusal(*code)),
            Ruling::Bad(error) => Some(error.clone()),
            Ruling::Work { .. } => None,
        }
    }

    /// From when on work with this version is void: the earliest end of a window that it relied on.
    pub fn valid_until(&self, version: u32) -> Option<Timestamp> {
        let Ruling::Work { versions, valid_until, .. } = &self.ruling else { return None };
        let window = versions.iter().find(|usable| usable.version.version == version).and_then(|usable| usable.until);
        [*valid_until, window].into_iter().flatten().min()
    }
}

/// A version that may do the work.
pub(super) struct Usable {
    pub version: KeyVersion,
    /// The end of its window, if it was looked for: `Ruling::Work` has that of a version which the attempt names.
    pub until: Option<Timestamp>,
}

pub(super) enum Ruling {
    /// Do it with one of these versions: the first that fits.
    Work { key_type: KeyType, versions: Vec<Usable>, grant: Option<GrantId>, valid_until: Option<Timestamp> },
    /// Refused by policy or state.
    Denied(ErrorCode),
    /// Allowed to try, but it cannot work.
    Bad(Error),
}

/// How an item went: its product with the version that made it, or why not.
pub(super) type Worked = Result<(Product, u32)>;

impl Session {
    /// Does the operations of one call, each failing alone, and commits their records: one for each key.
    ///
    /// With `chained`, items come in pairs: the second encrypts what the first decrypted.
    #[tracing::instrument(level = "debug", name = "kms.operate", skip_all,
        fields(action = action.as_str(), principal = self.actor.principal(), items = items.len()))]
    pub(super) async fn operate(&self, action: Action, items: &[Item<'_>], chained: bool) -> Result<Vec<Result<Done>>> {
        // With `queued`, an operation may end without ever waiting: a caller in a loop would keep its runtime's worker,
        // timers included, to itself.
        tokio::task::coop::consume_budget().await;
        let bytes = items.iter().map(|item| item.job.bytes()).sum();
        let admission = self.shared.ledger.admit(Lane::Use, self.actor.principal(), bytes)?;
        let mut debt = None;
        for _ in 0..=REDO {
            let (mut revision, mut decided) = self.decide_items(items);
            // The ledger looks again at a single denial under the lock; items of a batch and keys that are named by
            // name are looked at again here. A name that is unknown, or that of another key than a ciphertext's, may
            // have been given by another node a moment ago. Known names take the same look, so that the time does not
            // tell.
            let look_again = |(item, d): (&Item<'_>, &Arc<Decided>)| {
                let by_name = !matches!(item.target.named(), Some(KeyRef::Id(_)));
                d.disagrees
                    || (matches!(d.ruling, Ruling::Denied(_)) && (items.len() > 1 || by_name || self.is_flooding(d)))
            };
            let fresh = items.iter().zip(&decided).any(look_again);
            if fresh {
                self.shared.catalog.ensure_fresh().await?;
                (revision, decided) = self.decide_items(items);
            }
            if let Some(code) = self.uncounted_denial(action, &decided, fresh) {
                return Ok(vec![Err(refusal(code))]);
            }
            let worked = self.work_all(items, &decided, chained).await;
            // What the store or the root key service could not do has not happened, and is not recorded.
            if let Some(error) = worked.iter().find_map(|w| w.as_ref().err().filter(|e| is_outage(e.code()))) {
                return Err(error.clone());
            }
            let (entries, entry_of) = batch::entries(action, items, &decided, &worked, revision, self);
            let outcome = self.shared.ledger.submit(&admission, revision, entries, None, debt.take()).await;
            match outcome {
                Outcome::Committed { receipts, .. } => {
                    let results = worked.into_iter().zip(&decided).zip(entry_of);
                    return Ok(results
                        .map(|((worked, decided), entry)| {
                            let (product, version) = worked?;
                            let Ruling::Work { key_type, .. } = decided.ruling else {
                                return Err(Error::new(ErrorCode::Internal, "work without a ruling"));
                            };
                            let key = decided.attempt.key.unwrap_or_else(|| KeyId::from_bytes([0; 16]));
                            Ok(Done { product, key, key_type, version, receipt: receipts[entry] })
                        })
                        .collect());
                }
                Outcome::Refused(code) => return Ok(items.iter().map(|_| Err(refusal(code))).collect()),
                Outcome::Redo(owed) => debt = owed,
                Outcome::Failed(error) => return Err(error),
            }
        }
        Err(overtaken())
    }

    /// The denial of a single operation that gets no record of its own, because there are too many.
    fn uncounted_denial(&self, action: Action, decided: &[Arc<Decided>], fresh: bool) -> Option<ErrorCode> {
        let [decided] = decided else { return None };
        let Ruling::Denied(code) = &decided.ruling else { return None };
        let now = self.shared.clock.now();
        (!self.shared.denials.is_recorded(&self.actor, action, *code, now, fresh)).then_some(*code)
    }

    /// Whether a denial may be one that is only counted: then it must be fresh before it is returned.
    fn is_flooding(&self, decided: &Decided) -> bool {
        match decided.ruling {
            Ruling::Denied(code) => self.shared.denials.is_flooding(&self.actor, code),
            _ => false,
        }
    }

    /// Decides on each item, at one revision. Items that are alike share a decision.
    fn decide_items(&self, items: &[Item<'_>]) -> (u64, Vec<Arc<Decided>>) {
        let image = self.shared.catalog.image();
        let now = self.shared.clock.now();
        let mut all: Vec<Arc<Decided>> = Vec::with_capacity(items.len());
        for (n, item) in items.iter().enumerate() {
            // Not only the one before: the items of a pair alternate.
            let alike = (n.saturating_sub(2)..n).rev().find(|&before| items[before].is_decided_like(item));
            let decided = match alike {
                Some(before) => Arc::clone(&all[before]),
                None => Arc::new(self.decide_item(&image, item, now)),
            };
            all.push(decided);
        }
        (image.revision(), all)
    }

    fn decide_item(&self, image: &crate::catalog::Image, item: &Item<'_>, now: Timestamp) -> Decided {
        let named = item.target.named().and_then(|key| key.resolve(image));
        let (id, asked, contradiction) = match &item.target {
            Target::Current(_) | Target::AnyUsable(_) => (named, None, None),
            Target::Version(_, version) => (named, Some(*version), None),
            Target::Sealed(Ok((key, version)), beside) if beside.is_none() || named == Some(*key) => {
                (Some(*key), Some(*version), None)
            }
            Target::Sealed(Ok(_), _) => (named, None, Some(refusal(ErrorCode::InvalidCiphertext))),
            Target::Sealed(Err(error), _) => (named, None, Some(error.clone())),
        };
        let key = id.and_then(|id| image.key(id));
        let current = key.map_or(0, |key| key.current_version);
        let version = asked.unwrap_or(current);
        let operation = match item.job {
            Job::Encrypt(..) => Operation::Encrypt { version },
            Job::Decrypt(..) | Job::DecryptOaep(_) => Operation::Decrypt { version },
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
        // How contexts are recorded is said by the key they belong to. Where that is not known, they stay out of the
        // log.
        let audit_context = match key {
            Some(key) if contradiction.is_none() && !image.is_damaged(key.id) => key.audit_context,
            _ => AuditContext::Hmac,
        };
        let has_version = contradiction.is_none() && !matches!(item.target, Target::AnyUsable(_));
        let mut decided = Decided {
            attempt,
            version: key.is_some().then_some(version).filter(|_| has_version),
            audit_context,
            disagrees: contradiction.is_some() && item.target.named().is_some(),
            ruling: Ruling::Denied(ErrorCode::AccessDenied),
        };
        decided.ruling = match contradiction {
            Some(error) => self.rule_contradiction(image, &decided, error, now),
            None => self.rule(image, item, &decided.attempt, now),
        };
        decided
    }

    /// What an operation comes to that nothing contradicts beforehand.
    fn rule(&self, image: &crate::catalog::Image, item: &Item<'_>, attempt: &Attempt, now: Timestamp) -> Ruling {
        let key = attempt.key.and_then(|id| image.key(id));
        let current = key.map_or(0, |key| key.current_version);
        let version = match item.target {
            Target::Version(_, version) | Target::Sealed(Ok((_, version)), _) => version,
            _ => current,
        };
        // Signing with another version than the current one is refused, not done again with the current one.
        if matches!(item.job, Job::Sign(..)) && version != current && key.is_some() {
            let operation = Operation::Sign { version: current };
            return match policy::decide(image, &Attempt { operation, ..attempt.clone() }, now) {
                Decision::Denied(code) => Ruling::Denied(code),
                _ => Ruling::Bad(refusal(ErrorCode::VersionNotCurrent)),
            };
        }
        match (policy::decide(image, attempt, now), key) {
            (Decision::Denied(code), _) => Ruling::Denied(code),
            (Decision::Superseded, _) => Ruling::Bad(refusal(ErrorCode::VersionNotCurrent)),
            (Decision::Allowed { .. }, None) => Ruling::Denied(ErrorCode::KeyNotFound),
            (Decision::Allowed { grant, valid_until }, Some(key)) => {
                let versions = if matches!(item.target, Target::AnyUsable(_)) {
                    self.usable(image, attempt, now)
                } else {
                    let named = image.version(key.id, version).cloned();
                    named.map(|version| Usable { version, until: None }).into_iter().collect()
                };
                Ruling::Work { key_type: key.key_type, versions, grant, valid_until }
            }
        }
    }

    /// The versions that may verify now, newest first.
    fn usable(&self, image: &crate::catalog::Image, attempt: &Attempt, now: Timestamp) -> Vec<Usable> {
        let mut versions = Vec::new();
        let Some(key) = attempt.key.and_then(|id| image.key(id)) else { return versions };
        image.each_version(key.id, &mut |version| {
            let operation = Operation::Verify { version: Some(version.version) };
            if let Ok(until) = crate::keys::permits(&operation, key, |_| Some(version), now) {
                versions.push(Usable { version: version.clone(), until });
            }
        });
        versions.reverse();
        versions
    }

    async fn work_all(&self, items: &[Item<'_>], decided: &[Arc<Decided>], chained: bool) -> Vec<Worked> {
        let mut worked = Vec::with_capacity(items.len());
        let encryptions = items.iter().filter(|item| matches!(item.job, Job::Encrypt(..))).count();
        let mut bench = Workbench::new(&self.shared, encryptions);
        if chained {
            for (items, decided) in items.chunks_exact(2).zip(decided.chunks_exact(2)) {
                // Both fail together: what was decrypted and could not be encrypted anew has not left.
                match work_pair(&mut bench, items, decided).await {
                    Ok((source, onto)) => worked.extend([Ok(source), Ok(onto)]),
                    Err(error) => worked.extend([Err(error.clone()), Err(error)]),
                }
            }
        } else {
            for (item, decided) in items.iter().zip(decided) {
                worked.push(work(&mut bench, item.job, decided).await);
            }
        }
        worked
    }

    /// What a ciphertext comes to that cannot be decrypted whatever the key: the same whether the key that was named
    /// beside it is another one or unknown. A caller who may not decrypt with the key it named learns only that.
    fn rule_contradiction(
        &self,
        image: &crate::catalog::Image,
        decided: &Decided,
        error: Error,
        now: Timestamp,
    ) -> Ruling {
        if !decided.disagrees {
            let known = policy::is_authenticated(image, &decided.attempt, now);
            return if known { Ruling::Bad(error) } else { Ruling::Denied(ErrorCode::NotAuthenticated) };
        }
        match policy::decide(image, &decided.attempt, now) {
            Decision::Denied(code @ (ErrorCode::AccessDenied | ErrorCode::NotAuthenticated)) => Ruling::Denied(code),
            _ => Ruling::Bad(error),
        }
    }
}

/// Decrypts the first item, and encrypts that as the second.
async fn work_pair(
    bench: &mut Workbench<'_>,
    items: &[Item<'_>],
    decided: &[Arc<Decided>],
) -> Result<((Product, u32), (Product, u32))> {
    // Nothing is decrypted that may not be encrypted anew.
    if let Some(error) = decided.iter().find_map(|decided| decided.error()) {
        return Err(error);
    }
    let ([source, onto], [of_source, of_onto]) = (items, decided) else {
        return Err(Error::new(ErrorCode::Internal, "a pair of operations that is none"));
    };
    let opened = work(bench, source.job, of_source).await?;
    let sealed = match (&opened.0, onto.job) {
        (Product::Bytes(plaintext), Job::Encrypt(_, context)) => {
            work(bench, Job::Encrypt(plaintext, context), of_onto).await?
        }
        _ => return Err(Error::new(ErrorCode::Internal, "a pair of operations that do not fit")),
    };
    Ok((opened, sealed))
}

async fn work(bench: &mut Workbench<'_>, job: Job<'_>, decided: &Decided) -> Worked {
    let Ruling::Work { key_type, versions, .. } = &decided.ruling else {
        let unreached = || Error::new(ErrorCode::Internal, "neither work nor an error");
        return Err(decided.error().unwrap_or_else(unreached));
    };
    let mut last = None;
    for Usable { version, .. } in versions {
        let ready = bench.ready(version, *key_type).await?;
        let product = job.run(bench, &ready, version.material_id()).await?;
        if !matches!(product, Product::Valid(false)) {
            return Ok((product, version.version));
        }
        last.get_or_insert((product, version.version));
    }
    last.ok_or_else(|| refusal(ErrorCode::VersionNotFound))
}

/// Failures of what the service runs on, not of the operation.
fn is_outage(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::StoreUnavailable | ErrorCode::StoreFull | ErrorCode::RootKeyUnavailable | ErrorCode::Closed
    )
}

/// The only result of a call with one item.
pub(super) fn only<T>(results: Vec<Result<T>>) -> Result<T> {
    results.into_iter().next().unwrap_or_else(|| Err(Error::new(ErrorCode::Internal, "an operation without a result")))
}

/// A shared empty context for operations without one.
pub(super) fn share(context: &crate::Context) -> Arc<crate::Context> {
    Arc::new(context.clone())
}

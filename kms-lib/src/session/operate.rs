//! The common path of every cryptographic operation, single or in a batch: decide, work, commit the record, then
//! return.

use std::sync::Arc;

use smallvec::smallvec;

use super::change::{REDO, overtaken};
use super::item::{Decided, Done, Item, Ruling, Worked};
use super::records::{Records, WorkedCall};
use super::refusal::refusal;
use super::{KeyRef, Session};
use crate::ledger::{Few, Lane, Outcome, Verdict};
use crate::types::audit::{Action, Receipt};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;

/// The approximate memory of a batch item: a decision and, if every item has another key, a record.
const ITEM_BYTES: usize = 1_024;

impl Session {
    /// Performs the operations of one call, each with its own result, and commits their records, one per key.
    ///
    /// With `chained`, items come in pairs: the second encrypts the plaintext that the first decrypted.
    #[tracing::instrument(level = "debug", name = "kms.operate", skip_all,
        fields(action = action.as_str(), principal = self.actor.principal(), items = items.len()))]
    pub(super) async fn operate(&self, action: Action, items: &[Item<'_>], chained: bool) -> Result<Few<Result<Done>>> {
        // With `queued`, an operation may finish without ever yielding. A caller in a loop would then block its
        // runtime's worker thread, including its timers.
        tokio::task::coop::consume_budget().await;
        let bytes = items.iter().map(|item| item.job.held_bytes()).fold(0, usize::saturating_add);
        // The decrypted plaintext is encrypted again, so it is held twice.
        let bytes = if chained { bytes.saturating_mul(2) } else { bytes };
        let bytes = bytes.saturating_add(bytes_of_batch(items));
        let admission = self.shared.ledger.admit(Lane::Use, self.actor.principal(), bytes)?;
        let mut retry = None;
        for _ in 0..=REDO {
            let (mut revision, mut decided) = self.decide_items(items);
            // The ledger reviews a single denial under the lock; items of a batch and keys given by name are reviewed
            // here. Another node may have created an unknown name, or a name that differs from a ciphertext's key, a
            // moment ago. Known names are reviewed too, so that response times reveal nothing.
            let look_again = |(item, d): (&Item<'_>, &Arc<Decided>)| {
                let by_name = !matches!(item.target.named(), Some(KeyRef::Id(_)));
                d.disagrees
                    || (matches!(d.ruling, Ruling::Denied(_)) && (items.len() > 1 || by_name || self.is_flooding(d)))
            };
            let fresh = items.iter().zip(decided.iter()).any(look_again);
            if fresh {
                self.shared.catalog.ensure_fresh().await?;
                (revision, decided) = self.decide_items(items);
            }
            if let Some(code) = self.uncounted_denial(action, &decided, fresh) {
                return Ok(smallvec![Err(refusal(code))]);
            }
            let worked = self.work_all(items, &decided, chained).await;
            // An operation that failed because of the store or a root key did not happen and is not recorded.
            if let Some(error) = worked.iter().find_map(|w| w.as_ref().err().filter(|e| is_outage(e.code()))) {
                return Err(error.clone());
            }
            if self.was_overtaken(&worked, revision).await? {
                continue;
            }
            let call = WorkedCall { action, items, decided: &decided, worked: &worked, revision, session: self };
            let mut records = Records::of(&call);
            let denials = if items.len() > 1 { self.take_uncounted(&mut records, fresh) } else { Vec::new() };
            let mut uncounted = Uncounted { session: self, action, denials };
            let Records { entries, of_item } = records;
            let outcome = match entries.is_empty() {
                true => Outcome::Committed { receipts: Few::default(), changes: Vec::new() },
                false => self.shared.ledger.submit(&admission, revision, entries, None, retry.take()).await,
            };
            let answer = match outcome {
                Outcome::Committed { receipts, .. } => Ok(receipts),
                Outcome::Refused(code) => Err(code),
                Outcome::Redo(slot) => {
                    retry = slot;
                    uncounted.denials.clear();
                    continue;
                }
                Outcome::Failed(error) => {
                    uncounted.denials.clear();
                    return Err(error);
                }
            };
            return Ok(results(worked, &decided, &of_item, answer.as_deref().map_err(|code| *code)));
        }
        Err(overtaken())
    }

    /// Whether material did not match a catalog that is out of date by now: another process may have replaced the root
    /// key that this process knows, and then the material is wrapped under another one.
    async fn was_overtaken(&self, worked: &[Worked], revision: u64) -> Result<bool> {
        let is_altered = |worked: &Worked| worked.as_ref().is_err_and(|e| e.code() == ErrorCode::IntegrityFailure);
        if !worked.iter().any(is_altered) {
            return Ok(false);
        }
        self.shared.catalog.ensure_fresh().await?;
        Ok(self.shared.catalog.snapshot().revision() != revision)
    }

    /// Removes the records of denials that are only counted because there are too many. Returns the number of
    /// operations that each of them represents.
    fn take_uncounted(&self, records: &mut Records, fresh: bool) -> Vec<(ErrorCode, u64)> {
        let now = self.shared.clock.now();
        let mut uncounted = Vec::new();
        records.retain(|entry| match entry.verdict {
            Verdict::Denied(code) if !self.shared.denials.is_recorded(&self.actor, code, now, fresh) => {
                uncounted.push((code, entry.tally.1));
                false
            }
            _ => true,
        });
        uncounted
    }

    /// The code of a single denied operation that gets no record of its own, because there are too many.
    fn uncounted_denial(&self, action: Action, decided: &[Arc<Decided>], fresh: bool) -> Option<ErrorCode> {
        let [decided] = decided else { return None };
        let Ruling::Denied(code) = &decided.ruling else { return None };
        let now = self.shared.clock.now();
        if self.shared.denials.is_recorded(&self.actor, *code, now, fresh) {
            return None;
        }
        self.shared.denials.count(&self.actor, action, *code, now, 1);
        Some(*code)
    }

    /// Whether a denial may be counted instead of recorded. It must then be decided again on a fresh snapshot before it
    /// is returned.
    fn is_flooding(&self, decided: &Decided) -> bool {
        match decided.ruling {
            Ruling::Denied(code) => self.shared.denials.is_flooding(&self.actor, code, self.shared.clock.now()),
            _ => false,
        }
    }
}

/// Denials of a batch that get no record of their own. They are counted once the batch was recorded, and also if the
/// caller drops its future before.
struct Uncounted<'s> {
    session: &'s Session,
    action: Action,
    denials: Vec<(ErrorCode, u64)>,
}

impl Drop for Uncounted<'_> {
    fn drop(&mut self) {
        let Session { shared, actor, .. } = self.session;
        for (code, operations) in self.denials.drain(..) {
            shared.denials.count(actor, self.action, code, shared.clock.now(), operations);
        }
    }
}

/// The results of a call's items after their records were committed, or after the ledger refused one of them.
fn results(
    worked: Few<Worked>,
    decided: &[Arc<Decided>],
    of_item: &[Option<usize>],
    answer: std::result::Result<&[Receipt], ErrorCode>,
) -> Few<Result<Done>> {
    let internal = |what: &str| Error::new(ErrorCode::Internal, what);
    let each = worked.into_iter().zip(decided).zip(of_item);
    each.map(|((worked, decided), record)| {
        if let (Err(code), Some(_)) = (answer, record) {
            return Err(refusal(code));
        }
        let (product, version) = worked?;
        let Ruling::Work { key_type, .. } = decided.ruling else { return Err(internal("work without a ruling")) };
        let receipt = answer.ok().zip(*record).and_then(|(receipts, record)| receipts.get(record));
        let receipt = *receipt.ok_or_else(|| internal("a result without a record"))?;
        let key = decided.attempt.key.unwrap_or_else(|| KeyId::from_bytes([0; 16]));
        Ok(Done { product, key, key_type, version, receipt })
    })
    .collect()
}

/// The memory that the items of a batch hold besides inputs and results: decisions, records and copies of contexts.
/// Single operations are bounded by their number.
fn bytes_of_batch(items: &[Item<'_>]) -> usize {
    if items.len() == 1 {
        return 0;
    }
    let of_context = |item: &Item<'_>| item.job.context().map_or(0, |context| context.bytes());
    items.iter().map(|item| ITEM_BYTES + of_context(item)).sum()
}

/// Whether the store or a root key failed, or there was no thread for the work, and not the operation itself.
fn is_outage(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::StoreUnavailable
            | ErrorCode::StoreFull
            | ErrorCode::RootKeyUnavailable
            | ErrorCode::Closed
            | ErrorCode::Overloaded
    )
}

/// The only result of a call with one item.
pub(super) fn only<T>(results: impl IntoIterator<Item = Result<T>>) -> Result<T> {
    results.into_iter().next().unwrap_or_else(|| Err(Error::new(ErrorCode::Internal, "an operation without a result")))
}

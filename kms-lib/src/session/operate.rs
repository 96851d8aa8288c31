//! The way of every cryptographic operation, alone or in a batch: decide, work, commit the record, only then return.

use std::sync::Arc;

use super::change::{REDO, overtaken};
use super::item::{Decided, Done, Item, Ruling, Worked};
use super::records::{Records, WorkedCall};
use super::refusal::refusal;
use super::{KeyRef, Session};
use crate::ledger::{Lane, Outcome, Verdict};
use crate::types::audit::{Action, Receipt};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;

/// What an item of a batch holds in memory, about: a decision and, if each is about another key, a record.
const ITEM_BYTES: usize = 1_024;

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
        let bytes = items.iter().map(|item| item.job.held_bytes()).fold(0, usize::saturating_add);
        // What is decrypted is encrypted anew: it is held twice.
        let bytes = if chained { bytes.saturating_mul(2) } else { bytes };
        let bytes = bytes.saturating_add(bytes_of_batch(items));
        let admission = self.shared.ledger.admit(Lane::Use, self.actor.principal(), bytes)?;
        let mut retry = None;
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
            let call = WorkedCall { action, items, decided: &decided, worked: &worked, revision, session: self };
            let mut records = Records::of(&call);
            let uncounted = if items.len() > 1 { self.take_uncounted(&mut records, fresh) } else { Vec::new() };
            let Records { entries, of_item } = records;
            let outcome = match entries.is_empty() {
                true => Outcome::Committed { receipts: Vec::new(), changes: Vec::new() },
                false => self.shared.ledger.submit(&admission, revision, entries, None, retry.take()).await,
            };
            let answer = match outcome {
                Outcome::Committed { receipts, .. } => Ok(receipts),
                Outcome::Refused(code) => Err(code),
                Outcome::Redo(slot) => {
                    retry = slot;
                    continue;
                }
                Outcome::Failed(error) => return Err(error),
            };
            for (code, operations) in uncounted {
                self.shared.denials.count(&self.actor, action, code, self.shared.clock.now(), operations);
            }
            return Ok(results(worked, &decided, &of_item, answer.as_deref().map_err(|code| *code)));
        }
        Err(overtaken())
    }

    /// Takes the records of denials out that are only counted, because there are too many. Answers how many operations
    /// each of them stands for.
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

    /// The denial of a single operation that gets no record of its own, because there are too many.
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

    /// Whether a denial may be one that is only counted: then it must be fresh before it is returned.
    fn is_flooding(&self, decided: &Decided) -> bool {
        match decided.ruling {
            Ruling::Denied(code) => self.shared.denials.is_flooding(&self.actor, code, self.shared.clock.now()),
            _ => false,
        }
    }
}

/// What the items of a call come to, once their records are in the log, or one was refused there.
fn results(
    worked: Vec<Worked>,
    decided: &[Arc<Decided>],
    of_item: &[Option<usize>],
    answer: std::result::Result<&[Receipt], ErrorCode>,
) -> Vec<Result<Done>> {
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

/// What the items of a batch hold beside inputs and results: decisions and records, and copies of contexts. A single
/// operation is bounded by the number of places.
fn bytes_of_batch(items: &[Item<'_>]) -> usize {
    if items.len() == 1 {
        return 0;
    }
    let of_context = |item: &Item<'_>| item.job.context().map_or(0, |context| context.bytes());
    items.iter().map(|item| ITEM_BYTES + of_context(item)).sum()
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

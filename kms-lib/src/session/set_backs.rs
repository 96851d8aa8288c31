//! The places at which the times of the log go back, and searches by time between them.
//!
//! They are read from the records themselves, since an attacker can delete rows of an index unnoticed. Each
//! verification keeps a sealed list for the records that it covered; a process reads each later record once.

use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

use super::Shared;
use crate::storage::Connection;
use crate::storage::tables::{audit, head};
use crate::types::error::Result;
use crate::types::time::Timestamp;
use crate::verification::KeptVerification;

/// The number of records that one statement examines.
const SCANNED: u64 = 50_000;

/// The records at which time was acknowledged to go back, among the first records of the log, which this process has
/// read. The log only grows, so this stays true.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The number of examined records.
    size: u64,
    /// The sequence numbers of those at which time goes back, in order.
    seqs: Vec<u64>,
}

/// What this process knows of the places at which the times of the log go back.
#[derive(Debug, Default)]
pub struct SetBacks(Mutex<Known>);

impl SetBacks {
    fn known(&self) -> Known {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, known: &Known) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.size > noted.size {
            noted.clone_from(known);
        }
    }
}

/// Returns the numbers of the records at which time was acknowledged to go back, oldest first. Records after the head,
/// which only an attacker can have appended, do not count.
async fn set_backs(shared: &Shared, connection: &mut dyn Connection) -> Result<Vec<u64>> {
    let size = head::read(connection).await?.map_or(0, |head| head.seq);
    let mut known = shared.set_backs.known();
    let kept = KeptVerification::read(connection, &shared.catalog.seals()).await?;
    if let Some(KeptVerification { size, set_backs: Some(seqs), .. }) = kept.filter(|kept| kept.size > known.size) {
        known = Known { size, seqs };
    }
    while known.size < size {
        let end = size.min(known.size + SCANNED);
        known.seqs.extend(audit::set_backs(connection, known.size + 1, end).await?);
        known.size = end;
        // A search that is cut off need not begin again.
        shared.set_backs.note(&known);
    }
    known.seqs.retain(|seq| *seq <= size);
    Ok(known.seqs)
}

/// Returns the ranges of sequence numbers, first and last, of the records from `since` on and before `until`, oldest
/// first, of a log of `last` records.
///
/// Record times never decrease except where a clock change was acknowledged, so each range between two such records is
/// found by binary search.
pub(super) async fn ranges(
    shared: &Shared,
    connection: &mut dyn Connection,
    (since, until): (Option<Timestamp>, Option<Timestamp>),
    last: u64,
) -> Result<Vec<(u64, u64)>> {
    if since.is_none() && until.is_none() {
        return Ok(vec![(1, last)]);
    }
    let starts = set_backs(shared, connection).await?.into_iter().filter(|seq| *seq <= last);
    let mut ranges = Vec::new();
    let mut first = 1;
    for next in starts.chain([last + 1]) {
        let from = match since {
            Some(since) => first_at(connection, since, first, next).await?,
            None => first,
        };
        let to = match until {
            Some(until) => first_at(connection, until, first, next).await?,
            None => next,
        };
        if from < to {
            ranges.push((from, to - 1));
        }
        first = next;
    }
    Ok(ranges)
}

/// Returns the spans of time in which records were written by a clock that was ahead. Events dated within them may have
/// happened at another time.
pub(crate) async fn doubtful_times(
    shared: &Shared,
    connection: &mut dyn Connection,
) -> Result<Vec<RangeInclusive<Timestamp>>> {
    let mut spans = Vec::new();
    let mut first = 1;
    for seq in set_backs(shared, connection).await? {
        // Times later than that of the acknowledgement.
        let Some(acknowledged) = audit::time_at(connection, seq).await? else { break };
        let from = first_at(connection, acknowledged.plus_seconds(1), first, seq).await?;
        let from = audit::time_at(connection, from).await?;
        let until = audit::time_at(connection, seq.saturating_sub(1)).await?;
        spans.extend(from.zip(until).map(|(from, until)| from..=until));
        first = seq;
    }
    Ok(spans)
}

/// Returns the first sequence number, from `low` on, of a record at or after `time`; `end` if there is none before it.
async fn first_at(connection: &mut dyn Connection, time: Timestamp, low: u64, end: u64) -> Result<u64> {
    let (mut low, mut high) = (low, end);
    while low < high {
        let middle = low + (high - low) / 2;
        match audit::time_at(connection, middle).await? {
            Some(found) if found < time => low = middle + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

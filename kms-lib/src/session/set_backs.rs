//! The places at which the times of the log go back, and searches by time between them.
//!
//! They are read from the records themselves, since an attacker can delete rows of an index unnoticed. Each
//! verification keeps a sealed list for the records that it covered; a process reads each later record once. A page of
//! a list reads a bounded number of them, and the pages after it continue.

use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

use super::Shared;
use crate::storage::Connection;
use crate::storage::tables::{audit, head};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::time::Timestamp;
use crate::verification::KeptVerification;

/// The number of records that one statement examines, and a page of a list.
const SCANNED: u64 = if cfg!(test) { 8 } else { 50_000 };

/// The records at which time was acknowledged to go back, among the first records of the log, which this process has
/// read. The log only grows, so this stays true.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The number of examined records.
    size: u64,
    /// The sequence numbers of those at which time goes back, in order.
    seqs: Vec<u64>,
}

/// This process's knowledge of the places where the times of the log go back.
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

/// Examines at most `at_most` records that this process has not read. Returns the numbers of the records at which time
/// was acknowledged to go back, oldest first; none if records are left, which the next call examines. Records after the
/// head, which only an attacker can have appended, do not count.
async fn set_backs(shared: &Shared, connection: &mut dyn Connection, at_most: u64) -> Result<Option<Vec<u64>>> {
    let size = head::read(connection).await?.map_or(0, |head| head.seq);
    let mut known = shared.set_backs.known();
    let kept = KeptVerification::read(connection, &shared.catalog.seals()).await?;
    if let Some(KeptVerification { size, set_backs: Some(seqs), .. }) = kept.filter(|kept| kept.size > known.size) {
        known = Known { size, seqs };
    }
    let until = size.min(known.size.saturating_add(at_most));
    while known.size < until {
        let end = until.min(known.size + SCANNED);
        known.seqs.extend(audit::set_backs(connection, known.size + 1, end).await?);
        known.size = end;
        // A search that is interrupted need not begin again.
        shared.set_backs.note(&known);
    }
    known.seqs.retain(|seq| *seq <= size);
    Ok((known.size >= size).then_some(known.seqs))
}

/// Returns the ranges of sequence numbers, first and last, of the records from `since` on and before `until`, oldest
/// first, of a log of `last` records; none if this process has to examine more records of the log first, some of which
/// each call examines.
///
/// Record times never decrease except where a clock change was acknowledged, so each range between two such records is
/// found by binary search.
pub(super) async fn ranges(
    shared: &Shared,
    connection: &mut dyn Connection,
    (since, until): (Option<Timestamp>, Option<Timestamp>),
    last: u64,
) -> Result<Option<Vec<(u64, u64)>>> {
    if since.is_none() && until.is_none() {
        return Ok(Some(vec![(1, last)]));
    }
    let Some(starts) = set_backs(shared, connection, SCANNED).await? else { return Ok(None) };
    let starts = starts.into_iter().filter(|seq| *seq <= last);
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
    Ok(Some(ranges))
}

/// Returns the spans of time in which records were written by a clock that was ahead. Events dated within them may have
/// happened at another time.
pub(crate) async fn doubtful_times(
    shared: &Shared,
    connection: &mut dyn Connection,
) -> Result<Vec<RangeInclusive<Timestamp>>> {
    let unread = || Error::new(ErrorCode::Internal, "records of the log were not examined");
    let mut spans = Vec::new();
    let mut first = 1;
    for seq in set_backs(shared, connection, u64::MAX).await?.ok_or_else(unread)? {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ledger::tests::open;
    use crate::{Actor, AuditQuery, Context, Paging, Role, Session};

    /// The first list by time examines the log in pieces, one for each page, and misses no record.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_page_examines_a_bounded_part_of_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kms.db");
        let (_shared, session, _faults) = open(&file).await;
        for _ in 0..3 * SCANNED {
            session.encrypt("k", b"x", &Context::new()).await.unwrap();
        }
        let all = session.list_audit(&AuditQuery::new().oldest_first(), &Paging::new(1_000)).await.unwrap().items;
        for oldest_first in [false, true] {
            let config = crate::Config::new(format!("sqlite:{}", file.display())).root_key_bytes([7; 32]);
            let shared = crate::kms::open::open(config).await.unwrap();
            let session = Session::new(shared, Actor::new("alice", Role::Admin).unwrap());
            let mut query = AuditQuery::new().since(all[1].timestamp);
            query.oldest_first = oldest_first;
            let (mut found, mut empty) = (Vec::new(), 0);
            let mut paging = Paging::new(10);
            loop {
                let page = session.list_audit(&query, &paging).await.unwrap();
                empty += u64::from(page.items.is_empty());
                assert!(found.is_empty() || !page.items.is_empty());
                found.extend(page.items.into_iter().map(|record| record.seq));
                paging.cursor = page.next_cursor;
                if paging.cursor.is_none() {
                    break;
                }
            }
            assert_eq!(empty, (all.len() as u64 - 1) / SCANNED);
            let mut expected: Vec<u64> = all[1..].iter().map(|record| record.seq).collect();
            if !oldest_first {
                expected.reverse();
            }
            assert_eq!(found, expected);
            // Records that were examined are not examined again.
            let page = session.list_audit(&query, &Paging::new(10)).await.unwrap();
            assert_eq!(page.items.len(), 10);
            // The scheduler's search does not end early.
            let mut connection = session.shared().store.long_reader().await.unwrap();
            assert_eq!(doubtful_times(session.shared(), connection.as_mut()).await.unwrap(), []);
            session.shared().ledger.close(std::time::Duration::from_secs(30)).await.unwrap();
        }
    }
}

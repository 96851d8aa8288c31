//! Comparing the log with checkpoints that were anchored outside the database: they show a rollback, a truncation, and
//! that two nodes work on two copies of the database.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use crate::audit::checkpoint;
use crate::audit::tree::Frontier;
use crate::audit::verify::{Fault, Finding};
use crate::ledger::Signer;
use crate::storage::tables::{audit, head};
use crate::storage::{Connection, Store, StoreFuture};
use crate::types::audit::Head;
use crate::types::error::Result;

/// The number of records that are read at once.
const CHUNK: u64 = 8_192;
/// The maximum number of reported faults.
const FAULTS: usize = 100;

/// The result of comparing the log with anchors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct AnchorReport {
    /// Whether the log continues every anchored state of this log.
    pub ok: bool,
    /// The number of records of the log.
    pub size: u64,
    /// The number of records of the largest anchored state that the log continues.
    pub anchored: u64,
    /// The number of anchored states that the log continues.
    pub continued: u64,
    /// The number of given notes that are not anchors of this log: from another log, malformed, or without its
    /// signature.
    pub passed_over: u64,
    /// The anchored states that the log does not continue, at most 100: the log was rolled back or truncated, or is
    /// another copy.
    pub faults: Vec<Fault>,
}

/// The states that were anchored: for each size the roots, and whether this log's keys signed them.
struct Anchored(BTreeMap<u64, BTreeSet<([u8; 32], bool)>>);

/// Compares the log with anchors, which must be read first: a busy service extends the log.
pub fn compare<'a>(
    store: &'a Arc<dyn Store>,
    signer: &'a Signer,
    notes: &'a [String],
) -> StoreFuture<'a, AnchorReport> {
    Box::pin(async move {
        let origin = signer.keys().public().origin().to_owned();
        let mut anchored = BTreeMap::<u64, BTreeSet<([u8; 32], bool)>>::new();
        let mut passed_over = 0;
        for note in notes {
            let opened = signer.open(note).map(|opened| (opened, true)).ok();
            // A log that was rolled back to before its signing key was replaced does not know the key of later anchors.
            match opened.or_else(|| Some((checkpoint::claimed(note)?, false))) {
                Some((state, is_signed)) if state.origin == origin && state.size > 0 => {
                    anchored.entry(state.size).or_default().insert((state.root, is_signed));
                }
                _ => passed_over += 1,
            }
        }
        let anchored = Anchored(anchored);
        let mut connection = store.long_reader().await?;
        connection.begin_read().await?;
        let compared = anchored.compare(connection.as_mut()).await;
        connection.rollback().await?;
        let mut report = compared?;
        report.passed_over += passed_over;
        Ok(report)
    })
}

impl Anchored {
    async fn compare(&self, connection: &mut dyn Connection) -> Result<AnchorReport> {
        let head = head::require(connection).await?;
        let mut report =
            AnchorReport { ok: true, size: head.seq, anchored: 0, continued: 0, passed_over: 0, faults: Vec::new() };
        let roots = match self.0.keys().next() {
            Some(first) if *first <= head.seq => self.roots(connection, &head, *first).await?,
            _ => Some(BTreeMap::new()),
        };
        let Some(roots) = roots else {
            report.faults.push(Fault { seq: 0, finding: Finding::RootMismatch { size: head.seq } });
            report.ok = false;
            return Ok(report);
        };
        for (size, states) in &self.0 {
            for (root, is_signed) in states {
                match (roots.get(size) == Some(root), is_signed) {
                    (true, true) => {
                        report.continued += 1;
                        report.anchored = *size;
                    }
                    (true, false) => report.passed_over += 1,
                    (false, _) if report.faults.len() < FAULTS => {
                        let finding = Finding::RolledBack { size: head.seq, seen: *size };
                        report.faults.push(Fault { seq: 0, finding });
                    }
                    (false, _) => {}
                }
            }
        }
        report.ok = report.faults.is_empty();
        Ok(report)
    }

    /// The roots that the log had at the anchored sizes. None if the records do not lead to the signed head. Starts at
    /// the last stored checkpoint before the first of the sizes; only the head at the end proves that it is this log's.
    async fn roots(
        &self,
        connection: &mut dyn Connection,
        head: &Head,
        first: u64,
    ) -> Result<Option<BTreeMap<u64, [u8; 32]>>> {
        let kept = audit::checkpoints(connection, 0).await?.into_iter().rfind(|kept| kept.size <= first);
        // A damaged checkpoint proves nothing; a verification reports it.
        let begin = kept.and_then(|kept| Frontier::from_parts(kept.size, kept.frontier).ok());
        let mut tree = begin.unwrap_or_default();
        let mut roots = BTreeMap::new();
        let mut note = |tree: &Frontier| {
            if self.0.contains_key(&tree.size()) {
                roots.insert(tree.size(), tree.root());
            }
        };
        note(&tree);
        while tree.size() < head.seq {
            // Short statements, regardless of the length of the log.
            let (from, to) = (tree.size() + 1, head.seq.min(tree.size() + CHUNK));
            audit::hashes(connection, from, to, &mut |hash| {
                tree.push(hash);
                note(&tree);
            })
            .await?;
            if tree.size() != to {
                return Ok(None);
            }
        }
        let signed = Frontier::from_parts(head.seq, head.frontier.clone())?.root();
        Ok((tree.root() == signed).then_some(roots))
    }
}

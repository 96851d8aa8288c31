//! Verifying the log of a store: streams the records, digests them on all cores, and holds them against the signed
//! states and the tables.

mod tables;

use std::collections::VecDeque;
use std::sync::Arc;

use serde::Serialize;
use tokio::task::JoinHandle;

use crate::audit::checkpoint;
use crate::audit::tree::Frontier;
use crate::audit::verify::{CHUNK, ChangedRow, Digest, Fault, Finding, Start, digest, stitch};
use crate::catalog::{Catalog, run_blocking};
use crate::crypto::provider::Provider;
use crate::ledger::Signer;
use crate::storage::Store;
use crate::storage::tables::{audit, head};
use crate::types::audit::{Head, StoredCheckpoint};
use crate::types::error::{Error, ErrorCode, Result};

/// How to verify.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyOptions {
    /// Go on from the last kept state whose signature is good, up to this many records; from the beginning without.
    pub trusted_size: Option<u64>,
    /// The log's public key as its verifier keeps it (`name+id+key`). Without, the one under the root key.
    pub pinned_key: Option<String>,
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Whether everything is as it should be.
    pub ok: bool,
    /// Records of the log, as the signed head counts them.
    pub size: u64,
    /// Where it began: records before were verified earlier.
    pub from: u64,
    /// The first sequence number that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken_at: Option<u64>,
    /// What is wrong: the first fault of the log, or all faults of the tables (at most 100).
    pub faults: Vec<Fault>,
}

/// Faults of the tables that are reported; who has more has other worries than their number.
const FAULTS: usize = 100;

/// What verifying needs.
pub struct Verifier<'a> {
    /// Where the log is.
    pub store: &'a Arc<dyn Store>,
    /// Knows the seals.
    pub catalog: &'a Catalog,
    /// Knows the log's key.
    pub signer: &'a Signer,
    /// Checks signatures.
    pub provider: &'a dyn Provider,
}

impl Verifier<'_> {
    /// Verifies. An error means that it could not be done; what is wrong with the log is in the report.
    pub async fn verify(&self, options: &VerifyOptions) -> Result<Report> {
        let key = self.key(options)?;
        let (head, kept) = {
            let mut connection = self.store.reader().await?;
            let head = head::read(connection.as_mut(), false).await?;
            let head = head.ok_or_else(|| Error::new(ErrorCode::StoreCorrupt, "the head of the log is missing"))?;
            (head, audit::checkpoints(connection.as_mut(), 0).await?)
        };
        let (from, start) = self.starting_point(options.trusted_size, &kept, &key);
        let mut report = Report { ok: true, size: head.seq, from, broken_at: None, faults: Vec::new() };
        let mut changed = Vec::new();
        let kept: Vec<StoredCheckpoint> = kept.into_iter().filter(|kept| kept.size > from).collect();
        match self.verify_records(&head, start, &kept, &key, &mut changed).await? {
            Some(fault) => report.faults.push(fault),
            None => {
                let faults = tables::compare(self.store, self.catalog, &changed, from, head.seq).await?;
                report.faults.extend(faults.into_iter().take(FAULTS));
            }
        }
        report.ok = report.faults.is_empty();
        report.broken_at = report.faults.iter().map(|fault| fault.seq).min();
        Ok(report)
    }

    fn key(&self, options: &VerifyOptions) -> Result<[u8; 32]> {
        let Some(pinned) = &options.pinned_key else { return Ok(self.signer.public_key()) };
        let (name, key) = checkpoint::parse_verifier_key(pinned)?;
        if name == self.signer.origin() {
            Ok(key)
        } else {
            Err(Error::invalid(format!("the pinned key is that of the log {name}, not of {}", self.signer.origin())))
        }
    }

    /// The newest kept state that is signed and no larger than what is trusted; else the beginning.
    fn starting_point(&self, trusted: Option<u64>, kept: &[StoredCheckpoint], key: &[u8; 32]) -> (u64, Start) {
        let genesis = (0, Start::genesis());
        let Some(trusted) = trusted else { return genesis };
        for checkpoint in kept.iter().rev().filter(|checkpoint| checkpoint.size <= trusted) {
            let frontier = Frontier::from_parts(checkpoint.size, checkpoint.frontier.clone());
            if let (Ok(frontier), Ok(signed)) = (frontier, self.open(&checkpoint.note, key))
                && signed.size == checkpoint.size
                && signed.root == frontier.root()
            {
                let timestamp = crate::Timestamp::from_micros(0);
                return (checkpoint.size, Start { hash: checkpoint.hash, timestamp, frontier });
            }
        }
        genesis
    }

    fn open(&self, note: &str, key: &[u8; 32]) -> Result<checkpoint::Checkpoint> {
        checkpoint::open(note, self.signer.origin(), key, &|key, message, signature| {
            self.provider.ed25519_verify(key, message, signature)
        })
    }

    async fn verify_records(
        &self,
        head: &Head,
        start: Start,
        kept: &[StoredCheckpoint],
        key: &[u8; 32],
        changed: &mut Vec<ChangedRow>,
    ) -> Result<Option<Fault>> {
        let mut state = start;
        // Up to here the records agree with a signed state.
        let mut confirmed = state.frontier.size();
        let width = std::thread::available_parallelism().map_or(2, std::num::NonZero::get) + 1;
        let mut next = state.frontier.size() + 1;
        let mut running: VecDeque<JoinHandle<Result<Digest>>> = VecDeque::new();
        loop {
            while running.len() < width && next <= head.seq {
                let last = head.seq.min((next - 1) / CHUNK * CHUNK + CHUNK);
                running.push_back(tokio::spawn(read_and_digest(Arc::clone(self.store), head.log_id, next, last)));
                next = last + 1;
            }
            let Some(task) = running.pop_front() else { break };
            let ended = |_| Error::new(ErrorCode::Internal, "a part of the verification ended unexpectedly");
            let digest = task.await.map_err(ended)??;
            let expected = (state.frontier.size() / CHUNK * CHUNK + CHUNK).min(head.seq);
            let within: Vec<u64> = kept
                .iter()
                .map(|kept| kept.size)
                .filter(|size| (state.frontier.size() + 1..=expected).contains(size))
                .collect();
            let (after, roots) = match stitch(state, &digest, &within) {
                Ok(stitched) => stitched,
                Err(fault) => return Ok(Some(fault)),
            };
            state = after;
            for (size, root) in roots {
                if let Some(finding) =
                    kept.iter().find(|kept| kept.size == size).and_then(|kept| self.hold(kept, root, key))
                {
                    return Ok(Some(Fault { seq: confirmed + 1, finding }));
                }
                confirmed = size;
            }
            changed.extend(digest.changed);
            if state.frontier.size() < expected {
                // The chunk ended early: what follows is missing, or only the tail is.
                break;
            }
        }
        let size = state.frontier.size();
        if size < head.seq {
            let mut connection = self.store.reader().await?;
            let next = audit::next_seq(connection.as_mut(), size).await?;
            let finding = next.map_or(Finding::TailMissing { expected: head.seq }, |found| Finding::Gap { found });
            return Ok(Some(Fault { seq: size + 1, finding }));
        }
        let signed = self.open(&head.checkpoint, key);
        let Ok(signed) = signed else {
            return Ok(Some(Fault { seq: confirmed + 1, finding: Finding::BadSignature { size: head.seq } }));
        };
        if signed.size != head.seq
            || signed.root != state.frontier.root()
            || signed.revision != Some(head.revision)
            || head.frontier != state.frontier.roots()
            || head.hash != state.hash
        {
            return Ok(Some(Fault { seq: confirmed + 1, finding: Finding::RootMismatch { size: signed.size } }));
        }
        self.beyond(head).await
    }

    /// Whether a kept state is signed and has this root.
    fn hold(&self, kept: &StoredCheckpoint, root: [u8; 32], key: &[u8; 32]) -> Option<Finding> {
        match self.open(&kept.note, key) {
            Err(_) => Some(Finding::BadSignature { size: kept.size }),
            Ok(signed) if signed.size != kept.size || signed.root != root => {
                Some(Finding::RootMismatch { size: kept.size })
            }
            Ok(_) => None,
        }
    }

    /// Records behind the head, unless the head has moved on meanwhile.
    async fn beyond(&self, head: &Head) -> Result<Option<Fault>> {
        let mut connection = self.store.reader().await?;
        connection.begin_read().await?;
        let last = audit::last_seq(connection.as_mut()).await;
        let now = head::read(connection.as_mut(), false).await;
        connection.rollback().await?;
        let counted = now?.map_or(head.seq, |now| now.seq);
        Ok((last? > counted).then_some(Fault { seq: counted + 1, finding: Finding::BeyondHead }))
    }
}

async fn read_and_digest(
    store: Arc<dyn Store>,
    log: crate::types::ids::LogId,
    first: u64,
    last: u64,
) -> Result<Digest> {
    let mut rows = Vec::with_capacity(usize::try_from(last + 1 - first).unwrap_or_default());
    let mut connection = store.reader().await?;
    let read = audit::range(connection.as_mut(), first, last, &mut |row| {
        rows.push(row);
        Ok(())
    })
    .await;
    drop(connection);
    match read {
        Ok(()) => run_blocking(move || Ok(digest(log, &rows))).await,
        // A column of a type that was never written there: the record before it is the last that can be read.
        Err(error) if error.code() == ErrorCode::StoreCorrupt => {
            let seq = rows.last().map_or(first, |row| row.seq + 1);
            let mut good = digest(log, &rows);
            good.fail(first, Fault { seq, finding: Finding::Unreadable });
            Ok(good)
        }
        Err(error) => Err(error),
    }
}

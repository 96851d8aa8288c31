//! Verifying the log of a store: streams the records, digests them on all cores, and holds them against the signed
//! states and the tables.

mod tables;

pub(crate) use tables::{AlteredRow, Compared};

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use tokio::task::JoinHandle;

use crate::audit::checkpoint;
use crate::audit::signing_keys::{Link, SigningKeys};
use crate::audit::tree::Frontier;
use crate::audit::verify::{CHUNK, ChangedRow, Digest, Fault, Finding, Start, State, digest, stitch};
use crate::catalog::{Catalog, run_blocking};
use crate::ledger::{HeadKeys, Signer};
use crate::storage::tables::secrets::{self, ServiceKeyRow};
use crate::storage::tables::{audit, head};
use crate::storage::{Connection, Store};
use crate::types::audit::{Head, StoredCheckpoint};
use crate::types::error::{Error, ErrorCode, Result};

/// How far a verification is, for whoever looks on.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// Records that are verified, those that were earlier included.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
    /// Records of the log; 0 until that is known.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

/// How to verify.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// Go on from the last kept state whose signature is good, up to this many records; from the beginning without.
    pub trusted_size: Option<u64>,
    /// A public key of the log as its verifier keeps it (`name+id+key`). Without, the one under the root key. Any of the
    /// log's keys will do: those before and after it are followed from it.
    pub pinned_key: Option<String>,
    /// Told how far it is.
    pub progress: Option<Arc<Progress>>,
}

impl VerifyOptions {
    fn tell(&self, done: u64, total: u64) {
        if let Some(progress) = &self.progress {
            progress.done.store(done, Ordering::Relaxed);
            progress.total.store(total, Ordering::Relaxed);
        }
    }
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
    /// Knows the log's keys.
    pub signer: &'a Signer,
}

impl Verifier<'_> {
    /// Verifies. An error means that it could not be done; what is wrong with the log is in the report.
    pub async fn verify(&self, options: &VerifyOptions) -> Result<Report> {
        let (mut report, _) = self.examine(options).await?;
        report.faults.truncate(FAULTS);
        Ok(report)
    }

    /// Holds all rows against the whole log. None if the log itself was altered: then nothing can tell.
    pub async fn compare_rows(&self) -> Result<Option<Compared>> {
        Ok(self.examine(&VerifyOptions::default()).await?.1)
    }

    /// Verifies; answers what the comparison of the tables with the log came to, if the log is good.
    async fn examine(&self, options: &VerifyOptions) -> Result<(Report, Option<Compared>)> {
        let pinned = self.pinned(options)?;
        let (head, kept, keys) = self.read_states().await?;
        let Some(keys) = keys.filter(|keys| pinned.is_none_or(|pinned| keys.public().find(&pinned).is_some())) else {
            let fault = Fault { seq: 1, finding: Finding::SigningKey };
            let report = Report { ok: false, size: head.seq, from: 0, broken_at: Some(1), faults: vec![fault] };
            return Ok((report, None));
        };
        let trusted = options.trusted_size;
        let (from, start) = starting_point(&keys, trusted, pinned, &kept);
        let mut report = Report { ok: true, size: head.seq, from, broken_at: None, faults: Vec::new() };
        let mut changed = Vec::new();
        let kept: Vec<StoredCheckpoint> = kept.into_iter().filter(|kept| kept.size > from).collect();
        let tell = |done| options.tell(done, head.seq);
        let mut compared = None;
        match self.verify_records(&head, start, &kept, &keys, &mut changed, &tell).await? {
            Some(fault) => report.faults.push(fault),
            None => {
                let Some(found) = tables::compare(self.store, self.catalog, &changed, from, head.seq).await? else {
                    let all = VerifyOptions { trusted_size: None, ..options.clone() };
                    return Box::pin(self.examine(&all)).await;
                };
                report.faults.extend_from_slice(&found.faults);
                compared = Some(found);
            }
        }
        report.ok = report.faults.is_empty();
        report.broken_at = report.faults.iter().map(|fault| fault.seq).min();
        Ok((report, compared))
    }

    fn pinned(&self, options: &VerifyOptions) -> Result<Option<[u8; 32]>> {
        let Some(pinned) = &options.pinned_key else { return Ok(None) };
        let (name, key) = checkpoint::parse_verifier_key(pinned)?;
        let keys = self.signer.keys();
        let origin = keys.public().origin();
        if name == origin {
            Ok(Some(key))
        } else {
            Err(Error::invalid(format!("the pinned key is that of the log {name}, not of {origin}")))
        }
    }

    /// The head, the kept states, and the keys that sign them: of one moment. No keys if the stored ones were altered.
    async fn read_states(&self) -> Result<(Head, Vec<StoredCheckpoint>, Option<Arc<HeadKeys>>)> {
        let mut connection = self.store.reader().await?;
        connection.begin_read().await?;
        let read = read_states(connection.as_mut()).await;
        connection.rollback().await?;
        let (head, kept, rows) = read?;
        let keys = match self.signer.catch_up(&rows).await {
            Ok(_) => Some(self.signer.keys()),
            Err(error) if error.code() == ErrorCode::IntegrityFailure => None,
            Err(error) => return Err(error),
        };
        Ok((head, kept, keys))
    }

    async fn verify_records(
        &self,
        head: &Head,
        start: Start,
        kept: &[StoredCheckpoint],
        keys: &HeadKeys,
        changed: &mut Vec<ChangedRow>,
        tell: &(dyn Fn(u64) + Sync),
    ) -> Result<Option<Fault>> {
        let mut state = start;
        // Up to here the records agree with a signed state.
        let confirmed_from = state.frontier.size();
        let mut confirmed = confirmed_from;
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
            let before = state.frontier.size();
            let stitched = stitch(state, &digest, &within);
            state = stitched.state;
            // The kept states first: what does not agree with one lies before the fault of a record behind it.
            for found in stitched.states {
                let kept = kept.iter().find(|kept| kept.size == found.size);
                if let Some(finding) = kept.and_then(|kept| hold(keys, kept, &found)) {
                    return Ok(Some(Fault { seq: confirmed + 1, finding }));
                }
                confirmed = found.size;
            }
            let fault = hold_links(keys.public(), &digest.links, before, state.frontier.size());
            if let Some(fault) = fault.or(stitched.fault) {
                return Ok(Some(fault));
            }
            changed.extend(digest.changed);
            tell(state.frontier.size());
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
        if let Some(fault) = missing_state(keys.public(), kept, confirmed_from, head.seq) {
            return Ok(Some(fault));
        }
        let Ok(signed) = keys.open(&head.checkpoint) else {
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
        // Nothing is known of the time of a record that was verified earlier.
        if size > confirmed_from && state.timestamp != head.timestamp {
            return Ok(Some(Fault { seq: size, finding: Finding::HeadTime }));
        }
        self.beyond(head).await
    }

    /// Records behind the head, unless the head has moved on meanwhile.
    async fn beyond(&self, head: &Head) -> Result<Option<Fault>> {
        let mut connection = self.store.reader().await?;
        connection.begin_read().await?;
        let last = audit::last_seq(connection.as_mut()).await;
        let now = head::read(connection.as_mut()).await;
        connection.rollback().await?;
        let counted = now?.map_or(head.seq, |now| now.seq);
        Ok((last? > counted).then_some(Fault { seq: counted + 1, finding: Finding::BeyondHead }))
    }
}

async fn read_states(connection: &mut dyn Connection) -> Result<(Head, Vec<StoredCheckpoint>, Vec<ServiceKeyRow>)> {
    let head = head::read(connection).await?;
    let head = head.ok_or_else(|| Error::new(ErrorCode::StoreCorrupt, "the head of the log is missing"))?;
    Ok((head, audit::checkpoints(connection, 0).await?, secrets::service_keys(connection).await?))
}

/// The newest kept state that is signed and no larger than what is trusted; else the beginning.
fn starting_point(
    keys: &HeadKeys,
    trusted: Option<u64>,
    pinned: Option<[u8; 32]>,
    kept: &[StoredCheckpoint],
) -> (u64, Start) {
    let genesis = (0, Start::genesis());
    let Some(trusted) = trusted else { return genesis };
    // Who pins a key must be led from it: not from a state that a later key signed.
    let pinned = pinned.and_then(|pinned| keys.public().find(&pinned)).map_or(u32::MAX, |key| key.number);
    for checkpoint in kept.iter().rev().filter(|checkpoint| checkpoint.size <= trusted) {
        let frontier = Frontier::from_parts(checkpoint.size, checkpoint.frontier.clone());
        if let (Ok(frontier), Ok(signed)) = (frontier, keys.open(&checkpoint.note))
            && signed.size == checkpoint.size
            && signed.root == frontier.root()
            && keys.public().at(checkpoint.size).number <= pinned
        {
            let timestamp = crate::Timestamp::from_micros(0);
            return (checkpoint.size, Start { hash: checkpoint.hash, timestamp, frontier });
        }
    }
    genesis
}

/// Whether a kept state is signed and the one found; also as a place to go on from.
fn hold(keys: &HeadKeys, kept: &StoredCheckpoint, found: &State) -> Option<Finding> {
    let Ok(signed) = keys.open(&kept.note) else { return Some(Finding::BadSignature { size: kept.size }) };
    let frontier = Frontier::from_parts(kept.size, kept.frontier.clone());
    let is_found = signed.size == kept.size
        && signed.root == found.root
        && kept.hash == found.hash
        && frontier.is_ok_and(|frontier| frontier.root() == found.root);
    (!is_found).then_some(Finding::RootMismatch { size: kept.size })
}

/// Whether the records behind `after`, up to `to`, name the signing keys that are stored, and no others.
fn hold_links(keys: &SigningKeys, found: &[Link], after: u64, to: u64) -> Option<Fault> {
    let expected = keys.links(after, to);
    let differs = (0..expected.len().max(found.len())).find(|&i| expected.get(i) != found.get(i))?;
    let seqs = [expected.get(differs), found.get(differs)];
    let seq = seqs.into_iter().flatten().map(|link| link.seq).min().unwrap_or(after + 1);
    Some(Fault { seq, finding: Finding::SigningKey })
}

/// Whether each replacement of the signing key has its state that both keys signed.
fn missing_state(keys: &SigningKeys, kept: &[StoredCheckpoint], after: u64, to: u64) -> Option<Fault> {
    let missing = keys
        .links(after, to)
        .into_iter()
        .find(|link| link.previous.is_some() && !kept.iter().any(|kept| kept.size == link.seq))?;
    Some(Fault { seq: missing.seq, finding: Finding::SigningKey })
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

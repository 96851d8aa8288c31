//! Streaming the records: read in chunks, digested on all cores, stitched together in order, and compared with the
//! stored checkpoints on the way and the signed head at the end.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::audit::legacy::SealedLog;
use crate::audit::signing_keys::{Link, SigningKeys};
use crate::audit::tree::Frontier;
use crate::audit::verify::{CHUNK, ChangedRow, Digest, Fault, Finding, Start, State, digest, stitch};
use crate::ledger::HeadKeys;
use crate::storage::Store;
use crate::storage::tables::audit::LogIndex;
use crate::storage::tables::{audit, head};
use crate::types::audit::{Head, StoredCheckpoint};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::LogId;
use crate::workers::{Length, Workers};

/// The number of chunks that are read at once, regardless of the number of cores: the store has few connections, which
/// are shared.
const READS: usize = 3;

/// The source of the records, and the signed states that they are compared with.
pub(super) struct Records<'a> {
    pub store: &'a Arc<dyn Store>,
    pub head: &'a Head,
    pub kept: &'a [StoredCheckpoint],
    pub keys: &'a HeadKeys,
    /// The threads that digest them.
    pub workers: &'a Workers,
    /// Whether each record is also looked up in the indexes of the log.
    pub probe: bool,
    /// Called with the number of records done.
    pub tell: &'a (dyn Fn(u64) + Sync),
}

/// Records that were read, up to their first fault.
pub(super) struct Read {
    /// The log up to the last of them.
    pub state: Start,
    /// The number of records that agree with a signed state.
    confirmed: u64,
    /// The rows that the records say they changed.
    pub changed: Vec<ChangedRow>,
    /// The first fault of the records.
    pub fault: Option<Fault>,
    /// The seals of imported logs in these records.
    pub imported: Vec<SealedLog>,
    /// The records at which time was acknowledged to go back.
    pub set_backs: Vec<u64>,
    /// Faults for records missing from an index: the first of each chunk.
    pub unindexed: Vec<Fault>,
    /// The number of records that each index of the log must have, of those that were read.
    pub entries: [u64; audit::LOG_INDEXES.len()],
}

/// A digested chunk of records.
struct Chunk {
    digest: Digest,
    /// Faults of indexes that lack some of the records.
    unindexed: Vec<Fault>,
    /// The number of records that each index must have.
    entries: [u64; audit::LOG_INDEXES.len()],
}

/// A chunk that is being read; the read is aborted when this is dropped.
struct Reading(JoinHandle<Result<Chunk>>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Records<'_> {
    /// Verifies all records after `start`, and that they lead to the signed head.
    pub async fn verify(&self, start: Start) -> Result<Read> {
        let from = start.frontier.size();
        let mut read = self.read(start, self.head.seq).await?;
        if read.fault.is_none() {
            read.fault = self.hold_head(&read, from).await?;
        }
        Ok(read)
    }

    /// Reads the records after `start` up to number `end`, and compares them with their stored checkpoints.
    pub async fn read(&self, start: Start, end: u64) -> Result<Read> {
        let confirmed = start.frontier.size();
        let mut next = confirmed + 1;
        let mut read = Read {
            state: start,
            confirmed,
            changed: Vec::new(),
            fault: None,
            imported: Vec::new(),
            set_backs: Vec::new(),
            unindexed: Vec::new(),
            entries: Default::default(),
        };
        let width = std::thread::available_parallelism().map_or(2, std::num::NonZero::get) + 1;
        let mut running: VecDeque<Reading> = VecDeque::new();
        let reads = Arc::new(Semaphore::new(READS));
        loop {
            while running.len() < width && next <= end {
                let last = end.min((next - 1) / CHUNK * CHUNK + CHUNK);
                let source = (Arc::clone(self.store), Arc::clone(&reads));
                let probed = if self.probe { last.min(self.head.indexed) } else { 0 };
                let chunk = read_chunk(source, self.workers.clone(), self.head.log_id, (next, last), probed);
                running.push_back(Reading(tokio::spawn(chunk)));
                next = last + 1;
            }
            let Some(mut reading) = running.pop_front() else { break };
            let ended = |_| Error::new(ErrorCode::Internal, "a part of the verification ended unexpectedly");
            let Chunk { digest, unindexed, entries } = (&mut reading.0).await.map_err(ended)??;
            read.unindexed.extend(unindexed);
            read.entries.iter_mut().zip(entries).for_each(|(all, some)| *all += some);
            let expected = (read.state.frontier.size() / CHUNK * CHUNK + CHUNK).min(end);
            read = self.stitch(read, digest, expected);
            // Other tasks on this thread get a turn between two chunks.
            tokio::task::yield_now().await;
            (self.tell)(read.state.frontier.size());
            if read.fault.is_some() || read.state.frontier.size() < expected {
                // The chunk ended early: records after it are missing, or only the tail is.
                break;
            }
        }
        let size = read.state.frontier.size();
        if read.fault.is_none() && size < end {
            let mut connection = self.store.long_reader().await?;
            let next = audit::next_seq(connection.as_mut(), size).await?;
            let finding = next.map_or(Finding::TailMissing { expected: end }, |found| Finding::Gap { found });
            read.fault = Some(Fault { seq: size + 1, finding });
        }
        Ok(read)
    }

    /// Appends a chunk, which should end at `expected`, to the records read so far.
    fn stitch(&self, mut read: Read, digest: Digest, expected: u64) -> Read {
        let before = read.state.frontier.size();
        let sizes = self.kept.iter().map(|kept| kept.size);
        let within: Vec<u64> = sizes.filter(|size| (before + 1..=expected).contains(size)).collect();
        let stitched = stitch(read.state, &digest, &within);
        read.state = stitched.state;
        // The checkpoints come first: a mismatch with one precedes the fault of a later record.
        for found in stitched.states {
            let kept = self.kept.iter().find(|kept| kept.size == found.size);
            if let Some(finding) = kept.and_then(|kept| hold(self.keys, kept, &found)) {
                read.fault = Some(Fault { seq: read.confirmed + 1, finding });
                return read;
            }
            read.confirmed = found.size;
        }
        let fault = hold_links(self.keys.public(), &digest.links, before, read.state.frontier.size());
        read.fault = fault.or(stitched.fault);
        read.changed.extend(digest.changed);
        read.imported.extend(digest.imported);
        read.set_backs.extend(digest.set_backs);
        read
    }

    /// Compares the records read after `from` with the head.
    async fn hold_head(&self, read: &Read, from: u64) -> Result<Option<Fault>> {
        let (head, state) = (self.head, &read.state);
        if let Some(fault) = missing_state(self.keys.public(), self.kept, from, head.seq) {
            return Ok(Some(fault));
        }
        let seq = read.confirmed + 1;
        let Ok(signed) = self.keys.open(&head.checkpoint) else {
            return Ok(Some(Fault { seq, finding: Finding::BadSignature { size: head.seq } }));
        };
        if signed.size != head.seq
            || signed.root != state.frontier.root()
            || signed.revision != Some(head.revision)
            || head.frontier != state.frontier.roots()
            || head.hash != state.hash
        {
            return Ok(Some(Fault { seq, finding: Finding::RootMismatch { size: signed.size } }));
        }
        // The time of a record that was verified earlier is not known.
        if head.seq > from && state.timestamp != head.timestamp {
            return Ok(Some(Fault { seq: head.seq, finding: Finding::HeadTime }));
        }
        self.beyond().await
    }

    /// Finds records after the head, unless the head has advanced in the meantime.
    async fn beyond(&self) -> Result<Option<Fault>> {
        let mut connection = self.store.long_reader().await?;
        connection.begin_read().await?;
        let last = audit::last_seq(connection.as_mut()).await;
        let now = head::read(connection.as_mut()).await;
        connection.rollback().await?;
        let counted = now?.map_or(self.head.seq, |now| now.seq);
        Ok((last? > counted).then_some(Fault { seq: counted + 1, finding: Finding::BeyondHead }))
    }
}

/// Checks that a stored checkpoint is signed and matches the state found, including its frontier.
fn hold(keys: &HeadKeys, kept: &StoredCheckpoint, found: &State) -> Option<Finding> {
    let Ok(signed) = keys.open(&kept.note) else { return Some(Finding::BadSignature { size: kept.size }) };
    let frontier = Frontier::from_parts(kept.size, kept.frontier.clone());
    let is_found = signed.size == kept.size
        && signed.root == found.root
        && kept.hash == found.hash
        && frontier.is_ok_and(|frontier| frontier.root() == found.root);
    (!is_found).then_some(Finding::RootMismatch { size: kept.size })
}

/// Checks that the records after `after`, up to `to`, name exactly the stored signing keys.
fn hold_links(keys: &SigningKeys, found: &[Link], after: u64, to: u64) -> Option<Fault> {
    let expected = keys.links(after, to);
    let differs = (0..expected.len().max(found.len())).find(|&i| expected.get(i) != found.get(i))?;
    let seqs = [expected.get(differs), found.get(differs)];
    let seq = seqs.into_iter().flatten().map(|link| link.seq).min().unwrap_or(after + 1);
    Some(Fault { seq, finding: Finding::SigningKey })
}

/// Checks that each replacement of the signing key has a stored checkpoint.
fn missing_state(keys: &SigningKeys, kept: &[StoredCheckpoint], after: u64, to: u64) -> Option<Fault> {
    let missing = keys
        .links(after, to)
        .into_iter()
        .find(|link| link.previous.is_some() && !kept.iter().any(|kept| kept.size == link.seq))?;
    Some(Fault { seq: missing.seq, finding: Finding::SigningKey })
}

async fn read_chunk(
    (store, reads): (Arc<dyn Store>, Arc<Semaphore>),
    workers: Workers,
    log: LogId,
    (first, last): (u64, u64),
    probed: u64,
) -> Result<Chunk> {
    let mut rows = Vec::with_capacity(usize::try_from(last + 1 - first).unwrap_or_default());
    let mut unindexed = Vec::new();
    // Acquiring fails only if the semaphore is closed, which never happens.
    let permit = reads.acquire().await.ok();
    let mut connection = store.long_reader().await?;
    let read = audit::range(connection.as_mut(), first, last, &mut |row| {
        rows.push(row);
        Ok(())
    })
    .await;
    let indexes = audit::log_indexes(connection.dialect());
    for index in indexes.iter().filter(|_| first <= probed) {
        if let Some(seq) = audit::first_unindexed(connection.as_mut(), *index, first, probed).await? {
            unindexed.push(Fault { seq, finding: Finding::IndexIncomplete { index: index.table.to_owned() } });
        }
    }
    drop(connection);
    drop(permit);
    let count = |index: LogIndex| rows.iter().filter(|row| row.seq <= probed && index.has(row)).count() as u64;
    let entries = audit::LOG_INDEXES.map(count);
    let digest = match read {
        Ok(()) => workers.run("verification", Length::Long, move || Ok(digest(log, &rows))).await?,
        // A column has a type that this service never writes: the record before it is the last readable one.
        Err(error) if error.code() == ErrorCode::StoreCorrupt => {
            let seq = rows.last().map_or(first, |row| row.seq + 1);
            let mut good = digest(log, &rows);
            good.fail(first, Fault { seq, finding: Finding::Unreadable });
            good
        }
        Err(error) => return Err(error),
    };
    Ok(Chunk { digest, unindexed, entries })
}

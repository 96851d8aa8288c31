//! Verifying the log of a store: streams the records, digests them on all cores, and compares them with the signed
//! states and the tables.

pub(crate) mod anchors;
mod checkpoints;
pub(crate) mod high_water;
mod imported;
mod kept;
mod progress;
mod records;
mod seen;
mod state;
mod tables;
mod turns;
mod window;
mod wrappings;

pub use anchors::AnchorReport;
pub(crate) use kept::{KeptVerification, VERIFIED_SIZE};
pub use progress::Progress;
pub(crate) use seen::rolled_back;
pub(crate) use tables::{AlteredRow, Compared};
pub(crate) use turns::{Turns, Verified};
pub(crate) use window::{REVERIFY_WINDOW, Window};

use std::sync::Arc;

use serde::Serialize;

use crate::audit::checkpoint;
use crate::audit::legacy::{LegacyLog, SealedLog};
use crate::audit::recorded::Recorded;
use crate::audit::verify::{Fault, Finding};
use crate::catalog::Catalog;
use crate::ledger::{HeadKeys, Signer};
use crate::storage::tables::secrets::{self, ServiceKeyRow};
use crate::storage::tables::{audit, head};
use crate::storage::{Connection, Store, StoreFuture};
use crate::types::audit::{Head, StoredCheckpoint};
use crate::types::error::{Error, ErrorCode, Result};
use crate::workers::Workers;
use checkpoints::{starting_point, surplus, window_between};
use imported::Imported;
use records::Records;

/// Options of a verification. By default the whole log is verified with the log's own key.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// Start from the largest stored checkpoint with a valid signature of at most this many records; without it, from
    /// the beginning.
    pub trusted_size: Option<u64>,
    /// A pinned public key of the log (`name+id+key`); without it, the stored keys are used. Any of the log's keys will
    /// do: the keys before and after it are verified from it.
    pub pinned_key: Option<String>,
    /// Reports how many records have been verified.
    pub progress: Option<Progress>,
    /// With a trusted size: also reread records that were verified earlier, from after the first number up to the
    /// second. The range is widened to stored checkpoints.
    pub reread: Option<(u64, u64)>,
}

impl VerifyOptions {
    /// Verifies the whole log with its own key.
    pub fn new() -> Self {
        Self::default()
    }
    /// Starts from the largest checkpoint of at most this many records; see [`trusted_size`](Self::trusted_size).
    #[must_use]
    pub fn trusted_size(mut self, records: u64) -> Self {
        self.trusted_size = Some(records);
        self
    }
    /// Verifies with this pinned public key of the log; see [`pinned_key`](Self::pinned_key).
    #[must_use]
    pub fn pinned_key(mut self, key: impl Into<String>) -> Self {
        self.pinned_key = Some(key.into());
        self
    }
    /// Reports progress to `progress`.
    #[must_use]
    pub fn progress(mut self, progress: &Progress) -> Self {
        self.progress = Some(progress.clone());
        self
    }
    /// Also rereads records that were verified earlier; see [`reread`](Self::reread).
    #[must_use]
    pub fn reread(mut self, behind: u64, to: u64) -> Self {
        self.reread = Some((behind, to));
        self
    }

    fn tell(&self, done: u64, total: u64) {
        if let Some(progress) = &self.progress {
            progress.tell(done, total);
        }
    }
}

/// The result of a verification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Report {
    /// Whether no fault was found.
    pub ok: bool,
    /// The number of records of the log, according to the signed head.
    pub size: u64,
    /// The number of records that were verified earlier; 0 if the whole log was verified.
    pub from: u64,
    /// The lowest sequence number that has a fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken_at: Option<u64>,
    /// The range of earlier verified records that were reread: from after the first number up to the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reread: Option<(u64, u64)>,
    /// At most 100 faults: the first fault of the log or, if it has none, the faults of the tables; then those of the
    /// database.
    pub faults: Vec<Fault>,
    /// Observations that are not faults: foreign objects in the database, and parts that could not be inspected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The imported logs, with the findings of their import. Faults within them are not faults of this log, as long as
    /// they are what was imported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imported: Vec<LegacyLog>,
    /// The ids of imported rows that the original service accepted as "legacy" (at most 10,000): rows of its older
    /// format, and rows that were altered before the import.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub legacy: Vec<String>,
    /// The last of the verified records that sealed each imported log.
    #[serde(skip)]
    sealed: Vec<SealedLog>,
    /// All records up to the end at which time was acknowledged to go back; none if earlier ones are not known.
    #[serde(skip)]
    set_backs: Option<Vec<u64>>,
}

impl Report {
    fn new(size: u64, from: u64) -> Self {
        Self {
            ok: true,
            size,
            from,
            broken_at: None,
            reread: None,
            faults: Vec::new(),
            warnings: Vec::new(),
            imported: Vec::new(),
            legacy: Vec::new(),
            sealed: Vec::new(),
            set_backs: None,
        }
    }

    /// Adds a fault before the others.
    pub(crate) fn put_first(&mut self, fault: Fault) {
        self.faults.insert(0, fault);
        self.settle();
    }

    /// Adds a fault that does not concern a record, after the others.
    pub(crate) fn put_last(&mut self, finding: Finding) {
        self.faults.push(Fault { seq: 0, finding });
        self.settle();
    }

    /// Derives `ok` and `broken_at` from the faults, and limits their number.
    fn settle(&mut self) {
        self.ok = self.faults.is_empty();
        self.broken_at = self.faults.iter().map(|fault| fault.seq).filter(|seq| *seq > 0).min();
        self.faults.truncate(FAULTS);
    }
}

/// The number of records that the indexes of the log may lack without a warning.
const INDEXES_BEHIND: u64 = 10_000;
/// The maximum number of reported faults.
const FAULTS: usize = 100;

/// The result of comparing a pinned key with those of the log.
pub(crate) enum Pinned {
    /// The key is one of the log's: verify with these options.
    Known(VerifyOptions),
    /// The key is not one of the log's: the report says so.
    Unknown(Report),
}

/// The result of an examination.
struct Examined {
    report: Report,
    /// The head that was verified.
    head: Head,
    /// The comparison of the tables with the log, if the log has no fault.
    compared: Option<Compared>,
    /// The rows as recorded in the log, if all records were read.
    recorded: Option<Recorded>,
}

/// The dependencies of a verification.
pub struct Verifier<'a> {
    /// The store with the log.
    pub store: &'a Arc<dyn Store>,
    /// The catalog, which has the seals.
    pub catalog: &'a Catalog,
    /// The signer, which has the log's keys.
    pub signer: &'a Signer,
    /// The threads that digest records.
    pub workers: &'a Workers,
    /// The stored result of the last verification of any kind; none if there is none, or if imported logs are not
    /// checked.
    pub kept: Option<&'a KeptVerification>,
}

impl Verifier<'_> {
    /// Verifies the log, the tables, and the schema and indexes of the database. An error means that the verification
    /// could not be done; faults are in the report.
    pub async fn verify(&self, options: &VerifyOptions) -> Result<Report> {
        Ok(self.verify_and_see(options).await?.0)
    }

    /// Like [`verify`](Self::verify), with the verified head; none if the altered database cannot be read.
    pub(crate) fn verify_and_see<'a>(&'a self, options: &'a VerifyOptions) -> StoreFuture<'a, (Report, Option<Head>)> {
        Box::pin(async move {
            let is_whole = options.trusted_size.is_none();
            let mut state = state::check(self.store, is_whole).await?;
            let examined = match self.examine(options, true).await {
                Err(error) if state.is_broken => {
                    tracing::warn!(%error, "the log cannot be verified in a database that was altered");
                    (Report::new(0, 0), None)
                }
                examined => {
                    let Examined { report, head, .. } = examined?;
                    (report, Some(head))
                }
            };
            let (mut report, head) = examined;
            report.faults.append(&mut state.faults);
            report.warnings.append(&mut state.warnings);
            report.settle();
            Ok((report, head))
        })
    }

    /// Compares all rows with the whole log. None if the log itself was altered: then it proves nothing.
    pub(crate) async fn compare_rows(&self) -> Result<Option<Compared>> {
        Ok(self.examine(&VerifyOptions::default(), false).await?.compared)
    }

    /// Like [`compare_rows`](Self::compare_rows), with the rows as recorded in the log.
    pub(crate) async fn compare_recorded_rows(&self) -> Result<Option<(Compared, Recorded)>> {
        let Examined { compared, recorded, .. } = self.examine(&VerifyOptions::default(), false).await?;
        Ok(compared.zip(recorded))
    }

    /// Continues to the current end of the log. None if the log was altered.
    pub(crate) fn go_on<'a>(&'a self, recorded: Recorded) -> StoreFuture<'a, Option<Recorded>> {
        Box::pin(async move {
            let (head, kept, keys) = self.read_states().await?;
            let Some(keys) = keys else { return Ok(None) };
            let kept: Vec<StoredCheckpoint> = kept.into_iter().filter(|kept| kept.size > recorded.size()).collect();
            let records = Records {
                store: self.store,
                head: &head,
                kept: &kept,
                keys: &keys,
                workers: self.workers,
                probe: false,
                tell: &|_| (),
            };
            let read = records.verify(recorded.state().clone()).await?;
            Ok(read.fault.is_none().then(|| recorded.going_on(read.state, read.changed)))
        })
    }

    fn examine<'a>(&'a self, options: &'a VerifyOptions, with_indexes: bool) -> StoreFuture<'a, Examined> {
        Box::pin(async move {
            let pinned = self.pinned(options)?;
            let (head, kept, keys) = self.read_states().await?;
            let Some(keys) = keys.filter(|keys| pinned.is_none_or(|pinned| keys.public().find(&pinned).is_some()))
            else {
                let mut report = Report::new(head.seq, 0);
                report.put_first(Fault { seq: 1, finding: Finding::SigningKey });
                return Ok(Examined { report, head, compared: None, recorded: None });
            };
            let (from, start) = starting_point(&keys, options.trusted_size, pinned, &kept);
            let window = options.reread.and_then(|due| window_between(&keys, &kept, due, from));
            let mut report = Report::new(head.seq, from);
            let behind: Vec<StoredCheckpoint> = kept.iter().filter(|kept| kept.size > from).cloned().collect();
            let records = Records {
                store: self.store,
                head: &head,
                kept: &behind,
                keys: &keys,
                workers: self.workers,
                probe: with_indexes,
                tell: &|done| options.tell(done, head.seq),
            };
            if let Some((start, end)) = window {
                report.reread = Some((start.frontier.size(), end));
                let read = Records { kept: &kept, tell: &|_| (), ..records }.read(start, end).await?;
                report.faults.extend(read.fault);
                report.faults.extend(read.unindexed);
            }
            let read = records.verify(start).await?;
            if with_indexes && read.fault.is_none() {
                let entries = Some(read.entries).filter(|_| from == 0);
                self.hold_indexes(&head, entries, &mut report).await?;
            }
            report.set_backs = self.set_backs(from, &read.set_backs);
            let (mut compared, mut recorded) = (None, None);
            let (read_fault, sealed) = (read.fault.is_some(), read.imported);
            match read.fault {
                Some(fault) => report.faults.push(fault),
                None => match tables::compare(self.store, self.catalog, &read.changed, from, head.seq).await? {
                    Some(found) => {
                        report.faults.extend_from_slice(&found.faults);
                        compared = Some(found);
                        recorded = (from == 0).then(|| Recorded::new(read.state, read.changed));
                    }
                    None => {
                        let all = VerifyOptions { trusted_size: None, reread: None, ..options.clone() };
                        return Box::pin(self.examine(&all, with_indexes)).await;
                    }
                },
            }
            if with_indexes && !read_fault {
                let imported = Imported { verifier: self, from, size: head.seq, sealed: &sealed };
                let checked = imported.check().await?;
                report.faults.extend(checked.faults);
                (report.imported, report.legacy, report.sealed) = (checked.logs, checked.legacy, imported.known());
            }
            if with_indexes {
                report.faults.extend(surplus(keys.public(), &kept, head.seq));
            }
            report.faults.extend(read.unindexed);
            report.settle();
            Ok(Examined { report, head, compared, recorded })
        })
    }

    /// All records at which time was acknowledged to go back: those found after record `from`, and those that an
    /// earlier verification found up to there. None if there was no such verification.
    fn set_backs(&self, from: u64, found: &[u64]) -> Option<Vec<u64>> {
        let earlier = match self.kept {
            _ if from == 0 => &[],
            Some(kept) if kept.size >= from => kept.set_backs.as_deref()?,
            _ => return None,
        };
        Some(earlier.iter().filter(|seq| **seq <= from).chain(found).copied().collect())
    }

    /// Checks that the indexes of the log that are tables of their own are not far behind it and, if the whole log was
    /// read, that they have no more entries than there are records.
    async fn hold_indexes(&self, head: &Head, entries: Option<[u64; 2]>, report: &mut Report) -> Result<()> {
        let is_behind = head.seq - head.indexed > INDEXES_BEHIND;
        if !is_behind && entries.is_none() {
            return Ok(());
        }
        let mut connection = self.store.long_reader().await?;
        let indexes = audit::log_indexes(connection.dialect());
        if is_behind && !indexes.is_empty() {
            report.warnings.push(format!(
                "the indexes of the log have {} of {} records, so lists are slow; they catch up with every commit",
                head.indexed, head.seq
            ));
        }
        for (index, expected) in indexes.iter().zip(entries.into_iter().flatten()) {
            let found = audit::count_entries(connection.as_mut(), *index, head.indexed).await?;
            if found > expected {
                let finding = Finding::SurplusRows { table: index.table.to_owned(), count: found - expected };
                report.faults.push(Fault { seq: 0, finding });
            }
        }
        Ok(())
    }

    /// Compares a pinned key with those of the log. This is cheap, so it is done before the verification waits for its
    /// turn and before other calls may join it.
    pub(crate) async fn hold_pinned_key(&self, options: &VerifyOptions) -> Result<Pinned> {
        let Some(pinned) = self.pinned(options)? else { return Ok(Pinned::Known(options.clone())) };
        let is_known = || self.signer.keys().public().find(&pinned).is_some();
        if !is_known() {
            // Another process may have replaced the key. If the stored keys were altered, the pinned key stays unknown.
            let refreshed = self.signer.refresh(self.store).await;
            refreshed.map(drop).or_else(|error| match error.code() {
                ErrorCode::IntegrityFailure => Ok(()),
                _ => Err(error),
            })?;
        }
        if is_known() {
            // In a verification from the beginning, each of the log's keys leads to the others, so it makes no
            // difference which one is pinned.
            let pinned_key = options.pinned_key.clone().filter(|_| options.trusted_size.is_some());
            return Ok(Pinned::Known(VerifyOptions { pinned_key, ..options.clone() }));
        }
        let head = head::read(self.store.reader().await?.as_mut()).await?;
        let mut report = Report::new(head.map_or(0, |head| head.seq), 0);
        report.put_first(Fault { seq: 1, finding: Finding::SigningKey });
        Ok(Pinned::Unknown(report))
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

    /// The head, the stored checkpoints, and the keys that sign them, read in one snapshot. No keys if the stored ones
    /// were altered.
    async fn read_states(&self) -> Result<(Head, Vec<StoredCheckpoint>, Option<Arc<HeadKeys>>)> {
        let mut connection = self.store.long_reader().await?;
        connection.begin_read().await?;
        let read = read_states(connection.as_mut()).await;
        connection.rollback().await?;
        let (head, kept, rows) = read?;
        let keys = match self.signer.catch_up(&rows, &kept).await {
            Ok(_) => Some(self.signer.keys()),
            Err(error) if error.code() == ErrorCode::IntegrityFailure => None,
            Err(error) => return Err(error),
        };
        Ok((head, kept, keys))
    }
}

async fn read_states(connection: &mut dyn Connection) -> Result<(Head, Vec<StoredCheckpoint>, Vec<ServiceKeyRow>)> {
    let head = head::require(connection).await?;
    Ok((head, audit::checkpoints(connection, 0).await?, secrets::service_keys(connection).await?))
}

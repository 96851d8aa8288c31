//! Verifying the log of a store: streams the records, digests them on all cores, and holds them against the signed
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
use crate::storage::{Connection, Store};
use crate::types::audit::{Head, StoredCheckpoint};
use crate::types::error::{Error, ErrorCode, Result};
use crate::workers::Workers;
use checkpoints::{starting_point, surplus, window_between};
use imported::Imported;
use records::Records;

/// How to verify the log; all of it against the log's own key by default.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// Go on from the last kept state whose signature is good, up to this many records; from the beginning without.
    pub trusted_size: Option<u64>,
    /// A public key of the log as its verifier keeps it (`name+id+key`). Without, the one under the root key. Any of
    /// the log's keys will do: those before and after it are followed from it.
    pub pinned_key: Option<String>,
    /// Told how many records are verified.
    pub progress: Option<Progress>,
    /// With a trusted size: read records that were verified earlier again, those behind the first number up to the
    /// second. Both are widened to kept checkpoints.
    pub reread: Option<(u64, u64)>,
}

impl VerifyOptions {
    /// The whole log, against its own key.
    pub fn new() -> Self {
        Self::default()
    }
    /// On from the last kept state up to this many records; see [`trusted_size`](Self::trusted_size).
    #[must_use]
    pub fn trusted_size(mut self, records: u64) -> Self {
        self.trusted_size = Some(records);
        self
    }
    /// Against this public key of the log; see [`pinned_key`](Self::pinned_key).
    #[must_use]
    pub fn pinned_key(mut self, key: impl Into<String>) -> Self {
        self.pinned_key = Some(key.into());
        self
    }
    /// Telling how far it is.
    #[must_use]
    pub fn progress(mut self, progress: &Progress) -> Self {
        self.progress = Some(progress.clone());
        self
    }
    /// Reading records again that were verified earlier; see [`reread`](Self::reread).
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

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
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
    /// Records verified earlier that were read again: behind the first number, up to the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reread: Option<(u64, u64)>,
    /// What is wrong (at most 100): the first fault of the log, or all faults of the tables; then those of the
    /// database.
    pub faults: Vec<Fault>,
    /// What is not wrong but worth a look: foreign objects in the database, and what could not be inspected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The logs that were imported, with what was found then: that they have faults of their own is no fault of this
    /// log, as long as they are what was imported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imported: Vec<LegacyLog>,
    /// The ids of imported rows that the service of that time accepted as "legacy" (at most 10,000): those of its older
    /// format, and those that were altered before they were imported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub legacy: Vec<String>,
    /// The last of the verified records that sealed each imported log.
    #[serde(skip)]
    sealed: Vec<SealedLog>,
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
        }
    }

    /// Adds a fault, ahead of the others.
    pub(crate) fn put_first(&mut self, fault: Fault) {
        self.faults.insert(0, fault);
        self.settle();
    }

    /// Adds a fault that is not one of a record, behind the others.
    pub(crate) fn put_last(&mut self, finding: Finding) {
        self.faults.push(Fault { seq: 0, finding });
        self.settle();
    }

    /// Draws the conclusions from the faults.
    fn settle(&mut self) {
        self.ok = self.faults.is_empty();
        self.broken_at = self.faults.iter().map(|fault| fault.seq).filter(|seq| *seq > 0).min();
        self.faults.truncate(FAULTS);
    }
}

/// Faults of the tables that are reported; who has more has other worries than their number.
const FAULTS: usize = 100;

/// What is left to verify once a pinned key was held against those of the log.
pub(crate) enum Pinned {
    /// All that these options say.
    Known(VerifyOptions),
    /// The key is none of the log's: the report says just that.
    Unknown(Report),
}

/// What an examination came to.
struct Examined {
    report: Report,
    /// The head that was verified.
    head: Head,
    /// The comparison of the tables with the log, if the log is good.
    compared: Option<Compared>,
    /// What the records say of all rows, if they are all read.
    recorded: Option<Recorded>,
}

/// What verifying needs.
pub struct Verifier<'a> {
    /// Where the log is.
    pub store: &'a Arc<dyn Store>,
    /// Knows the seals.
    pub catalog: &'a Catalog,
    /// Knows the log's keys.
    pub signer: &'a Signer,
    /// The threads that digest records.
    pub workers: &'a Workers,
    /// What is kept of the last verification, of whichever kind; none if nothing is, or if imported logs are not looked
    /// at.
    pub kept: Option<&'a KeptVerification>,
}

impl Verifier<'_> {
    /// Verifies the log, the tables, and the schema and indexes of the database. An error means that it could not be
    /// done; what is wrong is in the report.
    pub async fn verify(&self, options: &VerifyOptions) -> Result<Report> {
        Ok(self.verify_and_see(options).await?.0)
    }

    /// The same, with the head that was verified; none if the database is so altered that the rest cannot be read.
    pub(crate) async fn verify_and_see(&self, options: &VerifyOptions) -> Result<(Report, Option<Head>)> {
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
    }

    /// Holds all rows against the whole log. None if the log itself was altered: then nothing can tell.
    pub(crate) async fn compare_rows(&self) -> Result<Option<Compared>> {
        Ok(self.examine(&VerifyOptions::default(), false).await?.compared)
    }

    /// The same, with what the log says of all rows.
    pub(crate) async fn compare_recorded_rows(&self) -> Result<Option<(Compared, Recorded)>> {
        let Examined { compared, recorded, .. } = self.examine(&VerifyOptions::default(), false).await?;
        Ok(compared.zip(recorded))
    }

    /// Goes on to the present end of the log. None if the log was altered.
    pub(crate) async fn go_on(&self, recorded: Recorded) -> Result<Option<Recorded>> {
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
    }

    async fn examine(&self, options: &VerifyOptions, with_indexes: bool) -> Result<Examined> {
        let pinned = self.pinned(options)?;
        let (head, kept, keys) = self.read_states().await?;
        let Some(keys) = keys.filter(|keys| pinned.is_none_or(|pinned| keys.public().find(&pinned).is_some())) else {
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
            // SQLite's own check of the whole file looks at every entry of every index.
            probe: with_indexes && (from > 0 || self.store.dialect().name != "sqlite"),
            tell: &|done| options.tell(done, head.seq),
        };
        if let Some((start, end)) = window {
            report.reread = Some((start.frontier.size(), end));
            let read = Records { kept: &kept, tell: &|_| (), ..records }.read(start, end).await?;
            report.faults.extend(read.fault);
            report.faults.extend(read.unindexed);
        }
        let read = records.verify(start).await?;
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
    }

    /// Holds a pinned key against those of the log, which costs next to nothing: before the verification has its turn,
    /// and before others may join it.
    pub(crate) async fn hold_pinned_key(&self, options: &VerifyOptions) -> Result<Pinned> {
        let Some(pinned) = self.pinned(options)? else { return Ok(Pinned::Known(options.clone())) };
        let is_known = || self.signer.keys().public().find(&pinned).is_some();
        if !is_known() {
            // Another process may have replaced the key. If the stored keys were altered, it stays unknown.
            let refreshed = self.signer.refresh(self.store).await;
            refreshed.map(drop).or_else(|error| match error.code() {
                ErrorCode::IntegrityFailure => Ok(()),
                _ => Err(error),
            })?;
        }
        if is_known() {
            // From the beginning on, each of the log's keys leads to the others: which one it is makes no difference.
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

    /// The head, the kept states, and the keys that sign them: of one moment. No keys if the stored ones were altered.
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
    let head = head::read(connection).await?;
    let head = head.ok_or_else(|| Error::new(ErrorCode::StoreCorrupt, "the head of the log is missing"))?;
    Ok((head, audit::checkpoints(connection, 0).await?, secrets::service_keys(connection).await?))
}

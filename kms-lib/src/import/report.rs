//! The options of an import, its progress and its report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::audit::legacy::LegacyLog;
use crate::types::error::{Error, ErrorCode, Result};

/// The maximum number of findings of one kind that a report lists; all are counted.
const NAMED: usize = 1_000;
/// The longest text of a finding, in characters.
const TEXT_CHARS: usize = 1_000;
/// Longest name of a source.
const SOURCE_NAME: usize = 64;

/// Options of an import.
///
/// ```
/// use kms_lib::ImportJob;
/// let job = ImportJob::default().dry_run(true).rotate(true);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImportJob {
    /// The name of the source in the store, by default `mini-kms`. Each source needs its own name.
    pub name: String,
    /// Unwrap and check everything, but write only the audit records of the run.
    pub dry_run: bool,
    /// Rotate the keys whose current version is an imported one, since such a version neither encrypts nor signs.
    pub rotate: bool,
    /// Finalize the import: from then on the keys belong to this store, and the source is not read again.
    pub finalize: bool,
    /// Finalize the import although keys, versions, grants or rows of the log could not be imported.
    pub allow_incomplete: bool,
    /// Fold the principals of grants to lower case, as `kms-http` does with the names that it takes from headers.
    pub fold_principals: bool,
    /// Receives the progress of the import.
    pub progress: Option<Arc<ImportProgress>>,
}

impl Default for ImportJob {
    fn default() -> Self {
        Self {
            name: "mini-kms".to_owned(),
            dry_run: false,
            rotate: false,
            finalize: false,
            allow_incomplete: false,
            fold_principals: false,
            progress: None,
        }
    }
}

impl ImportJob {
    /// Sets the name of the source: 1 to 64 characters of `a` to `z`, `0` to `9`, `.`, `_` and `-`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
    /// Whether this is a dry run, which writes no keys, grants or rows of the log.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }
    /// Whether keys whose current version is an imported one are rotated.
    #[must_use]
    pub fn rotate(mut self, rotate: bool) -> Self {
        self.rotate = rotate;
        self
    }
    /// Whether this run finalizes the import.
    #[must_use]
    pub fn finalize(mut self, finalize: bool) -> Self {
        self.finalize = finalize;
        self
    }
    /// Whether the import is finalized although something could not be imported, such as keys whose root key in AWS KMS
    /// is lost. This store never gets it: a finalized import is not continued.
    #[must_use]
    pub fn allow_incomplete(mut self, allow: bool) -> Self {
        self.allow_incomplete = allow;
        self
    }
    /// Whether principals are folded to lower case.
    #[must_use]
    pub fn fold_principals(mut self, fold: bool) -> Self {
        self.fold_principals = fold;
        self
    }
    /// Sets the object that receives the progress of the import.
    #[must_use]
    pub fn progress(mut self, progress: Arc<ImportProgress>) -> Self {
        self.progress = Some(progress);
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        if self.name.is_empty() || self.name.len() > SOURCE_NAME || !self.name.chars().all(is_allowed) {
            return Err(Error::invalid(format!(
                "the name of a source has 1 to {SOURCE_NAME} characters of a to z, 0 to 9, '.', '_' and '-'"
            )));
        }
        Ok(())
    }

    /// Reports the progress of a stage.
    pub(crate) fn tell(&self, stage: ImportStage, done: u64, total: u64) {
        if let Some(progress) = &self.progress {
            progress.stage.store(stage as u64, Ordering::Relaxed);
            progress.total.store(total, Ordering::Relaxed);
            progress.done.store(done, Ordering::Relaxed);
        }
    }
}

/// The stage of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum ImportStage {
    /// Importing keys with their versions.
    Keys = 0,
    /// Importing grants.
    Grants = 1,
    /// Importing the rows of the log.
    Log = 2,
    /// Rotating keys, and finalizing the import.
    Finish = 3,
}

impl ImportStage {
    /// The name of the stage, a single word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Grants => "grants",
            Self::Log => "log",
            Self::Finish => "finish",
        }
    }
}

/// The progress of an import, which other threads can read.
#[derive(Debug, Default)]
pub struct ImportProgress {
    stage: AtomicU64,
    done: AtomicU64,
    total: AtomicU64,
}

impl ImportProgress {
    /// The current stage.
    pub fn stage(&self) -> ImportStage {
        match self.stage.load(Ordering::Relaxed) {
            0 => ImportStage::Keys,
            1 => ImportStage::Grants,
            2 => ImportStage::Log,
            _ => ImportStage::Finish,
        }
    }
    /// The number of rows of the stage that were processed.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
    /// The number of rows of the stage; 0 until it is known.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

/// The result of an import; for a dry run, the result that it would have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ImportReport {
    /// The name of the source.
    pub name: String,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Whether the import is finalized.
    pub finalized: bool,
    /// The counts of keys.
    pub keys: ImportCounts,
    /// The counts of versions.
    pub versions: ImportCounts,
    /// The counts of grants.
    pub grants: ImportCounts,
    /// The number of keys whose current version is an imported one; they neither encrypt nor sign until they are
    /// rotated.
    pub keys_to_rotate: u64,
    /// The number of keys that this run rotated.
    pub keys_rotated: u64,
    /// The imported log, with its faults.
    pub log: Option<LegacyLog>,
    /// The number of findings. Only the first thousand of each kind are listed.
    pub finding_count: u64,
    /// Everything that was not imported unchanged.
    pub findings: Vec<ImportFinding>,
    /// The number of listed findings, by kind.
    #[serde(skip)]
    pub(super) named: BTreeMap<ImportFindingKind, usize>,
}

/// Counts of the rows of one kind, by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ImportCounts {
    /// The number of rows in the source.
    pub total: u64,
    /// Rows that were imported by this run.
    pub imported: u64,
    /// Rows imported before that this run updated from the source.
    pub updated: u64,
    /// Rows imported before that did not change.
    pub unchanged: u64,
    /// Imported rows that are no longer in the source: these grants were withdrawn, and these keys disabled.
    pub withdrawn: u64,
    /// Rows that allow nothing at the source and were left out.
    pub ignored: u64,
    /// Rows that could not be imported.
    pub refused: u64,
}

/// A row that was not imported unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ImportFinding {
    /// The kind of finding.
    pub kind: ImportFindingKind,
    /// The id of the key or grant in the source.
    pub id: String,
    /// The version of the key, if the finding concerns one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// A description of the finding and of what was done.
    pub text: String,
    /// The error code, if the finding is a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
}

/// The kind of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum ImportFindingKind {
    /// A key or version was not imported.
    KeyRefused,
    /// A key was imported under another name.
    KeyRenamed,
    /// A setting of a key was changed or left out.
    KeyChanged,
    /// A key that was imported before is no longer in the source. It is kept, disabled.
    KeyMissing,
    /// A version that was imported before is no longer in the source. It is kept unchanged.
    VersionMissing,
    /// Two versions have the same material.
    MaterialRepeated,
    /// A key was not rotated.
    KeyNotRotated,
    /// A grant was imported so that it denies.
    GrantDenied,
    /// A grant came over with fewer permissions or another principal; or one of another source covers the keys of this
    /// one too.
    GrantChanged,
    /// A grant was not imported.
    GrantRefused,
    /// The source has rows that were not read.
    SourceIncomplete,
}

impl ImportReport {
    /// Whether everything was imported: no key, version or grant was refused, and no row of the log was left out.
    /// Grants that allow nothing at the source do not count.
    pub fn is_complete(&self) -> bool {
        let refused = [&self.keys, &self.versions, &self.grants].into_iter().any(|counts| counts.refused > 0);
        let has_whole_log = self.log.as_ref().is_none_or(|log| log.oversized.count == 0 && log.unread == 0);
        !refused && has_whole_log
    }

    pub(super) fn find(&mut self, mut finding: ImportFinding) {
        // It may quote what the source holds, of any length.
        if let Some((at, _)) = finding.text.char_indices().nth(TEXT_CHARS) {
            finding.text.truncate(at);
            finding.text.push_str("...");
        }
        self.finding_count += 1;
        // Many findings of one kind, which an attacker may have caused, must not hide those of another.
        let named = self.named.entry(finding.kind).or_default();
        if *named < NAMED {
            *named += 1;
            self.findings.push(finding);
        }
    }

    pub(super) fn note(&mut self, kind: ImportFindingKind, id: &str, text: impl Into<String>) {
        self.find(ImportFinding { kind, id: id.to_owned(), version: None, text: text.into(), code: None });
    }

    pub(super) fn note_version(&mut self, kind: ImportFindingKind, id: &str, version: i64, text: impl Into<String>) {
        self.find(ImportFinding { kind, id: id.to_owned(), version: Some(version), text: text.into(), code: None });
    }

    pub(super) fn refuse(&mut self, kind: ImportFindingKind, id: &str, version: Option<i64>, error: &Error) {
        let (text, code) = (error.message().to_owned(), Some(error.code()));
        self.find(ImportFinding { kind, id: id.to_owned(), version, text, code });
    }
}

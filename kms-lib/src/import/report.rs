//! What an import is told, and what it reports.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::audit::legacy::LegacyLog;
use crate::types::error::{Error, ErrorCode, Result};

/// Findings of one kind that a report names; all are counted.
const NAMED: usize = 1_000;
/// The longest text of a finding, in characters.
const TEXT_CHARS: usize = 1_000;
/// Longest name of a source.
const SOURCE_NAME: usize = 64;

/// How an import is done.
///
/// ```
/// use kms_lib::ImportJob;
/// let job = ImportJob::default().dry_run(true).rotate(true);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImportJob {
    /// What the source is called in the store: `mini-kms` unless another name is given. Several sources need several
    /// names.
    pub name: String,
    /// Open and check everything, and write nothing but the record of the try.
    pub dry_run: bool,
    /// Rotate the keys whose current version is an imported one, since such a version neither encrypts nor signs.
    pub rotate: bool,
    /// End the import: from then on the keys are this store's own, and the source is not read again.
    pub finalise: bool,
    /// Fold the principals of grants to lower case, as `kms-http` does with the names that it takes from headers.
    pub fold_principals: bool,
    /// Told how far it is.
    pub progress: Option<Arc<ImportProgress>>,
}

impl Default for ImportJob {
    fn default() -> Self {
        Self {
            name: "mini-kms".to_owned(),
            dry_run: false,
            rotate: false,
            finalise: false,
            fold_principals: false,
            progress: None,
        }
    }
}

impl ImportJob {
    /// With this name for the source: 1 to 64 of `a` to `z`, `0` to `9`, `.`, `_` and `-`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
    /// Whether nothing is written.
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
    /// Whether the import ends with this run.
    #[must_use]
    pub fn finalise(mut self, finalise: bool) -> Self {
        self.finalise = finalise;
        self
    }
    /// Whether principals are folded to lower case.
    #[must_use]
    pub fn fold_principals(mut self, fold: bool) -> Self {
        self.fold_principals = fold;
        self
    }
    /// With somebody who is told how far it is.
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

    /// Says how far a stage is.
    pub(crate) fn tell(&self, stage: ImportStage, done: u64, total: u64) {
        if let Some(progress) = &self.progress {
            progress.stage.store(stage as u64, Ordering::Relaxed);
            progress.total.store(total, Ordering::Relaxed);
            progress.done.store(done, Ordering::Relaxed);
        }
    }
}

/// What an import is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum ImportStage {
    /// Keys with their versions.
    Keys = 0,
    /// Grants are brought over.
    Grants = 1,
    /// The rows of the log are brought over.
    Log = 2,
    /// Rotating, and ending the import.
    Finish = 3,
}

impl ImportStage {
    /// The stage in a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Grants => "grants",
            Self::Log => "log",
            Self::Finish => "finish",
        }
    }
}

/// How far an import is.
#[derive(Debug, Default)]
pub struct ImportProgress {
    stage: AtomicU64,
    done: AtomicU64,
    total: AtomicU64,
}

impl ImportProgress {
    /// What it is at.
    pub fn stage(&self) -> ImportStage {
        match self.stage.load(Ordering::Relaxed) {
            0 => ImportStage::Keys,
            1 => ImportStage::Grants,
            2 => ImportStage::Log,
            _ => ImportStage::Finish,
        }
    }
    /// Rows of the stage that were looked at.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
    /// Rows of the stage; 0 until that is known.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

/// What an import did, or in a dry run would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ImportReport {
    /// The name of the source.
    pub name: String,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Whether the import has ended.
    pub finalised: bool,
    /// What became of the keys.
    pub keys: ImportCounts,
    /// Versions of keys.
    pub versions: ImportCounts,
    /// What became of the grants.
    pub grants: ImportCounts,
    /// Keys whose current version is an imported one, so that they neither encrypt nor sign until they are rotated.
    pub keys_to_rotate: u64,
    /// Keys that this run rotated.
    pub keys_rotated: u64,
    /// The log, with what is wrong with it.
    pub log: Option<LegacyLog>,
    /// How many findings there are. Only the first thousand of each kind are named.
    pub finding_count: u64,
    /// What did not come over as it was.
    pub findings: Vec<ImportFinding>,
    /// How many findings of each kind are named.
    #[serde(skip)]
    pub(super) named: BTreeMap<ImportFindingKind, usize>,
}

/// How many rows of a kind there are, and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ImportCounts {
    /// Rows in the source.
    pub total: u64,
    /// Rows that came over.
    pub imported: u64,
    /// Rows that were here before, and followed the source.
    pub updated: u64,
    /// Rows that were here before as they are.
    pub unchanged: u64,
    /// Rows that are here and not in the source any more: grants that were withdrawn, keys that were disabled.
    pub withdrawn: u64,
    /// Rows that allow nothing at the source either, and were left out.
    pub ignored: u64,
    /// Rows that did not come over.
    pub refused: u64,
}

/// Something that did not come over as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ImportFinding {
    /// What kind of finding it is.
    pub kind: ImportFindingKind,
    /// The id of the key or grant in the source.
    pub id: String,
    /// The version of the key, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// What was found and what was done, for a person.
    pub text: String,
    /// The code of the failure, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
}

/// The kinds of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum ImportFindingKind {
    /// A key or version did not come over.
    KeyRefused,
    /// A key came over under another name.
    KeyRenamed,
    /// A setting of a key did not come over as it was.
    KeyChanged,
    /// A key that was imported before is not in the source any more. It is kept, disabled.
    KeyMissing,
    /// A version that was imported before is not in the source any more. It is kept as it is.
    VersionMissing,
    /// Two versions have the same material.
    MaterialRepeated,
    /// A key was not rotated.
    KeyNotRotated,
    /// A grant came over, and denies.
    GrantDenied,
    /// A grant came over with fewer permissions or another principal; or one of another source covers the keys of this
    /// one too.
    GrantChanged,
    /// A grant did not come over.
    GrantRefused,
    /// The source has rows that were not read.
    SourceIncomplete,
}

impl ImportReport {
    /// Whether everything came over: no key, version or grant was refused, and no row of the log left out. Grants that
    /// allow nothing at the source do not count.
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
        // Many of one kind, which somebody may have made, hide none of another.
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

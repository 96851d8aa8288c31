//! What jobs on root keys are told, and what they report.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::types::error::{Error, ErrorCode};
use crate::types::root_key::RootKeyProvider;

/// Failures that a report names.
const NAMED: usize = 100;

/// How a job is done.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RootKeyJob {
    /// Materials a second, at most; no limit without.
    pub rate: Option<u32>,
    /// Do everything but write wrappings and marks. The records of the job say `dryRun`.
    pub dry_run: bool,
    /// Leave out wrappings that were verified since they were written.
    pub only_new: bool,
    /// Told how far it is.
    pub progress: Option<Arc<RootKeyProgress>>,
}

impl RootKeyJob {
    /// With so many materials a second at most.
    #[must_use]
    pub fn rate(mut self, rate: Option<u32>) -> Self {
        self.rate = rate;
        self
    }
    /// Whether nothing is written.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }
    /// Whether wrappings that were verified since they were written are left out.
    #[must_use]
    pub fn only_new(mut self, only_new: bool) -> Self {
        self.only_new = only_new;
        self
    }
    /// With somebody who is told how far it is.
    #[must_use]
    pub fn progress(mut self, progress: Arc<RootKeyProgress>) -> Self {
        self.progress = Some(progress);
        self
    }
}

/// How far a job is.
#[derive(Debug, Default)]
pub struct RootKeyProgress {
    total: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
}

impl RootKeyProgress {
    /// Materials there are; 0 until that is known.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
    /// Materials that were looked at, failed ones included.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
    /// Materials that could not be opened.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

/// What rewrapping will cost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RewrapPlan {
    /// Materials that lack a wrapping under a generation in use.
    pub materials: u64,
    /// Calls to the root keys, by generation. Those of a local key cost nothing; those of AWS KMS are charged.
    pub calls: Vec<RootKeyCalls>,
}

/// Calls to one generation of the root key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RootKeyCalls {
    /// Counted from 1.
    pub generation: u32,
    /// What holds the key.
    pub provider: RootKeyProvider,
    /// Calls that unwrap.
    pub unwraps: u64,
    /// Calls that wrap.
    pub wraps: u64,
}

/// What a job found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RootKeyReport {
    /// Materials there are.
    pub total: u64,
    /// Wrappings that were added or found to hold what they should.
    pub done: u64,
    /// Of a verification: materials without a wrapping under the generation.
    pub missing: u64,
    /// Materials that could not be opened, or that are not what they should be.
    pub failed: u64,
    /// The first hundred of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<FailedMaterial>,
}

impl RootKeyReport {
    /// Whether nothing is missing or failed.
    pub fn is_complete(&self) -> bool {
        self.missing == 0 && self.failed == 0
    }

    pub(super) fn fail(&mut self, what: String, error: &Error) {
        self.failed += 1;
        if self.failures.len() < NAMED {
            self.failures.push(FailedMaterial { what, code: error.code(), reason: error.message().to_owned() });
        }
    }
}

/// Material that could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedMaterial {
    /// A version, by the name of its key and its number; or a key of the service.
    pub what: String,
    /// What went wrong.
    pub code: ErrorCode,
    /// The same for a person.
    pub reason: String,
}

/// Tells the progress of a job how far it is.
pub(super) fn tell(job: &RootKeyJob, report: &RootKeyReport, looked_at: usize) {
    if let Some(progress) = &job.progress {
        progress.total.store(report.total, Ordering::Relaxed);
        progress.done.fetch_add(looked_at as u64, Ordering::Relaxed);
        progress.failed.store(report.failed, Ordering::Relaxed);
    }
}

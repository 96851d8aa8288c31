//! Options and reports of jobs on root keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::types::error::{Error, ErrorCode};
use crate::types::root_key::RootKeyProvider;

/// The maximum number of failures in a report.
const NAMED: usize = 100;

/// The options of a job on root keys.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RootKeyJob {
    /// The maximum number of materials per second; no limit without it.
    pub rate: Option<u32>,
    /// Runs the job without writing wrappings and marks. Its records have `dryRun`.
    pub dry_run: bool,
    /// Skips wrappings that were verified since they were written.
    pub only_new: bool,
    /// Receives the progress of the job.
    pub progress: Option<Arc<RootKeyProgress>>,
}

impl RootKeyJob {
    /// Limits the job to `rate` materials per second.
    #[must_use]
    pub fn rate(mut self, rate: Option<u32>) -> Self {
        self.rate = rate;
        self
    }
    /// Runs the job without writing wrappings and marks, if true.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }
    /// Skips wrappings that were verified since they were written, if true.
    #[must_use]
    pub fn only_new(mut self, only_new: bool) -> Self {
        self.only_new = only_new;
        self
    }
    /// Reports the progress to this value.
    #[must_use]
    pub fn progress(mut self, progress: Arc<RootKeyProgress>) -> Self {
        self.progress = Some(progress);
        self
    }
}

/// The progress of a job, updated while it runs.
#[derive(Debug, Default)]
pub struct RootKeyProgress {
    total: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
}

impl RootKeyProgress {
    /// The total number of materials; 0 until it is known.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
    /// The number of materials processed so far, including failed ones.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
    /// The number of materials that could not be opened.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

/// The cost of rewrapping.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RewrapPlan {
    /// The number of materials that lack a wrapping under a generation in use.
    pub materials: u64,
    /// Calls to the root keys, by generation. Calls to a local key are free; AWS KMS charges for them.
    pub calls: Vec<RootKeyCalls>,
}

/// The number of calls to one generation of the root key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RootKeyCalls {
    /// The generation's number, counted from 1.
    pub generation: u32,
    /// The provider that holds the root key.
    pub provider: RootKeyProvider,
    /// The number of unwrap calls.
    pub unwraps: u64,
    /// The number of wrap calls.
    pub wraps: u64,
}

/// The result of a job on root keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RootKeyReport {
    /// The total number of materials.
    pub total: u64,
    /// The number of wrappings that were added or found correct.
    pub done: u64,
    /// Verifications only: materials without a wrapping under the generation.
    pub missing: u64,
    /// Materials that could not be opened or do not match their fingerprint.
    pub failed: u64,
    /// The first hundred failures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<FailedMaterial>,
}

impl RootKeyReport {
    /// True if nothing is missing and nothing failed.
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

/// A material for which the job failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedMaterial {
    /// A version, as the name of its key and its number; or a key of the service.
    pub what: String,
    /// The error code of the failure.
    pub code: ErrorCode,
    /// The error message of the failure.
    pub reason: String,
}

/// Updates the progress of a job.
pub(super) fn tell(job: &RootKeyJob, report: &RootKeyReport, looked_at: usize) {
    if let Some(progress) = &job.progress {
        progress.total.store(report.total, Ordering::Relaxed);
        progress.done.fetch_add(looked_at as u64, Ordering::Relaxed);
        progress.failed.store(report.failed, Ordering::Relaxed);
    }
}

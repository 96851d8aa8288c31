//! Root keys: adding, rewrapping, verifying and retiring generations.

use std::sync::Arc;

use kms_lib::{RetireOptions, RootKeyJob, RootKeyProgress};
use pyo3::prelude::*;

use super::Session;
use crate::answer::load;
use crate::call::{Meter, Work};
use crate::errors::Outcome;
use crate::settings::RootKey;

/// Makes the options of a root key job, and its progress counter.
fn job(rate: Option<u32>, dry_run: bool, only_new: bool, progress: Option<Py<PyAny>>) -> (RootKeyJob, Work) {
    let job = RootKeyJob::default().rate(rate).dry_run(dry_run).only_new(only_new);
    if progress.is_none() {
        return (job, Work::Long);
    }
    let meter = Arc::<RootKeyProgress>::default();
    (job.progress(Arc::clone(&meter)), Work::watched(progress, || Meter::RootKey(meter)))
}

#[pymethods]
impl Session {
    /// Lists the generations of the root key, oldest first.
    ///
    /// >>> [root_key.state for root_key in alice.list_root_keys()]
    /// ['ACTIVE']
    fn list_root_keys<'py>(&self, py: Python<'py>) -> Outcome<Bound<'py, PyAny>> {
        self.ask(py, "RootKeys", |session| async move { session.list_root_keys().await })
    }
    /// Adds a generation of the root key: from now on every new version is wrapped under it too. ``rewrap`` wraps the
    /// existing versions.
    ///
    /// >>> alice.add_root_key(generate_root_key()).generation
    /// 2
    fn add_root_key<'py>(&self, py: Python<'py>, source: RootKey) -> Outcome<Bound<'py, PyAny>> {
        let source = source.source()?;
        self.ask(py, "RootKey", |session| async move { session.add_root_key(&source).await })
    }
    /// Returns the amount of work that ``rewrap`` would have.
    fn plan_rewrap<'py>(&self, py: Python<'py>) -> Outcome<Bound<'py, PyAny>> {
        self.ask(py, "RewrapPlan", |session| async move { session.plan_rewrap().await })
    }
    /// Wraps everything under all active generations of the root key. It can be interrupted at any time; the next call
    /// continues. ``rate`` limits the number of wrappings per second.
    ///
    /// >>> alice.rewrap().is_complete
    /// True
    #[pyo3(signature = (*, rate=None, dry_run=false, only_new=false, progress=None))]
    fn rewrap<'py>(
        &self,
        py: Python<'py>,
        rate: Option<u32>,
        dry_run: bool,
        only_new: bool,
        progress: Option<Py<PyAny>>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let (job, work) = job(rate, dry_run, only_new, progress);
        let rewrap = |session: kms_lib::Session| async move { session.rewrap(&job).await };
        self.call(py, work, rewrap, load("RootKeyReport"))
    }
    /// Verifies that a generation of the root key unwraps everything.
    ///
    /// >>> alice.verify_root_key(1).is_complete
    /// True
    #[pyo3(signature = (generation, *, rate=None, dry_run=false, only_new=false, progress=None))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn verify_root_key<'py>(
        &self,
        py: Python<'py>,
        generation: u32,
        rate: Option<u32>,
        dry_run: bool,
        only_new: bool,
        progress: Option<Py<PyAny>>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let (job, work) = job(rate, dry_run, only_new, progress);
        let verify = |session: kms_lib::Session| async move { session.verify_root_key(generation, &job).await };
        self.call(py, work, verify, load("RootKeyReport"))
    }
    /// Verifies that a root key that is not added yet can wrap everything; writes nothing.
    #[pyo3(signature = (source, *, rate=None, dry_run=false, only_new=false, progress=None))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn verify_planned_root_key<'py>(
        &self,
        py: Python<'py>,
        source: RootKey,
        rate: Option<u32>,
        dry_run: bool,
        only_new: bool,
        progress: Option<Py<PyAny>>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let (job, work) = job(rate, dry_run, only_new, progress);
        let source = source.source()?;
        let verify = |session: kms_lib::Session| async move { session.verify_planned_root_key(&source, &job).await };
        self.call(py, work, verify, load("RootKeyReport"))
    }
    /// Retires a generation of the root key: its wrappings are erased. ``compromised`` means that the key may have
    /// leaked; ``verify_new`` first verifies the wrappings that were made since the last verification.
    #[pyo3(signature = (generation, *, compromised=false, verify_new=false))]
    fn retire_root_key<'py>(
        &self,
        py: Python<'py>,
        generation: u32,
        compromised: bool,
        verify_new: bool,
    ) -> Outcome<Bound<'py, PyAny>> {
        let options = RetireOptions::default().compromised(compromised).verify_new(verify_new);
        self.ask(py, "Retirement", |session| async move { session.retire_root_key(generation, &options).await })
    }
    /// Replaces the integrity key, and reseals every row under the new one, while the service is in use. It first
    /// verifies the whole log. To complete an interrupted replacement, repeat the call.
    ///
    /// >>> alice.replace_integrity_key().number
    /// 2
    fn replace_integrity_key<'py>(&self, py: Python<'py>) -> Outcome<Bound<'py, PyAny>> {
        let replace = |session: kms_lib::Session| async move { session.replace_integrity_key().await };
        self.ask(py, "IntegrityKeyReplacement", replace)
    }
}

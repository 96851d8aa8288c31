//! Root keys: adding a generation, wrapping everything under it, verifying and retiring one.

use std::sync::Arc;

use kms_lib::{RetireOptions, RootKeyJob, RootKeyProgress};
use pyo3::prelude::*;

use super::Session;
use crate::answer::load;
use crate::call::{Meter, Work};
use crate::errors::Outcome;
use crate::settings::RootKey;

/// How a job is done, and whom to tell how far it is.
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
    /// The generations of the root key, oldest first.
    ///
    /// >>> [root_key.state for root_key in alice.list_root_keys()]
    /// ['ACTIVE']
    fn list_root_keys<'py>(&self, py: Python<'py>) -> Outcome<Bound<'py, PyAny>> {
        self.ask(py, "RootKeys", |session| async move { session.list_root_keys().await })
    }
    /// Adds a generation of the root key: from now on every new version is wrapped under it too. What is there already
    /// follows with ``rewrap``.
    ///
    /// >>> alice.add_root_key(generate_root_key()).generation
    /// 2
    fn add_root_key<'py>(&self, py: Python<'py>, source: RootKey) -> Outcome<Bound<'py, PyAny>> {
        let source = source.source()?;
        self.ask(py, "RootKey", |session| async move { session.add_root_key(&source).await })
    }
    /// Tells how much work ``rewrap`` would have.
    fn plan_rewrap<'py>(&self, py: Python<'py>) -> Outcome<Bound<'py, PyAny>> {
        self.ask(py, "RewrapPlan", |session| async move { session.plan_rewrap().await })
    }
    /// Wraps everything under all active generations of the root key. It can be ended at any time, and goes on where it
    /// was. ``rate`` bounds the materials per second.
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
    /// Verifies that a generation of the root key opens everything.
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
    /// Verifies that a root key which was not added yet could take over.
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
    /// Retires a generation of the root key: its wrappings are erased. ``compromised`` says that somebody else may have
    /// it; ``verify_new`` verifies first what was made since the last verification.
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
    /// Replaces the key that seals rows, and seals every row under the new one, while the service goes on. It begins
    /// with a verification of the whole log. A call that was cut off is completed by calling again.
    ///
    /// >>> alice.replace_integrity_key().number
    /// 2
    fn replace_integrity_key<'py>(&self, py: Python<'py>) -> Outcome<Bound<'py, PyAny>> {
        let replace = |session: kms_lib::Session| async move { session.replace_integrity_key().await };
        self.ask(py, "IntegrityKeyReplacement", replace)
    }
}

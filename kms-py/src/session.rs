//! `Session`: the operations of one actor. They are in the submodules, by subject.

mod audit;
mod batch;
mod crypto;
mod import;
mod items;
mod keys;
mod rights;
mod root_keys;

use std::future::Future;
use std::sync::Arc;

use kms_lib::Result;
use pyo3::prelude::*;

use crate::answer::load;
use crate::arguments::{Text, with_request};
use crate::call::Work;
use crate::engine::Local;
use crate::errors::{Outcome, not_portable};
use crate::service::Service;

/// The operations of one actor. A session can be used from any thread, and is cheap to create.
///
/// A key argument is a name, an id, or a ``Key`` that a call returned. Times need a time zone.
#[pyclass(frozen, weakref, module = "mini_kms")]
pub struct Session {
    service: Arc<Service>,
    session: Local<kms_lib::Session>,
}

impl Session {
    /// Creates a session of this service.
    pub fn new(service: Arc<Service>, session: kms_lib::Session) -> Self {
        Self { service, session: Local::new(session) }
    }

    /// Whether results are returned as futures.
    fn is_asynchronous(&self) -> bool {
        self.service.caller.is_asynchronous()
    }

    /// Calls an operation.
    fn call<'py, T: Send + 'static, F: Future<Output = Result<T>> + Send + 'static>(
        &self,
        py: Python<'py>,
        work: Work,
        operation: impl FnOnce(kms_lib::Session) -> F,
        finish: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> Outcome<Bound<'py, PyAny>> {
        // The caller checks the process before it polls: the system call for this costs a tenth of an operation.
        self.service.caller.call(py, work, operation(kms_lib::Session::clone(&self.session)), finish)
    }

    /// Calls an operation whose result is a data class of this kind.
    fn ask<'py, T: serde::Serialize + Send + 'static, F: Future<Output = Result<T>> + Send + 'static>(
        &self,
        py: Python<'py>,
        kind: &'static str,
        operation: impl FnOnce(kms_lib::Session) -> F,
    ) -> Outcome<Bound<'py, PyAny>> {
        self.call(py, Work::Long, operation, load(kind))
    }

    /// The session of the library and the runtime. For the benchmark.
    #[cfg(feature = "bench")]
    pub fn parts(&self) -> (kms_lib::Session, Arc<crate::engine::Engine>) {
        (kms_lib::Session::clone(&self.session), self.service.engine())
    }

    fn derive(&self, session: kms_lib::Session) -> Self {
        Self::new(Arc::clone(&self.service), session)
    }
}

#[pymethods]
impl Session {
    /// The principal of the session.
    #[getter]
    fn principal(&self) -> &str {
        self.session.actor().principal()
    }
    /// The role of the session.
    #[getter]
    fn role(&self) -> &'static str {
        self.session.actor().role().as_str()
    }
    /// Returns a session whose next change takes effect once, however often it is sent within 24 hours.
    ///
    /// >>> once = alice.with_idempotency_key("order-4711")
    /// >>> once.rotate_key("users").current_version, once.rotate_key("users").current_version
    /// (2, 2)
    fn with_idempotency_key(&self, key: Text) -> Outcome<Self> {
        self.session.check()?;
        Ok(self.derive(self.session.with_idempotency_key(&key.0)?))
    }
    /// Returns a session of the same actor for one request; an idempotency key is not inherited.
    #[pyo3(signature = (*, source_ip=None, request_id=None))]
    fn with_request(&self, source_ip: Option<Text>, request_id: Option<Text>) -> Outcome<Self> {
        self.session.check()?;
        let actor = with_request(self.session.actor().clone(), source_ip, request_id)?;
        Ok(self.derive(self.service.kms.session(actor)))
    }
    fn __reduce__(&self) -> PyResult<()> {
        Err(not_portable("Session"))
    }
    fn __repr__(&self) -> String {
        format!("<Session of {:?} as {}>", self.principal(), self.role())
    }
}

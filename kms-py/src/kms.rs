//! Opening and closing a service.

use std::sync::Arc;

use kms_lib::json::Jobs;
use kms_lib::{Actor, BackupOptions, Progress};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::answer::{load, nothing};
use crate::arguments::{Named, Path, Text, with_request};
use crate::call::{Caller, Meter, Work, once};
use crate::config::{Config, read};
use crate::engine::Engine;
use crate::errors::{Outcome, not_portable};
use crate::service::Service;
use crate::session::Session;

/// A service that is open on one store. It can be used from any thread.
///
/// Leaving a ``with`` block closes it. The store's file must not be opened by another copy of SQLite in the same
/// process, such as the module ``sqlite3``: when that copy closes the file, the process loses the locks of this
/// library. Open the service after a fork, not before.
///
/// >>> with Kms.open(url, root_key="passphrase:correct horse battery staple") as kms:
/// ...     alice = kms.session("alice", role="admin")
/// ...     alice.create_key("users").name
/// 'users'
#[pyclass(frozen, weakref, module = "mini_kms")]
pub struct Kms {
    service: Arc<Service>,
}

impl Kms {
    fn open_with<'py>(
        py: Python<'py>,
        config: kms_lib::Config,
        read_only: bool,
        asynchronous: bool,
    ) -> Outcome<Bound<'py, PyAny>> {
        let engine = Arc::new(py.detach(Engine::new)?);
        let caller = Caller::new(Arc::clone(&engine), asynchronous);
        let opening = async move {
            if read_only { kms_lib::Kms::open_read_only(config).await } else { kms_lib::Kms::open(config).await }
        };
        caller.call(py, Work::Long, opening, move |py, kms| {
            Ok(Py::new(py, Self { service: Service::new(engine, asynchronous, kms) })?.into_any())
        })
    }

    fn make_session(&self, actor: Actor) -> Outcome<Session> {
        self.service.caller.check()?;
        Ok(Session::new(Arc::clone(&self.service), self.service.kms.session(actor)))
    }
}

#[pymethods]
impl Kms {
    /// Opens the store at a URL, and creates it if it is missing.
    ///
    /// >>> Kms.open(url, root_key="passphrase:correct horse battery staple").close()
    #[staticmethod]
    #[pyo3(signature = (url, **settings))]
    fn open<'py>(
        py: Python<'py>,
        url: &Bound<'py, PyAny>,
        settings: Option<&Bound<'py, PyDict>>,
    ) -> Outcome<Bound<'py, PyAny>> {
        Self::open_with(py, read(url, settings)?, false, false)
    }
    /// Opens a SQLite store without writing anything, also on a read-only medium. Listing, describing and verifying
    /// work; operations that need an audit record raise ``StoreReadOnly``.
    #[staticmethod]
    #[pyo3(signature = (url, **settings))]
    fn open_read_only<'py>(
        py: Python<'py>,
        url: &Bound<'py, PyAny>,
        settings: Option<&Bound<'py, PyDict>>,
    ) -> Outcome<Bound<'py, PyAny>> {
        Self::open_with(py, read(url, settings)?, true, false)
    }
    /// Verifies a backup without restoring it, with the root key of ``config``.
    #[staticmethod]
    #[pyo3(name = "verify_backup", signature = (config, path, *, progress=None))]
    fn verify_backup_now<'py>(
        py: Python<'py>,
        config: &Config,
        path: Path,
        progress: Option<Py<PyAny>>,
    ) -> Outcome<Bound<'py, PyAny>> {
        verify_backup(py, config, path, progress, false)
    }
    /// Verifies a backup, and restores it to the store that ``config`` names, which must not exist yet.
    #[staticmethod]
    #[pyo3(name = "restore", signature = (config, path, *, progress=None))]
    fn restore_now<'py>(
        py: Python<'py>,
        config: &Config,
        path: Path,
        progress: Option<Py<PyAny>>,
    ) -> Outcome<Bound<'py, PyAny>> {
        restore(py, config, path, progress, false)
    }
    /// Creates a session of a principal. The principal is not authenticated: the program vouches for it.
    ///
    /// Conditions of grants use ``source_ip``; audit records show it and ``request_id``.
    ///
    /// >>> kms.session("shop", source_ip="192.0.2.7").principal
    /// 'shop'
    #[pyo3(signature = (principal, role=None, *, source_ip=None, request_id=None), text_signature =
        "($self, principal, role='app', *, source_ip=None, request_id=None)")]
    fn session(
        &self,
        principal: Text,
        role: Option<Named<kms_lib::Role>>,
        source_ip: Option<Text>,
        request_id: Option<Text>,
    ) -> Outcome<Session> {
        let role = role.map_or(kms_lib::Role::App, |role| role.0);
        self.make_session(with_request(Actor::new(principal.0, role)?, source_ip, request_id)?)
    }
    /// Creates a session of the operator: an admin who is identified only by access to the store and its root key.
    #[pyo3(signature = (*, source_ip=None, request_id=None))]
    fn operator_session(&self, source_ip: Option<Text>, request_id: Option<Text>) -> Outcome<Session> {
        self.make_session(with_request(Actor::operator(), source_ip, request_id)?)
    }
    /// Creates a session of the principal that a token was issued to. The token is checked again before anything is
    /// committed.
    #[pyo3(signature = (token, *, source_ip=None, request_id=None))]
    fn authenticate<'py>(
        &self,
        py: Python<'py>,
        token: Text,
        source_ip: Option<Text>,
        request_id: Option<Text>,
    ) -> Outcome<Bound<'py, PyAny>> {
        self.service.caller.check()?;
        let token = kms_lib::Zeroizing::new(token.0);
        let (kms, service) = (kms_lib::Kms::clone(&self.service.kms), Arc::clone(&self.service));
        self.service.caller.call(py, Work::Long, async move { kms.authenticate(&token).await }, move |py, actor| {
            let actor = with_request(actor, source_ip, request_id)?;
            let session = service.kms.session(actor);
            Ok(Py::new(py, Session::new(service, session))?.into_any())
        })
    }
    /// Checks whether operations can be expected to succeed, and raises the reason if they cannot.
    ///
    /// >>> kms.ready()
    /// Ready(root_key='ok')
    fn ready<'py>(&self, py: Python<'py>) -> Outcome<Bound<'py, PyAny>> {
        self.service.caller.check()?;
        let kms = kms_lib::Kms::clone(&self.service.kms);
        self.service.caller.call(py, Work::Long, async move { kms.ready().await }, load("Ready"))
    }
    /// Returns the counters since the service was opened, and its state, without names of keys or callers.
    ///
    /// >>> kms.telemetry().queued
    /// 0
    fn telemetry<'py>(&self, py: Python<'py>) -> Outcome<Bound<'py, PyAny>> {
        self.service.caller.check()?;
        let kms = kms_lib::Kms::clone(&self.service.kms);
        self.service.caller.call(py, Work::Long, async move { kms.telemetry().await }, load("Telemetry"))
    }
    /// Runs the scheduler's jobs now, whether or not they are due.
    ///
    /// >>> kms.run_scheduler().rotated
    /// ()
    fn run_scheduler<'py>(&self, py: Python<'py>) -> Outcome<Bound<'py, PyAny>> {
        self.service.caller.check()?;
        let kms = kms_lib::Kms::clone(&self.service.kms);
        self.service.caller.call(py, Work::Long, async move { kms.run_scheduler().await }, |py, report| {
            load("JobReport")(py, Jobs::from(&report))
        })
    }
    /// Closes the service: commits the operations in flight and wipes key material; later calls raise ``Closed``. With
    /// ``audit_ack="queued"`` it raises an error if records of returned results could not be written. Closing twice
    /// changes nothing.
    fn close<'py>(&self, py: Python<'py>) -> Outcome<Bound<'py, PyAny>> {
        self.service.caller.check()?;
        let kms = kms_lib::Kms::clone(&self.service.kms);
        self.service.mark_closed();
        self.service.caller.call(py, Work::Long, async move { kms.close().await }, nothing)
    }
    /// Whether ``close`` was called.
    #[getter]
    fn closed(&self) -> bool {
        self.service.is_closed()
    }
    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }
    #[pyo3(signature = (kind, error, traceback, /))]
    fn __exit__(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        error: &Bound<'_, PyAny>,
        traceback: &Bound<'_, PyAny>,
    ) -> Outcome<()> {
        let _ = (kind, error, traceback);
        self.close(py).map(drop)
    }
    fn __reduce__(&self) -> PyResult<()> {
        Err(not_portable("Kms"))
    }
    fn __repr__(&self) -> &'static str {
        if self.closed() { "<Kms, closed>" } else { "<Kms>" }
    }
}

/// Opens a store for `AsyncKms`.
#[pyfunction]
#[pyo3(name = "_open", signature = (read_only, url, **settings))]
pub fn open<'py>(
    py: Python<'py>,
    read_only: bool,
    url: &Bound<'py, PyAny>,
    settings: Option<&Bound<'py, PyDict>>,
) -> Outcome<Bound<'py, PyAny>> {
    Kms::open_with(py, read(url, settings)?, read_only, true)
}

fn backup_options(progress: Option<Py<PyAny>>) -> (BackupOptions, Work) {
    let meter = Progress::new();
    (BackupOptions::new().progress(&meter), Work::watched(progress, || Meter::Log(meter)))
}

/// Verifies a backup.
#[pyfunction]
#[pyo3(name = "_verify_backup")]
pub fn verify_backup<'py>(
    py: Python<'py>,
    config: &Config,
    path: Path,
    progress: Option<Py<PyAny>>,
    asynchronous: bool,
) -> Outcome<Bound<'py, PyAny>> {
    let (config, (options, work)) = (config.0.clone(), backup_options(progress));
    let verifying = async move { kms_lib::Kms::verify_backup_with(&config, path.0, &options).await };
    once(py, asynchronous, work, verifying, load("BackupReport"))
}

/// Restores a backup.
#[pyfunction]
#[pyo3(name = "_restore")]
pub fn restore<'py>(
    py: Python<'py>,
    config: &Config,
    path: Path,
    progress: Option<Py<PyAny>>,
    asynchronous: bool,
) -> Outcome<Bound<'py, PyAny>> {
    let (config, (options, work)) = (config.0.clone(), backup_options(progress));
    let restoring = async move { kms_lib::Kms::restore_with(&config, path.0, &options).await };
    once(py, asynchronous, work, restoring, load("BackupReport"))
}

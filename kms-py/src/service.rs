//! Open services, which handles and sessions share, and the closing of those that the program leaves open.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use kms_lib::Error;
use kms_lib::internals::Leader;
use pyo3::prelude::*;

use crate::call::Caller;
use crate::engine::{Engine, Local};
use crate::errors::raised;

/// The maximum time that the shutdown of the interpreter waits for a service that was not closed.
const CLOSING: Duration = Duration::from_secs(10);

/// An open service, which its handle and its sessions share.
pub struct Service {
    /// The service of the library, which a forked child must not use.
    pub kms: Local<kms_lib::Kms>,
    /// Calls operations of the service.
    pub caller: Caller,
    engine: Arc<Engine>,
    closed: AtomicBool,
}

/// The services to close when the interpreter shuts down.
static OPEN: Mutex<Vec<Weak<Service>>> = Mutex::new(Vec::new());
/// For each service that is being closed in the background: the process that closes it, and a channel that is
/// disconnected when it is closed. A forked child must not wait for services of its parent.
static CLOSING_LATE: Mutex<Vec<(u32, Receiver<()>)>> = Mutex::new(Vec::new());

impl Service {
    /// Makes a service of an open store, in one mode.
    pub fn new(engine: Arc<Engine>, asynchronous: bool, kms: kms_lib::Kms) -> Arc<Self> {
        let caller = Caller::new(Arc::clone(&engine), asynchronous);
        let service = Arc::new(Self { kms: Local::new(kms), caller, engine, closed: AtomicBool::new(false) });
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|other| other.strong_count() > 0);
        open.push(Arc::downgrade(&service));
        service
    }

    /// Notes that the program closes the service, so that nothing else does.
    pub fn mark_closed(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Whether the service was closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// The runtime. For the benchmark.
    #[cfg(feature = "bench")]
    pub fn engine(&self) -> Arc<Engine> {
        Arc::clone(&self.engine)
    }
}

impl Drop for Service {
    /// Closes a service in the background that the program did not close, so that acknowledged operations reach the
    /// log. The shutdown of the interpreter waits for it.
    fn drop(&mut self) {
        if self.caller.check().is_err() || self.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        let (kms, engine) = (kms_lib::Kms::clone(&self.kms), Arc::clone(&self.engine));
        let (done, waiting) = channel();
        let mut closing = CLOSING_LATE.lock().unwrap_or_else(PoisonError::into_inner);
        closing.retain(|(_, other)| other.try_recv() == Err(TryRecvError::Empty));
        closing.push((std::process::id(), waiting));
        self.engine.spawn(async move {
            if let Err(error) = kms.close().await {
                tracing::error!(%error, "a service was dropped without being closed, and closing it failed");
            }
            drop((kms, done));
            // The runtime must live as long as this task.
            drop(engine);
        });
    }
}

/// Closes services that are still open when the interpreter shuts down, so that acknowledged operations are written; a
/// failure is printed.
#[pyfunction]
#[pyo3(name = "_close_all")]
pub fn close_all(py: Python<'_>) {
    let open = std::mem::take(&mut *OPEN.lock().unwrap_or_else(PoisonError::into_inner));
    for service in open.iter().filter_map(Weak::upgrade) {
        if service.caller.check().is_err() || service.closed.swap(true, Ordering::SeqCst) {
            continue;
        }
        let closing = std::pin::pin!(service.kms.close());
        let closed = py.detach(|| service.engine.wait(closing, &mut Leader::default(), CLOSING));
        let late = || Err(Error::new(kms_lib::ErrorCode::Closed, "the service could not be closed in time"));
        if let Err(error) = closed.unwrap_or_else(late) {
            raised(py, &error).write_unraisable(py, None);
        }
    }
    let closing = std::mem::take(&mut *CLOSING_LATE.lock().unwrap_or_else(PoisonError::into_inner));
    py.detach(|| {
        for (_, done) in closing.into_iter().filter(|(process, _)| *process == std::process::id()) {
            // The channel is disconnected when the service is closed; a failure was logged.
            let _ = done.recv_timeout(CLOSING);
        }
    });
}

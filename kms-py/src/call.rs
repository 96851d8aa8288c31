//! One operation, called synchronously or asynchronously.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use kms_lib::internals::Leader;
use kms_lib::{ImportProgress, Progress, Result, RootKeyProgress};
use pyo3::prelude::*;

use crate::engine::Engine;
use crate::errors::{Failure, Outcome, raised};
use crate::mailbox::{self, Reply};
use crate::operation::{Finish, Operation};

/// The interval at which a waiting thread checks for signals and reports progress.
const SLICE: Duration = Duration::from_millis(100);
/// The maximum number of bytes that are processed without releasing the GIL.
const SHORT_BYTES: usize = 2_048;

/// The progress counter of a long operation.
pub enum Meter {
    /// The progress of verifications and backups.
    Log(Progress),
    /// The progress of root key jobs.
    RootKey(Arc<RootKeyProgress>),
    /// The progress of the current stage of an import.
    Import(Arc<ImportProgress>),
}

impl Meter {
    fn read(&self) -> (u64, u64) {
        match self {
            Self::Log(progress) => (progress.done(), progress.total()),
            Self::RootKey(progress) => (progress.done(), progress.total()),
            Self::Import(progress) => (progress.done(), progress.total()),
        }
    }
}

/// The kind of work of an operation.
pub enum Work {
    /// Work so short that it begins with the GIL held. It may wait nevertheless.
    Short,
    /// Work that releases the GIL at its beginning.
    Long,
    /// Work that reports its progress to a callback.
    Watched(Meter, Py<PyAny>),
}

impl Work {
    /// The kind of work on an input of this length.
    pub fn on_bytes(count: usize) -> Self {
        if count <= SHORT_BYTES { Self::Short } else { Self::Long }
    }

    /// The kind of work with an optional progress callback.
    pub fn watched(callback: Option<Py<PyAny>>, meter: impl FnOnce() -> Meter) -> Self {
        callback.map_or(Self::Long, |callback| Self::Watched(meter(), callback))
    }
}

/// Calls operations of one service in one mode.
#[derive(Clone)]
pub struct Caller {
    engine: Arc<Engine>,
    asynchronous: bool,
}

impl Caller {
    /// A caller with this runtime.
    pub fn new(engine: Arc<Engine>, asynchronous: bool) -> Self {
        Self { engine, asynchronous }
    }

    /// Whether results are returned as futures.
    pub fn is_asynchronous(&self) -> bool {
        self.asynchronous
    }

    /// Fails with `UsedAfterFork` in a forked child.
    pub fn check(&self) -> Result<()> {
        self.engine.check()
    }

    /// Runs the work and returns the result of `finish`, or a future of it. An asynchronous operation that succeeds
    /// without waiting returns its result immediately.
    ///
    /// If the caller is interrupted or its task cancelled, the operation may take effect nevertheless.
    pub fn call<'py, T: Send + 'static>(
        &self,
        py: Python<'py>,
        work: Work,
        future: impl Future<Output = Result<T>> + Send + 'static,
        finish: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> Outcome<Bound<'py, PyAny>> {
        self.engine.check()?;
        if self.asynchronous {
            return self.launch(py, work, future, finish);
        }
        // The guard is created before the future, so that a signal or an error of the callback drops the future within
        // the runtime.
        let mut runtime = Some(self.engine.enter());
        let (mut future, mut leader) = (pin!(future), Leader::default());
        // The future is polled again before this thread waits for it.
        if matches!(work, Work::Short)
            && let Some(done) = self.engine.poll(future.as_mut(), &mut leader, Waker::noop())
        {
            return Ok(finish(py, done?)?.into_bound(py));
        }
        let mut told = None;
        loop {
            let done = py.detach(|| self.engine.wait(future.as_mut(), &mut leader, SLICE));
            if let Work::Watched(meter, callback) = &work
                && told != Some(meter.read())
            {
                told = Some(meter.read());
                // The callback may switch to another greenlet of this thread.
                drop(runtime.take());
                let called = callback.call1(py, meter.read());
                drop(runtime.replace(self.engine.enter()));
                called?;
            }
            if let Some(done) = done {
                return Ok(finish(py, done?)?.into_bound(py));
            }
            py.check_signals()?;
        }
    }

    /// Returns a future of the running event loop. Cancelling it does not cancel the operation.
    fn launch<'py, T: Send + 'static>(
        &self,
        py: Python<'py>,
        work: Work,
        future: impl Future<Output = Result<T>> + Send + 'static,
        finish: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> Outcome<Bound<'py, PyAny>> {
        let (meter, callback) = match work {
            Work::Short => {
                let operation = async move { finish_later(future.await, finish) };
                return Ok(mailbox::run(py, Operation::new(Arc::clone(&self.engine), operation))?);
            }
            Work::Long => (None, None),
            Work::Watched(meter, callback) => (Some(meter), Some(callback)),
        };
        let future = Box::pin(future);
        let (waiting, reply) = Reply::new(py, callback)?;
        self.engine.spawn(async move {
            let done = match &meter {
                None => future.await,
                Some(meter) => watch(future, meter, &reply).await,
            };
            reply.send(finish_later(done, finish));
        });
        Ok(waiting)
    }
}

/// Creates the Python object or the exception for a result, later on the thread of the loop.
fn finish_later<T: Send + 'static>(
    done: Result<T>,
    finish: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
) -> Finish {
    Box::new(move |py| finish(py, done.map_err(|error| raised(py, &error))?))
}

/// Runs the work and posts its progress.
async fn watch<T>(mut work: impl Future<Output = T> + Unpin, meter: &Meter, reply: &Reply) -> T {
    let mut told = None;
    loop {
        let done = tokio::time::timeout(SLICE, &mut work).await.ok();
        let (so_far, total) = meter.read();
        if told != Some((so_far, total)) {
            told = Some((so_far, total));
            reply.progress(so_far, total);
        }
        if let Some(done) = done {
            return done;
        }
    }
}

/// Runs the work on this thread, with a temporary runtime, or asynchronously.
pub fn once<'py, T: Send + 'static>(
    py: Python<'py>,
    asynchronous: bool,
    work: Work,
    future: impl Future<Output = Result<T>> + Send + 'static,
    finish: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
) -> Outcome<Bound<'py, PyAny>> {
    let engine = Arc::new(Engine::new().map_err(Failure::from)?);
    let keeper = Arc::clone(&engine);
    Caller::new(engine, asynchronous).call(py, work, future, move |py, done| {
        // The runtime must live as long as the work.
        drop(keeper);
        finish(py, done)
    })
}

//! One operation, called synchronously or asynchronously.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use kms_lib::{ImportProgress, Progress, Result, RootKeyProgress};
use pyo3::prelude::*;

use crate::engine::Engine;
use crate::errors::{Failure, Outcome, raised};
use crate::mailbox::Reply;

/// How long a waiting thread goes without looking for signals and telling how far it is.
const SLICE: Duration = Duration::from_millis(100);
/// Bytes that are worked on without releasing the GIL.
const SHORT_BYTES: usize = 2_048;

/// Where a long operation writes down how far it is.
pub enum Meter {
    /// Verifications and backups.
    Log(Progress),
    /// Work on root keys.
    RootKey(Arc<RootKeyProgress>),
    /// An import: of its stage.
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
    /// So little that it begins with the GIL held. It may wait all the same.
    Short,
    /// Work that releases the GIL from the start.
    Long,
    /// It tells somebody how far it is.
    Watched(Meter, Py<PyAny>),
}

impl Work {
    /// Work on so many bytes.
    pub fn on_bytes(count: usize) -> Self {
        if count <= SHORT_BYTES { Self::Short } else { Self::Long }
    }

    /// Work that may be watched.
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
    /// With this runtime.
    pub fn new(engine: Arc<Engine>, asynchronous: bool) -> Self {
        Self { engine, asynchronous }
    }

    /// Whether results are given as futures.
    pub fn is_asynchronous(&self) -> bool {
        self.asynchronous
    }

    /// Fails with `UsedAfterFork` in a forked child.
    pub fn check(&self) -> Result<()> {
        self.engine.check()
    }

    /// Does the work, and gives what `finish` makes of its result; or a future of it. An asynchronous operation that
    /// has succeeded without waiting gives its result at once.
    ///
    /// If the caller is interrupted or its task cancelled, the operation may have taken place all the same.
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
        // Before the future, so that it is dropped within the runtime: by a signal, or by an error of the callback.
        let _runtime = self.engine.enter();
        let mut future = pin!(future);
        if matches!(work, Work::Short)
            && let Some(done) = self.engine.poll(future.as_mut())
        {
            return Ok(finish(py, done?)?.into_bound(py));
        }
        let mut told = None;
        loop {
            let done = py.detach(|| self.engine.wait(future.as_mut(), SLICE));
            if let Work::Watched(meter, callback) = &work
                && told != Some(meter.read())
            {
                told = Some(meter.read());
                callback.call1(py, meter.read())?;
            }
            if let Some(done) = done {
                return Ok(finish(py, done?)?.into_bound(py));
            }
            py.check_signals()?;
        }
    }

    /// Gives a future of the running event loop, which cancels nothing when it is cancelled.
    fn launch<'py, T: Send + 'static>(
        &self,
        py: Python<'py>,
        work: Work,
        future: impl Future<Output = Result<T>> + Send + 'static,
        finish: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> Outcome<Bound<'py, PyAny>> {
        let _runtime = self.engine.enter();
        let mut future = Box::pin(future);
        let (meter, callback) = match work {
            Work::Short => match self.engine.poll(future.as_mut()) {
                Some(done) => return Ok(finish(py, done?)?.into_bound(py)),
                None => (None, None),
            },
            Work::Long => (None, None),
            Work::Watched(meter, callback) => (Some(meter), Some(callback)),
        };
        let (waiting, reply) = Reply::new(py, callback)?;
        self.engine.spawn(async move {
            let done = match &meter {
                None => future.await,
                Some(meter) => watch(future, meter, &reply).await,
            };
            reply.send(move |py| match done {
                Ok(done) => finish(py, done),
                Err(error) => Err(raised(py, &error)),
            });
        });
        Ok(waiting)
    }
}

/// Does the work, and posts how far it is.
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

/// Does the work on this thread, with a runtime of its own that ends with it, or asynchronously.
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
        // The runtime lives as long as the work.
        drop(keeper);
        finish(py, done)
    })
}

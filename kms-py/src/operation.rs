//! Operations that the thread of an event loop polls while they wait for the ledger.
//!
//! A loop may be blocked or stopped for any time. So an operation that waits for something else, such as a lock or a
//! connection that it may be given before others, continues as a task of the runtime.

use std::future::Future;
use std::mem::forget;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Waker;

use kms_lib::internals::Leader;
use kms_lib::{Error, ErrorCode};
use pyo3::prelude::*;

use crate::engine::Engine;
use crate::errors::raised;

/// Creates the Python object for a result, on the thread of the loop.
pub type Finish = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

/// Fails with the error of an operation that ended without a result.
pub fn lost(py: Python<'_>) -> PyResult<Py<PyAny>> {
    let text = "the operation was dropped: the service was closed, or a task panicked (see standard error)";
    Err(raised(py, &Error::new(ErrorCode::Internal, text)))
}

type Boxed = Pin<Box<dyn Future<Output = Finish> + Send>>;

/// The state of an operation after it was polled.
pub enum Polled {
    /// It is complete.
    Done(Finish),
    /// It waits for the ledger, and wakes the waker.
    Submitted,
    /// It waits for something else, and must be spawned.
    Elsewhere,
}

/// A short operation of an asynchronous caller. It is dropped within its runtime.
pub struct Operation {
    engine: Arc<Engine>,
    /// None after a panic.
    future: Option<Boxed>,
}

impl Operation {
    /// An operation of a service with this runtime.
    pub fn new(engine: Arc<Engine>, future: impl Future<Output = Finish> + Send + 'static) -> Self {
        Self { engine, future: Some(Box::pin(future)) }
    }

    /// Polls the operation once. The ledger's thread writes what it submits. After a result, this is not called again.
    pub fn poll(&mut self, waker: &Waker) -> Polled {
        let _runtime = self.engine.enter();
        let Some(future) = self.future.as_mut() else { return Polled::Done(Box::new(lost)) };
        let mut leader = Leader::default();
        let poll = AssertUnwindSafe(|| self.engine.poll(future.as_mut(), &mut leader, waker));
        // A panic must not end the delivery of other results.
        let done = catch_unwind(poll).unwrap_or_else(|_| {
            self.future = None;
            Some(Box::new(lost))
        });
        match done {
            Some(finish) => Polled::Done(finish),
            None if leader.has_offer() => Polled::Submitted,
            None => Polled::Elsewhere,
        }
    }

    /// Continues the operation as a task of the runtime, which passes the result to `send`, or drops `send` if it
    /// panics.
    pub fn spawn(mut self, send: impl FnOnce(Finish) + Send + 'static) {
        if let Some(future) = self.future.take() {
            self.engine.spawn(async move { send(future.await) });
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let future = self.future.take();
        if self.engine.check().is_ok() {
            let _runtime = self.engine.enter();
            drop(future);
        } else {
            // Its contents belong to the parent process.
            forget(future);
        }
    }
}

//! The runtime that runs operations, and values that belong to one process.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kms_lib::internals::{Leader, build_runtime};
use kms_lib::{Error, ErrorCode, Result};
use tokio::runtime::{EnterGuard, Handle, Runtime};

/// A value that is dropped only in the process that created it. A forked child leaks it, because its threads do not
/// exist there and its locks may be held.
pub struct Local<T> {
    value: ManuallyDrop<T>,
    process: u32,
}

impl<T> Local<T> {
    /// Wraps a value of this process.
    pub fn new(value: T) -> Self {
        Self { value: ManuallyDrop::new(value), process: std::process::id() }
    }

    /// Fails with `UsedAfterFork` in a process that was forked after the value was created.
    pub fn check(&self) -> Result<()> {
        if std::process::id() == self.process {
            return Ok(());
        }
        let text = "this process was forked after the service was opened; open the service again in the child";
        Err(Error::new(ErrorCode::UsedAfterFork, text))
    }
}

impl<T> Deref for Local<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for Local<T> {
    fn drop(&mut self) {
        if std::process::id() == self.process {
            // SAFETY: the value is neither dropped nor used after this.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}

/// A runtime. Dropping it does not wait for its threads.
struct Background(Option<Runtime>);

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The runtime of one service.
pub struct Engine {
    handle: Handle,
    runtime: Local<Background>,
}

impl Engine {
    /// Starts a runtime.
    pub fn new() -> Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = build_runtime(builder.thread_name("mini-kms").enable_all(), None).map_err(|e| {
            let text = format!("the runtime cannot be started: {e}; nothing was done, retry later");
            Error::new(ErrorCode::Overloaded, text).with_source(e)
        })?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Local::new(Background(Some(runtime))) })
    }

    /// Fails with `UsedAfterFork` in a forked child.
    pub fn check(&self) -> Result<()> {
        self.runtime.check()
    }

    /// Starts a task, which runs to its end even if no caller waits for it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(task);
    }

    /// Enters the runtime on this thread as long as the guard lives. An operation that is dropped before it is complete
    /// returns its connection, which needs the runtime.
    pub fn enter(&self) -> EnterGuard<'_> {
        self.handle.enter()
    }

    /// Polls the future once and returns its output if it is ready. This thread must have entered the runtime. What the
    /// future submits to the log is written by `leader` later.
    pub fn poll<F: Future + ?Sized>(
        &self,
        future: Pin<&mut F>,
        leader: &mut Leader,
        waker: &Waker,
    ) -> Option<F::Output> {
        reseed(self.runtime.process);
        match leader.begin(future, &mut Context::from_waker(waker)) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    /// Runs a task and returns its result. For the benchmark.
    #[cfg(feature = "bench")]
    pub fn start<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.handle.spawn(task)
    }

    /// Waits for the future on this thread, as the blocking interface of Rust does. For the benchmark.
    #[cfg(feature = "bench")]
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        reseed(self.runtime.process);
        let (mut future, mut leader) = (std::pin::pin!(future), Leader::default());
        self.handle.block_on(poll_fn(|context| leader.poll(future.as_mut(), context)))
    }

    /// Waits for the future on this thread, at most for this duration. Meanwhile this thread may write to the log, for
    /// other callers too, so it must not hold the GIL.
    pub fn wait<F: Future>(
        &self,
        mut future: Pin<&mut F>,
        leader: &mut Leader,
        at_most: Duration,
    ) -> Option<F::Output> {
        reseed(self.runtime.process);
        let polling = poll_fn(|context| leader.poll(future.as_mut(), context));
        let output = self.handle.block_on(async { tokio::time::timeout(at_most, polling).await }).ok();
        // Others must not wait for this thread while it waits for the GIL.
        leader.leave();
        output
    }
}

thread_local! {
    /// The process in which this thread's random generator was last seeded.
    static SEEDED_IN: Cell<u32> = const { Cell::new(0) };
}

/// Seeds this thread's random generator once in each process. The generator makes identifiers, and without a new seed a
/// forked child would make the same identifiers as its parent. Nonces and keys come from another generator.
fn reseed(process: u32) {
    if SEEDED_IN.replace(process) != process && rand::rng().reseed().is_err() {
        SEEDED_IN.set(0);
        tracing::warn!("the random generator was not seeded: the system provides no random numbers");
    }
}

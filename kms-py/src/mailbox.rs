//! The path of results to an event loop: tasks post them, and the thread of the loop completes the futures.
//!
//! A mailbox belongs to one loop. It consists of a queue and a socket that the loop watches: a task that posts to an
//! empty queue writes a byte to the socket. No thread of the runtime waits for the GIL, not even while the interpreter
//! shuts down, and one wakeup delivers all queued messages.
//!
//! Short operations have no task while they wait for the ledger: the thread of the loop polls them when it has
//! answered. The result of a task would take a detour through a thread of the runtime, which has to wake up first.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Wake, Waker};

use pyo3::exceptions::{PyException, PyRuntimeError, PyStopIteration};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use crate::operation::{Finish, Operation, Polled, lost};

enum Message {
    Done(Finish),
    Progress(u64, u64),
    /// The operation can continue.
    Awake,
}

/// The sending half of a mailbox, which tasks use.
struct Queue {
    messages: Mutex<Vec<(u64, Message)>>,
    bell: UnixStream,
}

impl Queue {
    fn post(&self, id: u64, message: Message) {
        let was_empty = {
            let mut messages = lock(&self.messages);
            messages.push((id, message));
            messages.len() == 1
        };
        if was_empty {
            // A full socket wakes the loop as well; a closed one means that the loop is gone.
            let _ = (&self.bell).write(&[0]);
        }
    }
}

/// Asks the loop to poll one operation again.
#[derive(Default)]
struct OperationWaker {
    /// The mailbox and the number of the operation. Unknown while it is polled for the first time.
    place: OnceLock<(Arc<Queue>, u64)>,
    is_woken: AtomicBool,
}

impl OperationWaker {
    /// Posts earlier and later wakes to this mailbox.
    fn attach(&self, queue: Arc<Queue>, id: u64) {
        // It is attached only once.
        let _ = self.place.set((queue, id));
        self.post();
    }

    fn post(&self) {
        if let Some((queue, id)) = self.place.get()
            && self.is_woken.swap(false, Ordering::SeqCst)
        {
            queue.post(*id, Message::Awake);
        }
    }
}

impl Wake for OperationWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::SeqCst);
        self.post();
    }
}

/// A callback for progress, and the context (`contextvars`) of the task that gave it.
struct Callback {
    function: Py<PyAny>,
    context: Py<PyAny>,
}

impl Callback {
    fn new(py: Python<'_>, function: Py<PyAny>) -> PyResult<Self> {
        static COPY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let context = COPY.import(py, "contextvars", "copy_context")?.call0()?.unbind();
        Ok(Self { function, context })
    }

    fn clone_ref(&self, py: Python<'_>) -> Self {
        Self { function: self.function.clone_ref(py), context: self.context.clone_ref(py) }
    }

    fn call(&self, py: Python<'_>, done: u64, total: u64) -> PyResult<()> {
        self.context.call_method1(py, intern!(py, "run"), (&self.function, done, total)).map(drop)
    }
}

/// A future that waits for a result.
struct Waiting {
    future: Py<PyAny>,
    progress: Option<Callback>,
    /// The operation, if the thread of the loop polls it.
    operation: Option<(Operation, Waker)>,
}

/// The callback that the event loop calls; it delivers messages to their futures.
#[pyclass(frozen, weakref)]
struct Mailbox {
    queue: Arc<Queue>,
    bell: UnixStream,
    waiting: Mutex<HashMap<u64, Waiting>>,
    next: AtomicU64,
    process: u32,
}

#[pymethods]
impl Mailbox {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        // A forked child that continues in the loop of its parent shares the socket, whose bytes belong to the parent.
        // The queue may be locked by a thread that does not exist in the child.
        if std::process::id() != self.process {
            return Ok(());
        }
        let mut bytes = [0; 64];
        loop {
            match (&self.bell).read(&mut bytes) {
                Ok(count) if count == bytes.len() => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        let messages = std::mem::take(&mut *lock(&self.queue.messages));
        let mut interrupt = Ok(());
        for (id, message) in messages {
            // The other messages must be delivered nevertheless.
            match self.deliver(py, id, message) {
                // `KeyboardInterrupt` and `SystemExit` end the loop, as in its own callbacks.
                Err(error) if !error.is_instance_of::<PyException>(py) && interrupt.is_ok() => interrupt = Err(error),
                Err(error) => error.write_unraisable(py, None),
                Ok(()) => {}
            }
        }
        interrupt
    }
}

impl Mailbox {
    /// Creates a mailbox and registers it with the loop.
    fn new(event_loop: &Bound<'_, PyAny>) -> PyResult<Py<Self>> {
        let py = event_loop.py();
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        let number = ours.as_raw_fd();
        let queue = Arc::new(Queue { messages: Mutex::default(), bell: theirs });
        let (waiting, process) = (Mutex::default(), std::process::id());
        let mailbox = Self { queue, bell: ours, waiting, next: AtomicU64::new(0), process };
        let mailbox = Py::new(py, mailbox)?;
        // In an empty context, since that of the running task would be kept, and would be that of all later results.
        static CONTEXT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let add = event_loop.getattr(intern!(py, "add_reader"))?;
        CONTEXT.import(py, "contextvars", "Context")?.call0()?.call_method1("run", (add, number, &mailbox))?;
        Ok(mailbox)
    }

    fn deliver(&self, py: Python<'_>, id: u64, message: Message) -> PyResult<()> {
        match message {
            Message::Progress(done, total) => self.progress(py, id, done, total),
            Message::Done(finish) => {
                let waiting = lock(&self.waiting).remove(&id);
                waiting.map_or(Ok(()), |waiting| complete(waiting.future.bind(py), finish))
            }
            Message::Awake => self.proceed(py, id),
        }
    }

    /// Polls an operation. It runs to its end even if no caller waits for it.
    fn proceed(&self, py: Python<'_>, id: u64) -> PyResult<()> {
        let waiting = lock(&self.waiting).remove(&id);
        let Some(Waiting { future, progress, operation: Some((mut operation, waker)) }) = waiting else {
            return Ok(());
        };
        let operation = match operation.poll(&waker) {
            Polled::Done(finish) => return complete(future.bind(py), finish),
            Polled::Submitted => Some((operation, waker)),
            Polled::Elsewhere => {
                let reply = Reply { queue: Arc::clone(&self.queue), id, sent: false };
                operation.spawn(move |finish| reply.send(finish));
                None
            }
        };
        lock(&self.waiting).insert(id, Waiting { future, progress, operation });
        Ok(())
    }

    /// Calls the progress callback of an operation. An exception of the callback completes the future.
    fn progress(&self, py: Python<'_>, id: u64, done: u64, total: u64) -> PyResult<()> {
        let told = lock(&self.waiting).get(&id).and_then(|waiting| {
            waiting.progress.as_ref().map(|told| (told.clone_ref(py), waiting.future.clone_ref(py)))
        });
        let Some((callback, future)) = told else { return Ok(()) };
        let future = future.bind(py);
        if !is_done(future)?
            && let Err(error) = callback.call(py, done, total)
        {
            // A future cannot raise `StopIteration`.
            let is_accepted = !error.is_instance_of::<PyStopIteration>(py);
            let error =
                if is_accepted { error } else { PyRuntimeError::new_err("a progress callback raised StopIteration") };
            future.call_method1(intern!(py, "set_exception"), (error.into_value(py),))?;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_done(future: &Bound<'_, PyAny>) -> PyResult<bool> {
    future.call_method0(intern!(future.py(), "done"))?.extract()
}

/// Completes a future. If it was cancelled, the result is wiped, although the operation has taken effect.
fn complete(future: &Bound<'_, PyAny>, finish: Finish) -> PyResult<()> {
    let py = future.py();
    if is_done(future)? {
        return Ok(());
    }
    match finish(py) {
        Ok(result) => future.call_method1(intern!(py, "set_result"), (result,))?,
        Err(error) => future.call_method1(intern!(py, "set_exception"), (error.into_value(py),))?,
    };
    Ok(())
}

/// A mailbox that this thread has created.
struct Known {
    /// Weak: a program may forget a loop without closing it.
    event_loop: Py<PyWeakrefReference>,
    /// Weak: a closed loop drops its mailbox, and the mailbox the operations that nobody will poll any more.
    mailbox: Py<PyWeakrefReference>,
    process: u32,
}

thread_local! {
    /// The mailboxes of the loops of this thread.
    static MAILBOXES: RefCell<Vec<Known>> = const { RefCell::new(Vec::new()) };
}

/// Returns the mailbox of the running loop, and the loop.
fn current(py: Python<'_>) -> PyResult<(Py<Mailbox>, Bound<'_, PyAny>)> {
    static RUNNING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let event_loop = RUNNING.import(py, "asyncio", "get_running_loop")?.call0()?;
    let process = std::process::id();
    let known = MAILBOXES.with_borrow(|all| {
        let same = |known: &&Known| {
            known.process == process && known.event_loop.bind(py).upgrade().is_some_and(|its| its.is(&event_loop))
        };
        all.iter().find(same).and_then(|known| known.mailbox.bind(py).upgrade())
    });
    if let Some(mailbox) = known {
        return Ok((mailbox.cast_into::<Mailbox>()?.unbind(), event_loop));
    }
    let mailbox = Mailbox::new(&event_loop)?;
    let others = MAILBOXES.take();
    let is_alive = |known: &Known| {
        let Some(event_loop) = known.event_loop.bind(py).upgrade() else { return false };
        let closed = event_loop.call_method0(intern!(py, "is_closed")).and_then(|it| it.extract::<bool>());
        known.process == process && !closed.unwrap_or(true)
    };
    let mut alive: Vec<Known> = others.into_iter().filter(is_alive).collect();
    let weak = PyWeakrefReference::new(mailbox.bind(py))?.unbind();
    let weak_loop = PyWeakrefReference::new(&event_loop)?.unbind();
    alive.push(Known { event_loop: weak_loop, mailbox: weak, process });
    MAILBOXES.set(alive);
    Ok((mailbox, event_loop))
}

/// Runs a short operation. Returns its result, or a future of the running loop if it has to wait.
pub fn run(py: Python<'_>, mut operation: Operation) -> PyResult<Bound<'_, PyAny>> {
    let woken = Arc::new(OperationWaker::default());
    let waker = Waker::from(Arc::clone(&woken));
    let polled = match operation.poll(&waker) {
        // Most operations of a service with `audit_ack="queued"`.
        Polled::Done(finish) => return Ok(finish(py)?.into_bound(py)),
        polled => polled,
    };
    if matches!(polled, Polled::Elsewhere) {
        let (future, reply) = Reply::new(py, None)?;
        operation.spawn(move |finish| reply.send(finish));
        return Ok(future);
    }
    let (mailbox, event_loop) = current(py)?;
    let future = event_loop.call_method0(intern!(py, "create_future"))?;
    let mailbox = mailbox.get();
    let id = mailbox.next.fetch_add(1, Ordering::Relaxed);
    // This is the thread of the loop, so no message is delivered before the operation is among those that wait.
    woken.attach(Arc::clone(&mailbox.queue), id);
    let waiting = Waiting { future: future.clone().unbind(), progress: None, operation: Some((operation, waker)) };
    lock(&mailbox.waiting).insert(id, waiting);
    Ok(future)
}

/// The place where a task posts its result once. If it is dropped without a result, as when the task panics, the caller
/// gets an error.
pub struct Reply {
    queue: Arc<Queue>,
    id: u64,
    sent: bool,
}

impl Reply {
    /// Creates a future of the running loop, and the place for its result.
    pub fn new(py: Python<'_>, progress: Option<Py<PyAny>>) -> PyResult<(Bound<'_, PyAny>, Self)> {
        let progress = progress.map(|function| Callback::new(py, function)).transpose()?;
        let (mailbox, event_loop) = current(py)?;
        let future = event_loop.call_method0(intern!(py, "create_future"))?;
        let mailbox = mailbox.get();
        let id = mailbox.next.fetch_add(1, Ordering::Relaxed);
        lock(&mailbox.waiting).insert(id, Waiting { future: future.clone().unbind(), progress, operation: None });
        Ok((future, Self { queue: Arc::clone(&mailbox.queue), id, sent: false }))
    }

    /// Posts the result.
    pub fn send(mut self, finish: Finish) {
        self.sent = true;
        self.queue.post(self.id, Message::Done(finish));
    }

    /// Posts the progress of the operation.
    pub fn progress(&self, done: u64, total: u64) {
        self.queue.post(self.id, Message::Progress(done, total));
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.sent {
            self.queue.post(self.id, Message::Done(Box::new(lost)));
        }
    }
}

//! The path of results to an event loop: tasks post them, and the thread of the loop completes the futures.
//!
//! A mailbox belongs to one loop. It consists of a queue and a socket that the loop watches: a task that posts to an
//! empty queue writes a byte to the socket. No thread of the runtime waits for the GIL, not even while the interpreter
//! shuts down, and one wakeup delivers all queued messages.
//!
//! Short operations have no task: the thread of the loop polls them when they can continue. The result of a task would
//! take a detour through a thread of the runtime, which has to wake up first.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use crate::errors::Outcome;
use crate::operation::{Finish, Operation, lost};

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
struct OperationWaker {
    queue: Arc<Queue>,
    id: u64,
}

impl Wake for OperationWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.queue.post(self.id, Message::Awake);
    }
}

/// A future that waits for a result.
struct Waiting {
    future: Py<PyAny>,
    progress: Option<Py<PyAny>>,
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
    fn __call__(&self, py: Python<'_>) {
        // A forked child that continues in the loop of its parent shares the socket, whose bytes belong to the parent.
        // The queue may be locked by a thread that does not exist in the child.
        if std::process::id() != self.process {
            return;
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
        for (id, message) in messages {
            if let Err(error) = self.deliver(py, id, message) {
                // The other messages must be delivered nevertheless.
                error.write_unraisable(py, None);
            }
        }
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
        event_loop.call_method1(intern!(py, "add_reader"), (number, &mailbox))?;
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
        if let Some(finish) = operation.poll(&waker) {
            return complete(future.bind(py), finish);
        }
        lock(&self.waiting).insert(id, Waiting { future, progress, operation: Some((operation, waker)) });
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
            && let Err(error) = callback.call1(py, (done, total))
        {
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
    event_loop: Py<PyAny>,
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
        let same = |known: &&Known| known.process == process && known.event_loop.is(&event_loop);
        all.iter().find(same).and_then(|known| known.mailbox.bind(py).upgrade())
    });
    if let Some(mailbox) = known {
        return Ok((mailbox.cast_into::<Mailbox>()?.unbind(), event_loop));
    }
    let mailbox = Mailbox::new(&event_loop)?;
    let others = MAILBOXES.take();
    let is_alive = |known: &Known| {
        let closed =
            known.event_loop.bind(py).call_method0(intern!(py, "is_closed")).and_then(|it| it.extract::<bool>());
        known.process == process && !closed.unwrap_or(true)
    };
    let mut alive: Vec<Known> = others.into_iter().filter(is_alive).collect();
    let weak = PyWeakrefReference::new(mailbox.bind(py))?.unbind();
    alive.push(Known { event_loop: event_loop.clone().unbind(), mailbox: weak, process });
    MAILBOXES.set(alive);
    Ok((mailbox, event_loop))
}

/// Runs a short operation. Returns its result, or a future of the running loop if it has to wait.
pub fn run(py: Python<'_>, mut operation: Operation) -> PyResult<Bound<'_, PyAny>> {
    // It is polled again before anybody waits for it. Most operations of a service with `audit_ack="queued"` are ready.
    if let Some(finish) = operation.poll(Waker::noop()) {
        return Ok(finish(py)?.into_bound(py));
    }
    let (mailbox, event_loop) = current(py)?;
    let future = event_loop.call_method0(intern!(py, "create_future"))?;
    let mailbox = mailbox.get();
    let id = mailbox.next.fetch_add(1, Ordering::Relaxed);
    let waker = Waker::from(Arc::new(OperationWaker { queue: Arc::clone(&mailbox.queue), id }));
    if let Some(finish) = operation.poll(&waker) {
        return Ok(finish(py)?.into_bound(py));
    }
    // This is the thread of the loop, so no message is delivered before the operation is among those that wait.
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
    pub fn new(py: Python<'_>, progress: Option<Py<PyAny>>) -> Outcome<(Bound<'_, PyAny>, Self)> {
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

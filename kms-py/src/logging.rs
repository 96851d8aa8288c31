//! The service's events for Python's logging: a bounded queue, which a thread of Python empties. No thread of Rust
//! waits for the GIL; what finds the queue full is dropped and counted.

use std::fmt::{Debug, Write};
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Events that wait at most.
const WAITING: usize = 4_096;
/// Events that are given at once.
const AT_ONCE: usize = 256;

/// An event: its level as Python counts levels, its target, and its text.
type Entry = (u8, &'static str, String);

/// Events below this level, as Python counts levels, are left out.
static LEVEL: AtomicU8 = AtomicU8::new(u8::MAX);
/// Events that found the queue full.
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// The queue; null until logging is asked for.
static QUEUE: AtomicPtr<Queue> = AtomicPtr::new(std::ptr::null_mut());

/// The queue of one process. A forked child gets its own: the parent's may be locked by a thread that stayed behind.
struct Queue {
    process: u32,
    sender: SyncSender<Entry>,
    receiver: Mutex<Receiver<Entry>>,
}

impl Queue {
    /// This process's queue, if there is one.
    fn here() -> Option<&'static Self> {
        // SAFETY: null, or a queue that is never freed.
        let queue = unsafe { QUEUE.load(Ordering::Acquire).as_ref() }?;
        (queue.process == std::process::id()).then_some(queue)
    }

    fn ensure() {
        if Self::here().is_some() {
            return;
        }
        let (sender, receiver) = sync_channel(WAITING);
        let queue = Box::new(Self { process: std::process::id(), sender, receiver: Mutex::new(receiver) });
        // One for each process that logs, and kept: others may be looking at the one before.
        QUEUE.store(Box::into_raw(queue), Ordering::Release);
    }
}

/// Puts events in the queue.
struct Events;

fn number(level: Level) -> u8 {
    match level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        Level::DEBUG => 10,
        Level::TRACE => 5,
    }
}

/// The text of an event: its message, and its fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

impl Subscriber for Events {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        number(*metadata.level()) >= LEVEL.load(Ordering::Relaxed) && metadata.target().starts_with("kms_lib")
    }

    fn event(&self, event: &Event<'_>) {
        let Some(queue) = Queue::here() else { return };
        let mut text = Text::default();
        event.record(&mut text);
        let metadata = event.metadata();
        text.message.push_str(&text.fields);
        if queue.sender.try_send((number(*metadata.level()), metadata.target(), text.message)).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Queues events of this level and above, as Python counts levels; none with 255.
#[pyfunction]
#[pyo3(name = "_set_log_level")]
pub fn set_log_level(level: u8) {
    LEVEL.store(level, Ordering::Relaxed);
    if level < u8::MAX {
        Queue::ensure();
        // This copy of the library is this module's own: nobody else can have set another one.
        let _ = tracing::subscriber::set_global_default(Events);
    }
    tracing::callsite::rebuild_interest_cache();
}

/// The events that have come, at most so many seconds later, and how many were dropped.
#[pyfunction]
#[pyo3(name = "_next_events")]
pub fn next_events(py: Python<'_>, seconds: f64) -> (Vec<Entry>, u64) {
    let Some(queue) = Queue::here() else { return (Vec::new(), 0) };
    let wait = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let entries = py.detach(|| {
        let receiver = queue.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries = Vec::new();
        match receiver.recv_timeout(wait) {
            Ok(entry) => entries.push(entry),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        entries.extend(receiver.try_iter().take(AT_ONCE));
        entries
    });
    (entries, DROPPED.swap(0, Ordering::Relaxed))
}

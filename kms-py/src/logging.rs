//! The service's events for Python's logging: a bounded queue that a Python thread drains. No Rust thread waits for the
//! GIL; events that do not fit are dropped and counted.

use std::fmt::{Debug, Write};
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The maximum number of events that wait in the queue.
const WAITING: usize = 4_096;
/// The maximum number of events that one call returns.
const AT_ONCE: usize = 256;

/// An event: its level as a Python number, its target, and its text.
type Entry = (u8, &'static str, String);

/// The minimum level of events, as a Python number.
static LEVEL: AtomicU8 = AtomicU8::new(u8::MAX);
/// The number of events that were dropped because the queue was full.
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// The queue; null until logging is enabled.
static QUEUE: AtomicPtr<Queue> = AtomicPtr::new(std::ptr::null_mut());

/// The queue of one process. A forked child gets its own, because a thread of the parent may hold the lock of the
/// inherited one.
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
        // There is one queue for each process that logs. It is never freed, because other threads may still use the
        // previous one.
        QUEUE.store(Box::into_raw(queue), Ordering::Release);
    }
}

/// The `tracing` subscriber that puts events in the queue.
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

/// Queues events of this level and above, as a Python number; 255 turns logging off.
#[pyfunction]
#[pyo3(name = "_set_log_level")]
pub fn set_log_level(level: u8) {
    LEVEL.store(level, Ordering::Relaxed);
    if level < u8::MAX {
        Queue::ensure();
        // This copy of the library belongs to this module, so no other code can have set a subscriber.
        let _ = tracing::subscriber::set_global_default(Events);
    }
    tracing::callsite::rebuild_interest_cache();
}

/// Waits at most this number of seconds for events, and returns them with the number of dropped events.
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

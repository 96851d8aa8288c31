//! What is going on on a connection.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::error::ApiError;
use crate::request::Caller;
use crate::request::memory::{RequestMemory, Room};

/// So much of a head is not counted: every connection may have it.
const HEAD: usize = 4 * 1024;

/// What is going on on a connection.
pub struct Activity {
    begun: Instant,
    caller: Caller,
    /// Requests that are worked on.
    working: AtomicUsize,
    /// Bodies of requests that are still arriving.
    arriving: AtomicUsize,
    /// Answers that are being sent.
    sending: AtomicUsize,
    /// Whether the socket takes no more for now.
    is_blocked: AtomicBool,
    /// Milliseconds from `begun` to the last progress.
    last: AtomicU64,
    close: Notify,
    head: Mutex<Head>,
}

/// What has arrived of a head.
#[derive(Default)]
struct Head {
    bytes: usize,
    room: Option<Room>,
}

impl Activity {
    /// What is going on on a new connection; times are from `begun`.
    pub fn new(begun: Instant, caller: Caller) -> Self {
        let activity = Self {
            begun,
            caller,
            working: AtomicUsize::new(0),
            arriving: AtomicUsize::new(0),
            sending: AtomicUsize::new(0),
            is_blocked: AtomicBool::new(false),
            last: AtomicU64::new(0),
            close: Notify::new(),
            head: Mutex::default(),
        };
        activity.go_on();
        activity
    }

    /// A part of a request has arrived, or a part of an answer has been sent.
    pub fn go_on(&self) {
        self.last.store(millis(self.begun.elapsed()), Ordering::Relaxed);
    }
    /// Sets when that was.
    #[cfg(test)]
    pub fn set_last(&self, since_begun: Duration) {
        self.last.store(millis(since_begun), Ordering::Relaxed);
    }
    /// For how long nothing has happened.
    pub fn silent(&self) -> Duration {
        self.begun.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
    /// The principal that the connection counts for.
    pub fn caller(&self) -> Option<Arc<str>> {
        self.caller.get()
    }

    /// Whether a request is worked on.
    pub fn is_working(&self) -> bool {
        self.working.load(Ordering::Relaxed) > 0
    }
    /// Whether a body of a request is still arriving.
    pub fn is_arriving(&self) -> bool {
        self.arriving.load(Ordering::Relaxed) > 0
    }
    /// Whether an answer is being sent.
    pub fn is_sending(&self) -> bool {
        self.sending.load(Ordering::Relaxed) > 0 || self.is_blocked.load(Ordering::Relaxed)
    }
    /// Whether neither is the case.
    pub fn is_idle(&self) -> bool {
        !self.is_working() && !self.is_sending()
    }
    /// Notes whether the socket takes what is sent.
    pub fn set_blocked(&self, is_blocked: bool) {
        self.is_blocked.store(is_blocked, Ordering::Relaxed);
    }

    /// Says that the connection is to be closed.
    pub fn close(&self) {
        self.close.notify_one();
    }
    /// Waits until the connection is to be closed.
    pub async fn closed(&self) {
        self.close.notified().await;
    }

    /// A part of a head has arrived. A large one needs room, as if it were of a caller of its own.
    pub fn head_arrives(&self, bytes: usize, memory: &Arc<RequestMemory>) -> Result<(), ApiError> {
        let mut head = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        head.bytes += bytes;
        if head.bytes <= HEAD {
            return Ok(());
        }
        // The buffers that it is read into and moved to may be twice as large.
        match &head.room {
            Some(room) => room.grow(2 * bytes),
            None => memory.room_for_unknown(2 * head.bytes).map(|room| head.room = Some(room)),
        }
    }
    /// The head is complete: its room now is the request's.
    pub fn head_is_there(&self) -> Option<Room> {
        std::mem::take(&mut *self.head.lock().unwrap_or_else(PoisonError::into_inner)).room
    }
}

/// Counts something as long as it lives.
pub struct Counted(Arc<Activity>, fn(&Activity) -> &AtomicUsize);

impl Counted {
    fn new(activity: &Arc<Activity>, counter: fn(&Activity) -> &AtomicUsize) -> Self {
        counter(activity).fetch_add(1, Ordering::Relaxed);
        activity.go_on();
        Self(Arc::clone(activity), counter)
    }
    /// A request that is worked on.
    pub fn request(activity: &Arc<Activity>) -> Self {
        Self::new(activity, |activity| &activity.working)
    }
    /// Something of it has been done.
    pub fn go_on(&self) {
        self.0.go_on();
    }
    /// A body of a request that arrives.
    pub fn body(activity: &Arc<Activity>) -> Self {
        Self::new(activity, |activity| &activity.arriving)
    }
    /// An answer that is sent.
    pub fn answer(activity: &Arc<Activity>) -> Self {
        Self::new(activity, |activity| &activity.sending)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.go_on();
        (self.1)(&self.0).fetch_sub(1, Ordering::Relaxed);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

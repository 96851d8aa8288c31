//! What is going on on a connection.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::error::ApiError;
use crate::request::Caller;
use crate::request::memory::{Evict, RequestMemory, Room};
use crate::request::owner::Owner;

/// So much of a head is not counted: every connection may have it.
const HEAD: usize = 4 * 1024;
/// In HTTP/2, most bytes that may have arrived and are no part of a request that is read, nor read as one in a moment:
/// more than the windows of a connection and the largest head together. Only frames that serve no request add up to
/// that.
const FRAMES: usize = 512 * 1024;
/// In HTTP/2, bytes of frames that are expected beside each head, and each part of a body or an answer.
const BESIDE: usize = 128;

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
    /// The connection is to be closed at once, or in order.
    close: Notify,
    finish: Notify,
    head: Mutex<Head>,
}

/// What has arrived of a head; in HTTP/2 also what has arrived of bodies, and is not read yet.
#[derive(Default)]
struct Head {
    bytes: usize,
    room: Option<Room>,
}

/// Whether more frames may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// They may.
    Fit,
    /// There is no memory for those that have arrived.
    NoRoom,
    /// More have arrived than requests explain.
    TooMany,
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
            finish: Notify::new(),
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
    /// Who the connection is charged to.
    pub fn owner(&self) -> Owner {
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

    /// Says that the connection is to be closed at once.
    pub fn close(&self) {
        self.close.notify_one();
    }
    /// Waits until the connection is to be closed at once.
    pub async fn closed(&self) {
        self.close.notified().await;
    }
    /// Says that the connection is to end, in order.
    pub fn finish(&self) {
        self.finish.notify_one();
    }
    /// Waits until the connection is to end.
    pub async fn finished(&self) {
        self.finish.notified().await;
    }

    /// Closes the connection if another owner needs its memory.
    pub fn evict(self: &Arc<Self>) -> Arc<dyn Evict> {
        Arc::new(Closing(Arc::downgrade(self)))
    }

    fn head(&self) -> MutexGuard<'_, Head> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A part of a head has arrived in HTTP/1.1. A large one needs room.
    pub fn head_arrives(self: &Arc<Self>, bytes: usize, memory: &Arc<RequestMemory>) -> Result<(), ApiError> {
        let mut head = self.head();
        head.bytes += bytes;
        // The buffers that it is read into and moved to may be twice as large.
        let needed = 2 * head.bytes;
        if head.bytes <= HEAD { Ok(()) } else { self.count(&mut head, needed, memory) }
    }
    /// The head is complete: its room now is the request's.
    pub fn head_is_there(&self) -> Option<Room> {
        let room = std::mem::take(&mut *self.head()).room;
        room.inspect(|room| room.set_waiting(false))
    }

    /// Frames have arrived in HTTP/2. What is not read at once needs room.
    pub fn frames_arrive(self: &Arc<Self>, bytes: usize, memory: &Arc<RequestMemory>) -> Frames {
        let mut head = self.head();
        head.bytes += bytes;
        let needed = head.bytes;
        match needed {
            ..=HEAD => Frames::Fit,
            _ if needed > FRAMES => Frames::TooMany,
            _ if self.count(&mut head, needed, memory).is_ok() => Frames::Fit,
            _ => Frames::NoRoom,
        }
    }
    /// So many bytes of what has arrived in HTTP/2 have been read, or taken as a head.
    pub fn frames_are_read(&self, bytes: usize) {
        let mut head = self.head();
        head.bytes = head.bytes.saturating_sub(bytes + BESIDE);
        if head.bytes <= HEAD {
            head.room = None;
        } else if let Some(room) = &head.room {
            let _ = room.resize(head.bytes.min(room.bytes()));
            // It has not waited for its caller since then.
            room.set_waiting(true);
        }
    }

    fn count(self: &Arc<Self>, head: &mut Head, bytes: usize, memory: &Arc<RequestMemory>) -> Result<(), ApiError> {
        let room = head.room.get_or_insert_with(|| {
            let room = memory.empty(self.owner(), self.evict());
            room.set_waiting(true);
            room
        });
        room.resize(bytes)
    }
}

/// Closes a connection whose memory another owner needs.
struct Closing(Weak<Activity>);

impl Evict for Closing {
    fn evict(&self) {
        if let Some(activity) = self.0.upgrade() {
            activity.close();
        }
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
    /// So many bytes of a body have arrived, or of an answer have been taken.
    pub fn go_on(&self, bytes: usize) {
        if bytes > 0 {
            self.0.go_on();
        }
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

//! The activity of a connection: requests, responses, progress and the memory of what has arrived.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

use crate::error::ApiError;
use crate::request::Caller;
use crate::request::memory::{Evict, RequestMemory, Room};
use crate::request::owner::Owner;
use crate::request::waiting::Waits;

/// Bytes of a head that are not counted as memory; every connection may have them.
const HEAD: usize = 4 * 1024;
/// In HTTP/2, the maximum number of bytes that have arrived and were not read as part of a request. The windows of a
/// connection and the largest head together are smaller, so only frames that serve no request can add up to this.
const FRAMES: usize = 512 * 1024;
/// In HTTP/2, the number of such bytes beyond which a connection is read slowly: more than the windows and the largest
/// head.
const CALM: usize = 320 * 1024;
/// In HTTP/2, bytes of other frames that are expected with each head and each part of a body or a response.
const BESIDE: usize = 128;

/// The activity of a connection, shared by its socket, its handler and the table of connections.
pub struct Activity {
    begun: Instant,
    caller: Caller,
    /// The owner of what arrives before its caller is known.
    network: Owner,
    /// Number of requests in process.
    working: AtomicUsize,
    /// Number of request bodies that are still arriving.
    arriving: AtomicUsize,
    /// Number of responses that are being sent.
    sending: AtomicUsize,
    /// Whether nothing is read from the socket for now, and the task to wake when that changes.
    is_paused: AtomicBool,
    reader: AtomicWaker,
    /// Whether the socket accepts no more data for now.
    is_blocked: AtomicBool,
    /// Milliseconds from `begun` to the latest progress.
    last: AtomicU64,
    /// Signals that the connection must close immediately (`close`) or gracefully (`finish`).
    close: Notify,
    finish: Notify,
    head: Mutex<Head>,
}

/// Bytes of a head that have arrived; in HTTP/2 also bytes of bodies that were not read yet.
#[derive(Default)]
struct Head {
    bytes: usize,
    room: Option<Room>,
    /// Why the request has no room.
    refusal: Option<ApiError>,
}

/// Whether more HTTP/2 frames may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// More frames may be read.
    Fit,
    /// More frames may be read after a while, because some of those that have arrived serve no request.
    Slowly,
    /// No memory is left for the frames that have arrived.
    NoRoom,
    /// More bytes have arrived than requests account for.
    TooMany,
}

impl Activity {
    /// The activity of a new connection; times are relative to `begun`.
    pub fn new(begun: Instant, caller: Caller) -> Self {
        let activity = Self {
            begun,
            network: caller.get(),
            caller,
            working: AtomicUsize::new(0),
            arriving: AtomicUsize::new(0),
            sending: AtomicUsize::new(0),
            is_paused: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            is_blocked: AtomicBool::new(false),
            last: AtomicU64::new(0),
            close: Notify::new(),
            finish: Notify::new(),
            head: Mutex::default(),
        };
        activity.go_on();
        activity
    }

    /// Notes progress: a part of a request has arrived or a part of a response was sent.
    pub fn go_on(&self) {
        self.last.store(millis(self.begun.elapsed()), Ordering::Relaxed);
    }
    /// Sets the time of the latest progress.
    #[cfg(test)]
    pub fn set_last(&self, since_begun: Duration) {
        self.last.store(millis(since_begun), Ordering::Relaxed);
    }
    /// The time since the latest progress.
    pub fn silent(&self) -> Duration {
        self.begun.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
    /// The owner that the connection is charged to.
    pub fn owner(&self) -> Owner {
        self.caller.get()
    }

    /// Whether a request is in process.
    pub fn is_working(&self) -> bool {
        self.working.load(Ordering::Relaxed) > 0
    }
    /// Whether a request body is still arriving.
    pub fn is_arriving(&self) -> bool {
        self.arriving.load(Ordering::Relaxed) > 0
    }
    /// Whether a response is being sent.
    pub fn is_sending(&self) -> bool {
        self.sending.load(Ordering::Relaxed) > 0 || self.is_blocked.load(Ordering::Relaxed)
    }
    /// Whether no request is in process and no response is being sent.
    pub fn is_idle(&self) -> bool {
        !self.is_working() && !self.is_sending()
    }
    /// Notes whether the socket is blocked for sending.
    pub fn set_blocked(&self, is_blocked: bool) {
        self.is_blocked.store(is_blocked, Ordering::Relaxed);
    }

    /// Whether nothing is read from the socket for now.
    pub fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::SeqCst)
    }

    /// Ready while the socket may be read; otherwise the task is woken later.
    pub fn poll_unpaused(&self, context: &mut Context<'_>) -> Poll<()> {
        if !self.is_paused() {
            return Poll::Ready(());
        }
        self.reader.register(context.waker());
        // The pause may have ended in between.
        if self.is_paused() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Signals that the connection must close immediately.
    pub fn close(&self) {
        self.close.notify_one();
    }
    /// Waits for the signal to close immediately.
    pub async fn closed(&self) {
        self.close.notified().await;
    }
    /// Signals that the connection must close gracefully.
    pub fn finish(&self) {
        self.finish.notify_one();
    }
    /// Waits for the signal to close gracefully.
    pub async fn finished(&self) {
        self.finish.notified().await;
    }

    /// An [`Evict`] that closes the connection when another owner needs its memory.
    pub fn evict(self: &Arc<Self>) -> Arc<dyn Evict> {
        Arc::new(Closing(Arc::downgrade(self)))
    }

    fn head(&self) -> MutexGuard<'_, Head> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a part of a head, and of a body that arrives together with it, in HTTP/1.1. More than [`HEAD`] bytes need
    /// memory. Without memory, a request whose head is complete is refused, and an incomplete head ends the connection.
    pub fn head_arrives(self: &Arc<Self>, bytes: usize, memory: &Arc<RequestMemory>) {
        let mut head = self.head();
        head.bytes += bytes;
        if head.bytes <= HEAD || head.refusal.is_some() {
            return;
        }
        // The read buffer and the buffer that the head is moved to may be twice as large.
        let needed = 2 * head.bytes;
        let room = self.room_of(&mut head, Waits::Nothing, memory);
        // The next request of a caller with large requests waits for memory like its first one, when its head is there.
        if let Err(refusal) = room.resize_or_move(needed, &self.network) {
            *head = Head { refusal: Some(refusal), ..Head::default() };
        }
    }
    /// Whether so much of a head has arrived that it is counted as memory.
    pub fn has_large_head(&self) -> bool {
        self.head().bytes >= HEAD
    }
    /// Marks the head as complete; its memory now belongs to the request. The error is the reason why there is none.
    pub fn head_is_there(&self) -> Result<Option<Room>, ApiError> {
        let Head { room, refusal, .. } = std::mem::take(&mut *self.head());
        refusal.map_or(Ok(()), Err)?;
        Ok(room.inspect(Room::stops_waiting))
    }

    /// Counts frames that have arrived in HTTP/2. Bytes that are not read immediately need memory.
    pub fn frames_arrive(self: &Arc<Self>, bytes: usize, memory: &Arc<RequestMemory>) -> Frames {
        let mut head = self.head();
        head.bytes += bytes;
        let needed = head.bytes;
        match needed {
            ..=HEAD => Frames::Fit,
            _ if needed > FRAMES => Frames::TooMany,
            _ if self.count(&mut head, needed, memory).is_err() => Frames::NoRoom,
            _ if needed > CALM && bytes > 0 => Frames::Slowly,
            _ => Frames::Fit,
        }
    }
    /// Notes that `bytes` bytes of what has arrived in HTTP/2 were read as part of a body or taken as a head.
    pub fn frames_are_read(&self, bytes: usize) {
        let mut head = self.head();
        head.bytes = head.bytes.saturating_sub(bytes + BESIDE);
        if head.bytes <= HEAD {
            head.room = None;
        } else if let Some(room) = &head.room {
            let _ = room.resize(head.bytes.min(room.bytes()));
            // The caller has sent something that was read, so the waiting time starts again.
            room.waits(Waits::Body);
        }
    }

    fn count(self: &Arc<Self>, head: &mut Head, bytes: usize, memory: &Arc<RequestMemory>) -> Result<(), ApiError> {
        self.room_of(head, Waits::Body, memory).resize(bytes)
    }

    /// The memory that holds what has arrived. From now on it counts as waiting for `what`, since the bytes that have
    /// just arrived may complete a head.
    fn room_of<'h>(self: &Arc<Self>, head: &'h mut Head, what: Waits, memory: &Arc<RequestMemory>) -> &'h Room {
        let room = head.room.get_or_insert_with(|| {
            let room = memory.empty(self.owner(), self.evict());
            room.waits(what);
            room
        });
        room.waits_now(what);
        room
    }

    /// Notes that everything that has arrived was processed. What is left of it, while no request is in process, is a
    /// head whose rest has not arrived.
    pub fn rests(&self) {
        let head = self.head();
        if self.is_working() {
            return;
        }
        if head.refusal.is_some() {
            self.close();
        } else if let Some(room) = &head.room {
            room.waits_now(Waits::Head);
        }
    }
}

/// Closes a connection when another owner needs its memory.
struct Closing(Weak<Activity>);

impl Evict for Closing {
    fn evict(&self) {
        if let Some(activity) = self.0.upgrade() {
            activity.close();
        }
    }
}

/// While this exists, nothing is read from the connection: without that, hyper would read the first part of a body
/// before there is memory for it.
pub struct Pause(Arc<Activity>);

impl Pause {
    /// Creates a pause of reading from the connection with this activity.
    pub fn new(activity: &Arc<Activity>) -> Self {
        activity.is_paused.store(true, Ordering::SeqCst);
        Self(Arc::clone(activity))
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.0.is_paused.store(false, Ordering::SeqCst);
        self.0.reader.wake();
    }
}

/// Keeps one of an activity's counters incremented while it exists.
pub struct Counted(Arc<Activity>, fn(&Activity) -> &AtomicUsize);

impl Counted {
    fn new(activity: &Arc<Activity>, counter: fn(&Activity) -> &AtomicUsize) -> Self {
        counter(activity).fetch_add(1, Ordering::Relaxed);
        activity.go_on();
        Self(Arc::clone(activity), counter)
    }
    /// Counts a request in process.
    pub fn request(activity: &Arc<Activity>) -> Self {
        Self::new(activity, |activity| &activity.working)
    }
    /// Notes progress if `bytes` is not 0.
    pub fn go_on(&self, bytes: usize) {
        if bytes > 0 {
            self.0.go_on();
        }
    }
    /// Counts a request body that is arriving.
    pub fn body(activity: &Arc<Activity>) -> Self {
        Self::new(activity, |activity| &activity.arriving)
    }
    /// Counts a response that is being sent.
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

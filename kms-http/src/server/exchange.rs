//! Streams of HTTP/2 connections. Each stream carries one request and its response. A stream that makes no progress or
//! whose memory is needed by another owner is reset without closing the connection.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::rt::Executor;
use tokio::sync::Notify;

use super::activity::Activity;
use crate::request::memory::Evict;

/// A connection is closed when the number of streams that the caller reset exceeds the number of answered ones by more
/// than this.
const RESETS: usize = 256;

/// One HTTP/2 stream.
pub struct Exchange {
    begun: Instant,
    /// Milliseconds from `begun` to the latest progress.
    last: AtomicU64,
    /// Whether the response is ready.
    is_answered: AtomicBool,
    /// Whether the connection has taken the response: not if the caller reset the stream before.
    is_delivered: AtomicBool,
    over: Notify,
}

impl Exchange {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            last: AtomicU64::new(0),
            is_answered: AtomicBool::new(false),
            is_delivered: AtomicBool::new(false),
            over: Notify::new(),
        }
    }

    /// Marks the response as ready to be sent.
    pub fn answered(&self) {
        self.is_answered.store(true, Ordering::Relaxed);
        self.go_on();
    }

    /// Marks the response as taken by the connection; a stream that the caller reset earlier never gets here.
    pub fn delivered(&self) {
        self.is_delivered.store(true, Ordering::Relaxed);
    }

    /// Notes that a part of the response was sent.
    pub fn go_on(&self) {
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    /// Waits until the stream must be reset: another owner needs its memory, or no part of its response was sent for
    /// `limit`. Requests have limits of their own.
    async fn over(&self, limit: Duration) {
        loop {
            let silent = self.begun.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)));
            let is_answered = self.is_answered.load(Ordering::Relaxed);
            if is_answered && silent >= limit {
                return;
            }
            let pause = if is_answered { limit - silent } else { limit };
            if tokio::time::timeout(pause, self.over.notified()).await.is_ok() {
                return;
            }
        }
    }
}

impl Evict for Exchange {
    fn evict(&self) {
        self.over.notify_one();
    }
}

/// The streams of a connection. As hyper's executor, this spawns the future of each stream; dropping that future resets
/// the stream.
#[derive(Clone)]
pub struct Streams(Arc<Inner>);

struct Inner {
    activity: Arc<Activity>,
    /// How long a response may wait without being read by the caller.
    limit: Duration,
    /// The stream whose request was handled last, until its future is spawned.
    next: Mutex<Option<Arc<Exchange>>>,
    /// The number of streams that the caller reset before they were answered, minus the number of answered ones; never
    /// negative.
    resets: AtomicUsize,
}

impl Streams {
    /// The streams of a new connection; `limit` is how long a response may wait without progress.
    pub fn new(activity: Arc<Activity>, limit: Duration) -> Self {
        Self(Arc::new(Inner { activity, limit, next: Mutex::default(), resets: AtomicUsize::new(0) }))
    }

    /// A stream whose request is about to be handled. Its future is the next one that is spawned.
    pub fn begin(&self) -> Arc<Exchange> {
        let exchange = Arc::new(Exchange::new());
        *self.0.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&exchange));
        exchange
    }

    /// Counts a stream that was not reset by this service as answered or as reset by the caller.
    fn ended(&self, exchange: &Exchange) {
        let Inner { resets, activity, .. } = &*self.0;
        if exchange.is_delivered.load(Ordering::Relaxed) {
            let _ = resets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |resets| resets.checked_sub(1));
        } else if resets.fetch_add(1, Ordering::Relaxed) >= RESETS {
            activity.close();
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, future: F) {
        let Some(exchange) = self.0.next.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            tokio::spawn(future);
            return;
        };
        let streams = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = future => streams.ended(&exchange),
                () = exchange.over(streams.0.limit) => {}
            }
        });
    }
}

#[cfg(test)]
#[path = "../../tests/unit/exchange.rs"]
mod tests;

//! The streams of HTTP/2 connections, each with one request and its answer. A stream that makes no progress, or whose
//! memory another owner needs, ends alone, with a reset; the connection stays.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::rt::Executor;
use tokio::sync::Notify;

use super::activity::Activity;
use crate::request::memory::Evict;

/// A connection on which more streams than this were reset by the caller, beyond those that were answered, is closed.
const RESETS: usize = 256;

/// One stream.
pub struct Exchange {
    begun: Instant,
    /// Milliseconds from `begun` to the last progress.
    last: AtomicU64,
    /// Whether the answer is made, and whether it was asked for: not if the stream was reset before.
    is_answered: AtomicBool,
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

    /// The answer is made, and waits to be taken.
    pub fn answered(&self) {
        self.is_answered.store(true, Ordering::Relaxed);
        self.go_on();
    }

    /// The answer is sent.
    pub fn delivered(&self) {
        self.is_delivered.store(true, Ordering::Relaxed);
    }

    /// A part of the answer has been taken.
    pub fn go_on(&self) {
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    /// Waits until the stream is to be reset: its memory is needed, or nothing of its answer was taken for too long.
    /// Requests have other limits.
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

/// The streams of a connection. It spawns what hyper makes of each; a future that is dropped resets its stream.
#[derive(Clone)]
pub struct Streams(Arc<Inner>);

struct Inner {
    activity: Arc<Activity>,
    /// How long an answer may wait to be taken.
    limit: Duration,
    /// The stream whose request was handled last, until its future is spawned.
    next: Mutex<Option<Arc<Exchange>>>,
    /// Streams that were reset by the caller before they were answered, less those that were answered.
    resets: AtomicUsize,
}

impl Streams {
    /// The streams of a new connection.
    pub fn new(activity: Arc<Activity>, limit: Duration) -> Self {
        Self(Arc::new(Inner { activity, limit, next: Mutex::default(), resets: AtomicUsize::new(0) }))
    }

    /// A stream whose request is about to be handled. Its future is the next that is spawned.
    pub fn begin(&self) -> Arc<Exchange> {
        let exchange = Arc::new(Exchange::new());
        *self.0.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&exchange));
        exchange
    }

    /// Notes how a stream ended by itself.
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

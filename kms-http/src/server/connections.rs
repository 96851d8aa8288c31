//! Connections that are open: counted, bounded, and closed when they do nothing and there are too many.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::metrics;

/// A connection that has been silent for less than this is not closed to make room: its answer may be on its way.
const FRESH: u64 = 500;

/// All that are open.
pub struct Connections {
    most: usize,
    begun: Instant,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Activity>>>,
    none_left: Notify,
    counters: metrics::Connections,
}

/// What is going on on a connection.
pub struct Activity {
    begun: Instant,
    requests: AtomicUsize,
    /// Milliseconds from `begun` to when it last began or ended something.
    last: AtomicU64,
    close: Notify,
}

/// One that is open; no longer when dropped.
pub struct Connection {
    id: u64,
    all: Arc<Connections>,
    activity: Arc<Activity>,
}

impl Connections {
    /// Room for so many.
    pub fn new(most: usize, counters: metrics::Connections) -> Self {
        Self {
            most,
            begun: Instant::now(),
            next: AtomicU64::new(0),
            open: Mutex::default(),
            none_left: Notify::new(),
            counters,
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u64, Arc<Activity>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new one. If there are too many, the one that has been silent longest makes room; none if all are busy.
    pub fn open_one(self: &Arc<Self>) -> Option<Connection> {
        self.counters.accepted.inc();
        let activity = Arc::new(Activity {
            begun: self.begun,
            requests: AtomicUsize::new(0),
            last: AtomicU64::new(millis(self.begun)),
            close: Notify::new(),
        });
        let mut open = self.all();
        if open.len() >= self.most {
            self.counters.evicted.inc();
            let now = millis(self.begun);
            let silent = open.iter().filter(|(_, other)| other.is_idle() && other.last() + FRESH < now);
            let id = *silent.min_by_key(|(_, other)| other.last())?.0;
            if let Some(other) = open.remove(&id) {
                other.close.notify_one();
            }
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        open.insert(id, Arc::clone(&activity));
        Some(Connection { id, all: Arc::clone(self), activity })
    }

    /// Closes those that have done nothing for this long.
    pub fn close_silent(&self, limit: Duration) {
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let now = millis(self.begun);
        for activity in self.all().values() {
            if activity.is_idle() && activity.last().saturating_add(limit) < now {
                activity.close.notify_one();
            }
        }
    }

    /// How many there are.
    pub fn open(&self) -> usize {
        self.all().len()
    }

    /// Waits until there are none.
    pub async fn empty(&self) {
        loop {
            let none_left = self.none_left.notified();
            if self.open() == 0 {
                return;
            }
            none_left.await;
        }
    }
}

impl Connection {
    /// What is going on on it.
    pub fn activity(&self) -> Arc<Activity> {
        Arc::clone(&self.activity)
    }
    /// Waits until it is to be closed.
    pub async fn closed(&self) {
        self.activity.close.notified().await;
    }
    /// Whether no request is being worked on, and no answer has been taken for a moment.
    pub fn is_quiet(&self) -> bool {
        self.activity.is_idle() && self.activity.last() + FRESH <= millis(self.all.begun)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut open = self.all.all();
        open.remove(&self.id);
        if open.is_empty() {
            // Kept for a waiter that is only about to wait.
            self.all.none_left.notify_one();
        }
    }
}

impl Activity {
    /// A request has begun.
    pub fn begin(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }
    /// A request has been answered.
    pub fn end(&self) {
        self.go_on();
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }
    /// A part of an answer has been taken.
    pub fn go_on(&self) {
        self.last.store(millis(self.begun), Ordering::Relaxed);
    }
    fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }
    fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "../../tests/unit/connections.rs"]
mod tests;

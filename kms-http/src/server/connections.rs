//! Connections that are open: counted, bounded, and closed when they do nothing and there are too many.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::activity::Activity;
use crate::metrics;
use crate::request::Caller;

/// A connection that has been silent for less than this is not closed to make room: its answer may be on its way.
const FRESH: Duration = Duration::from_millis(500);
/// Without progress for this long, an HTTP/2 connection with nothing to do does not delay shutting down.
const QUIET: Duration = Duration::from_secs(2);
/// One connection in so many is closed at once to make room, so that not every new one has to look at all.
const SHARE: usize = 128;

/// All that are open.
pub struct Connections {
    most: usize,
    begun: Instant,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Activity>>>,
    none_left: Notify,
    counters: metrics::Connections,
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

    /// A new one. If there are too many, others are closed; none if no other may be.
    pub fn open_one(self: &Arc<Self>, caller: Caller) -> Option<Connection> {
        self.counters.accepted.inc();
        let activity = Arc::new(Activity::new(self.begun, caller));
        let mut open = self.all();
        if open.len() >= self.most {
            let closed = to_close(&open, open.len().div_ceil(SHARE));
            self.counters.evicted.inc_by(closed.len().max(1) as u64);
            for id in &closed {
                if let Some(other) = open.remove(id) {
                    other.close();
                }
            }
            if closed.is_empty() {
                return None;
            }
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        open.insert(id, Arc::clone(&activity));
        Some(Connection { id, all: Arc::clone(self), activity })
    }

    /// Closes those that have made no progress for this long while no request is worked on.
    pub fn close_silent(&self, limit: Duration) {
        for activity in self.all().values() {
            if !activity.is_working() && activity.silent() > limit {
                activity.close();
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

/// A connection that may be closed to make room.
struct Candidate {
    id: u64,
    is_idle: bool,
    silent: Duration,
}

/// Which connections to close to make room: of the caller with the most, those that have been idle longest. A busy one
/// only of a caller that has more than twice as many as any caller with idle ones.
fn to_close(open: &HashMap<u64, Arc<Activity>>, most: usize) -> Vec<u64> {
    let mut callers: HashMap<Option<Arc<str>>, Vec<Candidate>> = HashMap::new();
    for (id, activity) in open {
        let candidate = Candidate { id: *id, is_idle: activity.is_idle(), silent: activity.silent() };
        if !candidate.is_idle || candidate.silent > FRESH {
            callers.entry(activity.caller()).or_default().push(candidate);
        }
    }
    let has_idle = |connections: &&Vec<Candidate>| connections.iter().any(|one| one.is_idle);
    let idle = callers.values().filter(has_idle).max_by_key(|connections| connections.len());
    let largest = callers.values().max_by_key(|connections| connections.len());
    let is_greedy = |busy: &&Vec<Candidate>| callers.len() > 1 && busy.len() > 2 * idle.map_or(0, Vec::len);
    let (of, is_idle, most) = match (largest.filter(is_greedy), idle) {
        (Some(busy), _) if !has_idle(&busy) => (busy, false, 1),
        (_, Some(idle)) => (idle, true, most),
        _ => return Vec::new(),
    };
    let mut of: Vec<&Candidate> = of.iter().filter(|one| one.is_idle == is_idle).collect();
    of.sort_by_key(|one| std::cmp::Reverse(one.silent));
    of.into_iter().take(most).map(|one| one.id).collect()
}

impl Connection {
    /// What is going on on it.
    pub fn activity(&self) -> Arc<Activity> {
        Arc::clone(&self.activity)
    }
    /// Waits until it is to be closed.
    pub async fn closed(&self) {
        self.activity.closed().await;
    }
    /// Whether nothing is going on on it: no request is worked on, and no answer is being sent.
    pub fn is_quiet(&self) -> bool {
        self.activity.is_idle() && self.activity.silent() > QUIET
    }
    /// Whether no request is worked on, and no answer makes progress.
    pub fn is_stuck(&self, limit: Duration) -> bool {
        !self.activity.is_working() && self.activity.silent() > limit
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

#[cfg(test)]
#[path = "../../tests/unit/connections.rs"]
mod tests;

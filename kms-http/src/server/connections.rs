//! Connections that are open: counted, bounded, and shared fairly by owner when there are too many.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::activity::Activity;
use crate::metrics;
use crate::request::Caller;
use crate::request::owner::Owner;

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

    /// A new one. If there are too many, others are closed: of the owner with the most. None if that is the new one's
    /// own, and all of its connections are in use.
    pub fn open_one(self: &Arc<Self>, caller: Caller) -> Option<Connection> {
        self.counters.accepted.inc();
        let owner = caller.get();
        let activity = Arc::new(Activity::new(self.begun, caller));
        let mut open = self.all();
        if open.len() >= self.most {
            let closed = to_close(&open, &owner, open.len().div_ceil(SHARE));
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
                activity.finish();
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

/// In which order connections of one owner are closed to make room.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// Nothing is going on on it, and has not for a while.
    Idle,
    /// It waits for its caller to send a body or to take an answer.
    Waiting,
    /// A request is worked on.
    Working,
    /// It was opened or used just now.
    Fresh,
}

/// A connection that may be closed to make room.
struct Candidate {
    id: u64,
    of: Use,
    silent: Duration,
}

impl Candidate {
    fn new(id: u64, activity: &Activity) -> Self {
        let silent = activity.silent();
        let of = match activity {
            activity if activity.is_arriving() || activity.is_sending() => Use::Waiting,
            activity if activity.is_working() => Use::Working,
            _ if silent > FRESH => Use::Idle,
            _ => Use::Fresh,
        };
        Self { id, of, silent }
    }
}

/// Which connections to close to make room for one of `newcomer`: of the owner with the most, those that have been idle
/// longest, else idle ones of an owner with at least half as many. If there are none, the owner with the most loses
/// one in use, unless that is the newcomer's own; then only one that has waited for its caller for a while.
fn to_close(open: &HashMap<u64, Arc<Activity>>, newcomer: &Owner, most: usize) -> Vec<u64> {
    let mut owners: HashMap<Owner, Vec<Candidate>> = HashMap::new();
    for (id, activity) in open {
        owners.entry(activity.owner()).or_default().push(Candidate::new(*id, activity));
    }
    let own = owners.get(newcomer).map_or(0, Vec::len);
    // Of two with as many, the one that nobody knows.
    let size = |(owner, connections): &(&Owner, &Vec<Candidate>)| (connections.len(), !owner.is_known());
    let has_idle = |(_, connections): &(&Owner, &Vec<Candidate>)| connections.iter().any(|one| one.of == Use::Idle);
    let Some((largest, connections)) = owners.iter().max_by_key(size) else { return Vec::new() };
    let idle = owners.iter().filter(has_idle).max_by_key(size).map(|(_, connections)| connections);
    if let Some(idle) = idle.filter(|idle| 2 * idle.len() >= connections.len()) {
        return longest(idle, most, |one| one.of == Use::Idle);
    }
    if largest == newcomer {
        return longest(connections, 1, |one| one.of == Use::Waiting && one.silent > FRESH);
    }
    // It keeps more than the newcomer has.
    let most = most.min((connections.len().saturating_sub(own)).div_ceil(2));
    longest(connections, most, |_| true)
}

/// So many of these connections: first those with the least going on, of these the ones that were silent longest; of
/// those that are worked on, the ones that began last.
fn longest(connections: &[Candidate], most: usize, may: impl Fn(&Candidate) -> bool) -> Vec<u64> {
    let mut of: Vec<&Candidate> = connections.iter().filter(|one| may(one)).collect();
    of.sort_by_key(|one| {
        let silent = if one.of < Use::Working { one.silent } else { Duration::ZERO };
        (one.of, std::cmp::Reverse((silent, one.id)))
    });
    of.into_iter().take(most).map(|one| one.id).collect()
}

impl Connection {
    /// What is going on on it.
    pub fn activity(&self) -> Arc<Activity> {
        Arc::clone(&self.activity)
    }
    /// Waits until it is to be closed at once.
    pub async fn closed(&self) {
        self.activity.closed().await;
    }
    /// Waits until it is to end, in order: it has been silent for too long.
    pub async fn finished(&self) {
        self.activity.finished().await;
    }
    /// Waits until it is to be closed in one way or the other.
    pub async fn over(&self) {
        tokio::select! {
            () = self.closed() => {}
            () = self.finished() => {}
        }
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

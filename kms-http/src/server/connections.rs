//! The open connections: counted, limited, and shared fairly between owners when the limit is reached.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::activity::Activity;
use crate::metrics;
use crate::request::Caller;
use crate::request::owner::Owner;

/// An idle connection with progress during this time is closed to make room only after all others; its response may be
/// on its way.
const FRESH: Duration = Duration::from_millis(500);
/// An HTTP/2 connection without requests delays shutdown only until it has been silent for this long.
const QUIET: Duration = Duration::from_secs(2);
/// Beyond 1/`CROWD` of the maximum number, connections are a crowd.
const CROWD: usize = 8;
/// When the limit is reached, 1/`SHARE` of the connections are closed at once, so that not every new connection has to
/// search all of them.
const SHARE: usize = 32;

/// All open connections.
pub struct Connections {
    most: usize,
    begun: Instant,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Activity>>>,
    none_left: Notify,
    crowd: Crowd,
    counters: metrics::Connections,
}

/// Whether so many connections are open that callers which may be gone are waited for less. Clones share the value.
#[derive(Clone, Debug, Default)]
pub struct Crowd(Arc<AtomicBool>);

impl Crowd {
    /// Whether many connections are open now.
    pub fn is_there(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
    /// Notes whether many connections are open now.
    pub fn set(&self, is_there: bool) {
        self.0.store(is_there, Ordering::Relaxed);
    }
}

/// An open connection; removed from the table when dropped.
pub struct Connection {
    id: u64,
    all: Arc<Connections>,
    activity: Arc<Activity>,
}

impl Connections {
    /// A table of at most `most` connections.
    pub fn new(most: usize, counters: metrics::Connections) -> Self {
        Self {
            most,
            begun: Instant::now(),
            next: AtomicU64::new(0),
            open: Mutex::default(),
            none_left: Notify::new(),
            crowd: Crowd::default(),
            counters,
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u64, Arc<Activity>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection. If the limit is reached, connections of the owner with the most are closed. Returns `None` if
    /// that owner is the caller's own and all of its connections are in use.
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
        self.crowd.set(open.len() > self.most / CROWD);
        Some(Connection { id, all: Arc::clone(self), activity })
    }

    /// Gracefully closes connections that have made no progress for `limit` and have no request in process.
    pub fn close_silent(&self, limit: Duration) {
        for activity in self.all().values() {
            if !activity.is_working() && activity.silent() > limit {
                activity.finish();
            }
        }
    }

    /// Whether many connections are open.
    pub fn crowd(&self) -> Crowd {
        self.crowd.clone()
    }

    /// The number of open connections.
    pub fn open(&self) -> usize {
        self.all().len()
    }

    /// Waits until no connection is open.
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

/// The state of a connection, in the order in which connections of one owner are closed to make room.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// No request, no response, and no recent progress.
    Idle,
    /// The connection waits for its caller to send a body or to read a response.
    Waiting,
    /// A request is in process.
    Working,
    /// The connection was opened or used within the last [`FRESH`].
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

/// Selects the connections to close to make room for one of `newcomer`: the longest idle ones of the owner with the
/// most connections, otherwise idle ones of an owner with at least half as many. If there are none, the owner with the
/// most loses connections in use. If that is the newcomer itself, it loses only one that has waited for its caller for
/// a while; a network also one without a request, the longest silent.
///
/// While unauthenticated owners together hold more than half of the connections, only theirs are closed: a caller with
/// many addresses must not cost others their connections by having few of each.
fn to_close(open: &HashMap<u64, Arc<Activity>>, newcomer: &Owner, most: usize) -> Vec<u64> {
    let mut owners: HashMap<Owner, Vec<Candidate>> = HashMap::new();
    for (id, activity) in open {
        owners.entry(activity.owner()).or_default().push(Candidate::new(*id, activity));
    }
    let unknown: usize = owners.iter().filter(|(owner, _)| !owner.is_known()).map(|(_, of)| of.len()).sum();
    if 2 * unknown > open.len() {
        owners.retain(|owner, _| !owner.is_known());
    }
    let own = owners.get(newcomer).map_or(0, Vec::len);
    // Of two owners with the same number, the unauthenticated one counts as larger.
    let size = |(owner, connections): &(&Owner, &Vec<Candidate>)| (connections.len(), !owner.is_known());
    let has_idle = |(_, connections): &(&Owner, &Vec<Candidate>)| connections.iter().any(|one| one.of == Use::Idle);
    let Some((largest, connections)) = owners.iter().max_by_key(size) else { return Vec::new() };
    let idle = owners.iter().filter(has_idle).max_by_key(size).map(|(_, connections)| connections);
    if let Some(idle) = idle.filter(|idle| 2 * idle.len() >= connections.len()) {
        return longest(idle, most, |one| one.of == Use::Idle);
    }
    if largest == newcomer {
        let waiting = longest(connections, 1, |one| one.of == Use::Waiting && one.silent > FRESH);
        if !waiting.is_empty() || newcomer.is_known() {
            return waiting;
        }
        // Callers of a network may have nothing to do with each other: none keeps the others out.
        let fresh = connections.iter().filter(|one| one.of == Use::Fresh);
        return fresh.max_by_key(|one| (one.silent, std::cmp::Reverse(one.id))).map(|one| one.id).into_iter().collect();
    }
    // The owner keeps at least as many connections as the newcomer has.
    let most = most.min((connections.len().saturating_sub(own)).div_ceil(2));
    longest(connections, most, |_| true)
}

/// Selects up to `most` connections: first by [`Use`], then those that were silent longest; of those in process, the
/// newest first.
fn longest(connections: &[Candidate], most: usize, may: impl Fn(&Candidate) -> bool) -> Vec<u64> {
    let mut of: Vec<&Candidate> = connections.iter().filter(|one| may(one)).collect();
    let key = |one: &&Candidate| {
        let silent = if one.of < Use::Working { one.silent } else { Duration::ZERO };
        (one.of, std::cmp::Reverse((silent, one.id)))
    };
    // Not sorted: there may be thousands, and all others wait meanwhile.
    if most < of.len() {
        of.select_nth_unstable_by_key(most, key);
        of.truncate(most);
    }
    of.into_iter().map(|one| one.id).collect()
}

impl Connection {
    /// The activity of this connection.
    pub fn activity(&self) -> Arc<Activity> {
        Arc::clone(&self.activity)
    }
    /// Waits until the connection must close immediately.
    pub async fn closed(&self) {
        self.activity.closed().await;
    }
    /// Waits until the connection must close gracefully, because it has been silent for too long.
    pub async fn finished(&self) {
        self.activity.finished().await;
    }
    /// Waits until the connection must close, immediately or gracefully.
    pub async fn over(&self) {
        tokio::select! {
            () = self.closed() => {}
            () = self.finished() => {}
        }
    }
    /// Whether no request is in process, no response is being sent, and there was no progress for [`QUIET`].
    pub fn is_quiet(&self) -> bool {
        self.activity.is_idle() && self.activity.silent() > QUIET
    }
    /// Whether no request is in process and there was no progress for `limit`.
    pub fn is_stuck(&self, limit: Duration) -> bool {
        !self.activity.is_working() && self.activity.silent() > limit
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut open = self.all.all();
        open.remove(&self.id);
        self.all.crowd.set(open.len() > self.all.most / CROWD);
        if open.is_empty() {
            // `notify_one` stores the permit for a waiter that has not started to wait yet.
            self.all.none_left.notify_one();
        }
    }
}

#[cfg(test)]
#[path = "../../tests/unit/connections.rs"]
mod tests;

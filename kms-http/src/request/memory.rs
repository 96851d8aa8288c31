//! Memory accounting for request heads, request bodies and responses. Memory is charged to the principal that sent the
//! request, and to the caller's network until the principal is known.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::owner::Owner;
use crate::error::ApiError;

/// Reservations up to this size, in bytes, may use all of the memory.
const SMALL: usize = 64 * 1024;
/// The fraction of the memory reserved for small reservations: 1/`LEFT`.
const LEFT: usize = 8;
/// The fraction of the memory reserved for callers that are not authenticated yet: 1/`UNKNOWN`.
const UNKNOWN: usize = 16;
/// A reservation that has waited for its caller for less than this is evicted for another owner only if the memory is
/// exhausted or that owner holds little.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a reservation must have waited before another request from the same network may evict it.
const OWN_PATIENCE: Duration = Duration::from_secs(5);

/// Bytes charged for each HTTP/2 request in addition to its head, body and response. In HTTP/1.1 the limit on
/// connections bounds this overhead.
pub const STREAM: usize = 8 * 1024;
/// Bytes charged for the response to a request that was refused because memory is exhausted.
pub const REFUSAL: usize = 4 * 1024;

/// Ends the task or connection that holds memory which another owner needs.
pub trait Evict: Send + Sync {
    /// Requests the end of the task; its memory is released when the task notices. Called while a lock is held, so it
    /// must not block.
    fn evict(&self);
}

/// An [`Evict`] that does nothing.
pub struct Kept;

impl Evict for Kept {
    fn evict(&self) {}
}

/// The memory for requests and responses, shared by all owners. An owner may hold at most as much as is free, so that
/// no single owner can take everything. If memory is short, the owner that holds the most loses the reservation that
/// has been waiting for its caller longest. Callers that are not authenticated may also replace reservations that their
/// own network has held for a while.
pub struct RequestMemory {
    total: usize,
    state: Mutex<State>,
}

struct State {
    total: usize,
    /// Added to all waiting times by tests.
    waited: Duration,
    free: usize,
    next: u64,
    held: HashMap<Owner, Holding>,
}

/// The memory held by one owner.
#[derive(Default)]
struct Holding {
    bytes: usize,
    /// Reservations that wait for the caller, oldest first: heads and bodies that are arriving, responses that are
    /// being sent.
    waiting: BTreeMap<u64, Waiting>,
}

/// A reservation that waits for its caller.
struct Waiting {
    since: Instant,
    place: Arc<Place>,
}

/// The state of a reservation. Changed only under the lock of the memory.
struct Place {
    bytes: AtomicUsize,
    is_evicted: AtomicBool,
    evict: Arc<dyn Evict>,
}

/// A reservation of bytes for a request or its response. Clones share the reservation; it is released when the last
/// clone is dropped.
#[derive(Clone)]
pub struct Room(Arc<Inner>);

struct Inner {
    memory: Arc<RequestMemory>,
    id: u64,
    place: Arc<Place>,
    owner: Mutex<Owner>,
}

impl RequestMemory {
    /// Memory of `total` bytes.
    pub fn new(total: usize) -> Self {
        Self {
            total,
            state: Mutex::new(State { total, waited: Duration::ZERO, free: total, next: 0, held: HashMap::new() }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty reservation. While it is marked as waiting ([`Room::set_waiting`]), `evict` may be called.
    pub fn empty(self: &Arc<Self>, owner: Owner, evict: Arc<dyn Evict>) -> Room {
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        drop(state);
        let place = Arc::new(Place { bytes: AtomicUsize::new(0), is_evicted: AtomicBool::new(false), evict });
        Room(Arc::new(Inner { memory: Arc::clone(self), id, place, owner: Mutex::new(owner) }))
    }

    /// A reservation of `bytes` bytes.
    pub fn room(self: &Arc<Self>, owner: Owner, bytes: usize, evict: Arc<dyn Evict>) -> Result<Room, ApiError> {
        let room = self.empty(owner, evict);
        room.grow(bytes)?;
        Ok(room)
    }

    /// The number of free bytes.
    #[cfg(test)]
    pub fn free(&self) -> usize {
        self.state().free
    }
}

/// How much an owner may take in addition to what it holds.
#[derive(Clone, Copy)]
enum Limit {
    /// The owner's total must not exceed the free memory, and `left` bytes must stay free for others.
    Share { left: usize },
    /// The owner may take all free memory.
    Free,
}

impl State {
    fn take(&mut self, owner: &Owner, place: &Place, more: usize, limit: Limit) -> Result<(), ApiError> {
        if place.is_evicted.load(Ordering::Relaxed) {
            return Err(ApiError::overloaded(true));
        }
        let left = match limit {
            Limit::Share { left } if owner.is_known() => left.max(self.total / UNKNOWN),
            Limit::Share { left } => left,
            Limit::Free => 0,
        };
        loop {
            let held = self.held.get(owner).map_or(0, |holding| holding.bytes);
            let is_short = more + left > self.free;
            let is_over = matches!(limit, Limit::Share { .. }) && held + more > self.free;
            if !is_short && !is_over {
                break;
            }
            // Reservations that have just begun to wait are evicted last, and only if the memory is exhausted or the
            // owner holds little.
            let wanted = held + more;
            let is_urgent = is_short || wanted <= self.total / LEFT;
            let made_room =
                self.evict(owner, wanted, PATIENCE) || is_urgent && self.evict(owner, wanted, Duration::ZERO);
            if !made_room {
                return Err(ApiError::overloaded(held + more > self.free && more <= self.free));
            }
        }
        self.free -= more;
        place.bytes.fetch_add(more, Ordering::Relaxed);
        self.held.entry(owner.clone()).or_default().bytes += more;
        Ok(())
    }

    /// Evicts the oldest waiting reservation of the owner that holds the most, if it has waited for at least `age`.
    /// Reservations of networks give way to their own next request after [`OWN_PATIENCE`], and to any other owner whose
    /// total is small or no larger than theirs. Reservations of authenticated callers give way only to authenticated
    /// callers with a smaller total. Returns whether a reservation was evicted.
    fn evict(&mut self, of: &Owner, wanted: usize, age: Duration) -> bool {
        let is_small = wanted <= self.total / LEFT;
        let waited = self.waited;
        let may = |owner: &Owner, holding: &Holding| {
            let Some((_, oldest)) = holding.waiting.first_key_value() else { return false };
            let age_of_oldest = oldest.since.elapsed() + waited;
            match owner.is_known() {
                true => owner != of && of.is_known() && holding.bytes > wanted && age_of_oldest >= age,
                false if owner == of => age_of_oldest >= OWN_PATIENCE,
                false => (is_small || holding.bytes >= wanted) && age_of_oldest >= age,
            }
        };
        let holdings = self.held.iter_mut().filter(|(owner, holding)| may(owner, holding));
        let oldest = |holding: &Holding| holding.waiting.first_key_value().map(|(id, _)| std::cmp::Reverse(*id));
        let Some((_, holding)) = holdings.max_by_key(|(_, holding)| (holding.bytes, oldest(holding))) else {
            return false;
        };
        let Some((_, Waiting { place, .. })) = holding.waiting.pop_first() else { return false };
        place.is_evicted.store(true, Ordering::Relaxed);
        let bytes = place.bytes.swap(0, Ordering::Relaxed);
        holding.bytes = holding.bytes.saturating_sub(bytes);
        self.free += bytes;
        place.evict.evict();
        true
    }

    fn give(&mut self, owner: &Owner, place: &Place, bytes: usize) {
        let bytes = bytes.min(place.bytes.load(Ordering::Relaxed));
        place.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.free += bytes;
        if let Some(holding) = self.held.get_mut(owner) {
            holding.bytes = holding.bytes.saturating_sub(bytes);
            if holding.bytes == 0 && holding.waiting.is_empty() {
                self.held.remove(owner);
            }
        }
    }
}

impl Room {
    fn owner(&self) -> MutexGuard<'_, Owner> {
        self.0.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The size of the reservation in bytes.
    pub fn bytes(&self) -> usize {
        self.0.place.bytes.load(Ordering::Relaxed)
    }

    /// Extends the reservation by `more` bytes, within the owner's share.
    pub fn grow(&self, more: usize) -> Result<(), ApiError> {
        let Inner { memory, place, .. } = &*self.0;
        let left = if self.bytes() + more > SMALL { memory.total / LEFT } else { 0 };
        let owner = self.owner();
        memory.state().take(&owner, place, more, Limit::Share { left })
    }

    /// Extends the reservation by `more` bytes from all free memory, for a response that must be sent.
    pub fn grow_beyond_share(&self, more: usize) -> Result<(), ApiError> {
        let Inner { memory, place, .. } = &*self.0;
        let owner = self.owner();
        memory.state().take(&owner, place, more, Limit::Free)
    }

    /// Extends or reduces the reservation to `bytes` bytes.
    pub fn resize(&self, bytes: usize) -> Result<(), ApiError> {
        let now = self.bytes();
        if bytes > now {
            return self.grow(bytes - now);
        }
        let Inner { memory, place, .. } = &*self.0;
        let owner = self.owner();
        memory.state().give(&owner, place, now - bytes);
        Ok(())
    }

    /// Charges the reservation to `new` from now on. If that owner has no memory left, the reservation stays with the
    /// previous owner and the error is returned.
    pub fn move_to(&self, new: &Owner) -> Result<(), ApiError> {
        let Inner { memory, place, id, .. } = &*self.0;
        let mut owner = self.owner();
        if *owner == *new {
            return Ok(());
        }
        let mut state = memory.state();
        let bytes = place.bytes.load(Ordering::Relaxed);
        let waiting = state.held.get_mut(&owner).and_then(|holding| holding.waiting.remove(id));
        state.give(&owner, place, bytes);
        let taken = state.take(new, place, bytes, Limit::Share { left: 0 });
        match taken {
            Ok(()) => *owner = new.clone(),
            // The bytes were released above under the same lock, so they are available.
            Err(_) => drop(state.take(&owner, place, bytes, Limit::Free)),
        }
        if let Some(waiting) = waiting {
            state.held.entry(owner.clone()).or_default().waiting.insert(*id, waiting);
        }
        taken
    }

    /// Marks whether the reservation waits for its caller, in which case it may be evicted for another owner.
    pub fn set_waiting(&self, waits: bool) {
        let Inner { memory, place, id, .. } = &*self.0;
        let owner = self.owner();
        let mut state = memory.state();
        if waits && !place.is_evicted.load(Ordering::Relaxed) {
            let waiting = Waiting { since: Instant::now(), place: Arc::clone(place) };
            state.held.entry(owner.clone()).or_default().waiting.insert(*id, waiting);
        } else if let Some(holding) = state.held.get_mut(&owner) {
            holding.waiting.remove(id);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let owner = self.owner.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.memory.state();
        if let Some(holding) = state.held.get_mut(owner) {
            holding.waiting.remove(&self.id);
        }
        state.give(owner, &self.place, usize::MAX);
    }
}

#[cfg(test)]
#[path = "../../tests/unit/memory.rs"]
mod tests;

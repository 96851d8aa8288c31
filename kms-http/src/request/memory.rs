//! Memory of requests and answers: heads, bodies and answers count, for the principal that sent the request, and for
//! its network until the principal is known.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::owner::Owner;
use crate::error::ApiError;

/// Rooms up to this size may use all of the memory.
const SMALL: usize = 64 * 1024;
/// One part in so many is left to small rooms.
const LEFT: usize = 8;
/// One part in so many is left to callers that are not known yet.
const UNKNOWN: usize = 16;
/// For so long, what waits for a caller is not ended for another owner as long as there is memory.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same for another request from the same network.
const OWN_PATIENCE: Duration = Duration::from_secs(5);

/// What a request takes in HTTP/2 beside its head, body and answer. In HTTP/1.1 the number of connections bounds that.
pub const STREAM: usize = 8 * 1024;
/// What the answer to a request takes that was refused for lack of memory.
pub const REFUSAL: usize = 4 * 1024;

/// Ends what holds memory, because another owner needs it.
pub trait Evict: Send + Sync {
    /// Ends it: the memory is free as soon as the task has noticed. Called under a lock, so it must not wait.
    fn evict(&self);
}

/// Nothing to end.
pub struct Kept;

impl Evict for Kept {
    fn evict(&self) {}
}

/// Memory, shared by owners. An owner may hold no more than is free, so that one alone never has it all. An owner that
/// finds none because others hold much takes it from the one that holds most: what has been waiting for that caller
/// longest is ended. Callers that are not known yet also replace what their own network has held for a while.
pub struct RequestMemory {
    total: usize,
    state: Mutex<State>,
}

struct State {
    total: usize,
    /// For tests, a time that is added to all waiting.
    waited: Duration,
    free: usize,
    next: u64,
    held: HashMap<Owner, Holding>,
}

/// What an owner holds.
#[derive(Default)]
struct Holding {
    bytes: usize,
    /// Rooms of what waits for its caller, the oldest first: heads and bodies that arrive, answers that are taken.
    waiting: BTreeMap<u64, Waiting>,
}

/// What waits for its caller.
struct Waiting {
    since: Instant,
    place: Arc<Place>,
}

/// A room as its memory sees it. Altered under the memory's lock only.
struct Place {
    bytes: AtomicUsize,
    is_evicted: AtomicBool,
    evict: Arc<dyn Evict>,
}

/// Bytes that a request or its answer takes. All clones are the same room; it is given back when the last is dropped.
#[derive(Clone)]
pub struct Room(Arc<Inner>);

struct Inner {
    memory: Arc<RequestMemory>,
    id: u64,
    place: Arc<Place>,
    owner: Mutex<Owner>,
}

impl RequestMemory {
    /// So many bytes.
    pub fn new(total: usize) -> Self {
        Self {
            total,
            state: Mutex::new(State { total, waited: Duration::ZERO, free: total, next: 0, held: HashMap::new() }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A room without bytes. While it waits ([`Room::waits`]), `evict` may be called.
    pub fn empty(self: &Arc<Self>, owner: Owner, evict: Arc<dyn Evict>) -> Room {
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        drop(state);
        let place = Arc::new(Place { bytes: AtomicUsize::new(0), is_evicted: AtomicBool::new(false), evict });
        Room(Arc::new(Inner { memory: Arc::clone(self), id, place, owner: Mutex::new(owner) }))
    }

    /// Room for so many bytes.
    pub fn room(self: &Arc<Self>, owner: Owner, bytes: usize, evict: Arc<dyn Evict>) -> Result<Room, ApiError> {
        let room = self.empty(owner, evict);
        room.grow(bytes)?;
        Ok(room)
    }

    /// How many bytes are free.
    #[cfg(test)]
    pub fn free(&self) -> usize {
        self.state().free
    }
}

/// What an owner may take beside what it holds.
#[derive(Clone, Copy)]
enum Limit {
    /// As much as is free, and so much is left to others.
    Share { left: usize },
    /// All that is free.
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
            // What has only begun to wait goes last, and only if there is no memory, or for an owner with little.
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

    /// Ends the oldest room of the owner with the most bytes, if it has waited for this long. Networks lose it to their
    /// own next request after a while, and to every other owner that wants no more in all than they have, or a small
    /// part of the memory; callers that are known lose it only to known ones that want less in all. Whether there was
    /// one.
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

    /// How many bytes it has.
    pub fn bytes(&self) -> usize {
        self.0.place.bytes.load(Ordering::Relaxed)
    }

    /// Takes so many bytes more.
    pub fn grow(&self, more: usize) -> Result<(), ApiError> {
        let Inner { memory, place, .. } = &*self.0;
        let left = if self.bytes() + more > SMALL { memory.total / LEFT } else { 0 };
        let owner = self.owner();
        memory.state().take(&owner, place, more, Limit::Share { left })
    }

    /// Takes so many bytes more out of all that is free: for an answer that has to be given.
    pub fn grow_beyond_share(&self, more: usize) -> Result<(), ApiError> {
        let Inner { memory, place, .. } = &*self.0;
        let owner = self.owner();
        memory.state().take(&owner, place, more, Limit::Free)
    }

    /// Takes more or gives back, so that it has this many bytes.
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

    /// Charges it to this owner from now on. Without room there, it stays where it is.
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
            // It was there a moment ago.
            Err(_) => drop(state.take(&owner, place, bytes, Limit::Free)),
        }
        if let Some(waiting) = waiting {
            state.held.entry(owner.clone()).or_default().waiting.insert(*id, waiting);
        }
        taken
    }

    /// Whether it waits for its caller, so that it may be ended for another owner.
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

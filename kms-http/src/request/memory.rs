//! Memory accounting for request heads, request bodies and responses. Memory is charged to the principal that sent the
//! request, and to the caller's network until the principal is known.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::owner::Owner;
use super::waiting::{Waiting, WaitingList, Waits};
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
/// How long a reservation must have waited before another request of the same owner may evict it, unless it is an
/// incomplete head.
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
/// no single owner can take everything; only a single call may exceed that. If memory is short, the owner that holds
/// the most loses the reservation that has been waiting for its caller longest. An owner beyond its share first loses
/// what it does not use itself: a network its incomplete heads, a principal the responses that it has not read for a
/// while.
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
    waiting: WaitingList<Arc<Place>>,
    /// The one reservation that may exceed the owner's share.
    beyond: Option<Arc<Place>>,
}

impl Holding {
    /// Whether a reservation other than `place` exceeds the owner's share.
    fn is_beyond_without(&self, place: &Arc<Place>) -> bool {
        self.beyond.as_ref().is_some_and(|beyond| !Arc::ptr_eq(beyond, place))
    }

    /// Notes that `place` no longer exceeds the owner's share.
    fn is_within(&mut self, place: &Place) {
        self.beyond.take_if(|beyond| std::ptr::eq(Arc::as_ptr(beyond), place));
    }
}

/// The state of a reservation. Changed only under the lock of the memory.
struct Place {
    bytes: AtomicUsize,
    is_evicted: AtomicBool,
    /// The turn in [`Holding::waiting`], while the reservation waits.
    turn: AtomicU64,
    evict: Arc<dyn Evict>,
}

/// A reservation of bytes for a request or its response. Clones share the reservation; it is released when the last
/// clone is dropped.
#[derive(Clone)]
pub struct Room(Arc<Inner>);

struct Inner {
    memory: Arc<RequestMemory>,
    place: Arc<Place>,
    owner: Mutex<Owner>,
}

impl RequestMemory {
    /// Memory of `total` bytes.
    pub fn new(total: usize) -> Self {
        // Turns begin at 1: a reservation that never waited has 0.
        let state = State { total, waited: Duration::ZERO, free: total, next: 1, held: HashMap::new() };
        Self { total, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty reservation. While it waits ([`Room::waits`]), `evict` may be called.
    pub fn empty(self: &Arc<Self>, owner: Owner, evict: Arc<dyn Evict>) -> Room {
        let (bytes, is_evicted) = (AtomicUsize::new(0), AtomicBool::new(false));
        let place = Arc::new(Place { bytes, is_evicted, turn: AtomicU64::new(0), evict });
        Room(Arc::new(Inner { memory: Arc::clone(self), place, owner: Mutex::new(owner) }))
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
    /// The same, but one reservation of an owner at a time may take all but `left` bytes. Without that exception,
    /// several large calls of one caller would wait for each other's memory, and all of them would be refused.
    Call { left: usize },
    /// The owner may take all free memory except what is reserved for callers that are not authenticated yet.
    Free,
}

impl State {
    fn take(&mut self, owner: &Owner, place: &Arc<Place>, more: usize, limit: Limit) -> Result<(), ApiError> {
        if place.is_evicted.load(Ordering::Relaxed) {
            return Err(ApiError::overloaded(true));
        }
        let left = match limit {
            Limit::Share { left } | Limit::Call { left } => left,
            Limit::Free => 0,
        };
        let left = if owner.is_known() { left.max(self.total / UNKNOWN) } else { left };
        loop {
            let held = self.held.get(owner).map_or(0, |holding| holding.bytes);
            let is_short = more + left > self.free;
            let is_shared = match limit {
                Limit::Share { .. } => true,
                Limit::Call { .. } => self.held.get(owner).is_some_and(|holding| holding.is_beyond_without(place)),
                Limit::Free => false,
            };
            let is_beyond = held + more > self.free;
            let is_over = is_shared && is_beyond;
            if !is_short && !is_over {
                self.charge(owner, place, more);
                if is_beyond && matches!(limit, Limit::Call { .. }) {
                    self.held.entry(owner.clone()).or_default().beyond = Some(Arc::clone(place));
                }
                return Ok(());
            }
            // Reservations that have just begun to wait are evicted last, and only if the memory is exhausted or the
            // owner holds little.
            let wanted = held + more;
            let is_urgent = is_short || wanted <= self.total / LEFT;
            let made_room = is_over && self.evict_own(owner, place)
                || self.evict_other(owner, wanted, PATIENCE)
                || is_urgent && self.evict_other(owner, wanted, Duration::ZERO)
                || self.evict_own(owner, place);
            if !made_room {
                let of_other_calls = held - place.bytes.load(Ordering::Relaxed).min(held);
                let would_fit = more <= self.free || more + left <= self.free + of_other_calls;
                return Err(ApiError::overloaded(is_beyond && would_fit));
            }
        }
    }

    fn charge(&mut self, owner: &Owner, place: &Place, more: usize) {
        self.free -= more;
        place.bytes.fetch_add(more, Ordering::Relaxed);
        self.held.entry(owner.clone()).or_default().bytes += more;
    }

    /// Evicts a reservation of the owner itself, other than `place`: of a network, an incomplete head or whatever has
    /// waited for [`OWN_PATIENCE`]; of an authenticated caller, a response of which nothing was read for that long.
    /// Returns whether a reservation was evicted.
    fn evict_own(&mut self, owner: &Owner, place: &Place) -> bool {
        let Some(Holding { waiting, .. }) = self.held.get(owner) else { return false };
        let first = |what: Waits| {
            let mut of = waiting.of(what).iter();
            of.find(|(_, waiting)| !std::ptr::eq(Arc::as_ptr(&waiting.place), place))
        };
        let is_old =
            |(_, waiting): &(&u64, &Waiting<Arc<Place>>)| waiting.since.elapsed() + self.waited >= OWN_PATIENCE;
        let response = || first(Waits::Response).filter(is_old);
        let found = match owner.is_known() {
            true => response(),
            false => first(Waits::Head).or_else(response).or_else(|| first(Waits::Body).filter(is_old)),
        };
        let Some((turn, _)) = found else { return false };
        let turn = *turn;
        self.end(owner, turn);
        true
    }

    /// Evicts a waiting reservation of another owner: of the one that holds the most, its oldest, if that has waited
    /// for at least `age`. Owners that hold no more than one request needs are equal; of these, the one whose
    /// reservation has waited longest loses it, incomplete heads first. Reservations of networks give way to any other
    /// owner whose total is small or no larger than theirs, those of authenticated callers only to authenticated
    /// callers with a smaller total. Returns whether a reservation was evicted.
    fn evict_other(&mut self, of: &Owner, wanted: usize, age: Duration) -> bool {
        let is_small = wanted <= self.total / LEFT;
        let may = |owner: &Owner, holding: &Holding| match owner.is_known() {
            true => of.is_known() && holding.bytes > wanted,
            false => is_small || holding.bytes >= wanted,
        };
        let others = self.held.iter().filter(|(owner, holding)| *owner != of && may(owner, holding));
        let candidates = others.filter_map(|(owner, holding)| {
            let (turn, what, oldest) = holding.waiting.oldest()?;
            let excess = if holding.bytes > SMALL { holding.bytes } else { 0 };
            let rank = (excess, what == Waits::Head, Reverse(turn));
            (oldest.since.elapsed() + self.waited >= age).then_some((rank, owner))
        });
        let Some(((_, _, Reverse(turn)), owner)) = candidates.max_by_key(|(rank, _)| *rank) else { return false };
        let owner = owner.clone();
        self.end(&owner, turn);
        true
    }

    /// Evicts this waiting reservation.
    fn end(&mut self, owner: &Owner, turn: u64) {
        let Some(holding) = self.held.get_mut(owner) else { return };
        let Some((_, Waiting { place, .. })) = holding.waiting.remove(turn) else { return };
        place.is_evicted.store(true, Ordering::Relaxed);
        let bytes = place.bytes.swap(0, Ordering::Relaxed);
        holding.is_within(&place);
        holding.bytes = holding.bytes.saturating_sub(bytes);
        self.free += bytes;
        place.evict.evict();
    }

    /// Marks a reservation as waiting from now on.
    fn begin_waiting(&mut self, owner: &Owner, place: &Arc<Place>, what: Waits) {
        let turn = self.next;
        self.next += 1;
        let holding = self.held.entry(owner.clone()).or_default();
        holding.waiting.remove(place.turn.swap(turn, Ordering::Relaxed));
        holding.waiting.insert(turn, what, Waiting { since: Instant::now(), place: Arc::clone(place) });
    }

    fn give(&mut self, owner: &Owner, place: &Place, bytes: usize) {
        let bytes = bytes.min(place.bytes.load(Ordering::Relaxed));
        place.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.free += bytes;
        if let Some(holding) = self.held.get_mut(owner) {
            holding.bytes = holding.bytes.saturating_sub(bytes);
            if holding.bytes <= self.free || place.bytes.load(Ordering::Relaxed) == 0 {
                holding.is_within(place);
            }
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
        self.take(more, Limit::Share { left: self.left(more) })
    }

    /// Whether `more` bytes could be added if the caller had no other requests.
    pub fn could_grow(&self, more: usize) -> bool {
        let total = self.0.memory.total;
        self.bytes() + more + self.left(more).max(total / UNKNOWN) <= total
    }

    /// Extends the reservation of a request by `more` bytes for its response, before any work is done. Unlike
    /// [`Room::grow`], one call of a caller at a time may exceed its share.
    pub fn grow_for_response(&self, more: usize) -> Result<(), ApiError> {
        self.take(more, Limit::Call { left: self.left(more) })
    }

    /// Extends the reservation by `more` bytes from all free memory, for a response that must be sent.
    pub fn grow_beyond_share(&self, more: usize) -> Result<(), ApiError> {
        self.take(more, Limit::Free)
    }

    fn take(&self, more: usize, limit: Limit) -> Result<(), ApiError> {
        let Inner { memory, place, .. } = &*self.0;
        let owner = self.owner();
        memory.state().take(&owner, place, more, limit)
    }

    /// The memory that this reservation must leave to small ones if it grows by `more` bytes.
    fn left(&self, more: usize) -> usize {
        if self.bytes() + more > SMALL { self.0.memory.total / LEFT } else { 0 }
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
        let Inner { memory, place, .. } = &*self.0;
        let mut owner = self.owner();
        if *owner == *new {
            return Ok(());
        }
        let mut state = memory.state();
        let bytes = place.bytes.load(Ordering::Relaxed);
        let turn = place.turn.load(Ordering::Relaxed);
        let waiting = state.held.get_mut(&owner).and_then(|holding| holding.waiting.remove(turn));
        state.give(&owner, place, bytes);
        let taken = state.take(new, place, bytes, Limit::Share { left: 0 });
        match taken {
            Ok(()) => *owner = new.clone(),
            // The bytes were released above under the same lock, so they are available.
            Err(_) => state.charge(&owner, place, bytes),
        }
        if let Some((what, waiting)) = waiting {
            state.held.entry(owner.clone()).or_default().waiting.insert(turn, what, waiting);
        }
        taken
    }

    /// Marks the reservation as waiting for its caller from now on, so that it may be evicted.
    pub fn waits(&self, what: Waits) {
        let Inner { memory, place, .. } = &*self.0;
        let owner = self.owner();
        let mut state = memory.state();
        if !place.is_evicted.load(Ordering::Relaxed) {
            state.begin_waiting(&owner, place, what);
        }
    }

    /// Changes what the reservation waits for, if it waits. The time since when it waits stays the same.
    pub fn waits_now(&self, what: Waits) {
        let Inner { memory, place, .. } = &*self.0;
        let owner = self.owner();
        let mut state = memory.state();
        let turn = place.turn.load(Ordering::Relaxed);
        let Some(Holding { waiting, .. }) = state.held.get_mut(&owner) else { return };
        if let Some((_, found)) = waiting.remove(turn) {
            waiting.insert(turn, what, found);
        }
    }

    /// Marks the reservation as in use, so that it is not evicted.
    pub fn stops_waiting(&self) {
        let Inner { memory, place, .. } = &*self.0;
        let owner = self.owner();
        if let Some(holding) = memory.state().held.get_mut(&owner) {
            holding.waiting.remove(place.turn.load(Ordering::Relaxed));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let owner = self.owner.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.memory.state();
        if let Some(holding) = state.held.get_mut(owner) {
            holding.waiting.remove(self.place.turn.load(Ordering::Relaxed));
        }
        state.give(owner, &self.place, usize::MAX);
    }
}

#[cfg(test)]
#[path = "../../tests/unit/memory.rs"]
mod tests;

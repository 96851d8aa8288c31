//! Memory accounting for request heads, request bodies and responses. Memory is charged to the principal that sent the
//! request, and to the caller's network until the principal is known.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::accounts::{LEFT, Limit, Place, SMALL, State, UNKNOWN};
use super::claims::Rank;
use super::owner::Owner;
use super::waiting::Waits;
use crate::error::ApiError;

pub use super::accounts::{Evict, Kept};

/// Bytes charged for each HTTP/2 request in addition to its head, body and response. In HTTP/1.1 the limit on
/// connections bounds this overhead.
pub const STREAM: usize = 8 * 1024;
/// Bytes charged for the response to a request that was refused because memory is exhausted.
pub const REFUSAL: usize = 4 * 1024;

/// How often the first waiting request of an owner looks for memory, besides whenever some is released.
const LOOK: Duration = Duration::from_millis(500);

/// Number of such looks in a row without hope after which a response is refused.
const STUCK: u32 = 4;

/// The memory for requests and responses, shared by all owners. An owner may hold at most as much as is free, so that
/// no single owner can take everything; only a single call may exceed that. If memory is short, the owner that holds
/// the most loses the reservation that has been waiting for its caller longest. An owner beyond its share first loses
/// what it does not use itself: a network its incomplete heads, a principal the responses that it has not read for a
/// while.
pub struct RequestMemory {
    total: usize,
    state: Mutex<State>,
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
        Self { total, state: Mutex::new(State::new(total)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty reservation. While it waits ([`Room::waits`]), `evict` may be called.
    pub fn empty(self: &Arc<Self>, owner: Owner, evict: Arc<dyn Evict>) -> Room {
        let place = Arc::new(Place::new(evict));
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

    /// Extends the reservation of a request by `more` bytes for its response, if there is room now. Unlike
    /// [`Room::grow`], one call of a caller at a time may exceed its share.
    #[cfg(test)]
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
        let mut owner = self.owner();
        self.0.memory.state().shift(&mut owner, new, &self.0.place, (0, Limit::Share { left: 0 }))
    }

    /// Extends the reservation to `bytes` bytes. If its owner has none left, the reservation is charged to `other` from
    /// now on, and extended.
    pub fn resize_or_move(&self, bytes: usize, other: &Owner) -> Result<(), ApiError> {
        self.resize(bytes).or_else(|error| {
            let more = bytes.saturating_sub(self.bytes());
            let mut owner = self.owner();
            let limit = Limit::Share { left: 0 };
            self.0.memory.state().shift(&mut owner, other, &self.0.place, (more, limit)).map_err(|_| error)
        })
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
        if let Some((_, found)) = state.stop_waiting(&owner, place) {
            state.wait_again(&owner, what, found);
        }
    }

    /// Marks the reservation as in use, so that it is not evicted.
    pub fn stops_waiting(&self) {
        let Inner { memory, place, .. } = &*self.0;
        let owner = self.owner();
        memory.state().stop_waiting(&owner, place);
    }

    /// Whether the memory was given to another request.
    pub fn is_evicted(&self) -> bool {
        self.0.place.is_evicted.load(Ordering::Relaxed)
    }

    /// Until the returned value is dropped, an eviction does not end the request's connection or stream, so that the
    /// request can be answered: see [`Room::evicted`].
    pub fn hears(&self) -> Heard<'_> {
        Heard::new(&self.0.place)
    }

    /// Waits for an eviction.
    pub async fn evicted(&self) {
        while !self.is_evicted() {
            self.0.place.told.notified().await;
        }
    }

    /// A new, empty reservation for the same request.
    pub fn renewed(&self) -> Self {
        self.0.memory.empty(self.owner().clone(), Arc::clone(&self.0.place.evict))
    }

    /// Marks the request as waiting for its turn to be worked on, until the returned value is dropped.
    pub fn idles(&self) -> Idle {
        let (room, bytes) = (self.clone(), self.bytes());
        room.0.memory.state().claims.idle += bytes;
        Idle { room, bytes }
    }

    /// Charges the reservation to `owner` and extends it by `more` bytes for a body. Waits until `end` for the memory:
    /// requests of one owner in the order of their arrival, small ones first. While it waits, the request may be
    /// evicted.
    pub async fn claim_for_body(&self, owner: &Owner, more: usize, end: Instant) -> Result<(), ApiError> {
        let rank = if self.bytes() + more > SMALL { Rank::Large } else { Rank::Small };
        self.claim(owner, rank, (more, Limit::Wait { left: self.left(more) }), end).await
    }

    /// Extends the reservation of a request by `more` bytes for its response, before any work is done, and waits until
    /// `end` for the memory. One call of a caller at a time may exceed its share. Fails soon if the memory cannot be
    /// free before requests end that wait themselves.
    pub async fn claim_for_response(&self, more: usize, end: Instant) -> Result<(), ApiError> {
        let owner = self.owner().clone();
        self.claim(&owner, Rank::Response, (more, Limit::Call { left: self.left(more) }), end).await
    }

    async fn claim(&self, new: &Owner, rank: Rank, wants: (usize, Limit), end: Instant) -> Result<(), ApiError> {
        let mut waiting = match InLine::join(self, new, rank, wants) {
            Joined::Done(done) => return done,
            Joined::InLine(waiting) => waiting,
        };
        loop {
            let is_told = tokio::select! {
                biased;
                () = self.0.place.told.notified() => true,
                () = tokio::time::sleep_until(end) => return Err(waiting.refusal.clone()),
                // With time, more may be evicted.
                () = tokio::time::sleep(LOOK) => false,
            };
            if let Some(done) = waiting.look(is_told) {
                return done;
            }
        }
    }
}

/// While this exists, the request's task learns of an eviction and answers.
pub struct Heard<'a>(&'a Place);

impl<'a> Heard<'a> {
    fn new(place: &'a Place) -> Self {
        place.is_heard.store(true, Ordering::Relaxed);
        Self(place)
    }
}

impl Drop for Heard<'_> {
    fn drop(&mut self) {
        self.0.is_heard.store(false, Ordering::Relaxed);
    }
}

/// While this exists, a request waits for its turn to be worked on.
pub struct Idle {
    room: Room,
    bytes: usize,
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.room.0.memory.state().claims.idle -= self.bytes;
    }
}

/// The outcome of joining the requests that wait for memory.
enum Joined<'a> {
    /// Nothing to wait for.
    Done(Result<(), ApiError>),
    InLine(InLine<'a>),
}

/// A request that waits for memory; it leaves its line when dropped.
struct InLine<'a> {
    room: &'a Room,
    /// The owner that will be charged.
    new: Owner,
    id: u64,
    rank: Rank,
    wants: (usize, Limit),
    /// The bytes that the request held when it began to wait.
    idle: usize,
    /// Why there was no memory at the last attempt.
    refusal: ApiError,
    /// How many times in a row no memory could become free.
    stuck: u32,
    _heard: Heard<'a>,
}

impl<'a> InLine<'a> {
    fn join(room: &'a Room, new: &Owner, rank: Rank, wants: (usize, Limit)) -> Joined<'a> {
        let Inner { memory, place, .. } = &*room.0;
        let mut owner = room.owner();
        let mut state = memory.state();
        let refusal = match state.claims.has_before(new, rank) {
            true => ApiError::overloaded(true),
            false => match state.shift(&mut owner, new, place, wants) {
                Ok(()) => return Joined::Done(Ok(())),
                Err(refusal) => refusal,
            },
        };
        let (more, left) = (wants.0, wants.1.left());
        let idle = place.bytes();
        if place.is_evicted.load(Ordering::Relaxed) {
            return Joined::Done(Err(refusal));
        }
        let heard = Heard::new(place);
        let id = state.claims.join(new, rank, (more, left), Arc::clone(place));
        state.claims.idle += idle;
        if rank != Rank::Response && idle > 0 {
            // Before the caller is known, every other request of its network takes precedence.
            let what = if owner.is_known() { Waits::Body } else { Waits::Head };
            state.begin_waiting(&owner, place, what);
        }
        let new = new.clone();
        Joined::InLine(Self { room, new, id, rank, wants, idle, refusal, stuck: 0, _heard: heard })
    }

    /// Tries again to take the memory. `None` if the request still waits.
    fn look(&mut self, is_told: bool) -> Option<Result<(), ApiError>> {
        let Inner { memory, place, .. } = &*self.room.0;
        let mut owner = self.room.owner();
        let mut state = memory.state();
        if place.is_evicted.load(Ordering::Relaxed) {
            return Some(Err(ApiError::overloaded(true)));
        }
        if !state.claims.is_first(&self.new, self.id) {
            return None;
        }
        match state.shift(&mut owner, &self.new, place, self.wants) {
            Ok(()) => Some(Ok(())),
            Err(refusal) => {
                let (more, left) = (self.wants.0, self.wants.1.left());
                self.refusal = refusal;
                self.stuck = match self.rank == Rank::Response && !state.may_fit_later(more, left) {
                    true => self.stuck + u32::from(!is_told),
                    false => 0,
                };
                (self.stuck >= STUCK).then(|| Err(self.refusal.clone()))
            }
        }
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        let Inner { memory, place, .. } = &*self.room.0;
        let owner = self.room.owner();
        let mut state = memory.state();
        state.claims.leave(&self.new, self.id);
        state.claims.idle -= self.idle;
        state.stop_waiting(&owner, place);
        state.wake();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let owner = self.owner.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.memory.state();
        state.stop_waiting(owner, &self.place);
        state.give(owner, &self.place, usize::MAX);
    }
}

#[cfg(test)]
#[path = "../../tests/unit/memory.rs"]
mod tests;

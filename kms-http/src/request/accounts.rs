//! The accounts of the memory for requests and responses: what each owner holds, and who gives way to whom.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::claims::{Claim, Claims, Rank};
use super::greed::{self, Greed};
use super::owner::Owner;
use super::waiting::{Waiting, WaitingList, Waits};
use crate::error::ApiError;

/// Reservations up to this size, in bytes, may use all of the memory.
pub(super) const SMALL: usize = 64 * 1024;
/// The fraction of the memory reserved for small reservations: 1/`LEFT`.
pub(super) const LEFT: usize = 8;
/// The fraction of the memory reserved for callers that are not authenticated yet: 1/`UNKNOWN`.
pub(super) const UNKNOWN: usize = 16;
/// A reservation that has waited for its caller for less than this is evicted for another owner only if the memory is
/// exhausted or that owner holds little.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a reservation must have waited before another request of the same owner may evict it, unless it is an
/// incomplete head.
pub(super) const OWN_PATIENCE: Duration = Duration::from_secs(5);

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

/// The accounts of all owners.
pub(super) struct State {
    total: usize,
    /// Added to all waiting times by tests.
    pub(super) waited: Duration,
    pub(super) free: usize,
    next: u64,
    pub(super) held: HashMap<Owner, Holding>,
    /// The owners of `held` with waiting reservations.
    pub(super) greed: Greed,
    /// The requests that wait for memory.
    pub(super) claims: Claims<Arc<Place>>,
}

/// The memory held by one owner.
#[derive(Default)]
pub(super) struct Holding {
    bytes: usize,
    pub(super) waiting: WaitingList<Arc<Place>>,
    /// The one reservation that may exceed the owner's share.
    beyond: Option<Arc<Place>>,
    /// The rank under which the owner is found in [`State::greed`].
    ranked: Option<greed::Rank>,
}

impl Holding {
    /// Whether a reservation other than `place` exceeds the owner's share.
    fn is_beyond_without(&self, place: &Arc<Place>) -> bool {
        self.beyond.as_ref().is_some_and(|beyond| !Arc::ptr_eq(beyond, place))
    }

    /// The rank for [`State::greed`]. Owners that hold no more than one request needs are equal in their bytes.
    fn rank(&self) -> Option<greed::Rank> {
        let (turn, what, _) = self.waiting.oldest()?;
        let excess = if self.bytes > SMALL { self.bytes } else { 0 };
        Some((excess, what == Waits::Head, Reverse(turn)))
    }

    /// Notes that `place` no longer exceeds the owner's share.
    fn is_within(&mut self, place: &Place) {
        self.beyond.take_if(|beyond| std::ptr::eq(Arc::as_ptr(beyond), place));
    }
}

/// The state of a reservation. Changed only under the lock of the memory.
pub(super) struct Place {
    pub(super) bytes: AtomicUsize,
    pub(super) is_evicted: AtomicBool,
    /// The turn in [`Holding::waiting`], while the reservation waits.
    pub(super) turn: AtomicU64,
    pub(super) evict: Arc<dyn Evict>,
    /// Whether the request's task learns of an eviction through `told`, so that it can answer; otherwise `evict` is
    /// called.
    pub(super) is_heard: AtomicBool,
    /// Signals an eviction to the request's task, or that the memory that it waits for may be free.
    pub(super) told: Notify,
}

/// How much an owner may take in addition to what it holds.
#[derive(Clone, Copy)]
pub(super) enum Limit {
    /// The owner's total must not exceed the free memory, and `left` bytes must stay free for others.
    Share { left: usize },
    /// The same, for a request that can wait: memory is taken from others only once they have waited for their callers
    /// for a while.
    Wait { left: usize },
    /// As [`Limit::Share`], but one reservation of an owner at a time may take all but `left` bytes. Without that
    /// exception, several large calls of one caller would wait for each other's memory, and all of them would be
    /// refused.
    Call { left: usize },
    /// The owner may take all free memory except what is reserved for callers that are not authenticated yet.
    Free,
}

impl Limit {
    /// The bytes that must stay free for others.
    pub(super) fn left(self) -> usize {
        match self {
            Self::Share { left } | Self::Wait { left } | Self::Call { left } => left,
            Self::Free => 0,
        }
    }
}

impl Place {
    pub(super) fn new(evict: Arc<dyn Evict>) -> Self {
        Self {
            bytes: AtomicUsize::new(0),
            is_evicted: AtomicBool::new(false),
            turn: AtomicU64::new(0),
            evict,
            is_heard: AtomicBool::new(false),
            told: Notify::new(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl State {
    /// Accounts that share `total` bytes of memory.
    pub(super) fn new(total: usize) -> Self {
        // Turns begin at 1: a reservation that never waited has 0.
        Self {
            total,
            waited: Duration::ZERO,
            free: total,
            next: 1,
            held: HashMap::new(),
            greed: Greed::default(),
            claims: Claims::default(),
        }
    }

    pub(super) fn take(
        &mut self,
        owner: &Owner,
        place: &Arc<Place>,
        more: usize,
        limit: Limit,
    ) -> Result<(), ApiError> {
        if place.is_evicted.load(Ordering::Relaxed) {
            return Err(ApiError::overloaded(true));
        }
        if more == 0 {
            return Ok(());
        }
        let left = if owner.is_known() { limit.left().max(self.total / UNKNOWN) } else { limit.left() };
        loop {
            let held = self.held.get(owner).map_or(0, |holding| holding.bytes);
            let is_short = more + left > self.free;
            let is_shared = match limit {
                Limit::Share { .. } | Limit::Wait { .. } => true,
                Limit::Call { .. } => self.held.get(owner).is_some_and(|holding| holding.is_beyond_without(place)),
                Limit::Free => false,
            };
            let is_beyond = held + more > self.free;
            let is_over = is_shared && is_beyond;
            if !is_short && !is_over {
                self.charge(owner, place, more);
                if is_beyond && matches!(limit, Limit::Call { .. }) {
                    self.change(owner, |holding| holding.beyond = Some(Arc::clone(place)));
                }
                return Ok(());
            }
            // Reservations that have just begun to wait are evicted last, and only if the memory is exhausted or the
            // owner holds little.
            let wanted = held + more;
            let can_wait = matches!(limit, Limit::Wait { .. });
            let is_urgent = is_short && !can_wait || wanted <= self.total / LEFT;
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

    /// Charges a reservation to `new` and extends it by `more` bytes. If that owner gets no memory, the reservation
    /// stays as it was.
    pub(super) fn shift(
        &mut self,
        owner: &mut Owner,
        new: &Owner,
        place: &Arc<Place>,
        (more, limit): (usize, Limit),
    ) -> Result<(), ApiError> {
        if *owner == *new {
            return self.take(new, place, more, limit);
        }
        let waiting = self.stop_waiting(owner, place);
        let bytes = place.bytes();
        self.release(owner, place, bytes);
        let taken = self.take(new, place, bytes + more, limit);
        match taken {
            Ok(()) => *owner = new.clone(),
            // The bytes were released above under the same lock, so they are available.
            Err(_) => self.charge(owner, place, bytes),
        }
        if let Some((what, waiting)) = waiting {
            self.wait_again(owner, what, waiting);
        }
        taken
    }

    fn charge(&mut self, owner: &Owner, place: &Place, more: usize) {
        self.free -= more;
        place.bytes.fetch_add(more, Ordering::Relaxed);
        self.change(owner, |holding| holding.bytes += more);
    }

    /// Changes what an owner holds, and its rank.
    fn change<T>(&mut self, owner: &Owner, change: impl FnOnce(&mut Holding) -> T) -> T {
        let holding = self.held.entry(owner.clone()).or_default();
        let changed = change(holding);
        let rank = holding.rank();
        if rank != holding.ranked {
            self.greed.change(owner, holding.ranked, rank);
            holding.ranked = rank;
        }
        if holding.bytes == 0 && holding.waiting.is_empty() {
            self.held.remove(owner);
        }
        changed
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
        let is_old = |holding: &Holding| {
            holding.waiting.oldest().is_some_and(|(_, _, oldest)| oldest.since.elapsed() + self.waited >= age)
        };
        let may = |owner: &Owner| {
            let Some(holding) = self.held.get(owner) else { return false };
            let may = match owner.is_known() {
                true => holding.bytes > wanted,
                false => is_small || holding.bytes >= wanted,
            };
            may && owner != of && is_old(holding)
        };
        let network = self.greed.greediest(false, may);
        let principal = if of.is_known() { self.greed.greediest(true, may) } else { None };
        let greedier = network.into_iter().chain(principal).max_by_key(|(rank, _)| *rank);
        let Some(((_, _, Reverse(turn)), owner)) = greedier else { return false };
        let owner = owner.clone();
        self.end(&owner, turn);
        true
    }

    /// Evicts this waiting reservation.
    fn end(&mut self, owner: &Owner, turn: u64) {
        let ended = self.change(owner, |holding| {
            let (_, Waiting { place, .. }) = holding.waiting.remove(turn)?;
            place.is_evicted.store(true, Ordering::Relaxed);
            let bytes = place.bytes.swap(0, Ordering::Relaxed);
            holding.is_within(&place);
            holding.bytes = holding.bytes.saturating_sub(bytes);
            Some((place, bytes))
        });
        let Some((place, bytes)) = ended else { return };
        self.free += bytes;
        match place.is_heard.load(Ordering::Relaxed) {
            true => place.told.notify_one(),
            false => place.evict.evict(),
        }
    }

    /// Marks a reservation as waiting from now on.
    pub(super) fn begin_waiting(&mut self, owner: &Owner, place: &Arc<Place>, what: Waits) {
        let turn = self.next;
        self.next += 1;
        self.change(owner, |holding| {
            holding.waiting.remove(place.turn.swap(turn, Ordering::Relaxed));
            holding.waiting.insert(turn, what, Waiting { since: Instant::now(), place: Arc::clone(place) });
        });
    }

    /// Marks a reservation as waiting for `what`, since when it waited before.
    pub(super) fn wait_again(&mut self, owner: &Owner, what: Waits, waiting: Waiting<Arc<Place>>) {
        let turn = waiting.place.turn.load(Ordering::Relaxed);
        self.change(owner, |holding| holding.waiting.insert(turn, what, waiting));
    }

    /// Marks a reservation as in use. Returns what it waited for, if it did.
    pub(super) fn stop_waiting(&mut self, owner: &Owner, place: &Place) -> Option<(Waits, Waiting<Arc<Place>>)> {
        let turn = place.turn.load(Ordering::Relaxed);
        self.held.contains_key(owner).then(|| self.change(owner, |holding| holding.waiting.remove(turn)))?
    }

    /// Releases bytes of a reservation, and tells a request that waits for them.
    pub(super) fn give(&mut self, owner: &Owner, place: &Place, bytes: usize) {
        self.release(owner, place, bytes);
        self.wake();
    }

    fn release(&mut self, owner: &Owner, place: &Place, bytes: usize) {
        let bytes = bytes.min(place.bytes());
        place.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.free += bytes;
        if self.held.contains_key(owner) {
            let free = self.free;
            self.change(owner, |holding| {
                holding.bytes = holding.bytes.saturating_sub(bytes);
                if holding.bytes <= free || place.bytes() == 0 {
                    holding.is_within(place);
                }
            });
        }
    }

    /// Wakes the next request for which there is memory. Once that request has taken its memory, it wakes the one after
    /// it.
    pub(super) fn wake(&mut self) {
        let Self { claims, held, free, total, .. } = self;
        let fits = |owner: &Owner, claim: &Claim<Arc<Place>>| {
            let least = if owner.is_known() { *total / UNKNOWN } else { 0 };
            let holding = held.get(owner);
            let is_beyond = || holding.map_or(0, |holding| holding.bytes) + claim.more > *free;
            let is_over = match claim.rank {
                Rank::Response => holding.is_some_and(|holding| holding.is_beyond_without(&claim.place)),
                Rank::Small | Rank::Large => true,
            };
            claim.more + claim.left.max(least) <= *free && !(is_over && is_beyond())
        };
        if let Some(place) = claims.next(fits) {
            place.told.notify_one();
        }
    }

    /// Whether `more` bytes, and `left` beside them, will be free once all requests are done that do not wait
    /// themselves. Otherwise requests may wait for each other.
    pub(super) fn may_fit_later(&self, more: usize, left: usize) -> bool {
        more + left.max(self.total / UNKNOWN) + self.claims.idle <= self.total
    }
}

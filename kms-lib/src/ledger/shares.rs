//! The places in the ledger's queue, and how many of them each principal holds.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::types::error::{Error, ErrorCode, Result};

/// The lane of the queue that an operation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Cryptographic operations and refusals.
    Use,
    /// Changes: revocations must get through when all other operations are blocked.
    Change,
}

/// The places of each lane, and the principals that hold them.
pub struct Shares {
    uses: Mutex<Places>,
    changes: Mutex<Places>,
}

/// The places of a lane.
struct Places {
    /// The number of places that no principal holds.
    free: usize,
    is_closed: bool,
    /// The principals that hold places.
    held_by: HashMap<Arc<str>, Arc<Holder>>,
}

/// A principal that holds places. One reference to this is all that an operation on its way to the ledger needs: the
/// threads of callers and of the ledger would slow each other down by counting several.
struct Holder {
    shares: Arc<Shares>,
    lane: Lane,
    principal: Arc<str>,
    /// The number of its places. It changes only while the places of the lane are locked.
    places: AtomicUsize,
}

impl Shares {
    /// As many places as this for uses and for changes.
    pub fn new(uses: usize, changes: usize) -> Self {
        let places = |free| Mutex::new(Places { free, is_closed: false, held_by: HashMap::new() });
        Self { uses: places(uses), changes: places(changes) }
    }

    /// Takes a place for a principal. Fails with `Overloaded` if no place is free, and with `CallerOverloaded` if the
    /// principal already holds as many places as are free: a single one gets half of them, two get a third each, so
    /// that there is always room for another principal.
    pub fn take(self: &Arc<Self>, lane: Lane, principal: &str) -> Result<Share> {
        let mut places = self.of(lane);
        if places.is_closed {
            return Err(closed());
        }
        if places.free == 0 {
            let text = "too many operations in flight; nothing was done, retry later";
            return Err(Error::new(ErrorCode::Overloaded, text));
        }
        let holder = match places.held_by.get(principal) {
            Some(holder) if holder.places.load(Ordering::Relaxed) >= places.free => {
                let text = "too many operations in flight for this caller; nothing was done, retry later";
                return Err(Error::new(ErrorCode::CallerOverloaded, text));
            }
            Some(holder) => Arc::clone(holder),
            None => {
                let principal: Arc<str> = Arc::from(principal);
                let (shares, places_of_it) = (Arc::clone(self), AtomicUsize::new(0));
                let holder = Holder { shares, lane, principal: Arc::clone(&principal), places: places_of_it };
                Arc::clone(places.held_by.entry(principal).or_insert_with(|| Arc::new(holder)))
            }
        };
        places.free -= 1;
        holder.places.fetch_add(1, Ordering::Relaxed);
        Ok(Share { holder, places: 1 })
    }

    /// Gives no more places.
    pub fn close(&self) {
        for lane in [Lane::Use, Lane::Change] {
            self.of(lane).is_closed = true;
        }
    }

    fn of(&self, lane: Lane) -> MutexGuard<'_, Places> {
        let places = if lane == Lane::Change { &self.changes } else { &self.uses };
        places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that a principal holds until this is dropped, or several of its places.
pub struct Share {
    holder: Arc<Holder>,
    /// Zero after another share has taken over the place.
    places: usize,
}

impl Share {
    /// The principal that holds the place.
    pub fn holder(&self) -> &Arc<str> {
        &self.holder.principal
    }

    /// Takes over the places of a share of the same holder, so that the lane is locked only once when they end. Returns
    /// whether the holder is the same.
    pub fn absorb(&mut self, other: &mut Self) -> bool {
        let is_same = Arc::ptr_eq(&self.holder, &other.holder);
        if is_same {
            self.places += std::mem::take(&mut other.places);
        }
        is_same
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.places == 0 {
            return;
        }
        let Holder { shares, lane, principal, places: held } = &*self.holder;
        let mut places = shares.of(*lane);
        places.free += self.places;
        let removed = match held.fetch_sub(self.places, Ordering::Relaxed) {
            before if before == self.places => places.held_by.remove(principal),
            _ => None,
        };
        drop(places);
        drop(removed);
    }
}

/// The error of a ledger that admits nothing more.
pub(super) fn closed() -> Error {
    Error::new(ErrorCode::Closed, "the service is closed")
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Share")
    }
}

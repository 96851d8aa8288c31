//! The places in the ledger's queue that each principal holds.

use std::collections::HashMap;
use std::fmt;
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

/// The number of places that each principal holds, by lane.
#[derive(Default)]
pub struct Shares {
    uses: Mutex<HashMap<Arc<str>, usize>>,
    changes: Mutex<HashMap<Arc<str>, usize>>,
}

impl Shares {
    /// Takes a place for a principal. Fails with `CallerOverloaded` if the principal already holds `free` places or
    /// more.
    pub fn take(self: &Arc<Self>, lane: Lane, principal: &str, free: usize) -> Result<Share> {
        let mut held_by = self.of(lane);
        let (holder, held) = match held_by.get_key_value(principal) {
            Some((holder, held)) => (Arc::clone(holder), *held),
            None => (Arc::from(principal), 0),
        };
        if held >= free {
            return Err(Error::new(
                ErrorCode::CallerOverloaded,
                "too many operations in flight for this caller; nothing was done, retry later",
            ));
        }
        held_by.insert(Arc::clone(&holder), held + 1);
        Ok(Share { shares: Arc::clone(self), lane, holder })
    }

    fn of(&self, lane: Lane) -> MutexGuard<'_, HashMap<Arc<str>, usize>> {
        let shares = if lane == Lane::Change { &self.changes } else { &self.uses };
        shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that a principal holds until this is dropped.
pub struct Share {
    shares: Arc<Shares>,
    lane: Lane,
    holder: Arc<str>,
}

impl Share {
    /// The principal that holds the place.
    pub fn holder(&self) -> &Arc<str> {
        &self.holder
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held_by = self.shares.of(self.lane);
        match held_by.get_mut(&self.holder) {
            Some(held) if *held > 1 => *held -= 1,
            _ => drop(held_by.remove(&self.holder)),
        }
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Share")
    }
}

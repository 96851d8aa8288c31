//! Places that are given at once or not at all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::types::error::{Error, ErrorCode, Result};

/// So many places. No principal holds more of them than are free: one alone gets half, two a third each, so that there
/// is always one for a principal that comes later.
pub struct Places {
    most: usize,
    /// What they are places for, in the plural.
    what: &'static str,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    all: usize,
    /// By principal. Those that hold none are not here.
    by: HashMap<Arc<str>, usize>,
}

/// A place, until it is dropped.
pub struct Place {
    places: Arc<Places>,
    principal: Arc<str>,
}

impl Places {
    /// So many places.
    pub fn new(most: usize, what: &'static str) -> Self {
        Self { most, what, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place. `CallerOverloaded` if this principal holds as many as are free, `Overloaded` if none is.
    pub fn take(self: &Arc<Self>, principal: &str) -> Result<Place> {
        let mut held = self.held();
        let free = self.most.saturating_sub(held.all);
        if free == 0 {
            let text = format!("too many {} wait; nothing was done, retry later", self.what);
            return Err(Error::new(ErrorCode::Overloaded, text));
        }
        let (principal, own) = match held.by.get_key_value(principal) {
            Some((principal, own)) => (Arc::clone(principal), *own),
            None => (Arc::from(principal), 0),
        };
        if own > 0 && own >= free {
            let text = format!("too many {} of this caller wait; nothing was done, retry later", self.what);
            return Err(Error::new(ErrorCode::CallerOverloaded, text));
        }
        held.all += 1;
        held.by.insert(Arc::clone(&principal), own + 1);
        Ok(Place { places: Arc::clone(self), principal })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.held();
        held.all -= 1;
        match held.by.get_mut(&self.principal) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(held.by.remove(&self.principal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_one_for_a_principal_that_comes_later() {
        let places = Arc::new(Places::new(64, "calls"));
        let code = |taken: Result<Place>| taken.err().map(|error| error.code());
        let mut held: Vec<Place> = std::iter::from_fn(|| places.take("greedy").ok()).collect();
        assert_eq!((held.len(), code(places.take("greedy"))), (32, Some(ErrorCode::CallerOverloaded)));
        held.extend(std::iter::from_fn(|| places.take("second").ok()));
        assert_eq!(held.len(), 48);
        held.extend((0..16).filter_map(|n| places.take(&format!("modest-{n}")).ok()));
        assert_eq!((held.len(), code(places.take("last"))), (64, Some(ErrorCode::Overloaded)));
        drop(held);
        assert!(places.held().all == 0 && places.held().by.is_empty());
    }
}

//! Places that are taken at once or not at all, without waiting.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::types::error::{Error, ErrorCode, Result};

/// A limited number of places. A principal cannot take more places than are free: one principal alone gets half of
/// them, two get a third each. So a new principal usually finds a free place.
pub struct Places {
    most: usize,
    /// The name of the things that take places, in the plural, for errors.
    what: &'static str,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    all: usize,
    /// Number of places by principal; without principals that have none.
    by: HashMap<Arc<str>, usize>,
}

/// A place, which is freed when it is dropped.
pub struct Place {
    places: Arc<Places>,
    principal: Arc<str>,
}

impl Places {
    /// Creates `most` places for things that errors call `what`.
    pub fn new(most: usize, what: &'static str) -> Self {
        Self { most, what, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place. Fails with `CallerOverloaded` if this principal already has as many places as are free, and with
    /// `Overloaded` if none is free.
    pub fn take(self: &Arc<Self>, principal: &str) -> Result<Place> {
        let mut held = self.held();
        let free = self.most.saturating_sub(held.all);
        if free == 0 {
            let text = format!("too many {} are waiting; nothing was done, retry later", self.what);
            return Err(Error::new(ErrorCode::Overloaded, text));
        }
        let (principal, own) = match held.by.get_key_value(principal) {
            Some((principal, own)) => (Arc::clone(principal), *own),
            None => (Arc::from(principal), 0),
        };
        if own > 0 && own >= free {
            let text = format!("too many {} of this caller are waiting; nothing was done, retry later", self.what);
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

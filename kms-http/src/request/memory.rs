//! Memory of requests and answers: large heads, bodies and answers count, for the principal that sent the request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::ApiError;

/// The owner of heads whose caller is not known yet. No principal has this name.
const UNKNOWN: &str = "";
/// Rooms up to this size may use all of the memory.
const SMALL: usize = 64 * 1024;
/// One part in so many is left to small rooms.
const LEFT: usize = 8;

/// What a request takes in HTTP/2 beside its head, body and answer. In HTTP/1.1 the number of connections bounds that.
pub const STREAM: usize = 8 * 1024;

/// Memory, shared by principals. A principal may hold no more than is free, so that one alone never has it all.
pub struct RequestMemory {
    total: usize,
    state: Mutex<State>,
}

struct State {
    free: usize,
    held: HashMap<Arc<str>, usize>,
}

/// Bytes that a request or its answer takes. All clones are the same room; it is given back when the last is dropped.
#[derive(Clone)]
pub struct Room(Arc<Inner>);

struct Inner {
    memory: Arc<RequestMemory>,
    held: Mutex<Held>,
}

struct Held {
    owner: Arc<str>,
    bytes: usize,
}

impl RequestMemory {
    /// So many bytes.
    pub fn new(total: usize) -> Self {
        Self { total, state: Mutex::new(State { free: total, held: HashMap::new() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for so many bytes.
    pub fn room(self: &Arc<Self>, principal: &str, bytes: usize) -> Result<Room, ApiError> {
        let held = Mutex::new(Held { owner: Arc::from(principal), bytes: 0 });
        let room = Room(Arc::new(Inner { memory: Arc::clone(self), held }));
        room.grow(bytes)?;
        Ok(room)
    }

    /// Room for the head of a request whose caller is not known yet.
    pub fn room_for_unknown(self: &Arc<Self>, bytes: usize) -> Result<Room, ApiError> {
        self.room(UNKNOWN, bytes)
    }

    /// How many bytes are free.
    #[cfg(test)]
    pub fn free(&self) -> usize {
        self.state().free
    }
}

impl State {
    fn take(&mut self, owner: &Arc<str>, more: usize, reserve: usize) -> Result<(), ApiError> {
        let held = self.held.get(owner).copied().unwrap_or(0);
        if held + more > self.free {
            return Err(ApiError::overloaded(more <= self.free));
        }
        if more + reserve > self.free {
            return Err(ApiError::overloaded(false));
        }
        self.free -= more;
        *self.held.entry(Arc::clone(owner)).or_default() += more;
        Ok(())
    }

    fn give(&mut self, owner: &Arc<str>, bytes: usize) {
        self.free += bytes;
        match self.held.get_mut(owner) {
            Some(held) if *held > bytes => *held -= bytes,
            _ => drop(self.held.remove(owner)),
        }
    }
}

impl Room {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> usize {
        self.held().bytes
    }

    /// Takes so many bytes more.
    pub fn grow(&self, more: usize) -> Result<(), ApiError> {
        let mut held = self.held();
        let memory = &self.0.memory;
        let reserve = if held.bytes + more > SMALL { memory.total / LEFT } else { 0 };
        memory.state().take(&held.owner, more, reserve)?;
        held.bytes += more;
        Ok(())
    }

    /// Takes more or gives back, so that it has this many bytes.
    pub fn resize(&self, bytes: usize) -> Result<(), ApiError> {
        let now = self.bytes();
        if bytes > now {
            return self.grow(bytes - now);
        }
        let mut held = self.held();
        self.0.memory.state().give(&held.owner, held.bytes - bytes);
        held.bytes = bytes;
        Ok(())
    }

    /// Counts it for this principal from now on.
    pub fn move_to(&self, principal: &str) -> Result<(), ApiError> {
        let owner: Arc<str> = Arc::from(principal);
        let mut held = self.held();
        let mut state = self.0.memory.state();
        state.give(&held.owner, held.bytes);
        let taken = state.take(&owner, held.bytes, 0);
        if taken.is_err() {
            held.bytes = 0;
        }
        held.owner = owner;
        taken
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let held = self.held.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.memory.state().give(&held.owner, held.bytes);
    }
}

#[cfg(test)]
#[path = "../../tests/unit/memory.rs"]
mod tests;

//! Bodies of requests: read whole, within a limit each, within a budget of memory together, and in time. Large answers
//! are counted in the same budget.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;
use zeroize::{Zeroize, Zeroizing};

use crate::error::ApiError;

/// Bodies up to this size need no room of their own: every connection may have one.
const SMALL: usize = 8 * 1024;

/// A body, which may hold plaintexts: wiped when dropped.
pub type Whole = Zeroizing<Vec<u8>>;

/// Memory for bodies. A principal may hold no more than is free, so that one alone never has it all.
pub struct BodyMemory {
    timeout: Duration,
    state: Mutex<State>,
}

struct State {
    free: usize,
    held: HashMap<Arc<str>, usize>,
}

/// Room that a body takes; given back when dropped. That of one principal is never more than what is left for others.
pub struct Room {
    memory: Arc<BodyMemory>,
    principal: Arc<str>,
    bytes: usize,
}

impl BodyMemory {
    /// Room for so many bytes. A body has to arrive in this time.
    pub fn new(total: usize, timeout: Duration) -> Self {
        Self { timeout, state: Mutex::new(State { free: total, held: HashMap::new() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a body of at most so many bytes. The room it takes is to be held as long as the body is.
    pub async fn read(
        self: &Arc<Self>,
        principal: &str,
        headers: &HeaderMap,
        body: Body,
        limit: usize,
    ) -> Result<(Whole, Option<Room>), ApiError> {
        let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > limit as u64) {
            return Err(ApiError::too_large(limit));
        }
        match tokio::time::timeout(self.timeout, self.collect(principal, body, limit)).await {
            Ok(read) => read,
            Err(_) => Err(ApiError::slow_body()),
        }
    }

    async fn collect(
        self: &Arc<Self>,
        principal: &str,
        mut body: Body,
        limit: usize,
    ) -> Result<(Whole, Option<Room>), ApiError> {
        let mut whole = Zeroizing::new(Vec::new());
        let mut room: Option<Room> = None;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| ApiError::broken_body())?.into_data() else { continue };
            let length = whole.len() + data.len();
            if length > limit {
                return Err(ApiError::too_large(limit));
            }
            if length > SMALL {
                // Only for what has really arrived: an announcement costs nothing.
                room.get_or_insert_with(|| self.no_room_yet(principal)).grow_to(length)?;
            }
            if length > whole.capacity() {
                // What is left behind is wiped, which growing in place would not do.
                let mut larger = Zeroizing::new(Vec::with_capacity(length.max(2 * whole.capacity()).min(limit)));
                larger.extend_from_slice(&whole);
                whole = larger;
            }
            whole.extend_from_slice(&data);
            if let Ok(mut own) = data.try_into_mut() {
                own.zeroize();
            }
        }
        Ok((whole, room))
    }

    /// Room for so many bytes.
    pub fn room(self: &Arc<Self>, principal: &str, bytes: usize) -> Result<Room, ApiError> {
        let mut room = self.no_room_yet(principal);
        room.grow_to(bytes)?;
        Ok(room)
    }

    /// How many bytes are free.
    #[cfg(test)]
    pub fn free(&self) -> usize {
        self.state().free
    }

    fn no_room_yet(self: &Arc<Self>, principal: &str) -> Room {
        Room { memory: Arc::clone(self), principal: Arc::from(principal), bytes: 0 }
    }
}

impl Room {
    fn grow_to(&mut self, bytes: usize) -> Result<(), ApiError> {
        let more = bytes.saturating_sub(self.bytes);
        let mut state = self.memory.state();
        let held = state.held.get(&self.principal).copied().unwrap_or(0);
        if held + more > state.free {
            return Err(ApiError::overloaded(more <= state.free));
        }
        state.free -= more;
        *state.held.entry(Arc::clone(&self.principal)).or_default() += more;
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut state = self.memory.state();
        state.free += self.bytes;
        match state.held.get_mut(&self.principal) {
            Some(held) if *held > self.bytes => *held -= self.bytes,
            _ => drop(state.held.remove(&self.principal)),
        }
    }
}

#[cfg(test)]
#[path = "../../tests/unit/body.rs"]
mod tests;

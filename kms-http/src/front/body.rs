//! Bodies of requests: read whole, within a limit each, within a budget of memory together, and in time. Large answers
//! are counted in the same budget.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use crate::api::ApiError;

/// Bodies up to this size need no room of their own: every connection may have one.
const SMALL: usize = 8 * 1024;

/// Memory for bodies. A principal may hold no more than is free, so that one alone never has it all.
pub struct BodyMemory {
    limit: usize,
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
    /// Room for so many bytes, and so many for one body, which has to arrive in this time.
    pub fn new(total: usize, limit: usize, timeout: Duration) -> Self {
        Self { limit, timeout, state: Mutex::new(State { free: total, held: HashMap::new() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a body. The room it takes is to be held as long as the body is.
    pub async fn read(
        self: &Arc<Self>,
        principal: &str,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<(Bytes, Option<Room>), ApiError> {
        let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > self.limit as u64) {
            return Err(ApiError::too_large(self.limit));
        }
        match tokio::time::timeout(self.timeout, self.collect(principal, body)).await {
            Ok(read) => read,
            Err(_) => Err(ApiError::slow_body()),
        }
    }

    async fn collect(self: &Arc<Self>, principal: &str, mut body: Body) -> Result<(Bytes, Option<Room>), ApiError> {
        // Most bodies are one frame, and are not copied.
        let mut first = Bytes::new();
        let mut whole: Option<BytesMut> = None;
        let mut room: Option<Room> = None;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| ApiError::broken_body())?.into_data() else { continue };
            let length = first.len().max(whole.as_ref().map_or(0, BytesMut::len)) + data.len();
            if length > self.limit {
                return Err(ApiError::too_large(self.limit));
            }
            if length > SMALL {
                // Only for what has really arrived: an announcement costs nothing.
                room.get_or_insert_with(|| self.no_room_yet(principal)).grow_to(length)?;
            }
            match &mut whole {
                Some(whole) => whole.extend_from_slice(&data),
                None if first.is_empty() => first = data,
                None => {
                    let mut joined = BytesMut::with_capacity(length);
                    joined.extend_from_slice(&first);
                    joined.extend_from_slice(&data);
                    first = Bytes::new();
                    whole = Some(joined);
                }
            }
        }
        Ok((whole.map_or(first, BytesMut::freeze), room))
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
        if more > state.free || held + more > state.free {
            return Err(ApiError::overloaded("too much is being sent at the moment; nothing was done"));
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
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn read(memory: &Arc<BodyMemory>, principal: &str, bytes: usize) -> Result<(Bytes, Option<Room>), ApiError> {
        let body = Body::from(vec![b'x'; bytes]);
        memory.collect(principal, body).now_or_never().expect("a body in memory")
    }

    #[test]
    fn one_principal_never_has_all_the_room() {
        let memory = Arc::new(BodyMemory::new(60_000, 20_000, Duration::from_secs(1)));
        let first = read(&memory, "flood", 20_000).expect("room");
        assert!(read(&memory, "flood", 20_000).is_ok(), "it is given back");
        let second = read(&memory, "flood", 20_000).expect("as much is left as it holds then");
        assert!(read(&memory, "flood", 20_000).is_err(), "the rest is for others");
        let other = read(&memory, "other", 20_000).expect("room for another");
        drop((first, second, other));
        assert_eq!(memory.state().free, 60_000);
        assert!(memory.state().held.is_empty());
        assert!(read(&memory, "a", 20_001).is_err(), "over the limit of one body");
    }
}

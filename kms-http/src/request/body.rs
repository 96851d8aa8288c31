//! Bodies of requests: read whole, within a limit each, within the memory of their caller, and in time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;
use tokio::time::Instant;
use zeroize::{Zeroize, Zeroizing};

use super::RequestContext;
use super::memory::{RequestMemory, Room};
use crate::error::ApiError;

/// Bodies up to this size need no room of their own in HTTP/1.1, where a connection has one request at a time.
const SMALL: usize = 8 * 1024;

/// A body, which may hold plaintexts: wiped when dropped.
pub type Whole = Zeroizing<Vec<u8>>;

/// Reads bodies.
pub struct Bodies {
    /// Where they are counted, and answers too.
    pub memory: Arc<RequestMemory>,
    timeout: Duration,
}

impl Bodies {
    /// Bodies that have to arrive in this time after the head of their request.
    pub fn new(memory: Arc<RequestMemory>, timeout: Duration) -> Self {
        Self { memory, timeout }
    }

    /// Reads a body of at most so many bytes. The room it takes is to be held as long as the body is.
    pub async fn read(
        &self,
        context: &RequestContext,
        principal: &str,
        headers: &HeaderMap,
        body: Body,
        limit: usize,
    ) -> Result<(Whole, Option<Room>), ApiError> {
        let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > limit as u64) {
            return Err(ApiError::too_large(limit));
        }
        let end = Instant::from_std(context.started + self.timeout);
        let reading = self.collect(principal, context.room.clone(), body, limit);
        tokio::time::timeout_at(end, reading).await.map_err(|_| ApiError::slow_body())?
    }

    async fn collect(
        &self,
        principal: &str,
        mut room: Option<Room>,
        mut body: Body,
        limit: usize,
    ) -> Result<(Whole, Option<Room>), ApiError> {
        let mut whole = Zeroizing::new(Vec::new());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| ApiError::broken_body())?.into_data() else { continue };
            let length = whole.len() + data.len();
            if length > limit {
                return Err(ApiError::too_large(limit));
            }
            // Only for what has really arrived: an announcement costs nothing.
            match &room {
                Some(room) => room.grow(data.len())?,
                None if length > SMALL => room = Some(self.memory.room(principal, length)?),
                None => {}
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
}

#[cfg(test)]
#[path = "../../tests/unit/body.rs"]
mod tests;

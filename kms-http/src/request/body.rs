//! Reads request bodies completely, within the size limit, the memory available to the caller and the time limit.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;
use tokio::time::Instant;
use zeroize::{Zeroize, Zeroizing};

use super::RequestContext;
use super::memory::{RequestMemory, Room};
use super::owner::Owner;
use super::waiting::Waits;
use crate::error::ApiError;

/// A complete request body. Bodies may contain plaintexts and are wiped when dropped.
pub type Whole = Zeroizing<Vec<u8>>;

/// Reads request bodies within the time and memory limits.
pub struct Bodies {
    /// Accounts for the memory of request bodies and of responses.
    pub memory: Arc<RequestMemory>,
    timeout: Duration,
}

impl Bodies {
    /// Bodies must arrive completely within `timeout`, counted from the arrival of the request's head.
    pub fn new(memory: Arc<RequestMemory>, timeout: Duration) -> Self {
        Self { memory, timeout }
    }

    /// Reads a body of at most `limit` bytes. The caller keeps the returned room for as long as it keeps the body.
    /// While the body is arriving, the request may be evicted to free memory for another owner.
    pub async fn read(
        &self,
        context: &RequestContext,
        caller: &Owner,
        headers: &HeaderMap,
        body: Body,
        limit: usize,
    ) -> Result<(Whole, Option<Room>), ApiError> {
        let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > limit as u64) {
            return Err(ApiError::too_large(limit));
        }
        let expected = announced.and_then(|length| usize::try_from(length).ok()).unwrap_or(limit);
        if body.is_end_stream() {
            return Ok((Whole::default(), context.room.clone()));
        }
        let room =
            context.room.clone().unwrap_or_else(|| self.memory.empty(caller.clone(), Arc::clone(&context.evict)));
        room.waits(Waits::Body);
        let end = Instant::from_std(context.started + self.timeout);
        let read = tokio::time::timeout_at(end, collect(&room, body, limit, expected))
            .await
            .map_err(|_| ApiError::slow_body());
        room.stops_waiting();
        Ok((read??, Some(room)))
    }
}

/// Collects a body of at most `limit` bytes, probably of `expected` bytes.
async fn collect(room: &Room, mut body: Body, limit: usize, expected: usize) -> Result<Whole, ApiError> {
    let mut whole = Zeroizing::new(Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| ApiError::broken_body())?.into_data() else { continue };
        let length = whole.len() + data.len();
        if length > limit {
            return Err(ApiError::too_large(limit));
        }
        if length > whole.capacity() {
            // Memory is reserved for bytes that have arrived, not for the announced length. That only ends the growth,
            // so that equal requests take equal memory however their bytes arrive.
            let capacity = length.max((2 * whole.capacity()).min(expected));
            room.grow(capacity - whole.capacity())?;
            // Copies into a new buffer so that the old one is wiped; `Vec::reserve` would not wipe it.
            let mut larger = Zeroizing::new(Vec::with_capacity(capacity));
            larger.extend_from_slice(&whole);
            whole = larger;
        }
        whole.extend_from_slice(&data);
        if let Ok(mut own) = data.try_into_mut() {
            own.zeroize();
        }
    }
    Ok(whole)
}

#[cfg(test)]
#[path = "../../tests/unit/body.rs"]
mod tests;

//! Reads request bodies completely, within the size limit, the memory available to the caller and the time limits.

use std::pin::pin;
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

/// How long before its end a request stops waiting for memory.
const MARGIN: Duration = Duration::from_millis(50);

/// Reads request bodies within the time and memory limits.
pub struct Bodies {
    /// Accounts for the memory of request bodies and of responses.
    pub memory: Arc<RequestMemory>,
    timeout: Duration,
    patience: Duration,
}

impl Bodies {
    /// Bodies must arrive completely within `timeout`, counted from the arrival of the request's head without the time
    /// that they wait for memory: until `patience` after that arrival at most.
    pub fn new(memory: Arc<RequestMemory>, timeout: Duration, patience: Duration) -> Self {
        Self { memory, timeout, patience }
    }

    /// The time until which a request may wait for memory: a little before its end, so that it is refused for that
    /// reason.
    pub fn end(&self, context: &RequestContext) -> Instant {
        Instant::from_std(context.started + self.patience - MARGIN.min(self.patience))
    }

    /// Reads a body of at most `limit` bytes, on the account of `caller`. The caller keeps the returned room for as
    /// long as it keeps the body. An announced length is reserved at once, after a wait if there is not enough memory:
    /// a request that holds a part of its body would keep others from theirs. While the body is arriving, the request
    /// may be evicted to free memory for another owner.
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
        let announced = announced.and_then(|length| usize::try_from(length).ok());
        let is_empty = body.is_end_stream();
        if is_empty && context.room.is_none() {
            return Ok((Whole::default(), None));
        }
        let room =
            context.room.clone().unwrap_or_else(|| self.memory.empty(caller.clone(), Arc::clone(&context.evict)));
        let begun = Instant::now();
        if is_empty {
            room.claim_for_body(caller, 0, self.end(context)).await?;
            return Ok((Whole::default(), Some(room)));
        }
        let (expected, claimed) = (announced.unwrap_or(limit), announced.unwrap_or_default());
        // While a body waits, what the caller sends of it uses up the window of its connection.
        let unread = context.peer.unread.take(expected);
        let end = if unread.is_some() { self.end(context) } else { begun };
        room.claim_for_body(caller, claimed, end).await?;
        drop(unread);
        let end = Instant::from_std(context.started + self.timeout) + begun.elapsed();
        let heard = room.hears();
        room.waits(Waits::Body);
        let read = {
            let reading = pin!(collect(&room, body, Lengths { limit, expected, claimed }));
            tokio::select! {
                read = context.timer.timeout_at(end, reading) => read.map_err(|_| ApiError::slow_body()).flatten(),
                () = room.evicted() => Err(ApiError::overloaded(true)),
            }
        };
        room.stops_waiting();
        drop(heard);
        // The memory of a body that is complete may have been given away just before.
        if room.is_evicted() { Err(ApiError::overloaded(true)) } else { Ok((read?, Some(room))) }
    }
}

/// The lengths of a body, in bytes.
#[derive(Clone, Copy)]
struct Lengths {
    limit: usize,
    /// The probable length.
    expected: usize,
    /// How much memory is reserved already.
    claimed: usize,
}

/// Collects a body.
async fn collect(room: &Room, mut body: Body, lengths: Lengths) -> Result<Whole, ApiError> {
    let Lengths { limit, expected, claimed } = lengths;
    let mut whole = Zeroizing::new(Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| ApiError::broken_body())?.into_data() else { continue };
        let length = whole.len() + data.len();
        if length > limit {
            return Err(ApiError::too_large(limit));
        }
        if length > whole.capacity() {
            // Memory is allocated for bytes that have arrived, not for the announced length. That only ends the growth,
            // so that equal requests take equal memory however their bytes arrive.
            let capacity = length.max((2 * whole.capacity()).min(expected));
            room.grow(capacity.saturating_sub(whole.capacity().max(claimed)))?;
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

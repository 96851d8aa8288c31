//! Memory of responses while they are being sent, to callers that may read slowly or not at all.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::{Buf, Bytes};
use hyper::body::{Frame, SizeHint};

use super::RequestContext;
use super::memory::{RequestMemory, Room, STREAM};
use super::owner::Owner;
use super::waiting::Waits;
use crate::error::ApiError;

/// Responses up to this size, in bytes, are not counted in HTTP/1.1, where a connection sends one at a time.
const SMALL: u64 = 4 * 1024;

/// Called with the number of bytes of a response that have been sent; with 0 when sending begins.
pub type Taken = Arc<dyn Fn(usize) + Send + Sync>;

/// A response body whose memory stays reserved until it has been sent.
struct Held {
    body: Body,
    /// Bytes that were read from the body and not yet passed to the connection.
    rest: Bytes,
    room: Room,
    /// Maximum number of bytes passed to the connection at a time.
    piece: usize,
    taken: Taken,
}

/// A part of a response that was passed to the connection. Its memory stays reserved until it has been sent.
struct Piece {
    bytes: Bytes,
    room: Room,
    taken: Taken,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        (self.taken)(self.bytes.len());
        // The caller reads the response, so the waiting time starts again.
        self.room.waits(Waits::Response);
    }
}

/// Reserves memory for a response, by resizing the reservation of the request if there is one. If memory is short, a
/// list is refused, because nothing but reading was done. Other responses are sent regardless, from all free memory,
/// because the operation was performed; large ones have their memory already ([`Room::claim_for_response`]). The
/// reservation becomes an extension of the response, for [`guard`]; a reservation that the response already carries is
/// kept.
pub fn hold(
    mut response: Response,
    room: Option<Room>,
    memory: &Arc<RequestMemory>,
    caller: &Owner,
    context: &RequestContext,
    is_list: bool,
) -> Result<Response, ApiError> {
    let bytes = response.body().size_hint().lower();
    let has_own = response.extensions().get::<Room>().is_some();
    if has_own || context.room.is_none() && bytes <= SMALL {
        return Ok(response);
    }
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let room = room.unwrap_or_else(|| memory.empty(caller.clone(), Arc::clone(&context.evict)));
    let size = room.bytes().min(STREAM).saturating_add(bytes);
    if let Err(error) = room.resize(size) {
        if is_list {
            return Err(error);
        }
        let _ = room.grow_beyond_share(size.saturating_sub(room.bytes()));
    }
    response.extensions_mut().insert(room);
    Ok(response)
}

/// Keeps a reservation until the whole response has been sent, and reports every part that was sent. Meanwhile the
/// reservation counts as waiting for the caller and may be evicted for another owner.
pub fn guard(response: Response, room: Room, piece: usize, taken: Taken) -> Response {
    room.waits(Waits::Response);
    response.map(|body| Body::new(Held { body, rest: Bytes::new(), room, piece, taken }))
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        (self.taken)(0);
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                end => return Poll::Ready(end),
            }
        }
        let piece = self.rest.len().min(self.piece);
        let bytes = self.rest.split_to(piece);
        let piece = Piece { bytes, room: self.room.clone(), taken: Arc::clone(&self.taken) };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(piece)))))
    }
    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        match self.body.size_hint().exact() {
            Some(more) => SizeHint::with_exact(more + self.rest.remaining() as u64),
            None => SizeHint::default(),
        }
    }
}

#[cfg(test)]
#[path = "../../tests/unit/response_memory.rs"]
mod tests;

//! Answers, while they are taken: slowly, perhaps, or never.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::{Buf, Bytes};
use hyper::body::{Frame, SizeHint};

use super::memory::{RequestMemory, Room, STREAM};
use crate::error::ApiError;

/// Answers up to this size need no room of their own in HTTP/1.1, where a connection has one at a time.
const SMALL: u64 = 4 * 1024;
/// So much of a large answer is handed over at a time.
const PIECE: usize = 64 * 1024;

/// An answer that has room in memory until it has been taken.
struct Held {
    body: Body,
    /// What was taken out of the body and not handed over yet.
    rest: Bytes,
    room: Room,
}

/// A piece of an answer that was handed over. Its room is kept until it has been sent.
struct Piece(Bytes, #[expect(dead_code, reason = "held until the piece is dropped")] Room);

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Gives an answer room: the one of its request, if that had some, of another size. Without room a list is refused,
/// since nothing was done but reading. What was done is answered all the same: its request was about as large, and had
/// room.
pub fn hold(
    response: Response,
    room: Option<Room>,
    memory: &Arc<RequestMemory>,
    principal: &str,
    is_list: bool,
) -> Result<Response, ApiError> {
    let bytes = response.body().size_hint().lower();
    if room.is_none() && bytes <= SMALL {
        return Ok(response);
    }
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let (room, fits) = match room {
        Some(room) => {
            let fits = room.resize(room.bytes().min(STREAM) + bytes);
            (Some(room), fits)
        }
        None => match memory.room(principal, bytes) {
            Ok(room) => (Some(room), Ok(())),
            Err(error) => (None, Err(error)),
        },
    };
    if is_list {
        fits?;
    }
    Ok(match room {
        Some(room) => response.map(|body| Body::new(Held { body, rest: Bytes::new(), room })),
        None => response,
    })
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                end => return Poll::Ready(end),
            }
        }
        let piece = self.rest.len().min(PIECE);
        let piece = Piece(self.rest.split_to(piece), self.room.clone());
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

//! Large answers, while they are taken: slowly, perhaps, or never.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::{Buf, Bytes};
use hyper::body::{Frame, SizeHint};

use super::body::{BodyMemory, Room};
use crate::error::ApiError;

/// Answers up to this size need no room of their own: every connection may have one.
const SMALL: u64 = 64 * 1024;
/// So much of a large answer is handed over at a time: the rest stays here, where its room is counted.
const PIECE: usize = 64 * 1024;

/// An answer that has room in memory until it has been taken.
struct Held {
    body: Body,
    /// What was taken out of the body and not handed over yet.
    rest: Bytes,
    _room: Option<Room>,
}

/// Lets a large answer keep the room its request had, or get some. Without room a list is refused, since nothing was
/// done but reading. What was done is answered all the same: its request was small, and so is the answer, but for a few
/// times.
pub fn hold(
    response: Response,
    room: Option<Room>,
    memory: &Arc<BodyMemory>,
    principal: &str,
    is_list: bool,
) -> Result<Response, ApiError> {
    let bytes = response.body().size_hint().lower();
    if bytes <= SMALL {
        return Ok(response);
    }
    let room = match room {
        Some(room) => Some(room),
        None => match memory.room(principal, usize::try_from(bytes).unwrap_or(usize::MAX)) {
            Ok(room) => Some(room),
            Err(error) if is_list => return Err(error),
            Err(_) => None,
        },
    };
    Ok(response.map(|body| Body::new(Held { body, rest: Bytes::new(), _room: room })))
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
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
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

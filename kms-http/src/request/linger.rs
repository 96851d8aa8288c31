//! Responses that are sent before the request has arrived completely: the rest of the body is read and discarded,
//! within limits. Closing a socket with unread data resets the connection, and a caller that is still sending would
//! never see the response.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::EXPECT;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// Maximum number of bytes to discard.
const BYTES: usize = 16 * 1024 * 1024;
/// How long the rest of a body is read and discarded.
const TIME: Duration = Duration::from_secs(5);

/// The body of a request. If it is dropped before its end, the rest is read and discarded.
pub struct Lingering<Unread: Send + 'static, Seen: FnMut(usize) + Send + 'static> {
    body: Option<Incoming>,
    /// Dropped when the body begins to be read.
    unread: Option<Unread>,
    /// Called with the size of each part that arrives; dropped when the body is complete or no more of it is read.
    arriving: Option<Seen>,
    /// The caller waits for `100 Continue` (`Expect: 100-continue`) and sends no body, so nothing has to be discarded.
    waits: bool,
}

impl<Unread: Send + 'static, Seen: FnMut(usize) + Send + 'static> Lingering<Unread, Seen> {
    /// Wraps the body of a request with these headers. Unless it is empty, `arriving` is called. Of what it returns,
    /// the first is dropped when the body begins to be read, and the callback is called with the size of each part that
    /// arrives, and dropped after the last one.
    pub fn new(body: Incoming, headers: &HeaderMap, arriving: impl FnOnce() -> (Unread, Seen)) -> Self {
        let (unread, arriving) = (!body.is_end_stream()).then(arriving).unzip();
        Self { body: Some(body), unread, arriving, waits: headers.contains_key(EXPECT) }
    }
}

impl<Unread, Seen> Body for Lingering<Unread, Seen>
where
    Unread: Send + Unpin + 'static,
    Seen: FnMut(usize) + Send + Unpin + 'static,
{
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        // Reading the body makes hyper send `100 Continue`.
        this.waits = false;
        this.unread = None;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *body).poll_frame(context));
        if let (Some(Ok(frame)), Some(seen)) = (&frame, &mut this.arriving) {
            seen(frame.data_ref().map_or(0, Bytes::len));
        }
        if body.is_end_stream() || !matches!(frame, Some(Ok(_))) {
            this.arriving = None;
        }
        Poll::Ready(frame)
    }
    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }
    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl<Unread: Send + 'static, Seen: FnMut(usize) + Send + 'static> Drop for Lingering<Unread, Seen> {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !self.waits && !body.is_end_stream()) {
            let mut arriving = self.arriving.take();
            tokio::spawn(async move {
                let _ = tokio::time::timeout(TIME, discard(body, &mut arriving)).await;
            });
        }
    }
}

async fn discard(mut body: Incoming, seen: &mut Option<impl FnMut(usize)>) {
    let mut left = BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        if let Some(seen) = seen {
            seen(bytes);
        }
        match left.checked_sub(bytes) {
            Some(less) => left = less,
            // Stops reading, so that the caller stops sending; the connection stays open until the time limit.
            None => std::future::pending().await,
        }
    }
}

//! Answers that are decided before the request has arrived: the rest is read and thrown away, within limits. A socket
//! that is closed with something unread is reset, and the caller, who is still sending, never sees the answer.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::EXPECT;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// Most bytes that are thrown away.
const BYTES: usize = 16 * 1024 * 1024;
/// How long a caller may go on sending, and then has to take its answer.
const TIME: Duration = Duration::from_secs(5);

/// The body of a request, whose rest is thrown away when it is dropped.
pub struct Lingering<Seen: FnMut(usize) + Send + 'static> {
    body: Option<Incoming>,
    /// Told how many bytes have arrived; dropped once the body has, or all of it that is thrown away.
    arriving: Option<Seen>,
    /// The caller sends nothing before it is asked to (`Expect: 100-continue`), so there is nothing to throw away.
    waits: bool,
}

impl<Seen: FnMut(usize) + Send + 'static> Lingering<Seen> {
    /// The body of a request with these headers; what `arriving` makes is told how many bytes have arrived, and is
    /// dropped once all have.
    pub fn new(body: Incoming, headers: &HeaderMap, arriving: impl FnOnce() -> Seen) -> Self {
        let arriving = (!body.is_end_stream()).then(arriving);
        Self { body: Some(body), arriving, waits: headers.contains_key(EXPECT) }
    }
}

impl<Seen: FnMut(usize) + Send + Unpin + 'static> Body for Lingering<Seen> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        // Who reads the body has asked for it.
        this.waits = false;
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

impl<Seen: FnMut(usize) + Send + 'static> Drop for Lingering<Seen> {
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
            // No more is read, so that the caller stops sending; the connection stands until the time is over.
            None => std::future::pending().await,
        }
    }
}

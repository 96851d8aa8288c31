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
pub struct Lingering<Guard: Send + 'static> {
    body: Option<Incoming>,
    /// Dropped once the body has arrived, or all of it that is thrown away.
    arriving: Option<Guard>,
    /// The caller sends nothing before it is asked to (`Expect: 100-continue`), so there is nothing to throw away.
    waits: bool,
}

impl<Guard: Send + 'static> Lingering<Guard> {
    /// The body of a request with these headers; `arriving` is dropped once it has arrived.
    pub fn new(body: Incoming, headers: &HeaderMap, arriving: impl FnOnce() -> Guard) -> Self {
        let arriving = (!body.is_end_stream()).then(arriving);
        Self { body: Some(body), arriving, waits: headers.contains_key(EXPECT) }
    }
}

impl<Guard: Send + Unpin + 'static> Body for Lingering<Guard> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // Who reads the body has asked for it.
        self.waits = false;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *body).poll_frame(context));
        if body.is_end_stream() || !matches!(frame, Some(Ok(_))) {
            self.arriving = None;
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

impl<Guard: Send + 'static> Drop for Lingering<Guard> {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !self.waits && !body.is_end_stream()) {
            let arriving = self.arriving.take();
            tokio::spawn(async move {
                let _ = tokio::time::timeout(TIME, discard(body)).await;
                drop(arriving);
            });
        }
    }
}

async fn discard(mut body: Incoming) {
    let mut left = BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(bytes) {
            Some(less) => left = less,
            // No more is read, so that the caller stops sending; the connection stands until the time is over.
            None => std::future::pending().await,
        }
    }
}

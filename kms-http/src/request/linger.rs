//! Answers that are decided before the request has arrived: the rest is read and thrown away, within limits. A socket
//! that is closed with something unread is reset, and the caller, who is still sending, never sees the answer.

use std::pin::Pin;
use std::task::{Context, Poll};
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
pub struct Lingering {
    body: Option<Incoming>,
    /// The caller sends nothing before it is asked to (`Expect: 100-continue`), so there is nothing to throw away.
    waits: bool,
}

impl Lingering {
    /// The body of a request with these headers.
    pub fn new(body: Incoming, headers: &HeaderMap) -> Self {
        Self { body: Some(body), waits: headers.contains_key(EXPECT) }
    }
}

impl Body for Lingering {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // Who reads the body has asked for it.
        self.waits = false;
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }
    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }
    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !self.waits && !body.is_end_stream()) {
            tokio::spawn(tokio::time::timeout(TIME, discard(body)));
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

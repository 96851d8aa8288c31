//! The byte stream of a connection: it notes progress, counts large heads as memory, and detects the end of what the
//! caller sends.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;
use zeroize::Zeroize;

use super::activity::{Activity, Frames};
use super::connections::Crowd;
use crate::request::memory::RequestMemory;

/// How long a caller that has closed its sending side is assumed to wait for the response to a request in process.
/// After that it is assumed to have disconnected: TCP does not distinguish the two.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same while many connections are open: callers that hang up would otherwise have thousands of them, each with a
/// request.
const PATIENCE_IN_CROWD: Duration = Duration::from_millis(200);
/// How long reading from an HTTP/2 connection is paused when no memory is left.
const PAUSE: Duration = Duration::from_millis(25);
/// How long it is paused after each read when frames arrive that serve no request.
const SLOW_DOWN: Duration = Duration::from_millis(100);
/// Number of bytes that are read from an HTTP/2 connection before other tasks have their turn: small frames that serve
/// no request cost much more time than their bytes.
const IN_A_ROW: usize = 32 * 1024;
/// Maximum number of bytes read ahead while a request is in process, to detect the end of the stream.
const AHEAD: usize = 512;
/// Maximum number of bytes read at a time while a head of common size is expected, so that little of a body arrives
/// together with it, before there is memory for the body.
const WITH_HEAD: usize = 4 * 1024;

/// A socket that knows whether its caller has closed the sending side, whatever has arrived before and was not read.
pub trait Ends {
    /// Whether the caller has closed its sending side.
    fn has_ended(&self) -> bool;
}

/// Whether what a socket is ready for now includes the end of what its caller sends.
fn is_read_closed(ready: impl Future<Output = io::Result<Ready>>) -> bool {
    ready.now_or_never().is_some_and(|ready| ready.is_ok_and(|ready| ready.is_read_closed()))
}

impl Ends for TcpStream {
    fn has_ended(&self) -> bool {
        is_read_closed(self.ready(Interest::READABLE))
    }
}

impl Ends for UnixStream {
    fn has_ended(&self) -> bool {
        is_read_closed(self.ready(Interest::READABLE))
    }
}

impl<S: Ends> Ends for TlsStream<S> {
    fn has_ended(&self) -> bool {
        self.get_ref().0.has_ended()
    }
}

/// A connection's socket with progress and memory accounting.
pub struct Stream<S> {
    inner: S,
    activity: Arc<Activity>,
    memory: Arc<RequestMemory>,
    crowd: Crowd,
    /// In HTTP/1.1, the end of the stream is reported late while a request is in process; in HTTP/2 it ends everything.
    is_http2: bool,
    ended: Option<Pin<Box<Sleep>>>,
    /// Set while a body waits and is not read: when to look next whether the caller has ended its side.
    look: Option<Pin<Box<Sleep>>>,
    /// Set while reading is paused because no memory is left for HTTP/2 frames.
    paused: Option<Pin<Box<Sleep>>>,
    /// Number of bytes that were read from an HTTP/2 connection since other tasks had a turn.
    in_a_row: usize,
}

impl<S> Stream<S> {
    /// Wraps a socket; progress goes to `activity`, large heads are counted in `memory`.
    pub fn new(inner: S, activity: Arc<Activity>, memory: Arc<RequestMemory>, is_http2: bool) -> Self {
        let crowd = Crowd::default();
        Self { inner, activity, memory, crowd, is_http2, ended: None, look: None, paused: None, in_a_row: 0 }
    }

    /// Makes this one of the connections that `crowd` is about.
    #[must_use]
    pub fn among(mut self, crowd: Crowd) -> Self {
        self.crowd = crowd;
        self
    }

    /// How long a caller that has closed its sending side is assumed to wait.
    fn patience(&self) -> Duration {
        if self.crowd.is_there() { PATIENCE_IN_CROWD } else { PATIENCE }
    }

    /// Ready when the end of the stream may be reported; otherwise the task is woken later.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let activity = &self.activity;
            if self.is_http2 || activity.is_arriving() || activity.is_idle() {
                return Poll::Ready(());
            }
            let (silent, patience) = (activity.silent(), self.patience());
            if silent >= patience && !activity.is_sending() {
                return Poll::Ready(());
            }
            let next = Instant::now() + patience.saturating_sub(silent).max(Duration::from_millis(50));
            let sleep = self.ended.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
            ready!(sleep.as_mut().poll(context));
            self.ended = None;
        }
    }

    fn arrived(&mut self, bytes: usize) -> io::Result<()> {
        if self.is_http2 {
            return self.frames_arrived(bytes);
        }
        if self.activity.is_working() {
            self.activity.go_on();
        }
        // The bytes belong to a body that is discarded, not to a head.
        if !self.activity.is_idle() || self.activity.is_arriving() {
            return Ok(());
        }
        self.activity.head_arrives(bytes, &self.memory);
        Ok(())
    }

    /// Counts frames that have arrived; with 0 bytes, checks again whether more may be read.
    fn frames_arrived(&mut self, bytes: usize) -> io::Result<()> {
        let pause = |time| Some(Box::pin(tokio::time::sleep(time)));
        self.paused = match self.activity.frames_arrive(bytes, &self.memory) {
            Frames::Fit => None,
            Frames::Slowly => pause(SLOW_DOWN),
            // Frames that were read during the pause are no longer counted.
            Frames::TooMany if bytes == 0 => return Err(io::Error::other("too many frames that serve no request")),
            Frames::TooMany | Frames::NoRoom => pause(PAUSE),
        };
        Ok(())
    }

    /// Lets other tasks have their turn after some bytes of an HTTP/2 connection.
    fn poll_turn(&mut self, context: &Context<'_>) -> Poll<()> {
        if self.in_a_row < IN_A_ROW {
            return Poll::Ready(());
        }
        self.in_a_row = 0;
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Waits until memory is available for what has arrived. The caller is slowed down rather than disconnected.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(paused) = &mut self.paused {
            ready!(paused.as_mut().poll(context));
            self.frames_arrived(0)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Ends> Stream<S> {
    /// Fails if the caller of a body that waits, and is not read meanwhile, has ended its side a while ago. The end
    /// comes after the part of the body that has arrived, so it is not found by reading. hyper flushes whenever it
    /// polls a connection, but does not read while a part of a body waits for the request's task.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if !self.activity.is_paused() {
            self.look = None;
            return Ok(());
        }
        let patience = self.patience();
        loop {
            let look = self.look.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
            if look.as_mut().poll(context).is_pending() {
                return Ok(());
            }
            if self.inner.has_ended() && self.activity.silent() >= patience {
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the caller has ended the connection"));
            }
            self.look = None;
        }
    }
}

impl<S: AsyncRead + Unpin> Stream<S> {
    /// Reads at most `MOST` bytes; whatever else has arrived stays in the socket.
    fn poll_read_part<const MOST: usize>(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Not filled with zeros, because this is called more often than something has arrived.
        let mut part = [MaybeUninit::uninit(); MOST];
        let most = buffer.remaining().min(MOST);
        let mut little = ReadBuf::uninit(&mut part[..most]);
        ready!(Pin::new(&mut self.inner).poll_read(context, &mut little))?;
        buffer.put_slice(little.filled());
        little.filled_mut().zeroize();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_room(context))?;
        ready!(this.poll_turn(context));
        ready!(this.activity.poll_unpaused(context));
        let before = buffer.filled().len();
        match (this.activity.is_arriving(), this.activity.is_working()) {
            _ if this.is_http2 => {
                let read = Pin::new(&mut this.inner).poll_read(context, buffer);
                this.in_a_row = if read.is_ready() { this.in_a_row + buffer.filled().len() - before } else { 0 };
                ready!(read)?;
            }
            (true, _) => ready!(Pin::new(&mut this.inner).poll_read(context, buffer))?,
            (false, true) => ready!(this.poll_read_part::<AHEAD>(context, buffer))?,
            // From here on, what arrives is counted. Smaller parts would only be parsed and counted more often.
            (false, false) if this.activity.has_large_head() => {
                ready!(Pin::new(&mut this.inner).poll_read(context, buffer))?;
            }
            (false, false) => ready!(this.poll_read_part::<WITH_HEAD>(context, buffer))?,
        }
        let bytes = buffer.filled().len() - before;
        if bytes > 0 {
            return Poll::Ready(this.arrived(bytes));
        }
        this.poll_end(context).map(Ok)
    }
}

impl<S> Stream<S> {
    /// Notes whether the socket was blocked.
    fn sent<T>(&self, sent: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.activity.set_blocked(sent.is_pending());
        sent
    }

    fn sent_bytes(&self, sent: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        // In HTTP/2 these may be frames that any caller can provoke, such as replies to pings; there, only parts of
        // bodies and of responses count as progress.
        if !self.is_http2 && matches!(sent, Poll::Ready(Ok(bytes)) if bytes > 0) {
            self.activity.go_on();
        }
        self.sent(sent)
    }
}

impl<S: AsyncWrite + Ends + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.sent_bytes(sent)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.sent_bytes(sent)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_gone(context)?;
        let sent = Pin::new(&mut self.inner).poll_flush(context);
        self.sent(sent)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
#[path = "../../tests/unit/stream.rs"]
mod tests;

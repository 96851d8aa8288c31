//! Bodies that wait for memory and are not read meanwhile. In HTTP/2 they use up the flow control window of their
//! connection, which the streams that are read need too.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Number of bytes of a body that a caller may send before it is read: the window of an HTTP/2 stream.
pub const STREAM_WINDOW: usize = 64 * 1024;
/// Maximum number of bytes that callers may send of all waiting bodies of a connection: half of the window of an HTTP/2
/// connection. In HTTP/1.1, where there is one body at a time, it is never reached.
const MOST: usize = 2 * STREAM_WINDOW;

/// The number of bytes that the caller of a connection may have sent of waiting bodies.
#[derive(Clone, Debug, Default)]
pub struct Unread(Arc<AtomicUsize>);

/// The bytes of one waiting body.
pub struct Waiting {
    all: Unread,
    bytes: usize,
}

impl Unread {
    /// Counts a body of this length that has to wait. `None` if it would use up the window of the connection.
    pub fn take(&self, length: usize) -> Option<Waiting> {
        let bytes = length.min(STREAM_WINDOW);
        let more = |all: usize| all.checked_add(bytes).filter(|all| *all <= MOST);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Waiting { all: self.clone(), bytes })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

//! When erased key material is removed from the engine's own log, such as the write-ahead log of SQLite.

use std::time::Duration;

use tokio::time::Instant;

use crate::storage::Connection;

/// The pause before the next attempt, after readers held the material back.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause before the next attempt, after one that failed.
const PAUSE_FAILED: Duration = Duration::from_secs(60);
/// How often an idle writer checks whether another process has erased material.
pub(super) const LOOK: Duration = Duration::from_secs(10);

/// The schedule of these removals.
pub(super) struct Scrubbing {
    /// The time of the next removal; none if no erased material is known of.
    due: Option<Instant>,
}

impl Scrubbing {
    /// A removal is due at once: a process that ended earlier may have left erased material.
    pub fn new() -> Self {
        Self { due: Some(Instant::now()) }
    }

    /// Whether erased material is to be removed, now or later.
    pub fn is_wanted(&self) -> bool {
        self.due.is_some()
    }

    /// Notes that another process erased material and may have ended before removing it.
    pub fn request(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + PAUSE);
    }

    /// Like [`Self::request`], but the removal is due at once.
    pub fn request_now(&mut self) {
        self.due = Some(Instant::now());
    }

    /// When to remove erased material, or when to look next whether there is any. Without a connection, the removal
    /// waits for the next batch.
    pub fn next(&self, is_connected: bool) -> Instant {
        self.due.filter(|_| is_connected).unwrap_or_else(|| Instant::now() + LOOK)
    }

    /// Removes erased material; tries again later if a reader still uses the engine's log.
    pub async fn run(&mut self, connection: Option<&mut Box<dyn Connection>>) {
        self.due = match connection {
            None => Some(Instant::now()),
            Some(connection) => match connection.scrub().await {
                Ok(true) => None,
                Ok(false) => Some(Instant::now() + PAUSE),
                Err(error) => {
                    tracing::warn!(%error, "erased key material may still be in the store's write-ahead log");
                    Some(Instant::now() + PAUSE_FAILED)
                }
            },
        };
    }
}

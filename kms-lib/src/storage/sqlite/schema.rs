//! The schema that was inspected last, identified by SQLite's own change counter.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Reads the counter: a field of the first page, which every transaction reads anyway.
pub(super) const COOKIE: &str = "PRAGMA schema_version";
/// No schema was inspected yet. The counter has 32 bits.
const NONE: i64 = i64::MIN;

/// The counter at the last inspection, shared by all connections of a store.
#[derive(Clone)]
pub(super) struct Approved(Arc<AtomicI64>);

impl Default for Approved {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(NONE)))
    }
}

impl Approved {
    pub(super) fn set(&self, cookie: Option<i64>) {
        self.0.store(cookie.unwrap_or(NONE), Ordering::Release);
    }
    /// Whether the schema was inspected. It was not yet while a store is being set up.
    pub(super) fn is_known(&self) -> bool {
        self.0.load(Ordering::Acquire) != NONE
    }
    /// Whether the schema has changed since its inspection.
    pub(super) fn has_changed(&self, cookie: Option<i64>) -> bool {
        self.is_known() && cookie != Some(self.0.load(Ordering::Acquire))
    }
}

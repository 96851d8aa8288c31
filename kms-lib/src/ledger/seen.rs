//! What this process knows of the log beyond the store: the largest state it has seen, by which a rollback underneath
//! is noticed; and whether an inspection found that the database must not be written.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::types::audit::Head;
use crate::types::error::{Error, Result};

/// Shared by the ledger and those who look at the store.
#[derive(Clone)]
pub struct Seen(Arc<Mutex<Known>>);

struct Known {
    size: u64,
    hash: [u8; 32],
    checkpoint: String,
    refusal: Option<Error>,
}

impl Seen {
    pub(super) fn new(head: &Head) -> Self {
        let checkpoint = head.checkpoint.clone();
        Self(Arc::new(Mutex::new(Known { size: head.seq, hash: head.hash, checkpoint, refusal: None })))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a head that was committed here or whose signature was checked, unless a larger one was seen before.
    pub fn note(&self, head: &Head) {
        let mut known = self.known();
        if head.seq > known.size {
            (known.size, known.hash) = (head.seq, head.hash);
            known.checkpoint.clone_from(&head.checkpoint);
        }
    }

    /// How many records the log has had, and the hash of the last of them.
    pub fn state(&self) -> (u64, [u8; 32]) {
        let known = self.known();
        (known.size, known.hash)
    }

    /// The checkpoint of that state, and its size.
    pub fn checkpoint(&self) -> (u64, String) {
        let known = self.known();
        (known.size, known.checkpoint.clone())
    }

    /// Says what an inspection of the schema came to: with an error, nothing is written and nothing listed until a
    /// later one finds it sound.
    pub fn set_refusal(&self, refusal: Option<Error>) {
        self.known().refusal = refusal;
    }

    /// The error for which nothing may be written, if there is one.
    pub fn check_writable(&self) -> Result<()> {
        self.known().refusal.clone().map_or(Ok(()), Err)
    }
}

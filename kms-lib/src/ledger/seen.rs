//! This process's own knowledge of the log, independent of the store: the largest state it has seen, which reveals a
//! rollback; and whether an inspection found that the database must not be written.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::types::audit::Head;
use crate::types::error::{Error, Result};

/// The largest known state of the log, shared by the ledger and background checks.
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

    /// The number of records of the largest known state, and the hash of the last one.
    pub fn state(&self) -> (u64, [u8; 32]) {
        let known = self.known();
        (known.size, known.hash)
    }

    /// The size and the checkpoint of the largest known state.
    pub fn checkpoint(&self) -> (u64, String) {
        let known = self.known();
        (known.size, known.checkpoint.clone())
    }

    /// Sets the result of an inspection of the schema. With an error, nothing is written or listed until a later
    /// inspection finds no fault.
    pub fn set_refusal(&self, refusal: Option<Error>) {
        self.known().refusal = refusal;
    }

    /// Fails with the error of the last inspection if nothing may be written.
    pub fn check_writable(&self) -> Result<()> {
        self.known().refusal.clone().map_or(Ok(()), Err)
    }
}

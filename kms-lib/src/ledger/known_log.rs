//! The writer's knowledge of the log, and how a locked head relates to it.

use super::seen::Seen;
use crate::storage::Connection;
use crate::storage::tables::audit;
use crate::types::audit::Head;
use crate::types::error::{Error, Result};

/// The log as the writer knows it.
pub(super) struct KnownLog {
    /// The end of the log as this process last committed or locked it.
    pub head: Head,
    /// The largest state that any part of this process has seen.
    pub seen: Seen,
    /// Set once the log contradicts what this process has committed: nothing more is written.
    pub stopped: Option<Error>,
}

/// How a locked head relates to the known one.
pub(super) enum Relation {
    /// The log has not grown.
    Same,
    /// Other nodes have appended records.
    Grown,
    /// The head contradicts the known one; the text says how.
    Contradiction(&'static str),
}

impl KnownLog {
    /// The log with the head that was checked when the store was opened.
    pub fn new(head: Head, seen: Seen) -> Self {
        Self { head, seen, stopped: None }
    }

    /// Fails if nothing may be written any more, or until a later inspection of the schema finds no fault.
    pub fn check_writable(&self) -> Result<()> {
        match &self.stopped {
            Some(error) => Err(error.clone()),
            None => self.seen.check_writable(),
        }
    }

    /// Notes a head that was committed here.
    pub fn note_commit(&mut self, head: &Head) {
        self.head = head.clone();
        self.seen.note(head);
    }

    /// Compares a locked head with the known one. Its signature is not checked.
    pub async fn relation(&self, connection: &mut dyn Connection, head: &Head) -> Result<Relation> {
        let known = &self.head;
        if head.log_id != known.log_id || head.seq < known.seq {
            return Ok(Relation::Contradiction(
                "the log is a different one, or was rolled back to a state older than this process has seen",
            ));
        }
        if head.seq == known.seq {
            let text = "the head of the log was changed without a record";
            return Ok(if head.is_at(known) { Relation::Same } else { Relation::Contradiction(text) });
        }
        if known.seq > 0 && audit::hash_of(connection, known.seq).await? != Some(known.hash) {
            let text = "the log no longer contains the record that this process last wrote or saw";
            return Ok(Relation::Contradiction(text));
        }
        Ok(Relation::Grown)
    }
}

/// Whether a locked head lacks a record that this process had seen before the head was locked.
pub(super) async fn lacks_seen(
    connection: &mut dyn Connection,
    head: &Head,
    (size, hash): (u64, [u8; 32]),
) -> Result<bool> {
    Ok(head.seq < size || audit::hash_of(connection, size).await? != Some(hash))
}

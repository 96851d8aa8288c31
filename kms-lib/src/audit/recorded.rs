//! The rows as the records of a log left them.

use std::collections::HashMap;

use super::verify::{ChangedRow, Start, digest, stitch};
use crate::types::audit::AuditRecord;
use crate::types::ids::LogId;

/// A row: its table, and its id as a UUID.
pub type Place = (String, String);

/// What verified records say of all rows.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The log up to the last of these records.
    state: Start,
    /// The SHA-256 of each row, in hex.
    rows: HashMap<Place, String>,
}

impl Recorded {
    /// Of all records up to a state of the log.
    pub fn new(state: Start, changed: Vec<ChangedRow>) -> Self {
        let mut recorded = Self { state, rows: HashMap::new() };
        recorded.take(changed);
        recorded
    }
    /// The state of the log behind the last record.
    pub fn state(&self) -> &Start {
        &self.state
    }
    /// How many records.
    pub fn size(&self) -> u64 {
        self.state.frontier.size()
    }
    /// The same with further records, up to a later state.
    #[must_use]
    pub fn going_on(mut self, state: Start, changed: Vec<ChangedRow>) -> Self {
        self.state = state;
        self.take(changed);
        self
    }
    /// What `records` changed, by row. None unless they go on from here and end with the record of this hash.
    pub fn follow(&self, log: LogId, records: &[AuditRecord], last: &[u8; 32]) -> Option<HashMap<Place, String>> {
        let digested = digest(log, records);
        let stitched = stitch(self.state.clone(), &digested, &[]);
        let is_good = stitched.fault.is_none() && stitched.state.hash == *last;
        is_good.then(|| digested.changed.into_iter().map(|row| ((row.table, row.id), row.digest)).collect())
    }
    /// Each row with its digest.
    pub fn rows(&self) -> &HashMap<Place, String> {
        &self.rows
    }

    fn take(&mut self, changed: Vec<ChangedRow>) {
        self.rows.extend(changed.into_iter().map(|row| ((row.table, row.id), row.digest)));
    }
}

//! The state of all rows according to the records of a log.

use std::collections::HashMap;

use super::verify::{ChangedRow, Start, digest, stitch};
use crate::types::audit::AuditRecord;
use crate::types::ids::LogId;

/// The identity of a row: its table, and its id as a UUID.
pub type Place = (String, String);

/// The digest of a row that was removed.
pub(crate) const REMOVED: &str = "";

/// The state of all rows according to verified records.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The state of the log at the last of these records.
    state: Start,
    /// The SHA-256 of each row, in hexadecimal; of removed rows [`REMOVED`].
    rows: HashMap<Place, String>,
}

impl Recorded {
    /// Builds the state from the changes of all records up to a state of the log.
    pub fn new(state: Start, changed: Vec<ChangedRow>) -> Self {
        let mut recorded = Self { state, rows: HashMap::new() };
        recorded.take(changed);
        recorded
    }
    /// The state of the log after the last record.
    pub fn state(&self) -> &Start {
        &self.state
    }
    /// The number of records.
    pub fn size(&self) -> u64 {
        self.state.frontier.size()
    }
    /// Extends this by further records, up to a later state.
    #[must_use]
    pub fn going_on(mut self, state: Start, changed: Vec<ChangedRow>) -> Self {
        self.state = state;
        self.take(changed);
        self
    }
    /// The rows that `records` changed. None unless they continue this state and end with the record of this hash.
    pub fn follow(&self, log: LogId, records: &[AuditRecord], last: &[u8; 32]) -> Option<HashMap<Place, String>> {
        let digested = digest(log, records);
        let stitched = stitch(self.state.clone(), &digested, &[]);
        let is_good = stitched.fault.is_none() && stitched.state.hash == *last;
        is_good.then(|| digested.changed.into_iter().map(|row| ((row.table, row.id), row.digest)).collect())
    }
    /// The digest of each row; of removed rows [`REMOVED`].
    pub fn rows(&self) -> &HashMap<Place, String> {
        &self.rows
    }

    fn take(&mut self, changed: Vec<ChangedRow>) {
        self.rows.extend(changed.into_iter().map(|row| ((row.table, row.id), row.digest)));
    }
}

//! Counting the operations and the uses of versions of a batch.
//!
//! The counters of hours and of a few versions are part of the head until they are added to their tables: so most
//! commits write no page for them.

use std::collections::HashSet;

use super::plan::Plan;
use crate::storage::tables::usage;
use crate::storage::{Connection, Statement};
use crate::types::error::Result;
use crate::types::ids::KeyId;
use crate::types::key::VersionUsage;
use crate::types::limits::ENCRYPTIONS_MAX;
use crate::types::tallies;
use crate::types::time::Timestamp;

/// A key and the number of one of its versions.
type Version = (KeyId, u32);

/// The inputs for counting the operations and uses of a batch.
pub(super) struct Counting<'a> {
    /// Versions that are known to have reached their limit: their uses were released before that was known.
    pub exhausted: &'a HashSet<Version>,
    /// The time of the batch.
    pub now: Timestamp,
    /// Whether the counters of the head are added to their tables.
    pub empties: bool,
}

/// The statements that count a batch, beside the new counters of its head.
pub(super) struct Counted {
    /// The statements: first one for each version of `in_rows`.
    pub statements: Vec<Statement>,
    /// Versions that a statement counts: it changes no row if the version is missing or reaches its limit.
    pub in_rows: Vec<Version>,
    /// Versions that the head counts. They must still have their rows.
    pub in_head: Vec<Version>,
}

impl Counting<'_> {
    /// Counts the plan's operations and uses. Fails with the versions that cannot be counted: those without a row, and
    /// those that would reach their limit.
    pub async fn count(
        &self,
        connection: &mut dyn Connection,
        plan: &mut Plan,
    ) -> Result<std::result::Result<Counted, Vec<Version>>> {
        let tallies = &mut plan.head.tallies;
        if std::mem::take(&mut tallies.is_unreadable) {
            tracing::warn!("the counters in the head of the log were altered and cannot be read; they are lost");
        }
        let new: Vec<Version> = plan.uses.keys().filter(|used| !tallies.versions.contains_key(used)).copied().collect();
        let have_room = tallies.versions.len() + new.len() <= tallies::VERSIONS;
        let mut counted = Counted { statements: Vec::new(), in_rows: Vec::new(), in_head: Vec::new() };
        let mut uncounted = Vec::new();
        if have_room && !new.is_empty() {
            let stored = usage::usage_of(connection, &new).await?;
            uncounted.extend(new.iter().filter(|version| !stored.contains_key(version)));
            tallies.versions.extend(stored);
        }
        for (&(key, version), &encryptions) in &plan.uses {
            let is_known = self.exhausted.contains(&(key, version));
            let limit = if is_known { i64::MAX.unsigned_abs() } else { ENCRYPTIONS_MAX };
            match tallies.versions.get_mut(&(key, version)) {
                Some(usage) if encryptions > 0 && usage.encryptions.saturating_add(encryptions) > limit => {
                    uncounted.push((key, version));
                }
                Some(usage) => {
                    let total = usage.encryptions.saturating_add(encryptions);
                    // After the clock was ahead, this time is earlier than the last one.
                    *usage = VersionUsage { encryptions: total, last_used_at: Some(self.now) };
                    counted.in_head.push((key, version));
                }
                None if have_room => {}
                None => {
                    let count = usage::count_version(key, version, encryptions, self.now, limit);
                    counted.statements.push(count);
                    counted.in_rows.push((key, version));
                }
            }
        }
        if !uncounted.is_empty() {
            return Ok(Err(uncounted));
        }
        for (&(hour, action, status), &count) in &plan.counts {
            tallies.add(hour, action, status, count);
        }
        if self.empties || !have_room || !tallies.fit() {
            counted.statements.extend(usage::add_to_tables(connection.dialect(), &std::mem::take(tallies)));
        }
        Ok(Ok(counted))
    }
}

//! Comparing the rows in memory with the log before the integrity key is replaced: an attacker with the former key
//! could forge rows that the row commitment does not reveal, and the new key must not seal them.

use std::collections::HashMap;

use super::submission::Submission;
use crate::audit::recorded::{Place, REMOVED, Recorded};
use crate::catalog::{Catalog, Snapshot};
use crate::envelope::row;
use crate::lifecycle::Command;
use crate::storage::Connection;
use crate::storage::tables::audit;
use crate::types::audit::{Head, hex};
use crate::types::error::Result;
use crate::types::ids::VersionId;
use crate::types::quarantine::EntityTable;
use crate::types::view::CatalogView;

/// The maximum number of records that are read while the head is locked.
const RECORDS: u64 = 10_000;

/// The result of comparing the rows in memory with the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Soundness {
    /// The rows are exactly those recorded in the log, except those in quarantine.
    Sound,
    /// There are rows that the log does not have, or rows of the log are missing.
    Altered,
    /// Too many records were written since the verification; they must be read first.
    Behind,
}

/// Compares the rows with the records, if the batch replaces the integrity key. Done under the lock on the head: the
/// snapshot is that of the head, and no record is added in the meantime.
pub(super) async fn soundness(
    connection: &mut dyn Connection,
    batch: &[Submission],
    catalog: &Catalog,
    head: &Head,
) -> Result<Option<Soundness>> {
    let recorded = batch.iter().find_map(|submission| match submission.command.as_deref() {
        Some(Command::ReplaceIntegrityKey(new)) => Some(&new.recorded),
        _ => None,
    });
    let Some(recorded) = recorded else { return Ok(None) };
    if head.seq - recorded.size().min(head.seq) > RECORDS {
        return Ok(Some(Soundness::Behind));
    }
    let mut records = Vec::new();
    audit::range(connection, recorded.size() + 1, head.seq, &mut |record| {
        records.push(record);
        Ok(())
    })
    .await?;
    let later = recorded.follow(head.log_id, &records, &head.hash);
    let is_sound = later.is_some_and(|later| are_recorded(&catalog.snapshot(), recorded, &later));
    Ok(Some(if is_sound { Soundness::Sound } else { Soundness::Altered }))
}

/// Whether the snapshot has exactly the rows that the records made, including the `later` ones. Rows in quarantine are
/// not in the snapshot.
fn are_recorded(snapshot: &Snapshot, recorded: &Recorded, later: &HashMap<Place, String>) -> bool {
    let (mut count, mut are_equal) = (0, true);
    snapshot.each_row(&mut |table, id, bytes| {
        let place = (table.to_owned(), VersionId::from_bytes(id).to_string());
        let said = later.get(&place).or_else(|| recorded.rows().get(&place));
        are_equal &= said.is_some_and(|said| *said == hex(&row::digest(&bytes)));
        count += 1;
    });
    let new = later.keys().filter(|place| !recorded.rows().contains_key(*place));
    let is_there =
        |place: &Place| later.get(place).or_else(|| recorded.rows().get(place)).is_some_and(|d| d != REMOVED);
    let wanted = recorded.rows().keys().chain(new);
    let wanted = wanted.filter(|place| is_there(place) && !is_quarantined(snapshot, place));
    are_equal && wanted.count() == count
}

fn is_quarantined(snapshot: &Snapshot, (table, id): &Place) -> bool {
    let Ok(table) = EntityTable::parse(table) else { return false };
    id.parse::<VersionId>().is_ok_and(|id| snapshot.is_quarantined(table, *id.as_bytes()))
}

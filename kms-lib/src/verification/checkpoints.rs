//! Stored checkpoints: where a verification starts, which records are reread, and which checkpoints are surplus.

use crate::audit::signing_keys::SigningKeys;
use crate::audit::tree::Frontier;
use crate::audit::verify::{Fault, Finding, Start};
use crate::ledger::{CHECKPOINT_EVERY, HeadKeys};
use crate::types::audit::StoredCheckpoint;
use crate::types::time::Timestamp;

/// The newest stored checkpoint that is signed and no larger than `trusted`; otherwise the beginning.
pub(super) fn starting_point(
    keys: &HeadKeys,
    trusted: Option<u64>,
    pinned: Option<[u8; 32]>,
    kept: &[StoredCheckpoint],
) -> (u64, Start) {
    let genesis = (0, Start::genesis());
    let Some(trusted) = trusted else { return genesis };
    // With a pinned key the verification must start from that key, not from a state that a later key signed.
    let pinned = pinned.and_then(|pinned| keys.public().find(&pinned)).map_or(u32::MAX, |key| key.number);
    for checkpoint in kept.iter().rev().filter(|checkpoint| checkpoint.size <= trusted) {
        if keys.public().at(checkpoint.size).number <= pinned
            && let Some(start) = start_at(keys, checkpoint)
        {
            return (checkpoint.size, start);
        }
    }
    genesis
}

/// The state of a stored checkpoint, if the log's key signed it.
fn start_at(keys: &HeadKeys, kept: &StoredCheckpoint) -> Option<Start> {
    let frontier = Frontier::from_parts(kept.size, kept.frontier.clone()).ok()?;
    let signed = keys.open(&kept.note).ok()?;
    let is_signed = signed.size == kept.size && signed.root == frontier.root();
    is_signed.then(|| Start { hash: kept.hash, timestamp: Timestamp::from_micros(0), frontier })
}

/// The range of records up to `from` to reread. It starts and ends at stored checkpoints, so that everything in between
/// is compared with signed states. `due` is the range that is due, from after its first number up to its second.
pub(super) fn window_between(
    keys: &HeadKeys,
    kept: &[StoredCheckpoint],
    due: (u64, u64),
    from: u64,
) -> Option<(Start, u64)> {
    let (next, target) = due;
    if target <= next || next >= from {
        return None;
    }
    let before = kept.iter().rev().filter(|kept| kept.size <= next);
    let start = before.filter_map(|kept| start_at(keys, kept)).next().unwrap_or_else(Start::genesis);
    let end = kept.iter().map(|kept| kept.size).find(|size| *size >= target).map_or(from, |size| size.min(from));
    Some((start, end))
}

/// Stored checkpoints that are not from the ledger: it stores one where the log passes a multiple of
/// [`CHECKPOINT_EVERY`] records, and one for each replacement of the signing key.
pub(super) fn surplus(keys: &SigningKeys, kept: &[StoredCheckpoint], size: u64) -> Vec<Fault> {
    let replacements: Vec<u64> = keys.links(0, size).iter().map(|link| link.seq).collect();
    let mut passed = 0;
    let mut found = Vec::new();
    for checkpoint in kept {
        let is_of_log = checkpoint.size <= size;
        let multiple = checkpoint.size / CHECKPOINT_EVERY;
        if is_of_log && replacements.contains(&checkpoint.size) {
            passed = multiple.max(passed);
            continue;
        }
        if !is_of_log || multiple <= passed {
            found.push(Fault { seq: 0, finding: Finding::SurplusCheckpoint { size: checkpoint.size } });
        }
        passed = multiple.max(passed);
    }
    found
}

//! The material that must stay readable when a generation of the root key is retired.

use std::collections::HashMap;

use crate::catalog::Snapshot;
use crate::envelope::Seals;
use crate::envelope::row;
use crate::storage::Connection;
use crate::storage::tables::wrappings::{self as table, WrappingRow};
use crate::types::error::Result;
use crate::types::quarantine::EntityTable;
use crate::types::root_key::ServiceKey;
use crate::types::view::has_material;

/// The number of subjects that are looked up at once.
const PAGE: usize = 500;

/// All material that must still be readable once a generation is retired, by the subject of its wrappings.
///
/// Wrappings that belong to none of this material do not prevent a retirement. A verification of the log reports them.
pub struct Remaining {
    /// The fingerprints; none for a version in quarantine, whose row may be altered.
    materials: HashMap<[u8; 16], Option<[u8; 32]>>,
    /// The generations that remain in use.
    stays: Vec<u32>,
}

impl Remaining {
    /// The material that must be readable without the generation `retiring`.
    pub fn without(retiring: u32, snapshot: &Snapshot) -> Self {
        let mut materials: HashMap<[u8; 16], Option<[u8; 32]>> = snapshot
            .versions()
            .filter(|version| has_material(snapshot, version))
            .map(|version| (*version.id.as_bytes(), Some(version.fingerprint)))
            .collect();
        let of_versions = snapshot.quarantine().filter(|entry| entry.table == EntityTable::KeyVersions);
        materials.extend(of_versions.map(|entry| (entry.row, None)));
        let of_service = snapshot.service_keys().filter(|key| key.has_material());
        materials.extend(of_service.map(|key: &ServiceKey| (*key.id.as_bytes(), Some(key.fingerprint))));
        let stays = snapshot.root_keys().filter(|root| root.wraps() && root.generation != retiring);
        Self { materials, stays: stays.map(|root| root.generation).collect() }
    }

    /// The number of subjects wrapped under `retiring` that have no verified wrapping, with a valid seal, under a
    /// remaining generation.
    pub async fn unverified(&self, connection: &mut dyn Connection, retiring: u32, seals: &Seals) -> Result<u64> {
        // While rows are being resealed, an attacker with the former integrity key can still forge marks under it.
        let seals = &seals.alone();
        let (mut count, mut after) = (0, [0; 16]);
        loop {
            let mut subjects = table::subjects_under(connection, retiring, after, PAGE).await?;
            let Some(last) = subjects.last() else { return Ok(count) };
            after = *last;
            subjects.retain(|subject| self.materials.contains_key(subject));
            let wanting = subjects.len() as u64;
            let mut verified: Vec<[u8; 16]> = table::of_subjects(connection, &subjects)
                .await?
                .iter()
                .filter(|found| self.is_verified(found, seals))
                .map(|found| found.stored.subject)
                .collect();
            verified.dedup();
            count += wanting - verified.len() as u64;
        }
    }

    /// Whether this wrapping is verified and its generation remains.
    fn is_verified(&self, found: &WrappingRow, seals: &Seals) -> bool {
        let is_sealed = match self.materials.get(&found.stored.subject) {
            Some(Some(fingerprint)) => seals.is_sealed(&row::wrapping(&found.stored, fingerprint), &found.seal),
            // The row of a version in quarantine cannot be trusted, so only the mark counts.
            Some(None) => true,
            None => false,
        };
        found.stored.verified && self.stays.contains(&found.stored.generation) && is_sealed
    }
}

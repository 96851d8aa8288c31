//! The material that must stay readable when a generation of the root key is retired.

use std::collections::HashMap;

use crate::catalog::{Catalog, Snapshot};
use crate::envelope::Seals;
use crate::envelope::row;
use crate::lifecycle::RetirementCheck;
use crate::storage::Connection;
use crate::storage::tables::wrappings::{self as table, MARKS_WITHDRAWN, WrappingRow};
use crate::storage::tables::{entities, usage};
use crate::types::error::Result;
use crate::types::key::KeyVersion;
use crate::types::quarantine::EntityTable;
use crate::types::root_key::ServiceKey;
use crate::types::view::{CatalogView, has_material};

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
    fn without(retiring: u32, snapshot: &Snapshot) -> Self {
        let mut materials: HashMap<[u8; 16], Option<[u8; 32]>> = snapshot
            .versions()
            .filter(|version| has_material(snapshot, version))
            .map(|version| (*version.id.as_bytes(), Some(version.fingerprint)))
            .collect();
        let of_versions = snapshot.quarantine().filter(|entry| entry.table == EntityTable::KeyVersions);
        materials.extend(of_versions.map(|entry| (entry.row, None)));
        let of_service = snapshot.service_keys().filter(|key| key.has_material());
        materials.extend(of_service.map(|key: &ServiceKey| (*key.id.as_bytes(), Some(key.fingerprint))));
        Self { materials, stays: stays(retiring, snapshot) }
    }

    /// Counts, page by page, the subjects wrapped under `retiring` that have no verified wrapping, with a valid seal,
    /// under a remaining generation.
    pub async fn check(connection: &mut dyn Connection, catalog: &Catalog, retiring: u32) -> Result<RetirementCheck> {
        // Before the rows are read: later changes are found under the head lock.
        let withdrawn = usage::meta(connection, MARKS_WITHDRAWN).await?;
        let (remaining, revision) = {
            let snapshot = catalog.snapshot();
            (Self::without(retiring, &snapshot), snapshot.revision())
        };
        let unverified = remaining.unverified(connection, retiring, &catalog.seals()).await?;
        Ok(RetirementCheck { generation: retiring, revision, withdrawn, unverified })
    }

    /// The number of subjects wrapped under `retiring` that have no verified wrapping, with a valid seal, under a
    /// remaining generation.
    async fn unverified(&self, connection: &mut dyn Connection, retiring: u32, seals: &Seals) -> Result<u64> {
        // While rows are being resealed, an attacker with the former integrity key can still forge marks under it.
        let seals = &seals.alone();
        let (mut count, mut after) = (0, [0; 16]);
        loop {
            let mut subjects = table::subjects_under(connection, retiring, after, PAGE).await?;
            let Some(last) = subjects.last() else { return Ok(count) };
            after = *last;
            subjects.retain(|subject| self.materials.contains_key(subject));
            count += self.unverified_among(connection, &subjects, seals).await?;
        }
    }

    /// The number of these subjects without such a wrapping.
    async fn unverified_among(
        &self,
        connection: &mut dyn Connection,
        subjects: &[[u8; 16]],
        seals: &Seals,
    ) -> Result<u64> {
        let mut verified: Vec<[u8; 16]> = table::of_subjects(connection, subjects)
            .await?
            .iter()
            .filter(|found| self.is_verified(found, seals))
            .map(|found| found.stored.subject)
            .collect();
        verified.dedup();
        Ok(subjects.len() as u64 - verified.len() as u64)
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

/// Whether a generation of the root key may be retired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Retirable {
    /// Everything that it wraps has a verified wrapping under another generation.
    Yes,
    /// Something that it wraps has none.
    No,
    /// Too much was changed since the check, which must be repeated.
    Unknown,
}

/// Whether a generation may be retired, now that the head is locked. Looks only at what was changed since the check.
pub async fn is_retirable(
    connection: &mut dyn Connection,
    catalog: &Catalog,
    check: &RetirementCheck,
) -> Result<Retirable> {
    let RetirementCheck { generation, revision, withdrawn, unverified } = check;
    if *unverified > 0 {
        return Ok(Retirable::No);
    }
    if usage::meta(connection, MARKS_WITHDRAWN).await? != *withdrawn {
        return Ok(Retirable::Unknown);
    }
    let changed = entities::versions_changed(connection, *revision, PAGE + 1).await?;
    let (remaining, subjects) = {
        let snapshot = catalog.snapshot();
        let is_newer = |row: u64| row > *revision;
        let has_others = snapshot.root_keys().any(|root| is_newer(root.revision))
            || snapshot.service_keys().any(|key| is_newer(key.revision))
            || snapshot.quarantine().any(|entry| is_newer(entry.revision));
        if has_others || changed.len() > PAGE {
            return Ok(Retirable::Unknown);
        }
        let versions = changed.into_iter().filter_map(|(key, number)| snapshot.version(key, number));
        let versions: Vec<&KeyVersion> = versions.filter(|version| has_material(&*snapshot, version)).collect();
        let materials = versions.iter().map(|version| (*version.id.as_bytes(), Some(version.fingerprint))).collect();
        let subjects: Vec<[u8; 16]> = versions.iter().map(|version| *version.id.as_bytes()).collect();
        (Remaining { materials, stays: stays(*generation, &snapshot) }, subjects)
    };
    let wrapped = table::of_subjects(connection, &subjects).await?;
    let mut wrapped: Vec<[u8; 16]> = wrapped
        .iter()
        .filter(|found| found.stored.generation == *generation)
        .map(|found| found.stored.subject)
        .collect();
    wrapped.dedup();
    let unverified = remaining.unverified_among(connection, &wrapped, &catalog.seals().alone()).await?;
    Ok(if unverified == 0 { Retirable::Yes } else { Retirable::No })
}

/// The generations that remain in use without `retiring`.
fn stays(retiring: u32, snapshot: &Snapshot) -> Vec<u32> {
    let stays = snapshot.root_keys().filter(|root| root.wraps() && root.generation != retiring);
    stays.map(|root| root.generation).collect()
}

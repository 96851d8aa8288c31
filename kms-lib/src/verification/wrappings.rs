//! Comparing wrapped material with the versions and service keys that it belongs to.

use std::collections::{HashMap, HashSet};

use tokio::task::coop::consume_budget;

use crate::audit::verify::{Fault, Finding};
use crate::envelope::{Seals, row};
use crate::storage::Connection;
use crate::storage::tables::sealed::Sealed;
use crate::storage::tables::wrappings::{self, SealedWrapping};
use crate::storage::tables::{entities, usage};
use crate::types::error::Result;
use crate::types::ids::KeyId;
use crate::types::key::{Key, KeyVersion, VersionState};
use crate::types::root_key::{RootKeyGeneration, ServiceKey};

/// Stored data that belongs to the rows that the log covers.
pub(super) struct Materials {
    wrappings: Vec<SealedWrapping>,
    unreadable: u64,
    public_keys: Vec<([u8; 16], Option<[u8; 32]>)>,
    /// The versions whose uses are counted, and the number of unreadable counters.
    counted: (HashSet<(KeyId, u32)>, u64),
}

pub(super) async fn read(connection: &mut dyn Connection) -> Result<Materials> {
    let (wrappings, unreadable) = wrappings::all(connection).await?;
    let public_keys = entities::public_keys(connection).await?;
    Ok(Materials { wrappings, unreadable, public_keys, counted: usage::counted_versions(connection).await? })
}

/// An owner of material: a version or a service key, with the record of its last change.
struct Owner {
    id: String,
    fingerprint: [u8; 32],
    revision: u64,
    material: Holding,
}

/// Whether an owner must have a wrapping.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holding {
    Must,
    /// While the material of a key is being erased.
    May,
    MustNot,
}

impl Holding {
    fn of(has_material: bool) -> Self {
        if has_material { Self::Must } else { Self::MustNot }
    }
}

/// Faults of versions and service keys whose stored material or public key is not their own, and of wrappings without a
/// known owner.
pub(super) async fn faults(
    materials: &Materials,
    (keys, versions): (&[Sealed<Key>], &[Sealed<KeyVersion>]),
    generations: &[Sealed<RootKeyGeneration>],
    service_keys: &[Sealed<ServiceKey>],
    seals: &Seals,
) -> Vec<Fault> {
    let versions: Vec<&KeyVersion> = versions.iter().filter_map(|sealed| sealed.row.as_ref().ok()).collect();
    let service_keys: Vec<&ServiceKey> = service_keys.iter().filter_map(|sealed| sealed.row.as_ref().ok()).collect();
    let keys: HashMap<KeyId, &Key> =
        keys.iter().filter_map(|sealed| sealed.row.as_ref().ok()).map(|key| (key.id, key)).collect();
    let owners = owners(&keys, &versions, &service_keys);
    let generations: HashMap<u32, &RootKeyGeneration> =
        generations.iter().filter_map(|sealed| sealed.row.as_ref().ok()).map(|root| (root.generation, root)).collect();
    let (mut altered, mut opened, mut surplus) = (HashSet::new(), HashSet::new(), materials.unreadable);
    for (stored, seal) in &materials.wrappings {
        consume_budget().await;
        let owner = owners.get(&stored.subject);
        let (Some(owner), Some(root)) = (owner, generations.get(&stored.generation)) else {
            surplus += 1;
            continue;
        };
        let is_sealed = seals.is_sealed(&row::wrapping(stored, &owner.fingerprint), seal);
        if owner.material == Holding::MustNot || !is_sealed {
            altered.insert(stored.subject);
        } else if root.is_active() {
            opened.insert(stored.subject);
        }
    }
    let digests: HashMap<&[u8; 16], Option<[u8; 32]>> =
        versions.iter().map(|version| (version.id.as_bytes(), version.public_key_digest.as_deref().copied())).collect();
    let is_other = |(version, public_key): &&([u8; 16], Option<[u8; 32]>)| {
        digests.get(version).is_some_and(|digest| digest != public_key)
    };
    altered.extend(materials.public_keys.iter().filter(is_other).map(|(version, _)| *version));
    let lost =
        owners.iter().filter(|(id, owner)| owner.material == Holding::Must && !opened.contains(*id)).map(|(id, _)| *id);
    altered.extend(lost);
    let mut faults: Vec<Fault> = altered
        .iter()
        .filter_map(|id| owners.get(id))
        .map(|owner| Fault { seq: owner.revision, finding: Finding::MaterialMismatch { id: owner.id.clone() } })
        .collect();
    faults.extend(uncounted(materials, &versions));
    if surplus > 0 {
        faults.push(Fault { seq: 0, finding: Finding::SurplusRows { table: "wrappings".into(), count: surplus } });
    }
    faults
}

/// Faults of versions without a counter, which cannot be used, and of counters without a version.
fn uncounted(materials: &Materials, versions: &[&KeyVersion]) -> Vec<Fault> {
    let (counted, unreadable) = &materials.counted;
    let is_missing = |version: &&&KeyVersion| !counted.contains(&(version.key_id, version.version));
    let mut faults: Vec<Fault> = versions
        .iter()
        .filter(is_missing)
        .map(|version| {
            let finding = Finding::RowMissing { table: "version_usage".into(), id: version.id.to_string() };
            Fault { seq: version.revision, finding }
        })
        .collect();
    let count = (counted.len() as u64 + unreadable + faults.len() as u64).saturating_sub(versions.len() as u64);
    if count > 0 {
        faults.push(Fault { seq: 0, finding: Finding::SurplusRows { table: "version_usage".into(), count } });
    }
    faults
}

fn owners(
    keys: &HashMap<KeyId, &Key>,
    versions: &[&KeyVersion],
    service_keys: &[&ServiceKey],
) -> HashMap<[u8; 16], Owner> {
    let of_service = service_keys.iter().map(|key| {
        let owner = Owner {
            id: key.id.to_string(),
            fingerprint: key.fingerprint,
            revision: key.revision,
            material: Holding::of(key.has_material()),
        };
        (*key.id.as_bytes(), owner)
    });
    let of_versions = versions.iter().map(|version| {
        let owner = Owner {
            id: version.id.to_string(),
            fingerprint: version.fingerprint,
            revision: version.revision,
            material: match keys.get(&version.key_id) {
                Some(key) if key.is_being_erased() && version.state != VersionState::Destroyed => Holding::May,
                key => Holding::of(version.state != VersionState::Destroyed && !key.is_some_and(|key| key.is_erased())),
            },
        };
        (*version.id.as_bytes(), owner)
    });
    of_versions.chain(of_service).collect()
}

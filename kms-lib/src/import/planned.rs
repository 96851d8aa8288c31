//! The changes that a dry run would have written; later steps see them as if they were committed.

use std::collections::{BTreeMap, HashMap};

use crate::catalog::Snapshot;
use crate::types::change::Change;
use crate::types::credential::Credential;
use crate::types::grant::{Grant, GrantScope};
use crate::types::ids::{CredentialId, GrantId, KeyId};
use crate::types::key::{Key, KeyVersion};
use crate::types::quarantine::EntityTable;
use crate::types::root_key::{RootKeyGeneration, ServiceKey};
use crate::types::time::Timestamp;
use crate::types::view::CatalogView;

/// Planned keys with their versions. Empty in a run that writes.
#[derive(Default)]
pub(super) struct Planned {
    keys: HashMap<KeyId, Key>,
    names: HashMap<String, KeyId>,
    versions: HashMap<KeyId, BTreeMap<u32, KeyVersion>>,
}

impl Planned {
    /// Adds changes of keys and versions.
    pub fn add(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::InsertKey(key) | Change::UpdateKey(key) => {
                    self.names.insert(key.name.clone(), key.id);
                    self.keys.insert(key.id, key.clone());
                }
                Change::InsertVersion(version, _) | Change::UpdateVersion(version) => {
                    self.versions.entry(version.key_id).or_default().insert(version.version, version.clone());
                }
                _ => {}
            }
        }
    }

    /// The keys, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.values()
    }

    /// Whether a key would be created or changed.
    pub fn has_key(&self, id: KeyId) -> bool {
        self.keys.contains_key(&id)
    }
}

/// The catalog with the planned changes on top.
pub(super) struct PlannedView<'a> {
    pub snapshot: &'a Snapshot,
    pub planned: &'a Planned,
}

impl PlannedView<'_> {
    /// The version of a key that an operation on it would use.
    pub fn current_version(&self, key: &Key) -> Option<&KeyVersion> {
        self.version(key.id, key.current_version)
    }

    /// Whether a version is only planned.
    fn is_new(&self, version: &KeyVersion) -> bool {
        self.snapshot.version(version.key_id, version.version).is_none()
    }
}

impl CatalogView for PlannedView<'_> {
    fn key(&self, id: KeyId) -> Option<&Key> {
        self.planned.keys.get(&id).or_else(|| self.snapshot.key(id))
    }
    fn key_by_name(&self, name: &str) -> Option<KeyId> {
        self.planned.names.get(name).copied().or_else(|| self.snapshot.key_by_name(name))
    }
    fn version(&self, key: KeyId, version: u32) -> Option<&KeyVersion> {
        let planned = self.planned.versions.get(&key).and_then(|versions| versions.get(&version));
        planned.or_else(|| self.snapshot.version(key, version))
    }
    fn live_versions(&self, key: KeyId) -> usize {
        let planned = self.planned.versions.get(&key).into_iter().flat_map(BTreeMap::values);
        self.snapshot.live_versions(key) + planned.filter(|version| self.is_new(version)).count()
    }
    fn each_version(&self, key: KeyId, visit: &mut dyn FnMut(&KeyVersion)) {
        let mut all: BTreeMap<u32, KeyVersion> = BTreeMap::new();
        self.snapshot.each_version(key, &mut |version| {
            all.insert(version.version, version.clone());
        });
        let planned = self.planned.versions.get(&key).into_iter().flatten();
        all.extend(planned.map(|(number, version)| (*number, version.clone())));
        all.values().for_each(visit);
    }
    fn grant(&self, id: GrantId) -> Option<&Grant> {
        self.snapshot.grant(id)
    }
    fn each_grant(&self, principal: &str, scope: GrantScope, visit: &mut dyn FnMut(&Grant)) {
        self.snapshot.each_grant(principal, scope, visit);
    }
    fn some_grants(&self, principal: &str, at_most: usize, visit: &mut dyn FnMut(&Grant)) {
        self.snapshot.some_grants(principal, at_most, visit);
    }
    fn credential(&self, id: CredentialId) -> Option<&Credential> {
        self.snapshot.credential(id)
    }
    fn ended_credentials(&self, before: Timestamp, at_most: usize, visit: &mut dyn FnMut(&Credential)) {
        self.snapshot.ended_credentials(before, at_most, visit);
    }
    fn has_credentials(&self) -> bool {
        self.snapshot.has_credentials()
    }
    fn each_root_key(&self, visit: &mut dyn FnMut(&RootKeyGeneration)) {
        self.snapshot.each_root_key(visit);
    }
    fn each_service_key(&self, visit: &mut dyn FnMut(&ServiceKey)) {
        self.snapshot.each_service_key(visit);
    }
    fn is_damaged(&self, key: KeyId) -> bool {
        self.snapshot.is_damaged(key)
    }
    fn is_quarantined(&self, table: EntityTable, row: [u8; 16]) -> bool {
        self.snapshot.is_quarantined(table, row)
    }
}

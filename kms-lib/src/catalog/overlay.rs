//! The snapshot with the changes of a batch so far: the view against which the ledger decides.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::rights::Rights;
use super::snapshot::Snapshot;
use crate::envelope::{RowSet, Seals, row};
use crate::types::change::Change;
use crate::types::credential::Credential;
use crate::types::error::Result;
use crate::types::grant::{Grant, GrantScope};
use crate::types::ids::{CredentialId, GrantId, KeyId, QuarantineId, ServiceKeyId};
use crate::types::key::{Key, KeyVersion, VersionState};
use crate::types::quarantine::{EntityTable, Quarantined};
use crate::types::root_key::{RootKeyGeneration, ServiceKey};
use crate::types::time::Timestamp;
use crate::types::view::CatalogView;

/// A snapshot with changes that are not committed yet.
pub struct Overlay<'a> {
    base: &'a Snapshot,
    revision: u64,
    keys: HashMap<KeyId, Key>,
    names: HashMap<String, KeyId>,
    versions: HashMap<(KeyId, u32), KeyVersion>,
    grants: HashMap<GrantId, Grant>,
    /// The changed grants that are not revoked.
    rights: Rights,
    credentials: HashMap<CredentialId, Credential>,
    /// Credentials that the batch removes.
    removed: HashSet<CredentialId>,
    quarantine: HashMap<QuarantineId, Quarantined>,
    root_keys: BTreeMap<u32, RootKeyGeneration>,
    service_keys: HashMap<ServiceKeyId, ServiceKey>,
    rows: RowSet,
}

impl<'a> Overlay<'a> {
    /// An overlay without changes.
    pub fn new(base: &'a Snapshot) -> Self {
        Self {
            base,
            revision: base.revision(),
            keys: HashMap::new(),
            names: HashMap::new(),
            versions: HashMap::new(),
            grants: HashMap::new(),
            rights: Rights::default(),
            credentials: HashMap::new(),
            removed: HashSet::new(),
            quarantine: HashMap::new(),
            root_keys: BTreeMap::new(),
            service_keys: HashMap::new(),
            rows: *base.rows(),
        }
    }
    /// The sequence number of the last change.
    pub fn revision(&self) -> u64 {
        self.revision
    }
    /// The fold of all rows, with the changes applied.
    pub fn rows(&self) -> &RowSet {
        &self.rows
    }
    /// Folds the rows under other seals. Only before the first change.
    pub fn refold(&mut self, seals: &Seals) {
        self.rows = self.base.fold(seals);
    }
    /// Adds the changes of the record with this sequence number.
    pub fn apply(&mut self, changes: &[Change], revision: u64, seals: &Seals) -> Result<()> {
        for change in changes {
            if let Some(replaced) = self.replaced(change)? {
                self.rows.toggle(seals, &replaced);
            }
            if !matches!(change, Change::RemoveCredential(_)) {
                self.rows.toggle(seals, &super::change_row(change)?);
            }
            match change {
                Change::InsertKey(key) | Change::UpdateKey(key) => {
                    self.names.insert(key.name.clone(), key.id);
                    self.keys.insert(key.id, key.clone());
                }
                Change::InsertVersion(version, _) | Change::UpdateVersion(version) | Change::EraseVersion(version) => {
                    self.versions.insert((version.key_id, version.version), version.clone());
                }
                Change::InsertGrant(grant) | Change::UpdateGrant(grant) => {
                    if grant.withdrawn_at.is_none() {
                        self.rights.insert(grant, None);
                    } else {
                        self.rights.remove(grant, None);
                    }
                    self.grants.insert(grant.id, grant.clone());
                }
                Change::InsertCredential(credential) | Change::UpdateCredential(credential) => {
                    self.credentials.insert(credential.id, credential.clone());
                }
                Change::RemoveCredential(credential) => {
                    self.credentials.remove(&credential.id);
                    self.removed.insert(credential.id);
                }
                Change::InsertQuarantined(entry) | Change::UpdateQuarantined(entry) => {
                    self.quarantine.insert(entry.id, entry.clone());
                }
                Change::InsertRootKey(root) | Change::UpdateRootKey(root) => {
                    self.root_keys.insert(root.generation, root.clone());
                }
                Change::InsertServiceKey(key, _) | Change::UpdateServiceKey(key) => {
                    self.service_keys.insert(key.id, key.clone());
                }
            }
        }
        self.revision = revision;
        Ok(())
    }

    /// The bytes of the row that a change replaces.
    fn replaced(&self, change: &Change) -> Result<Option<Vec<u8>>> {
        Ok(match change {
            Change::InsertKey(key) | Change::UpdateKey(key) => self.key(key.id).map(row::key),
            Change::InsertVersion(version, _) | Change::UpdateVersion(version) | Change::EraseVersion(version) => {
                self.version(version.key_id, version.version).map(row::version)
            }
            Change::InsertGrant(grant) | Change::UpdateGrant(grant) => {
                self.grant(grant.id).map(row::grant).transpose()?
            }
            Change::InsertCredential(credential)
            | Change::UpdateCredential(credential)
            | Change::RemoveCredential(credential) => self.credential(credential.id).map(row::credential),
            // The rows that the entry names were set aside before.
            Change::InsertQuarantined(entry) | Change::UpdateQuarantined(entry) => {
                let present = self.quarantine.get(&entry.id).or_else(|| self.base.quarantine_entry(entry.id));
                present.map(row::quarantined)
            }
            Change::InsertRootKey(root) | Change::UpdateRootKey(root) => {
                let present = self.root_keys.get(&root.generation).or_else(|| self.base.root_key(root.generation));
                present.map(row::root_key)
            }
            Change::InsertServiceKey(key, _) | Change::UpdateServiceKey(key) => {
                let present = self.service_keys.get(&key.id).or_else(|| self.base.service_key(key.id));
                present.map(row::service_key)
            }
        })
    }
}

impl CatalogView for Overlay<'_> {
    fn key(&self, id: KeyId) -> Option<&Key> {
        self.keys.get(&id).or_else(|| self.base.key(id))
    }
    fn key_by_name(&self, name: &str) -> Option<KeyId> {
        self.names.get(name).copied().or_else(|| self.base.key_by_name(name))
    }
    fn version(&self, key: KeyId, version: u32) -> Option<&KeyVersion> {
        self.versions.get(&(key, version)).or_else(|| self.base.version(key, version))
    }
    fn live_versions(&self, key: KeyId) -> usize {
        let is_live = |version: &KeyVersion| usize::from(version.state != VersionState::Destroyed);
        let changed = self.versions.values().filter(|version| version.key_id == key);
        let (mut count, mut former) = (self.base.live_versions(key), 0);
        for version in changed {
            count += is_live(version);
            former += self.base.version(key, version.version).map_or(0, is_live);
        }
        count - former
    }
    fn each_version(&self, key: KeyId, visit: &mut dyn FnMut(&KeyVersion)) {
        let mut last = 0;
        self.base.each_version(key, &mut |version| {
            last = last.max(version.version);
            visit(self.versions.get(&(key, version.version)).unwrap_or(version));
        });
        // New versions of this batch have higher numbers than the others.
        let mut new: Vec<&KeyVersion> =
            self.versions.values().filter(|version| version.key_id == key && version.version > last).collect();
        new.sort_unstable_by_key(|version| version.version);
        new.into_iter().for_each(visit);
    }
    fn newest_versions(&self, key: KeyId, at_most: usize, visit: &mut dyn FnMut(&KeyVersion)) {
        let base = self.base.versions_newest_first(key).take(at_most);
        let mut versions: BTreeMap<u32, &KeyVersion> = base.map(|version| (version.version, version)).collect();
        let own = self.versions.values().filter(|version| version.key_id == key);
        versions.extend(own.map(|version| (version.version, version)));
        versions.into_values().rev().take(at_most).for_each(visit);
    }
    fn grant(&self, id: GrantId) -> Option<&Grant> {
        self.grants.get(&id).or_else(|| self.base.grant(id))
    }
    fn each_grant(&self, principal: &str, scope: GrantScope, visit: &mut dyn FnMut(&Grant)) {
        self.base.each_grant(principal, scope, &mut |grant| {
            if !self.grants.contains_key(&grant.id) {
                visit(grant);
            }
        });
        self.rights.on(principal, scope).iter().filter_map(|id| self.grants.get(id)).for_each(visit);
    }
    fn some_grants(&self, principal: &str, at_most: usize, visit: &mut dyn FnMut(&Grant)) {
        self.base.some_grants(principal, at_most, &mut |grant| {
            if !self.grants.contains_key(&grant.id) {
                visit(grant);
            }
        });
        self.rights.of(principal).take(at_most).filter_map(|id| self.grants.get(&id)).for_each(visit);
    }
    fn credential(&self, id: CredentialId) -> Option<&Credential> {
        let present = self.credentials.get(&id).or_else(|| self.base.credential(id));
        present.filter(|_| !self.removed.contains(&id))
    }
    fn ended_credentials(&self, before: Timestamp, at_most: usize, visit: &mut dyn FnMut(&Credential)) {
        // Credentials that end in this batch did not end long ago.
        let at_most = at_most.saturating_add(self.removed.len());
        self.base.ended_credentials(before, at_most, &mut |ended| {
            if let Some(credential) = self.credential(ended.id) {
                visit(credential);
            }
        });
    }
    fn has_credentials(&self) -> bool {
        !self.credentials.is_empty() || self.base.has_credentials()
    }
    fn each_root_key(&self, visit: &mut dyn FnMut(&RootKeyGeneration)) {
        let mut last = 0;
        for root in self.base.root_keys() {
            last = root.generation;
            visit(self.root_keys.get(&last).unwrap_or(root));
        }
        // New generations of this batch.
        self.root_keys.range(last + 1..).for_each(|(_, root)| visit(root));
    }
    fn each_service_key(&self, visit: &mut dyn FnMut(&ServiceKey)) {
        let untouched = self.base.service_keys().filter(|key| !self.service_keys.contains_key(&key.id));
        untouched.chain(self.service_keys.values()).for_each(visit);
    }
    fn is_damaged(&self, key: KeyId) -> bool {
        self.base.is_damaged(key)
    }
    fn is_quarantined(&self, table: EntityTable, row: [u8; 16]) -> bool {
        let of_batch = self.quarantine.values().find(|entry| (entry.table, entry.row) == (table, row));
        of_batch.map_or_else(|| self.base.is_quarantined_by_entry(table, row), Quarantined::is_active)
    }
}

//! Keys, versions and grants as of one revision.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;

use crate::envelope::{RowSet, Seals, row};
use crate::types::change::Change;
use crate::types::credential::Credential;
use crate::types::grant::Grant;
use crate::types::ids::{CredentialId, GrantId, KeyId};
use crate::types::key::{Key, KeyVersion};
use crate::types::view::View;

/// A key with its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    key: Option<Key>,
    versions: BTreeMap<u32, KeyVersion>,
}

/// Keys, versions and grants as of one revision, without material.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    revision: u64,
    keys: HashMap<KeyId, Entry>,
    names: BTreeMap<String, KeyId>,
    grants: HashMap<GrantId, Grant>,
    by_principal: HashMap<String, BTreeSet<GrantId>>,
    credentials: HashMap<CredentialId, Credential>,
    damaged: HashSet<KeyId>,
    rows: RowSet,
    trust: Trust,
}

/// Whether the rows in the image are those that the log's head stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// They are.
    #[default]
    Whole,
    /// They are not, and nobody has found out yet which.
    Doubtful,
    /// Those that are not have been taken out.
    Sifted,
}

impl Image {
    /// The revision it is of.
    pub fn revision(&self) -> u64 {
        self.revision
    }
    /// How many keys there are.
    pub fn key_count(&self) -> usize {
        self.names.len()
    }
    /// How many versions there are.
    pub fn version_count(&self) -> usize {
        self.keys.values().map(|entry| entry.versions.len()).sum()
    }
    /// The keys by name, from the first name after `after` on.
    pub fn keys_by_name(&self, after: Option<&str>) -> impl Iterator<Item = &Key> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.names.range::<str, _>((from, Bound::Unbounded)).filter_map(|(_, id)| self.key(*id))
    }
    /// All grants that are not withdrawn, in no order.
    pub fn grants(&self) -> impl Iterator<Item = &Grant> {
        self.grants.values().filter(|grant| grant.withdrawn_at.is_none())
    }
    /// All versions, in no order.
    pub fn versions(&self) -> impl Iterator<Item = &KeyVersion> {
        self.keys.values().flat_map(|entry| entry.versions.values())
    }
    /// All grants, withdrawn ones too.
    pub fn all_grants(&self) -> impl Iterator<Item = &Grant> {
        self.grants.values()
    }
    /// All credentials, withdrawn ones too, in no order.
    pub fn credentials(&self) -> impl Iterator<Item = &Credential> {
        self.credentials.values()
    }
    /// Keys of which a row does not match its seal.
    pub fn damaged(&self) -> impl Iterator<Item = KeyId> {
        self.damaged.iter().copied()
    }

    /// All rows, folded.
    pub(crate) fn rows(&self) -> &RowSet {
        &self.rows
    }
    /// What its rows are worth.
    pub(crate) fn trust(&self) -> Trust {
        self.trust
    }
    pub(super) fn set_trust(&mut self, trust: Trust) {
        self.trust = trust;
    }
    /// Takes a row out that is not to be used, or marks its key.
    pub(super) fn refuse(&mut self, table: &str, id: [u8; 16]) {
        match table {
            "keys" => self.mark_damaged(KeyId::from_bytes(id)),
            "key_versions" => {
                let of_key = self.versions().find(|version| *version.id.as_bytes() == id).map(|version| version.key_id);
                of_key.into_iter().for_each(|key| self.mark_damaged(key));
            }
            "grants" => {
                let id = GrantId::from_bytes(id);
                self.grants.remove(&id);
                self.by_principal.values_mut().for_each(|ids| ids.retain(|of_principal| *of_principal != id));
            }
            _ => drop(self.credentials.remove(&CredentialId::from_bytes(id))),
        }
    }
    /// Takes everything out or marks it: nothing of it is to be used.
    pub(super) fn refuse_all(&mut self) {
        self.damaged.extend(self.keys.keys());
        self.grants.clear();
        self.by_principal.clear();
        self.credentials.clear();
    }

    pub(super) fn advance(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }

    /// Puts a row in, unless a newer one is there.
    pub(super) fn apply(&mut self, change: &Change, seals: &Seals) {
        match change {
            Change::InsertKey(key) | Change::UpdateKey(key) => self.put_key(key.clone(), seals),
            Change::InsertVersion(version, _) | Change::UpdateVersion(version) | Change::EraseVersion(version) => {
                self.put_version(version.clone(), seals);
            }
            Change::InsertGrant(grant) | Change::UpdateGrant(grant) => self.put_grant(grant.clone(), seals),
            Change::InsertCredential(credential) | Change::UpdateCredential(credential) => {
                self.put_credential(credential.clone(), seals);
            }
        }
    }

    fn entry(&mut self, id: KeyId) -> &mut Entry {
        self.keys.entry(id).or_insert_with(|| Entry { key: None, versions: BTreeMap::new() })
    }

    pub(super) fn put_key(&mut self, key: Key, seals: &Seals) {
        let (id, name, new) = (key.id, key.name.clone(), row::key(&key));
        let entry = self.entry(id);
        if entry.key.as_ref().is_none_or(|present| present.revision < key.revision) {
            let old = entry.key.replace(key);
            self.names.insert(name, id);
            self.replace(old.as_ref().map(row::key), &new, seals);
        }
    }

    pub(super) fn put_version(&mut self, version: KeyVersion, seals: &Seals) {
        let entry = self.entry(version.key_id);
        let newer = entry.versions.get(&version.version).is_none_or(|present| present.revision < version.revision);
        if newer {
            let new = row::version(&version);
            let old = entry.versions.insert(version.version, version);
            self.replace(old.as_ref().map(row::version), &new, seals);
        }
    }

    /// Renews the fold of all rows.
    fn replace(&mut self, old: Option<Vec<u8>>, new: &[u8], seals: &Seals) {
        if let Some(old) = old {
            self.rows.toggle(seals, &old);
        }
        self.rows.toggle(seals, new);
    }

    pub(super) fn put_grant(&mut self, grant: Grant, seals: &Seals) {
        let present = self.grants.get(&grant.id);
        if present.is_some_and(|present| present.revision >= grant.revision) {
            return;
        }
        let old = present.and_then(|present| row::grant(present).ok());
        // One that cannot be written as a row was neither read from one nor committed.
        let Ok(new) = row::grant(&grant) else { return };
        self.replace(old, &new, seals);
        let of_principal = self.by_principal.entry(grant.principal.clone()).or_default();
        if grant.withdrawn_at.is_none() {
            of_principal.insert(grant.id);
        } else {
            of_principal.remove(&grant.id);
        }
        self.grants.insert(grant.id, grant);
    }

    pub(super) fn put_credential(&mut self, credential: Credential, seals: &Seals) {
        if self.credentials.get(&credential.id).is_none_or(|present| present.revision < credential.revision) {
            let new = row::credential(&credential);
            let old = self.credentials.insert(credential.id, credential);
            self.replace(old.as_ref().map(row::credential), &new, seals);
        }
    }

    pub(super) fn mark_damaged(&mut self, id: KeyId) {
        self.damaged.insert(id);
    }
}

impl View for Image {
    fn key(&self, id: KeyId) -> Option<&Key> {
        self.keys.get(&id).and_then(|entry| entry.key.as_ref())
    }
    fn key_by_name(&self, name: &str) -> Option<KeyId> {
        self.names.get(name).copied()
    }
    fn version(&self, key: KeyId, version: u32) -> Option<&KeyVersion> {
        self.keys.get(&key).and_then(|entry| entry.versions.get(&version))
    }
    fn each_version(&self, key: KeyId, visit: &mut dyn FnMut(&KeyVersion)) {
        self.keys.get(&key).into_iter().flat_map(|entry| entry.versions.values()).for_each(visit);
    }
    fn grant(&self, id: GrantId) -> Option<&Grant> {
        self.grants.get(&id)
    }
    fn each_grant(&self, principal: &str, visit: &mut dyn FnMut(&Grant)) {
        let ids = self.by_principal.get(principal).into_iter().flatten();
        ids.filter_map(|id| self.grants.get(id)).for_each(visit);
    }
    fn credential(&self, id: CredentialId) -> Option<&Credential> {
        self.credentials.get(&id)
    }
    fn has_credentials(&self) -> bool {
        !self.credentials.is_empty()
    }
    fn is_damaged(&self, key: KeyId) -> bool {
        !self.damaged.is_empty() && self.damaged.contains(&key)
    }
}

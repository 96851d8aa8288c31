//! Keys, versions and grants as of one revision.

mod changes;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;

use super::rights::Rights;
use crate::envelope::{RowSet, Seals, row};
use crate::types::credential::Credential;
use crate::types::grant::{Grant, GrantScope};
use crate::types::ids::{CredentialId, GrantId, KeyId, QuarantineId, ServiceKeyId};
use crate::types::key::{Key, KeyState, KeyVersion, VersionState};
use crate::types::quarantine::{EntityTable, Quarantined};
use crate::types::root_key::{RootKeyGeneration, ServiceKey};
use crate::types::time::Timestamp;
use crate::types::view::CatalogView;

/// A row with its contribution to the fold of all rows, which may be computed on another thread.
pub(super) struct Folded<T> {
    pub row: T,
    pub fold: RowSet,
}

impl<T> Folded<T> {
    fn new(row: T, bytes: &[u8], seals: &Seals) -> Self {
        Self { row, fold: RowSet::of(seals, bytes) }
    }
}

/// A key with its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// Boxed, because the table of entries has more places than keys.
    key: Option<Box<Key>>,
    /// Sorted by number. A vector, because a tree takes several times the memory for the few versions of most keys.
    versions: Vec<KeyVersion>,
    /// Number of versions that are not destroyed.
    live: usize,
}

impl Entry {
    fn place(&self, number: u32) -> Result<usize, usize> {
        self.versions.binary_search_by_key(&number, |version| version.version)
    }

    fn version(&self, number: u32) -> Option<&KeyVersion> {
        self.place(number).ok().and_then(|place| self.versions.get(place))
    }

    /// Inserts a version; returns the one that it replaces.
    fn put(&mut self, version: KeyVersion) -> Option<KeyVersion> {
        let is_live = |version: &KeyVersion| usize::from(version.state != VersionState::Destroyed);
        self.live += is_live(&version);
        let old = match self.place(version.version) {
            Ok(place) => self.versions.get_mut(place).map(|present| std::mem::replace(present, version)),
            Err(place) => {
                if self.versions.is_empty() {
                    self.versions.reserve_exact(1);
                }
                self.versions.insert(place, version);
                None
            }
        };
        self.live -= old.as_ref().map_or(0, is_live);
        old
    }

    fn remove(&mut self, number: u32) -> Option<KeyVersion> {
        let removed = self.place(number).ok().map(|place| self.versions.remove(place))?;
        self.live -= usize::from(removed.state != VersionState::Destroyed);
        Some(removed)
    }
}

/// Keys, versions, grants and credentials as of one revision, without material.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    revision: u64,
    keys: HashMap<KeyId, Entry>,
    names: BTreeMap<String, KeyId>,
    grants: HashMap<GrantId, Grant>,
    rights: Rights,
    credentials: HashMap<CredentialId, Credential>,
    /// The credentials that are not revoked.
    standing: BTreeSet<CredentialId>,
    /// The credentials that end, by their end.
    ends: BTreeSet<(Timestamp, CredentialId)>,
    /// Which credentials are removed: the end before which they ended, and the record that removed them.
    oldest: Option<((Timestamp, CredentialId), u64)>,
    /// Number of keys in each state.
    by_state: BTreeMap<KeyState, u64>,
    version_count: usize,
    /// The latest creation date of all versions.
    newest_version_at: Option<Timestamp>,
    quarantine: HashMap<QuarantineId, Quarantined>,
    root_keys: BTreeMap<u32, RootKeyGeneration>,
    service_keys: HashMap<ServiceKeyId, ServiceKey>,
    /// The rows in quarantine, each with the key that it makes unusable.
    quarantined: HashMap<(EntityTable, [u8; 16]), Option<KeyId>>,
    /// The keys that quarantined rows make unusable.
    damaged: HashSet<KeyId>,
    rows: RowSet,
    trust: Trust,
}

/// Whether the rows of the snapshot match the row commitment in the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// The rows match the commitment.
    #[default]
    Verified,
    /// The rows do not match, and it is not known which of them were altered.
    Suspect,
    /// The log was altered too, so altered rows cannot be identified: no row is used.
    Refused,
}

impl Snapshot {
    /// The revision of the snapshot.
    pub fn revision(&self) -> u64 {
        self.revision
    }
    /// Number of keys, including destroyed and quarantined ones.
    pub fn key_count(&self) -> usize {
        self.names.len()
    }
    /// Number of versions of all keys.
    pub fn version_count(&self) -> usize {
        self.version_count
    }
    /// Number of keys in each state. States without keys may be missing.
    pub fn keys_by_state(&self) -> &BTreeMap<KeyState, u64> {
        &self.by_state
    }
    /// The latest creation date of all versions.
    pub fn newest_version_at(&self) -> Option<Timestamp> {
        self.newest_version_at
    }
    /// The keys in the order of their names, from the first name after `after`.
    pub fn keys_by_name(&self, after: Option<&str>) -> impl Iterator<Item = &Key> {
        self.keys_from(after.map_or(Bound::Unbounded, Bound::Excluded))
    }
    /// The keys in the order of their names, from a name on.
    pub fn keys_from<'i>(&'i self, from: Bound<&str>) -> impl Iterator<Item = &'i Key> + use<'i> {
        self.names.range::<str, _>((from, Bound::Unbounded)).filter_map(|(_, id)| self.key(*id))
    }
    /// The keys that grants of a principal are on, in the order of their names, from a name on.
    pub fn keys_granted<'i>(&'i self, principal: &str, from: Bound<&str>) -> impl Iterator<Item = &'i Key> + use<'i> {
        self.rights.keys_of(principal, from).filter_map(|id| self.key(id))
    }
    /// The grants that are not revoked, in the order of principal and id, after this one.
    pub fn grants_behind<'i>(&'i self, after: Option<&Grant>) -> impl Iterator<Item = &'i Grant> + use<'i> {
        self.rights.all(after.map(place)).filter_map(|id| self.grants.get(&id))
    }
    /// Like [`Snapshot::grants_behind`], of one principal.
    pub fn grants_of<'i>(
        &'i self,
        principal: &str,
        after: Option<&Grant>,
    ) -> impl Iterator<Item = &'i Grant> + use<'i> {
        self.rights.of_behind(principal, after.map(place)).filter_map(|id| self.grants.get(&id))
    }
    /// Like [`Snapshot::grants_behind`], on one scope.
    pub fn grants_on<'i>(
        &'i self,
        scope: GrantScope,
        after: Option<&'i Grant>,
    ) -> impl Iterator<Item = &'i Grant> + use<'i> {
        self.rights.of_scope(scope, after.map(place)).filter_map(|(_, id)| self.grants.get(&id))
    }
    /// All grants that are not revoked, in no particular order.
    pub fn grants(&self) -> impl Iterator<Item = &Grant> {
        self.grants.values().filter(|grant| grant.withdrawn_at.is_none())
    }
    /// All versions, in no particular order.
    pub fn versions(&self) -> impl Iterator<Item = &KeyVersion> {
        self.keys.values().flat_map(|entry| &entry.versions)
    }
    /// The version of a key with the next higher number. Numbers may have gaps.
    pub fn version_after(&self, key: KeyId, version: u32) -> Option<&KeyVersion> {
        let entry = self.keys.get(&key)?;
        let (Ok(next) | Err(next)) = entry.place(version.checked_add(1)?);
        entry.versions.get(next)
    }
    /// The versions of a key, newest first.
    pub fn versions_newest_first(&self, key: KeyId) -> impl Iterator<Item = &KeyVersion> {
        self.keys.get(&key).into_iter().flat_map(|entry| entry.versions.iter().rev())
    }
    /// The versions of a key with higher numbers than this one, oldest first.
    pub fn versions_behind(&self, key: KeyId, number: u32) -> impl Iterator<Item = &KeyVersion> {
        let entry = self.keys.get(&key);
        let first = entry.map_or(0, |entry| entry.place(number).map_or_else(|place| place, |place| place + 1));
        entry.into_iter().flat_map(move |entry| entry.versions.iter().skip(first))
    }
    /// The generations of the root key, oldest first, including retired ones.
    pub fn root_keys(&self) -> impl Iterator<Item = &RootKeyGeneration> {
        self.root_keys.values()
    }
    /// One generation of the root key.
    pub fn root_key(&self, generation: u32) -> Option<&RootKeyGeneration> {
        self.root_keys.get(&generation)
    }
    /// The service's own keys, in no particular order, including replaced ones.
    pub fn service_keys(&self) -> impl Iterator<Item = &ServiceKey> {
        self.service_keys.values()
    }
    /// One key of the service.
    pub(super) fn service_key(&self, id: ServiceKeyId) -> Option<&ServiceKey> {
        self.service_keys.get(&id)
    }
    /// All credentials, in no particular order, including revoked ones.
    pub fn credentials(&self) -> impl Iterator<Item = &Credential> {
        self.credentials.values()
    }
    /// Whether an entry of the quarantine names this row. A row that was only set aside has no entry yet.
    pub(super) fn is_quarantined_by_entry(&self, table: EntityTable, row: [u8; 16]) -> bool {
        self.quarantine().any(|entry| (entry.table, entry.row) == (table, row))
    }
    /// The credentials that are not revoked, in the order of their ids, after this one.
    pub fn standing_credentials(&self, after: Option<CredentialId>) -> impl Iterator<Item = &Credential> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.standing.range((from, Bound::Unbounded)).filter_map(|id| self.credentials.get(id))
    }
    /// An entry of the quarantine, released or not.
    pub(super) fn quarantine_entry(&self, id: QuarantineId) -> Option<&Quarantined> {
        self.quarantine.get(&id)
    }
    /// The entries of the quarantine that are not released, in no particular order.
    pub fn quarantine(&self) -> impl Iterator<Item = &Quarantined> {
        self.quarantine.values().filter(|entry| entry.is_active())
    }

    /// The fold of all rows that are used, and of the entries of the quarantine.
    pub(crate) fn rows(&self) -> &RowSet {
        &self.rows
    }
    /// Calls `visit` with table, id and bytes of every row that is used, and of the entries of the quarantine. These
    /// are the rows that the row commitment covers.
    pub(crate) fn each_row(&self, visit: &mut dyn FnMut(&'static str, [u8; 16], Vec<u8>)) {
        self.quarantine.values().for_each(|row| visit("quarantine", *row.id.as_bytes(), row::quarantined(row)));
        self.root_keys.values().for_each(|row| visit("root_keys", *row.id.as_bytes(), row::root_key(row)));
        self.service_keys.values().for_each(|row| visit("service_keys", *row.id.as_bytes(), row::service_key(row)));
        for entry in self.keys.values() {
            entry.key.iter().for_each(|row| visit("keys", *row.id.as_bytes(), row::key(row)));
            entry.versions.iter().for_each(|row| visit("key_versions", *row.id.as_bytes(), row::version(row)));
        }
        for grant in self.grants.values() {
            // A grant that cannot be encoded is not covered.
            let Ok(bytes) = row::grant(grant) else { continue };
            visit("grants", *grant.id.as_bytes(), bytes);
        }
        self.credentials.values().for_each(|row| visit("credentials", *row.id.as_bytes(), row::credential(row)));
    }
    /// The fold of the same rows under other seals.
    pub(super) fn fold(&self, seals: &Seals) -> RowSet {
        let mut rows = RowSet::default();
        self.each_row(&mut |_, _, bytes| rows.toggle(seals, &bytes));
        rows
    }
    /// Replaces the fold by the one under other seals.
    pub(super) fn refold(&mut self, seals: &Seals) {
        self.rows = self.fold(seals);
    }
    /// Whether the snapshot's rows are verified.
    pub(crate) fn trust(&self) -> Trust {
        self.trust
    }
    pub(super) fn set_trust(&mut self, trust: Trust) {
        self.trust = trust;
    }
}

/// The position of a grant in the order of lists.
fn place(grant: &Grant) -> (&str, GrantId) {
    (&grant.principal, grant.id)
}

impl CatalogView for Snapshot {
    fn key(&self, id: KeyId) -> Option<&Key> {
        self.keys.get(&id).and_then(|entry| entry.key.as_deref())
    }
    fn key_by_name(&self, name: &str) -> Option<KeyId> {
        self.names.get(name).copied()
    }
    fn version(&self, key: KeyId, version: u32) -> Option<&KeyVersion> {
        self.keys.get(&key).and_then(|entry| entry.version(version))
    }
    fn live_versions(&self, key: KeyId) -> usize {
        self.keys.get(&key).map_or(0, |entry| entry.live)
    }
    fn each_version(&self, key: KeyId, visit: &mut dyn FnMut(&KeyVersion)) {
        self.keys.get(&key).into_iter().flat_map(|entry| &entry.versions).for_each(visit);
    }
    fn newest_versions(&self, key: KeyId, at_most: usize, visit: &mut dyn FnMut(&KeyVersion)) {
        self.versions_newest_first(key).take(at_most).for_each(visit);
    }
    fn grant(&self, id: GrantId) -> Option<&Grant> {
        self.grants.get(&id)
    }
    fn each_grant(&self, principal: &str, scope: GrantScope, visit: &mut dyn FnMut(&Grant)) {
        self.rights.on(principal, scope).iter().filter_map(|id| self.grants.get(id)).for_each(visit);
    }
    fn some_grants(&self, principal: &str, at_most: usize, visit: &mut dyn FnMut(&Grant)) {
        self.rights.of(principal).take(at_most).filter_map(|id| self.grants.get(&id)).for_each(visit);
    }
    fn credential(&self, id: CredentialId) -> Option<&Credential> {
        self.credentials.get(&id)
    }
    fn ended_credentials(&self, before: Timestamp, at_most: usize, visit: &mut dyn FnMut(&Credential)) {
        let ended = self.ends.iter().take_while(|(end, _)| *end < before).take(at_most);
        ended.filter_map(|(_, id)| self.credentials.get(id)).for_each(visit);
    }
    fn has_credentials(&self) -> bool {
        // Credentials that are not used because they were altered count too.
        let is_one_quarantined = self.quarantined.keys().any(|(table, _)| *table == EntityTable::Credentials);
        !self.credentials.is_empty() || is_one_quarantined || self.trust == Trust::Refused
    }
    fn each_root_key(&self, visit: &mut dyn FnMut(&RootKeyGeneration)) {
        self.root_keys.values().for_each(visit);
    }
    fn each_service_key(&self, visit: &mut dyn FnMut(&ServiceKey)) {
        self.service_keys.values().for_each(visit);
    }
    fn is_damaged(&self, key: KeyId) -> bool {
        match self.trust {
            Trust::Refused => self.keys.contains_key(&key),
            Trust::Verified | Trust::Suspect => !self.damaged.is_empty() && self.damaged.contains(&key),
        }
    }
    fn is_quarantined(&self, table: EntityTable, row: [u8; 16]) -> bool {
        self.quarantined.contains_key(&(table, row))
    }
}

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

/// A row with its part of the fold of all rows, which may be computed on another thread.
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
    key: Option<Key>,
    /// Sorted. Most keys have few, for which a tree would take several times the memory.
    versions: Vec<KeyVersion>,
    /// How many of the versions are not destroyed.
    live: usize,
}

impl Entry {
    fn place(&self, number: u32) -> Result<usize, usize> {
        self.versions.binary_search_by_key(&number, |version| version.version)
    }

    fn version(&self, number: u32) -> Option<&KeyVersion> {
        self.place(number).ok().and_then(|place| self.versions.get(place))
    }

    /// Puts a version in; answers the one whose place it takes.
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

/// Keys, versions and grants as of one revision, without material.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    revision: u64,
    keys: HashMap<KeyId, Entry>,
    names: BTreeMap<String, KeyId>,
    grants: HashMap<GrantId, Grant>,
    rights: Rights,
    credentials: HashMap<CredentialId, Credential>,
    /// The credentials that are not withdrawn.
    standing: BTreeSet<CredentialId>,
    /// How many keys are in each state.
    by_state: BTreeMap<KeyState, u64>,
    version_count: usize,
    /// When the version that is the newest by its own date was made.
    newest_version_at: Option<Timestamp>,
    quarantine: HashMap<QuarantineId, Quarantined>,
    root_keys: BTreeMap<u32, RootKeyGeneration>,
    service_keys: HashMap<ServiceKeyId, ServiceKey>,
    /// The rows in quarantine, each with the key that it makes unusable.
    quarantined: HashMap<(EntityTable, [u8; 16]), Option<KeyId>>,
    /// The keys among them.
    damaged: HashSet<KeyId>,
    rows: RowSet,
    trust: Trust,
}

/// Whether the rows of the snapshot are those that the row commitment in the head stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// They are.
    #[default]
    Verified,
    /// They are not, and it is not known which of them were altered.
    Suspect,
    /// The log was altered too, so nothing can tell: no row is used.
    Refused,
}

impl Snapshot {
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
        self.version_count
    }
    /// How many keys are in each state. States that no key is in may be missing.
    pub fn keys_by_state(&self) -> &BTreeMap<KeyState, u64> {
        &self.by_state
    }
    /// The latest date that a version says it was made at.
    pub fn newest_version_at(&self) -> Option<Timestamp> {
        self.newest_version_at
    }
    /// The keys by name, from the first name after `after` on.
    pub fn keys_by_name(&self, after: Option<&str>) -> impl Iterator<Item = &Key> {
        self.keys_from(after.map_or(Bound::Unbounded, Bound::Excluded))
    }
    /// The keys by name, from a name on.
    pub fn keys_from<'i>(&'i self, from: Bound<&str>) -> impl Iterator<Item = &'i Key> + use<'i> {
        self.names.range::<str, _>((from, Bound::Unbounded)).filter_map(|(_, id)| self.key(*id))
    }
    /// The keys that grants of a principal name, by name, from a name on.
    pub fn keys_granted<'i>(&'i self, principal: &str, from: Bound<&str>) -> impl Iterator<Item = &'i Key> + use<'i> {
        self.rights.keys_of(principal, from).filter_map(|id| self.key(id))
    }
    /// The grants that are not withdrawn, by principal and id, behind this one.
    pub fn grants_behind<'i>(&'i self, after: Option<&Grant>) -> impl Iterator<Item = &'i Grant> + use<'i> {
        self.rights.all(after.map(place)).filter_map(|id| self.grants.get(&id))
    }
    /// The same of one principal.
    pub fn grants_of<'i>(
        &'i self,
        principal: &str,
        after: Option<&Grant>,
    ) -> impl Iterator<Item = &'i Grant> + use<'i> {
        self.rights.of_behind(principal, after.map(place)).filter_map(|id| self.grants.get(&id))
    }
    /// The same of all principals on one scope.
    pub fn grants_on<'i>(
        &'i self,
        scope: GrantScope,
        after: Option<&'i Grant>,
    ) -> impl Iterator<Item = &'i Grant> + use<'i> {
        self.rights.of_scope(scope, after.map(place)).filter_map(|(_, id)| self.grants.get(&id))
    }
    /// All grants that are not withdrawn, in no order.
    pub fn grants(&self) -> impl Iterator<Item = &Grant> {
        self.grants.values().filter(|grant| grant.withdrawn_at.is_none())
    }
    /// All versions, in no order.
    pub fn versions(&self) -> impl Iterator<Item = &KeyVersion> {
        self.keys.values().flat_map(|entry| &entry.versions)
    }
    /// The version of a key that follows this one. Numbers may be left out.
    pub fn version_after(&self, key: KeyId, version: u32) -> Option<&KeyVersion> {
        let entry = self.keys.get(&key)?;
        let (Ok(next) | Err(next)) = entry.place(version.checked_add(1)?);
        entry.versions.get(next)
    }
    /// The versions of a key, newest first.
    pub fn versions_newest_first(&self, key: KeyId) -> impl Iterator<Item = &KeyVersion> {
        self.keys.get(&key).into_iter().flat_map(|entry| entry.versions.iter().rev())
    }
    /// The versions of a key with numbers behind this one, oldest first.
    pub fn versions_behind(&self, key: KeyId, number: u32) -> impl Iterator<Item = &KeyVersion> {
        let entry = self.keys.get(&key);
        let first = entry.map_or(0, |entry| entry.place(number).map_or_else(|place| place, |place| place + 1));
        entry.into_iter().flat_map(move |entry| entry.versions.iter().skip(first))
    }
    /// The generations of the root key, oldest first, retired ones too.
    pub fn root_keys(&self) -> impl Iterator<Item = &RootKeyGeneration> {
        self.root_keys.values()
    }
    /// One of them.
    pub fn root_key(&self, generation: u32) -> Option<&RootKeyGeneration> {
        self.root_keys.get(&generation)
    }
    /// The service's own keys, in no order, replaced ones too.
    pub fn service_keys(&self) -> impl Iterator<Item = &ServiceKey> {
        self.service_keys.values()
    }
    /// One of them.
    pub(super) fn service_key(&self, id: ServiceKeyId) -> Option<&ServiceKey> {
        self.service_keys.get(&id)
    }
    /// All credentials, withdrawn ones too, in no order.
    pub fn credentials(&self) -> impl Iterator<Item = &Credential> {
        self.credentials.values()
    }
    /// Whether an entry says that this row is in quarantine. A row that was only set aside has none yet.
    pub(super) fn is_quarantined_by_entry(&self, table: EntityTable, row: [u8; 16]) -> bool {
        self.quarantine().any(|entry| (entry.table, entry.row) == (table, row))
    }
    /// The credentials that are not withdrawn, by id, behind this one.
    pub fn standing_credentials(&self, after: Option<CredentialId>) -> impl Iterator<Item = &Credential> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.standing.range((from, Bound::Unbounded)).filter_map(|id| self.credentials.get(id))
    }
    /// An entry of the quarantine, released or not.
    pub(super) fn quarantine_entry(&self, id: QuarantineId) -> Option<&Quarantined> {
        self.quarantine.get(&id)
    }
    /// The entries of the quarantine that are not released, in no order.
    pub fn quarantine(&self) -> impl Iterator<Item = &Quarantined> {
        self.quarantine.values().filter(|entry| entry.is_active())
    }

    /// All rows that are used, and the entries of the quarantine, folded.
    pub(crate) fn rows(&self) -> &RowSet {
        &self.rows
    }
    /// Calls `visit` with every row that is used, and with the entries of the quarantine: table, id and bytes. These
    /// are the rows that the row commitment holds.
    pub(crate) fn each_row(&self, visit: &mut dyn FnMut(&'static str, [u8; 16], Vec<u8>)) {
        self.quarantine.values().for_each(|row| visit("quarantine", *row.id.as_bytes(), row::quarantined(row)));
        self.root_keys.values().for_each(|row| visit("root_keys", *row.id.as_bytes(), row::root_key(row)));
        self.service_keys.values().for_each(|row| visit("service_keys", *row.id.as_bytes(), row::service_key(row)));
        for entry in self.keys.values() {
            entry.key.iter().for_each(|row| visit("keys", *row.id.as_bytes(), row::key(row)));
            entry.versions.iter().for_each(|row| visit("key_versions", *row.id.as_bytes(), row::version(row)));
        }
        for grant in self.grants.values() {
            // One that cannot be written as a row is not among them.
            let Ok(bytes) = row::grant(grant) else { continue };
            visit("grants", *grant.id.as_bytes(), bytes);
        }
        self.credentials.values().for_each(|row| visit("credentials", *row.id.as_bytes(), row::credential(row)));
    }
    /// The same rows folded under other seals.
    pub(super) fn fold(&self, seals: &Seals) -> RowSet {
        let mut rows = RowSet::default();
        self.each_row(&mut |_, _, bytes| rows.toggle(seals, &bytes));
        rows
    }
    /// Folds its rows under other seals from now on.
    pub(super) fn refold(&mut self, seals: &Seals) {
        self.rows = self.fold(seals);
    }
    /// What its rows are worth.
    pub(crate) fn trust(&self) -> Trust {
        self.trust
    }
    pub(super) fn set_trust(&mut self, trust: Trust) {
        self.trust = trust;
    }
}

/// Where a grant stands in the order of lists.
fn place(grant: &Grant) -> (&str, GrantId) {
    (&grant.principal, grant.id)
}

impl CatalogView for Snapshot {
    fn key(&self, id: KeyId) -> Option<&Key> {
        self.keys.get(&id).and_then(|entry| entry.key.as_ref())
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
    fn has_credentials(&self) -> bool {
        // Those that are not used because they were altered count too.
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

//! Keys, versions and grants as of one revision.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;

use super::rights::Rights;
use crate::envelope::{RowSet, Seals, row};
use crate::types::change::Change;
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

    /// Takes a row out and makes its key unusable. The row stays out whatever is read of it later, until it is
    /// released.
    pub(super) fn set_aside(&mut self, table: EntityTable, row: [u8; 16], key: Option<KeyId>, seals: &Seals) {
        if self.quarantined.insert((table, row), key).is_some() {
            return;
        }
        self.damaged.extend(key);
        if let Some(taken_out) = self.take_out(table, row) {
            self.rows.toggle(seals, &taken_out);
        }
    }

    /// Removes a row, if it is there; answers its bytes.
    fn take_out(&mut self, table: EntityTable, id: [u8; 16]) -> Option<Vec<u8>> {
        match table {
            EntityTable::Keys => {
                let key = self.keys.get_mut(&KeyId::from_bytes(id))?.key.take()?;
                self.names.remove(&key.name);
                self.rights.unname_key(key.id, &key.name);
                self.count_key(key.state, false);
                Some(row::key(&key))
            }
            EntityTable::KeyVersions => {
                let of = self.versions().find(|version| *version.id.as_bytes() == id);
                let (key, number) = of.map(|version| (version.key_id, version.version))?;
                let entry = self.keys.get_mut(&key)?;
                let version = entry.remove(number)?;
                self.version_count -= 1;
                Some(row::version(&version))
            }
            EntityTable::Grants => {
                let grant = self.grants.remove(&GrantId::from_bytes(id))?;
                let name = self.name_of(grant.scope);
                self.rights.remove(&grant, name.as_deref());
                row::grant(&grant).ok()
            }
            EntityTable::Credentials => {
                self.standing.remove(&CredentialId::from_bytes(id));
                self.credentials.remove(&CredentialId::from_bytes(id)).as_ref().map(row::credential)
            }
        }
    }

    /// Uses nothing of it, nor of what is read later: without a commitment, a row may be one that was withdrawn since.
    pub(super) fn refuse_all(&mut self) {
        self.trust = Trust::Refused;
        self.grants.clear();
        self.rights = Rights::default();
        self.credentials.clear();
        self.standing.clear();
    }

    /// The name of the key that a scope is of, if its row is there.
    fn name_of(&self, scope: GrantScope) -> Option<String> {
        match scope {
            GrantScope::AllKeys => None,
            GrantScope::Key(key) => self.key(key).map(|key| key.name.clone()),
        }
    }

    fn count_key(&mut self, state: KeyState, is_there: bool) {
        let count = self.by_state.entry(state).or_default();
        *count = if is_there { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            self.by_state.remove(&state);
        }
    }

    pub(super) fn advance(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }

    /// Puts a row in, unless a newer one is there.
    pub(super) fn apply(&mut self, change: &Change, seals: &Seals) {
        match change {
            Change::InsertKey(key) | Change::UpdateKey(key) => {
                self.put_key(Folded::new(key.clone(), &row::key(key), seals), seals);
            }
            Change::InsertVersion(version, _) | Change::UpdateVersion(version) | Change::EraseVersion(version) => {
                self.put_version(Folded::new(version.clone(), &row::version(version), seals), seals);
            }
            Change::InsertGrant(grant) | Change::UpdateGrant(grant) => {
                // One that cannot be written as a row was neither read from one nor committed.
                let Ok(bytes) = row::grant(grant) else { return };
                self.put_grant(Folded::new(grant.clone(), &bytes, seals), seals);
            }
            Change::InsertCredential(credential) | Change::UpdateCredential(credential) => {
                self.put_credential(Folded::new(credential.clone(), &row::credential(credential), seals), seals);
            }
            Change::InsertQuarantined(entry) | Change::UpdateQuarantined(entry) => {
                self.put_quarantined(entry.clone(), seals);
            }
            Change::InsertRootKey(root) | Change::UpdateRootKey(root) => self.put_root_key(root.clone(), seals),
            Change::InsertServiceKey(key, _) | Change::UpdateServiceKey(key) => {
                self.put_service_key(key.clone(), seals);
            }
        }
    }

    /// Whether a row is in quarantine, so that nothing that is read of it counts.
    fn is_kept_out(&self, table: EntityTable, row: &[u8; 16]) -> bool {
        self.quarantined.contains_key(&(table, *row))
    }

    pub(super) fn put_quarantined(&mut self, entry: Quarantined, seals: &Seals) {
        if self.quarantine.get(&entry.id).is_some_and(|present| present.revision >= entry.revision) {
            return;
        }
        let (table, row, new) = (entry.table, entry.row, row::quarantined(&entry));
        let (is_active, key, name) = (entry.is_active(), entry.key, entry.key_name.clone());
        let old = self.quarantine.insert(entry.id, entry);
        self.replace(old.as_ref().map(row::quarantined), &new, seals);
        if is_active {
            self.set_aside(table, row, key, seals);
            self.names.extend(name.zip(key));
        } else if !self.quarantine().any(|other| (other.table, other.row) == (table, row)) {
            self.quarantined.remove(&(table, row));
            self.damaged = self.quarantined.values().copied().flatten().collect();
        }
    }

    pub(super) fn put_root_key(&mut self, root: RootKeyGeneration, seals: &Seals) {
        let present = self.root_keys.get(&root.generation);
        if present.is_some_and(|present| present.revision >= root.revision) {
            return;
        }
        let (old, new) = (present.map(row::root_key), row::root_key(&root));
        self.root_keys.insert(root.generation, root);
        self.replace(old, &new, seals);
    }

    pub(super) fn put_service_key(&mut self, key: ServiceKey, seals: &Seals) {
        let present = self.service_keys.get(&key.id);
        if present.is_some_and(|present| present.revision >= key.revision) {
            return;
        }
        let (old, new) = (present.map(row::service_key), row::service_key(&key));
        self.service_keys.insert(key.id, key);
        self.replace(old, &new, seals);
    }

    fn entry(&mut self, id: KeyId) -> &mut Entry {
        self.keys.entry(id).or_insert_with(|| Entry { key: None, versions: Vec::new(), live: 0 })
    }

    pub(super) fn put_key(&mut self, Folded { row: key, fold }: Folded<Key>, seals: &Seals) {
        if self.is_kept_out(EntityTable::Keys, key.id.as_bytes()) {
            return;
        }
        let (id, name, state) = (key.id, key.name.clone(), key.state);
        let entry = self.entry(id);
        if entry.key.as_ref().is_none_or(|present| present.revision < key.revision) {
            let old = entry.key.replace(key);
            match &old {
                Some(old) => self.count_key(old.state, false),
                None => self.rights.name_key(id, &name),
            }
            self.count_key(state, true);
            self.names.insert(name, id);
            self.refold_row(old.as_ref().map(row::key), &fold, seals);
        }
    }

    pub(super) fn put_version(&mut self, Folded { row: version, fold }: Folded<KeyVersion>, seals: &Seals) {
        if self.is_kept_out(EntityTable::KeyVersions, version.id.as_bytes()) {
            return;
        }
        let entry = self.entry(version.key_id);
        let newer = entry.version(version.version).is_none_or(|present| present.revision < version.revision);
        if newer {
            let made_at = version.created_at;
            let old = entry.put(version);
            self.version_count += usize::from(old.is_none());
            self.newest_version_at = self.newest_version_at.max(Some(made_at));
            self.refold_row(old.as_ref().map(row::version), &fold, seals);
        }
    }

    /// Renews the fold of all rows.
    fn replace(&mut self, old: Option<Vec<u8>>, new: &[u8], seals: &Seals) {
        self.refold_row(old, &RowSet::of(seals, new), seals);
    }

    /// The same with the fold of the new row.
    fn refold_row(&mut self, old: Option<Vec<u8>>, new: &RowSet, seals: &Seals) {
        if let Some(old) = old {
            self.rows.toggle(seals, &old);
        }
        self.rows.combine(new);
    }

    pub(super) fn put_grant(&mut self, Folded { row: grant, fold }: Folded<Grant>, seals: &Seals) {
        if self.trust == Trust::Refused || self.is_kept_out(EntityTable::Grants, grant.id.as_bytes()) {
            return;
        }
        let present = self.grants.get(&grant.id);
        if present.is_some_and(|present| present.revision >= grant.revision) {
            return;
        }
        let old = present.and_then(|present| row::grant(present).ok());
        self.refold_row(old, &fold, seals);
        let name = self.name_of(grant.scope);
        if grant.withdrawn_at.is_none() {
            self.rights.insert(&grant, name.as_deref());
        } else {
            self.rights.remove(&grant, name.as_deref());
        }
        self.grants.insert(grant.id, grant);
    }

    pub(super) fn put_credential(&mut self, Folded { row: credential, fold }: Folded<Credential>, seals: &Seals) {
        if self.trust == Trust::Refused || self.is_kept_out(EntityTable::Credentials, credential.id.as_bytes()) {
            return;
        }
        if self.credentials.get(&credential.id).is_none_or(|present| present.revision < credential.revision) {
            if credential.withdrawn_at.is_none() {
                self.standing.insert(credential.id);
            } else {
                self.standing.remove(&credential.id);
            }
            let old = self.credentials.insert(credential.id, credential);
            self.refold_row(old.as_ref().map(row::credential), &fold, seals);
        }
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

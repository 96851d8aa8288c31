//! Changes of the snapshot: inserting, replacing and removing rows, with the update of the fold of all rows.

use super::{Entry, Folded, Snapshot, Trust};
use crate::catalog::rights::Rights;
use crate::envelope::{RowSet, Seals, row};
use crate::types::change::Change;
use crate::types::credential::Credential;
use crate::types::grant::{Grant, GrantScope};
use crate::types::ids::{CredentialId, GrantId, KeyId};
use crate::types::key::{Key, KeyState, KeyVersion};
use crate::types::quarantine::{EntityTable, Quarantined};
use crate::types::root_key::{RootKeyGeneration, ServiceKey};
use crate::types::view::CatalogView;

impl Snapshot {
    /// Takes a row out and makes its key unusable. Later reads do not bring the row back; only its release does.
    pub(in crate::catalog) fn set_aside(
        &mut self,
        table: EntityTable,
        row: [u8; 16],
        key: Option<KeyId>,
        seals: &Seals,
    ) {
        if self.quarantined.insert((table, row), key).is_some() {
            return;
        }
        self.damaged.extend(key);
        if let Some(taken_out) = self.take_out(table, row) {
            self.rows.toggle(seals, &taken_out);
        }
    }

    /// Removes a row, if it exists; returns its bytes.
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
                self.take_out_credential(CredentialId::from_bytes(id)).as_ref().map(row::credential)
            }
        }
    }

    fn take_out_credential(&mut self, id: CredentialId) -> Option<Credential> {
        let credential = self.credentials.remove(&id)?;
        self.standing.remove(&id);
        if let Some(end) = credential.end() {
            self.ends.remove(&end);
        }
        Some(credential)
    }

    /// Notes that all credentials that ended before this one are removed, if its row says so, and drops them from the
    /// snapshot. On a first load none is dropped: a removed row that an attacker restored must stay, so that the row
    /// commitment reveals it.
    pub(in crate::catalog) fn note_oldest(&mut self, id: CredentialId, is_first_load: bool, seals: &Seals) {
        let oldest = self.credentials.get(&id);
        let Some((end, removal)) = oldest.and_then(|oldest| Some((oldest.end()?, oldest.removal?))) else { return };
        if self.oldest.is_some_and(|(_, known)| known >= removal) {
            return;
        }
        self.oldest = Some((end, removal));
        if is_first_load {
            return;
        }
        let before: Vec<CredentialId> = self.ends.range(..end).map(|(_, id)| *id).collect();
        for id in before {
            if self.credentials.get(&id).is_some_and(|credential| credential.revision < removal)
                && let Some(credential) = self.take_out_credential(id)
            {
                self.rows.toggle(seals, &row::credential(&credential));
            }
        }
    }

    /// Whether a credential was removed, as a row says that was read before: this one was read earlier, and late.
    fn is_removed(&self, credential: &Credential) -> bool {
        let Some((oldest, removal)) = self.oldest else { return false };
        credential.revision < removal && credential.end().is_some_and(|end| end < oldest)
    }

    /// Uses no row, not even of later reads: without a verified commitment, a row may be an outdated one, from before a
    /// revocation.
    pub(in crate::catalog) fn refuse_all(&mut self) {
        self.trust = Trust::Refused;
        self.grants.clear();
        self.rights = Rights::default();
        self.credentials.clear();
        self.standing.clear();
        self.ends.clear();
    }

    /// The name of the key of a scope, if its row is in the snapshot.
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

    pub(in crate::catalog) fn advance(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }

    /// Inserts or replaces a row, unless the snapshot has a newer one.
    pub(in crate::catalog) fn apply(&mut self, change: &Change, seals: &Seals) {
        match change {
            Change::InsertKey(key) | Change::UpdateKey(key) => {
                self.put_key(Folded::new(key.clone(), &row::key(key), seals), seals);
            }
            Change::InsertVersion(version, _) | Change::UpdateVersion(version) | Change::EraseVersion(version) => {
                self.put_version(Folded::new(version.clone(), &row::version(version), seals), seals);
            }
            Change::InsertGrant(grant) | Change::UpdateGrant(grant) => {
                // A grant that cannot be encoded was neither read nor committed.
                let Ok(bytes) = row::grant(grant) else { return };
                self.put_grant(Folded::new(grant.clone(), &bytes, seals), seals);
            }
            Change::InsertCredential(credential) | Change::UpdateCredential(credential) => {
                self.put_credential(Folded::new(credential.clone(), &row::credential(credential), seals), seals);
                self.note_oldest(credential.id, false, seals);
            }
            // The change of the row that is the oldest from now on has dropped it.
            Change::RemoveCredential(_) => {}
            Change::InsertQuarantined(entry) | Change::UpdateQuarantined(entry) => {
                self.put_quarantined(entry.clone(), seals);
            }
            Change::InsertRootKey(root) | Change::UpdateRootKey(root) => self.put_root_key(root.clone(), seals),
            Change::InsertServiceKey(key, _) | Change::UpdateServiceKey(key) => {
                self.put_service_key(key.clone(), seals);
            }
        }
    }

    /// Whether a row is in quarantine, so that it is ignored when it is read.
    fn is_kept_out(&self, table: EntityTable, row: &[u8; 16]) -> bool {
        self.quarantined.contains_key(&(table, *row))
    }

    pub(in crate::catalog) fn put_quarantined(&mut self, entry: Quarantined, seals: &Seals) {
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

    pub(in crate::catalog) fn put_root_key(&mut self, root: RootKeyGeneration, seals: &Seals) {
        let present = self.root_keys.get(&root.generation);
        if present.is_some_and(|present| present.revision >= root.revision) {
            return;
        }
        let (old, new) = (present.map(row::root_key), row::root_key(&root));
        self.root_keys.insert(root.generation, root);
        self.replace(old, &new, seals);
    }

    pub(in crate::catalog) fn put_service_key(&mut self, key: ServiceKey, seals: &Seals) {
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

    pub(in crate::catalog) fn put_key(&mut self, Folded { row: key, fold }: Folded<Key>, seals: &Seals) {
        if self.is_kept_out(EntityTable::Keys, key.id.as_bytes()) {
            return;
        }
        let (id, name, state) = (key.id, key.name.clone(), key.state);
        let entry = self.entry(id);
        if entry.key.as_ref().is_none_or(|present| present.revision < key.revision) {
            let old = entry.key.replace(Box::new(key));
            match &old {
                Some(old) => self.count_key(old.state, false),
                None => self.rights.name_key(id, &name),
            }
            self.count_key(state, true);
            self.names.insert(name, id);
            self.refold_row(old.as_deref().map(row::key), &fold, seals);
        }
    }

    pub(in crate::catalog) fn put_version(&mut self, Folded { row: version, fold }: Folded<KeyVersion>, seals: &Seals) {
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

    /// Replaces the bytes of a row in the fold of all rows.
    fn replace(&mut self, old: Option<Vec<u8>>, new: &[u8], seals: &Seals) {
        self.refold_row(old, &RowSet::of(seals, new), seals);
    }

    /// Like `replace`, with the fold of the new row.
    fn refold_row(&mut self, old: Option<Vec<u8>>, new: &RowSet, seals: &Seals) {
        if let Some(old) = old {
            self.rows.toggle(seals, &old);
        }
        self.rows.combine(new);
    }

    pub(in crate::catalog) fn put_grant(&mut self, Folded { row: grant, fold }: Folded<Grant>, seals: &Seals) {
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

    pub(in crate::catalog) fn put_credential(
        &mut self,
        Folded { row: credential, fold }: Folded<Credential>,
        seals: &Seals,
    ) {
        if self.trust == Trust::Refused || self.is_kept_out(EntityTable::Credentials, credential.id.as_bytes()) {
            return;
        }
        let present = self.credentials.get(&credential.id);
        if present.is_none_or(|present| present.revision < credential.revision) && !self.is_removed(&credential) {
            if let Some(end) = present.and_then(Credential::end) {
                self.ends.remove(&end);
            }
            self.ends.extend(credential.end());
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

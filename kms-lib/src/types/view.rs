//! What rules may look at: keys, versions and grants as of one revision.

use super::credential::Credential;
use super::grant::{Grant, GrantScope};
use super::ids::{CredentialId, GrantId, KeyId};
use super::key::{Key, KeyVersion, VersionState};
use super::quarantine::EntityTable;
use super::root_key::{RootKeyGeneration, ServiceKey, ServiceKeyKind, ServiceKeyState};

/// Keys, versions and grants as of one revision. The catalog's snapshot is one; while the ledger walks a batch,
/// the snapshot together with the changes the batch has made so far is another.
pub trait CatalogView {
    /// The key with this id.
    fn key(&self, id: KeyId) -> Option<&Key>;
    /// The key of this name.
    fn key_by_name(&self, name: &str) -> Option<KeyId>;
    /// A version of a key.
    fn version(&self, key: KeyId, version: u32) -> Option<&KeyVersion>;
    /// How many versions of a key have material.
    fn live_versions(&self, key: KeyId) -> usize;
    /// Calls `visit` with every version of a key, oldest first.
    fn each_version(&self, key: KeyId, visit: &mut dyn FnMut(&KeyVersion));
    /// Calls `visit` with the newest versions of a key, at most so many, newest first. Numbers may be left out.
    fn newest_versions(&self, key: KeyId, at_most: usize, visit: &mut dyn FnMut(&KeyVersion)) {
        let mut all = Vec::new();
        self.each_version(key, &mut |version| all.push(version.clone()));
        all.iter().rev().take(at_most).for_each(visit);
    }
    /// The grant with this id, withdrawn or not.
    fn grant(&self, id: GrantId) -> Option<&Grant>;
    /// Calls `visit` with every grant of a principal on just this scope that is not withdrawn.
    fn each_grant(&self, principal: &str, scope: GrantScope, visit: &mut dyn FnMut(&Grant));
    /// Calls `visit` with grants of a principal on any scope that are not withdrawn: about `at_most` of them.
    fn some_grants(&self, principal: &str, at_most: usize, visit: &mut dyn FnMut(&Grant));
    /// The credential with this id, withdrawn or not.
    fn credential(&self, id: CredentialId) -> Option<&Credential>;
    /// Whether there is or ever was a credential: withdrawn ones count.
    fn has_credentials(&self) -> bool;
    /// Calls `visit` with every generation of the root key, oldest first, retired ones too.
    fn each_root_key(&self, visit: &mut dyn FnMut(&RootKeyGeneration));
    /// Calls `visit` with every key of the service, in no order, replaced ones too.
    fn each_service_key(&self, visit: &mut dyn FnMut(&ServiceKey));
    /// Whether a row of this key is in quarantine: the key must not be used.
    fn is_damaged(&self, key: KeyId) -> bool;
    /// Whether this row is in quarantine.
    fn is_quarantined(&self, table: EntityTable, row: [u8; 16]) -> bool;
}

/// Whether a version has material, which is neither erased nor being erased.
pub fn has_material(view: &dyn CatalogView, version: &KeyVersion) -> bool {
    version.state != VersionState::Destroyed && view.key(version.key_id).is_none_or(|key| !key.is_erased())
}

/// The generations of the root key that new material is wrapped under, ascending.
pub fn wrapping_generations(view: &dyn CatalogView) -> Vec<u32> {
    let mut generations = Vec::new();
    view.each_root_key(&mut |root| {
        if root.wraps() {
            generations.push(root.generation);
        }
    });
    generations
}

/// The key of the service of this kind that is in use.
pub fn current_service_key(view: &dyn CatalogView, kind: ServiceKeyKind) -> Option<ServiceKey> {
    let mut found = None;
    view.each_service_key(&mut |key| {
        if key.kind == kind && key.state == ServiceKeyState::Current {
            found = Some(key.clone());
        }
    });
    found
}

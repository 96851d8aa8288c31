//! The view that decisions are based on: keys, versions and grants as of one revision.

use super::credential::Credential;
use super::grant::{Grant, GrantScope};
use super::ids::{CredentialId, GrantId, KeyId};
use super::key::{Key, KeyVersion, VersionState};
use super::quarantine::EntityTable;
use super::root_key::{RootKeyGeneration, ServiceKey, ServiceKeyKind, ServiceKeyState};
use super::time::Timestamp;

/// Keys, versions, grants and credentials as of one revision: the catalog's snapshot or, while the ledger plans a
/// batch, the snapshot with the changes that the batch has made so far.
pub trait CatalogView {
    /// The key with this id.
    fn key(&self, id: KeyId) -> Option<&Key>;
    /// The id of the key with this name.
    fn key_by_name(&self, name: &str) -> Option<KeyId>;
    /// The version of a key with this number.
    fn version(&self, key: KeyId, version: u32) -> Option<&KeyVersion>;
    /// Number of versions of a key that have material.
    fn live_versions(&self, key: KeyId) -> usize;
    /// Calls `visit` with every version of a key, oldest first.
    fn each_version(&self, key: KeyId, visit: &mut dyn FnMut(&KeyVersion));
    /// Calls `visit` with at most `at_most` versions of a key, newest first. Numbers may have gaps.
    fn newest_versions(&self, key: KeyId, at_most: usize, visit: &mut dyn FnMut(&KeyVersion)) {
        let mut all = Vec::new();
        self.each_version(key, &mut |version| all.push(version.clone()));
        all.iter().rev().take(at_most).for_each(visit);
    }
    /// The grant with this id, revoked or not.
    fn grant(&self, id: GrantId) -> Option<&Grant>;
    /// Calls `visit` with every grant of a principal on exactly this scope that is not revoked.
    fn each_grant(&self, principal: &str, scope: GrantScope, visit: &mut dyn FnMut(&Grant));
    /// Calls `visit` with up to about `at_most` grants of a principal, on any scope, that are not revoked.
    fn some_grants(&self, principal: &str, at_most: usize, visit: &mut dyn FnMut(&Grant));
    /// The credential with this id, revoked or not.
    fn credential(&self, id: CredentialId) -> Option<&Credential>;
    /// Calls `visit` with at most `at_most` credentials that ended before a time, the longest ago first.
    fn ended_credentials(&self, before: Timestamp, at_most: usize, visit: &mut dyn FnMut(&Credential));
    /// Whether a credential exists or existed; revoked ones count.
    fn has_credentials(&self) -> bool;
    /// Calls `visit` with every generation of the root key, oldest first, including retired ones.
    fn each_root_key(&self, visit: &mut dyn FnMut(&RootKeyGeneration));
    /// Calls `visit` with every key of the service, in no particular order, including replaced ones.
    fn each_service_key(&self, visit: &mut dyn FnMut(&ServiceKey));
    /// Whether a row of this key is in quarantine; then the key must not be used.
    fn is_damaged(&self, key: KeyId) -> bool;
    /// Whether this row is in quarantine, so that it must not be used.
    fn is_quarantined(&self, table: EntityTable, row: [u8; 16]) -> bool;
}

/// Whether a version's material is neither erased nor being erased.
pub fn has_material(view: &dyn CatalogView, version: &KeyVersion) -> bool {
    version.state != VersionState::Destroyed && view.key(version.key_id).is_none_or(|key| !key.is_erased())
}

/// The root key generations that new material is wrapped under, ascending.
pub fn wrapping_generations(view: &dyn CatalogView) -> Vec<u32> {
    let mut generations = Vec::new();
    view.each_root_key(&mut |root| {
        if root.wraps() {
            generations.push(root.generation);
        }
    });
    generations
}

/// The current key of the service of this kind.
pub fn current_service_key(view: &dyn CatalogView, kind: ServiceKeyKind) -> Option<ServiceKey> {
    let mut found = None;
    view.each_service_key(&mut |key| {
        if key.kind == kind && key.state == ServiceKeyState::Current {
            found = Some(key.clone());
        }
    });
    found
}

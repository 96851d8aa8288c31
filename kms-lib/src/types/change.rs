//! Changes: the rows that a transition inserts or replaces, in their new state, and those that it removes.

use super::credential::Credential;
use super::grant::Grant;
use super::key::{Key, KeyVersion, Material};
use super::quarantine::Quarantined;
use super::root_key::{RootKeyGeneration, ServiceKey, Wrapped};

/// One row that is inserted, replaced or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new row of `keys`.
    InsertKey(Key),
    /// A changed row of `keys`.
    UpdateKey(Key),
    /// A new version with its material.
    InsertVersion(KeyVersion, Material),
    /// A changed version; its material stays as it is.
    UpdateVersion(KeyVersion),
    /// A changed version whose wrapped material is erased.
    EraseVersion(KeyVersion),
    /// A new row of `grants`.
    InsertGrant(Grant),
    /// A changed row of `grants`.
    UpdateGrant(Grant),
    /// A new row of `credentials`.
    InsertCredential(Credential),
    /// A changed row of `credentials`.
    UpdateCredential(Credential),
    /// A credential that is removed.
    RemoveCredential(Credential),
    /// A new entry of the quarantine.
    InsertQuarantined(Quarantined),
    /// A changed entry of the quarantine.
    UpdateQuarantined(Quarantined),
    /// A new generation of the root key.
    InsertRootKey(RootKeyGeneration),
    /// A changed generation of the root key.
    UpdateRootKey(RootKeyGeneration),
    /// A new key of the service (integrity or signing key), with its wrappings.
    InsertServiceKey(ServiceKey, Vec<Wrapped>),
    /// A changed key of the service. If it was replaced, its wrappings are erased.
    UpdateServiceKey(ServiceKey),
}

//! Changes: what a transition does to the rows of the store. The row as it is afterwards.

use super::credential::Credential;
use super::grant::Grant;
use super::key::{Key, KeyVersion, Material};
use super::quarantine::Quarantined;
use super::root_key::{RootKeyGeneration, ServiceKey, Wrapped};

/// One row inserted or replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new key.
    InsertKey(Key),
    /// A key as it is afterwards.
    UpdateKey(Key),
    /// A new version with its material.
    InsertVersion(KeyVersion, Material),
    /// A version as it is afterwards; its material is untouched.
    UpdateVersion(KeyVersion),
    /// A version as it is afterwards; its wrapped material is erased.
    EraseVersion(KeyVersion),
    /// A new grant.
    InsertGrant(Grant),
    /// A grant as it is afterwards.
    UpdateGrant(Grant),
    /// A new credential.
    InsertCredential(Credential),
    /// A credential as it is afterwards.
    UpdateCredential(Credential),
    /// A row that enters the quarantine.
    InsertQuarantined(Quarantined),
    /// An entry of the quarantine as it is afterwards.
    UpdateQuarantined(Quarantined),
    /// A new generation of the root key.
    InsertRootKey(RootKeyGeneration),
    /// A generation of the root key as it is afterwards.
    UpdateRootKey(RootKeyGeneration),
    /// A new key of the service, with its wrappings.
    InsertServiceKey(ServiceKey, Vec<Wrapped>),
    /// A key of the service as it is afterwards. The wrappings of one that was replaced are erased.
    UpdateServiceKey(ServiceKey),
}

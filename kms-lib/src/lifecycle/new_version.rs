//! A version that a command makes, with its wrapped material.

use crate::types::ids::VersionId;
use crate::types::key::Material;
/// A new version with its generated and wrapped material.
#[derive(Clone, Debug)]
pub struct NewVersion {
    /// The new version's id.
    pub id: VersionId,
    /// The version's number.
    pub version: u32,
    /// The wrapped material and the public key.
    pub material: Material,
    /// The material's fingerprint.
    pub fingerprint: [u8; 32],
}

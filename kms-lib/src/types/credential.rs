//! Credentials: what a caller shows to be somebody. Kept like grants: made and withdrawn through the ledger.

use super::actor::Role;
use super::ids::CredentialId;
use super::time::Timestamp;

/// A credential. One row of `credentials`; the token itself is never stored, only its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Identifies the credential; it is part of the token.
    pub id: CredentialId,
    /// Who shows it is this principal.
    pub principal: String,
    /// In this role.
    pub role: Role,
    /// SHA-256 of the token's secret, which has 256 random bits: a slow hash would gain nothing.
    pub secret_hash: [u8; 32],
    /// What it is for, in the words of whoever made it.
    pub label: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is not accepted.
    pub expires_at: Option<Timestamp>,
    /// When it was withdrawn.
    pub withdrawn_at: Option<Timestamp>,
    /// The sequence number of the record of its last change.
    pub revision: u64,
}

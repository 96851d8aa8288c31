//! Credentials: the stored form of access tokens. Like grants, they are created and revoked through the ledger.

use super::actor::Role;
use super::ids::CredentialId;
use super::time::Timestamp;

/// A credential. One row of `credentials`; the token itself is never stored, only its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The credential's identifier, which is part of the token.
    pub id: CredentialId,
    /// The principal that the token authenticates.
    pub principal: String,
    /// The role that the token gives.
    pub role: Role,
    /// SHA-256 of the token's secret. The secret has 256 random bits, so a slow hash is not needed.
    pub secret_hash: [u8; 32],
    /// The purpose of the token, as text from its creator.
    pub label: Option<String>,
    /// Time of creation.
    pub created_at: Timestamp,
    /// The token is not accepted at or after this time.
    pub expires_at: Option<Timestamp>,
    /// Time at which the credential was revoked.
    pub withdrawn_at: Option<Timestamp>,
    /// The sequence number of the record that removed all credentials which ended before this one. Other processes
    /// learn from this row what to drop, since a removed row has no revision that they could see.
    pub removal: Option<u64>,
    /// The sequence number of the record of its last change.
    pub revision: u64,
}

impl Credential {
    /// The time from which the token is refused, and the id, which orders credentials that end at the same time. None
    /// if the credential does not end.
    pub fn end(&self) -> Option<(Timestamp, CredentialId)> {
        let end = [self.expires_at, self.withdrawn_at].into_iter().flatten().min()?;
        Some((end, self.id))
    }
}

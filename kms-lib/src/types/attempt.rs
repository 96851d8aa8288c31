//! Attempts: what an actor is about to do, in the form policy decides on.

use std::sync::Arc;

use super::actor::Actor;
use super::context::Context;
use super::error::ErrorCode;
use super::grant::{Conditions, Permission};
use super::ids::{CredentialId, GrantId, KeyId};
use super::key::KeyType;
use super::time::Timestamp;

/// An operation, with what a decision needs to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Create a key.
    CreateKey,
    /// Read a key's description.
    ReadKey,
    /// Encrypt, or generate a data key, with the current version, which must be this one.
    Encrypt {
        /// The version the work was done with.
        version: u32,
    },
    /// Decrypt with this version.
    Decrypt {
        /// The version that made the ciphertext.
        version: u32,
    },
    /// Sign with the current version, which must be this one.
    Sign {
        /// The version the work was done with.
        version: u32,
    },
    /// Verify a signature. With a version: that one. Without: the usable ones.
    Verify {
        /// The version, if one was named or found.
        version: Option<u32>,
    },
    /// Rotate the key to this new version, which must follow the current one.
    Rotate {
        /// The number of the new version.
        new_version: u32,
        /// The version the caller expects to be current: another one is a conflict.
        expected_current: Option<u32>,
    },
    /// Enable the key.
    EnableKey,
    /// Disable the key.
    DisableKey,
    /// Revoke the key and all its versions.
    RevokeKey,
    /// Enable a version.
    EnableVersion {
        /// Which one.
        version: u32,
    },
    /// Disable a version.
    DisableVersion {
        /// Which one.
        version: u32,
    },
    /// Revoke a version.
    RevokeVersion {
        /// Which one.
        version: u32,
    },
    /// Set, extend or end a version's window.
    SetWindow {
        /// Which version.
        version: u32,
        /// Until when it decrypts and verifies; for ever without one.
        not_after: Option<Timestamp>,
    },
    /// Edit periods, metadata or the form of recorded contexts.
    UpdateKey {
        /// The revision that the caller expects the key to have: another one is a conflict.
        expected_revision: Option<u64>,
    },
    /// Schedule a deletion after this many days.
    ScheduleDeletion {
        /// The waiting period.
        waiting_days: u32,
    },
    /// Cancel a deletion.
    CancelDeletion,
    /// Erase the key's material; its date has passed.
    DestroyKey,
    /// Erase the material of versions that are revoked or past their window.
    TrimKey,
    /// Go on with the erasure of a key's material.
    EraseKey,
    /// Make or replace a grant with these permissions and conditions on the attempt's key (all keys without one).
    PutGrant {
        /// To whom.
        principal: String,
        /// What it allows.
        permissions: Vec<Permission>,
        /// Under which conditions.
        conditions: Conditions,
    },
    /// Withdraw the grant.
    WithdrawGrant {
        /// Which one.
        id: GrantId,
        /// Whether what was passed on through it ends with it.
        cascade: bool,
    },
    /// Make a credential.
    CreateCredential,
    /// Withdraw the credential.
    WithdrawCredential {
        /// Which one.
        id: CredentialId,
    },
    /// Read credentials.
    ReadCredentials,
    /// Make a backup, or compare one.
    Backup,
    /// Accept that the store was put back to an older state.
    AcknowledgeRestore,
    /// Accept that the log's last record is of a time that has not come yet.
    AcknowledgeClock,
    /// Replace the key that signs the log.
    ReplaceSigningKey,
    /// Bring keys and grants of another system here.
    Import,
    /// Add, compare and retire generations of the root key.
    ManageRootKeys,
    /// List the generations of the root key.
    ReadRootKeys,
    /// Put rows into the quarantine, or release them from it.
    ManageQuarantine,
    /// List the rows in quarantine.
    ReadQuarantine,
    /// Read grants.
    ReadGrants,
    /// Read the log.
    ReadAudit,
    /// Verify the log.
    VerifyAudit,
    /// Read metrics.
    ReadMetrics,
}

/// An operation by an actor on a key, at a time.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Who.
    pub actor: Actor,
    /// What.
    pub operation: Operation,
    /// On which key; none for operations that are about no key, or about all.
    pub key: Option<KeyId>,
    /// The key type the operation needs: an attempt on a key of another type is `WrongKeyType`.
    pub key_type: Option<KeyType>,
    /// The encryption context, if the operation binds one. Without one, grants with a context condition deny.
    pub context: Option<Arc<Context>>,
}

/// What policy says of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may be done.
    Allowed {
        /// The grant that allows it; none when the role does.
        grant: Option<GrantId>,
        /// The earliest end of a window the decision relied on: it is void from then on.
        valid_until: Option<Timestamp>,
    },
    /// It may not be done.
    Denied(ErrorCode),
    /// The work was done with a version that is no longer the right one: do it again.
    Superseded,
}

//! Attempts: operations that an actor requests, as the input of policy decisions.

use std::sync::Arc;

use super::actor::Actor;
use super::context::Context;
use super::error::ErrorCode;
use super::grant::{Conditions, Permission};
use super::ids::{CredentialId, GrantId, KeyId};
use super::key::KeyType;
use super::time::Timestamp;

/// An operation, with the values that a policy decision depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Create a key with its first version.
    CreateKey,
    /// Read a key's description.
    ReadKey,
    /// Encrypt, or generate a data key. Allowed only while `version` is the current one.
    Encrypt {
        /// The version that did the work.
        version: u32,
    },
    /// Decrypt with this version.
    Decrypt {
        /// The version that made the ciphertext.
        version: u32,
    },
    /// Sign. Allowed only while `version` is the current one.
    Sign {
        /// The version that did the work.
        version: u32,
    },
    /// Verify a signature with one version, or with all usable versions.
    Verify {
        /// The version, if the caller named one or the signature was valid under one.
        version: Option<u32>,
    },
    /// Rotate the key to a new version, whose number follows the current one.
    Rotate {
        /// The number of the new version.
        new_version: u32,
        /// The version that the caller expects to be current; any other is a `Conflict`.
        expected_current: Option<u32>,
    },
    /// Enable the key after it was disabled.
    EnableKey,
    /// Disable the key until it is enabled again.
    DisableKey,
    /// Revoke the key and all its versions.
    RevokeKey,
    /// Enable a version after it was disabled.
    EnableVersion {
        /// The version's number.
        version: u32,
    },
    /// Disable a version until it is enabled again.
    DisableVersion {
        /// The version's number.
        version: u32,
    },
    /// Revoke a version permanently.
    RevokeVersion {
        /// The version's number.
        version: u32,
    },
    /// Set, extend or end a former version's grace window.
    SetWindow {
        /// The version's number.
        version: u32,
        /// End of the grace window, exclusive; `None`: no end.
        not_after: Option<Timestamp>,
    },
    /// Edit a key's periods, metadata or the form of its recorded contexts.
    UpdateKey {
        /// The revision that the caller expects the key to have; any other is a `Conflict`.
        expected_revision: Option<u64>,
    },
    /// Schedule a deletion after this many days.
    ScheduleDeletion {
        /// The waiting period, in days.
        waiting_days: u32,
    },
    /// Cancel a scheduled deletion.
    CancelDeletion,
    /// Begin to erase the key's material. Allowed only once the date of its deletion has passed.
    DestroyKey,
    /// Erase the material of versions that are revoked or past their grace window.
    TrimKey,
    /// Continue the erasure of a key's material.
    EraseKey,
    /// Create or replace a grant on the attempt's key, or on all keys if it has none.
    PutGrant {
        /// The principal that gets the grant.
        principal: String,
        /// The permissions of the grant.
        permissions: Vec<Permission>,
        /// The conditions of the grant.
        conditions: Conditions,
    },
    /// Withdraw a grant, with or without the grants that were passed on through it.
    WithdrawGrant {
        /// The id of the grant.
        id: GrantId,
        /// Whether everything that was passed on through the grant is revoked too.
        cascade: bool,
    },
    /// Create a credential, the record of an access token.
    CreateCredential,
    /// Withdraw a credential, so that its token no longer authenticates.
    WithdrawCredential {
        /// The id of the credential.
        id: CredentialId,
    },
    /// Remove credentials that ended long ago.
    RemoveCredentials,
    /// List the credentials of access tokens.
    ReadCredentials,
    /// Make a backup, or compare one with the store.
    Backup,
    /// Accept that the store was rolled back to an older state.
    AcknowledgeRestore,
    /// Accept that the time of the log's last record is in the future.
    AcknowledgeClock,
    /// Replace the signing key of the log.
    ReplaceSigningKey,
    /// Import keys, grants and the log of another system.
    #[cfg_attr(not(feature = "import"), allow(dead_code, reason = "only an import makes it"))]
    Import,
    /// Add, compare and retire generations of the root key.
    ManageRootKeys,
    /// List the generations of the root key.
    ReadRootKeys,
    /// Quarantine rows, or release them.
    ManageQuarantine,
    /// List the quarantined rows.
    ReadQuarantine,
    /// Read the list of grants.
    ReadGrants,
    /// Read records of the audit log.
    ReadAudit,
    /// Verify the audit log.
    VerifyAudit,
    /// Read metrics and alerts.
    ReadMetrics,
}

/// An operation that an actor requests, on one key or on none.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The actor that requests the operation.
    pub actor: Actor,
    /// The operation with its parameters.
    pub operation: Operation,
    /// The key of the operation; `None` for operations on all keys or on no key.
    pub key: Option<KeyId>,
    /// The key type that the operation requires; a key of another type is `WrongKeyType`.
    pub key_type: Option<KeyType>,
    /// The encryption context, if the operation has one. Without it, grants with a context condition do not match.
    pub context: Option<Arc<Context>>,
}

/// The result of a policy decision on an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The attempt is allowed.
    Allowed {
        /// The grant that allows the attempt; `None` if the role allows it.
        grant: Option<GrantId>,
        /// The decision is valid before this time: the earliest end of a credential, grant or window that it relies on.
        valid_until: Option<Timestamp>,
    },
    /// The attempt is denied, with this error code.
    Denied(ErrorCode),
    /// The work was done with a version that is no longer current; repeat it with the current version.
    Superseded,
}

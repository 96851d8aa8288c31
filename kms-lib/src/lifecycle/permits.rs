//! The lifecycle tables: the operations that the states of a key and its versions allow.

use crate::types::attempt::Operation;
use crate::types::error::ErrorCode;
use crate::types::key::{DisabledReason, Key, KeyPurpose, KeyState, KeyVersion, Origin, VersionState};
use crate::types::time::Timestamp;

/// The reason why a state does not allow an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The operation is not allowed.
    Code(ErrorCode),
    /// The work was done with, or for, a version that is outdated since another rotation; it has to be repeated.
    Superseded,
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self::Code(code)
    }
}

/// The end of the grace window that an allowed operation relies on; `None` if it relies on none.
type Permitted = Result<Option<Timestamp>, Refusal>;

/// Whether the states of `key` and its versions allow `operation` at `now`. Always allows operations that are not on a
/// key.
pub fn permits<'v>(
    operation: &Operation,
    key: &Key,
    version: impl Fn(u32) -> Option<&'v KeyVersion>,
    now: Timestamp,
) -> Permitted {
    let named = |number: u32| version(number).ok_or(Refusal::Code(ErrorCode::VersionNotFound));
    if key.is_held_by_import() && is_for_the_source(operation) {
        return Err(ErrorCode::ImportOpen.into());
    }
    match *operation {
        Operation::Encrypt { version: number } => {
            require_purpose(key, KeyPurpose::Encryption)?;
            produce(key, number, &version, now)
        }
        Operation::Sign { version: number } => {
            require_purpose(key, KeyPurpose::Signing)?;
            produce(key, number, &version, now)
        }
        Operation::Decrypt { version: number } => {
            let is_imported = version(number).is_some_and(|version| version.origin == Origin::Imported);
            require_purpose_unless(is_imported, key, KeyPurpose::Encryption)?;
            require_consumable(key)?;
            consume(named(number)?, now)
        }
        Operation::Verify { version: number } => {
            let is_imported = match number {
                Some(number) => version(number).is_some_and(|version| version.origin == Origin::Imported),
                // Each version that is tried is checked by itself.
                None => key.import.is_some(),
            };
            require_purpose_unless(is_imported, key, KeyPurpose::Signing)?;
            require_consumable(key)?;
            number.map_or(Ok(None), |number| consume(named(number)?, now))
        }
        Operation::Rotate { new_version, expected_current } => {
            require_consumable(key)?;
            if expected_current.is_some_and(|expected| expected != key.current_version) {
                return Err(ErrorCode::Conflict.into());
            }
            let next = next_version(key.current_version, &version).ok_or(ErrorCode::LimitExceeded)?;
            if new_version == next { Ok(None) } else { Err(Refusal::Superseded) }
        }
        // A transition to the present state is allowed and changes nothing, so that retries are safe.
        Operation::EnableKey => match (key.state, key.disabled_reason) {
            (KeyState::Enabled, _) | (KeyState::Disabled, Some(DisabledReason::Admin)) => Ok(None),
            (KeyState::Disabled, _) => Err(ErrorCode::WrongState.into()),
            _ => Err(ended(key).into()),
        },
        Operation::DisableKey | Operation::TrimKey => require_alive(key),
        Operation::UpdateKey { expected_revision } => {
            require_alive(key)?;
            match expected_revision {
                Some(expected) if expected != key.revision => Err(ErrorCode::Conflict.into()),
                _ => Ok(None),
            }
        }
        Operation::RevokeKey => require_material(key),
        Operation::EnableVersion { version: number } => {
            require_alive(key)?;
            let version = named(number)?;
            require_usable(version)?;
            if number == key.current_version { Ok(None) } else { Err(ErrorCode::VersionNotCurrent.into()) }
        }
        Operation::DisableVersion { version: number } => {
            require_alive(key)?;
            require_usable(named(number)?)
        }
        Operation::RevokeVersion { version: number } => {
            require_material(key)?;
            match named(number)?.state {
                VersionState::Destroyed => Err(ErrorCode::VersionDestroyed.into()),
                VersionState::Enabled | VersionState::Disabled | VersionState::Revoked => Ok(None),
            }
        }
        Operation::SetWindow { version: number, .. } => {
            require_alive(key)?;
            require_usable(named(number)?)?;
            // The current version has no grace window. One in the past would make its ciphertexts unreadable at the
            // next rotation.
            if number == key.current_version { Err(ErrorCode::WrongState.into()) } else { Ok(None) }
        }
        Operation::ScheduleDeletion { waiting_days } => match key.state {
            KeyState::Enabled | KeyState::Disabled | KeyState::Revoked => Ok(None),
            KeyState::PendingDeletion if key.deletion_wait_days == Some(waiting_days) => Ok(None),
            _ => Err(ended(key).into()),
        },
        Operation::CancelDeletion => match key.state {
            KeyState::PendingDeletion | KeyState::Destroyed if key.is_erased() => Err(ErrorCode::KeyDestroyed.into()),
            KeyState::PendingDeletion => Ok(None),
            _ => Err(ErrorCode::WrongState.into()),
        },
        Operation::DestroyKey => match (key.state, key.delete_at) {
            (KeyState::PendingDeletion, Some(date)) if date <= now => Ok(None),
            (KeyState::Destroyed, _) => Err(ErrorCode::KeyDestroyed.into()),
            _ => Err(ErrorCode::WrongState.into()),
        },
        Operation::EraseKey => match key.state {
            KeyState::Destroyed => Err(ErrorCode::KeyDestroyed.into()),
            _ if key.is_being_erased() => Ok(None),
            _ => Err(ErrorCode::WrongState.into()),
        },
        Operation::ReadKey
        | Operation::CreateKey
        | Operation::PutGrant { .. }
        | Operation::WithdrawGrant { .. }
        | Operation::Backup
        | Operation::AcknowledgeRestore
        | Operation::AcknowledgeClock
        | Operation::ReplaceSigningKey
        | Operation::CreateCredential
        | Operation::WithdrawCredential { .. }
        | Operation::RemoveCredentials
        | Operation::ReadCredentials
        | Operation::Import
        | Operation::ManageRootKeys
        | Operation::ReadRootKeys
        | Operation::ManageQuarantine
        | Operation::ReadQuarantine
        | Operation::ReadGrants
        | Operation::ReadAudit
        | Operation::VerifyAudit
        | Operation::ReadMetrics => Ok(None),
    }
}

/// The number of the next version of a key: the lowest one above the current version's that no version has. An import
/// may have brought versions with higher numbers than the current one.
pub fn next_version<'v>(current: u32, version: impl Fn(u32) -> Option<&'v KeyVersion>) -> Option<u32> {
    (current.checked_add(1)?..=u32::MAX).find(|number| version(*number).is_none())
}

/// Whether a version can encrypt and sign: the current version of an enabled key.
fn produce<'v>(key: &Key, number: u32, version: &impl Fn(u32) -> Option<&'v KeyVersion>, now: Timestamp) -> Permitted {
    match (key.state, key.disabled_reason) {
        (KeyState::Enabled, _) => {}
        (KeyState::Disabled, Some(DisabledReason::CurrentVersionRevoked)) => {
            return Err(ErrorCode::VersionRevoked.into());
        }
        (KeyState::Disabled, _) => return Err(ErrorCode::KeyDisabled.into()),
        _ => return Err(ended(key).into()),
    }
    if number < key.current_version {
        return Err(Refusal::Superseded);
    }
    let version = version(number).ok_or(Refusal::Code(ErrorCode::VersionNotFound))?;
    match version.state {
        VersionState::Enabled if version.origin == Origin::Imported => Err(ErrorCode::WrongState.into()),
        VersionState::Enabled if version.not_before.is_some_and(|t| now < t) => Err(ErrorCode::VersionDisabled.into()),
        VersionState::Enabled => Ok(None),
        VersionState::Disabled => Err(ErrorCode::VersionDisabled.into()),
        VersionState::Revoked => Err(ErrorCode::VersionRevoked.into()),
        VersionState::Destroyed => Err(ErrorCode::VersionDestroyed.into()),
    }
}

/// Whether a version can decrypt and verify, apart from the state of its key.
fn consume(version: &KeyVersion, now: Timestamp) -> Permitted {
    match version.state {
        VersionState::Revoked => return Err(ErrorCode::VersionRevoked.into()),
        VersionState::Destroyed => return Err(ErrorCode::VersionDestroyed.into()),
        VersionState::Enabled | VersionState::Disabled => {}
    }
    if version.not_before.is_some_and(|t| now < t) {
        return Err(ErrorCode::VersionDisabled.into());
    }
    match (version.state, version.not_after) {
        (VersionState::Disabled, Some(end)) if now >= end => Err(ErrorCode::VersionDisabled.into()),
        (VersionState::Disabled, end) => Ok(end),
        _ => Ok(None),
    }
}

/// Whether an operation can be done only at the source while the import is not finalized. Revoking and erasing are
/// possible here too.
fn is_for_the_source(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Rotate { .. }
            | Operation::EnableKey
            | Operation::DisableKey
            | Operation::UpdateKey { .. }
            | Operation::EnableVersion { .. }
            | Operation::DisableVersion { .. }
            | Operation::SetWindow { .. }
            | Operation::ScheduleDeletion { .. }
    )
}

/// Skips the check of the purpose for imported versions: their system did not enforce it, and what they encrypted stays
/// readable.
fn require_purpose_unless(is_imported: bool, key: &Key, purpose: KeyPurpose) -> Result<(), Refusal> {
    if is_imported { Ok(()) } else { require_purpose(key, purpose) }
}

fn require_purpose(key: &Key, purpose: KeyPurpose) -> Result<(), Refusal> {
    if key.purpose == purpose { Ok(()) } else { Err(ErrorCode::WrongPurpose.into()) }
}

/// Requires a key that is enabled, or disabled only because its current version was revoked.
fn require_consumable(key: &Key) -> Permitted {
    match (key.state, key.disabled_reason) {
        (KeyState::Enabled, _) | (KeyState::Disabled, Some(DisabledReason::CurrentVersionRevoked)) => Ok(None),
        (KeyState::Disabled, _) => Err(ErrorCode::KeyDisabled.into()),
        _ => Err(ended(key).into()),
    }
}

/// Requires a key that is enabled or disabled: neither revoked, nor destroyed or scheduled for deletion.
fn require_alive(key: &Key) -> Permitted {
    match key.state {
        KeyState::Enabled | KeyState::Disabled => Ok(None),
        _ => Err(ended(key).into()),
    }
}

/// Requires a key whose material is neither erased nor being erased. Revoking is possible until then.
fn require_material(key: &Key) -> Permitted {
    if key.is_erased() { Err(ErrorCode::KeyDestroyed.into()) } else { Ok(None) }
}

/// Requires a version that is neither revoked nor destroyed.
fn require_usable(version: &KeyVersion) -> Permitted {
    match version.state {
        VersionState::Enabled | VersionState::Disabled => Ok(None),
        VersionState::Revoked => Err(ErrorCode::VersionRevoked.into()),
        VersionState::Destroyed => Err(ErrorCode::VersionDestroyed.into()),
    }
}

/// Whether the material of a version can be erased while its key stays: that of a former version that is revoked or
/// past its grace window.
pub fn is_trimmable(key: &Key, version: &KeyVersion, now: Timestamp) -> bool {
    version.version < key.current_version
        && match key.state_of(version) {
            VersionState::Revoked => true,
            VersionState::Disabled => version.not_after.is_some_and(|end| end <= now),
            VersionState::Enabled | VersionState::Destroyed => false,
        }
}

/// The error code for a key that is revoked, scheduled for deletion or destroyed.
fn ended(key: &Key) -> ErrorCode {
    match key.state {
        KeyState::Revoked => ErrorCode::KeyRevoked,
        KeyState::PendingDeletion => ErrorCode::KeyPendingDeletion,
        KeyState::Destroyed => ErrorCode::KeyDestroyed,
        KeyState::Enabled | KeyState::Disabled => ErrorCode::WrongState,
    }
}

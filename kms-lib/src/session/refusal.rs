//! The messages of refusals.

use crate::types::error::{Error, ErrorCode};
use crate::types::limits::GRANTS_PER_SCOPE;

/// The error for a refusal by policy or state. It says what would help, and reveals nothing that is hidden from the
/// caller.
pub(super) fn refusal(code: ErrorCode) -> Error {
    let message = match code {
        ErrorCode::AccessDenied => "no role or grant of this caller allows the operation",
        ErrorCode::KeyNotFound => "no such key exists",
        ErrorCode::VersionNotFound => "the key has no such version",
        ErrorCode::GrantNotFound => "no such grant exists",
        ErrorCode::CredentialNotFound => "no such credential exists",
        ErrorCode::NotAuthenticated => "the credential is unknown, revoked or expired",
        ErrorCode::NameTaken => "a key of this name exists or existed; names are never reused",
        ErrorCode::KeyDisabled => "the key is disabled; enable it first",
        ErrorCode::KeyRevoked => "the key is permanently revoked",
        ErrorCode::KeyPendingDeletion => "the key is scheduled for deletion; cancel the deletion first",
        ErrorCode::KeyDestroyed => "the key's material has been erased",
        ErrorCode::VersionDisabled => "the version is disabled, or its grace window is over",
        ErrorCode::VersionRevoked => "the version is permanently revoked; rotate the key to continue",
        ErrorCode::VersionDestroyed => "the version's material has been erased",
        ErrorCode::VersionNotCurrent => "only the current version supports this operation",
        ErrorCode::WrongPurpose => "the key's purpose does not include the operation",
        ErrorCode::WrongKeyType => "the key's type does not support the operation",
        ErrorCode::WrongState => "the key or version is not in a state that allows this",
        ErrorCode::InvalidCiphertext => "the ciphertext is malformed or belongs to another key",
        ErrorCode::DecryptionFailed => "the ciphertext does not authenticate: it was altered, or the context differs",
        ErrorCode::PlaintextTooLong => "the plaintext is too long for the key's algorithm",
        ErrorCode::KeyExhausted => {
            "the version has encrypted 2^32 messages, the most its algorithm allows; rotate the key"
        }
        ErrorCode::LimitExceeded => return limit_exceeded(),
        ErrorCode::ImportOpen => {
            "the key belongs to an import that is not finalized; change it at its source and import again, or finalize \
             the import"
        }
        ErrorCode::ImportSuperseded => {
            "another run of this import has begun since; this run stops, and the other run continues"
        }
        ErrorCode::Conflict => "another change came first; read the current state and try again",
        ErrorCode::IntegrityFailure => "a stored row of this key does not match its seal; it is not used",
        _ => "the operation was refused",
    };
    Error::new(code, message)
}

fn limit_exceeded() -> Error {
    let message = format!(
        "a limit is reached: either the key has as many versions with material as limits.versions allows (trim the key \
         or raise the limit), or {GRANTS_PER_SCOPE} apps have made grants to this principal on this scope (revoke one)"
    );
    Error::new(ErrorCode::LimitExceeded, message)
}

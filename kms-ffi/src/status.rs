//! Statuses: the error codes of the library by number, and two that only this interface has.

use kms_lib::ErrorCode;

/// The result of every function: `MKMS_OK` or one of the other constants. Numbers are grouped by kind (1xx arguments,
/// 2xx rights, 3xx keys and versions, 4xx cryptography, 5xx store, 6xx root key, 7xx process, 9xx internal) and are
/// never reused. A newer library may return a status that an older header does not have. `docs/errors.md` says what to
/// do.
pub type mkms_status = i32;

/// The call succeeded.
pub const MKMS_OK: mkms_status = 0;
/// An argument is malformed, out of range or too large.
pub const MKMS_INVALID_ARGUMENT: mkms_status = 101;
/// The name of a key is empty, too long, contains unprintable characters or has the form of a UUID.
pub const MKMS_INVALID_NAME: mkms_status = 102;
/// The configuration is wrong or incomplete.
pub const MKMS_INVALID_CONFIGURATION: mkms_status = 103;
/// The idempotency key was used for another request.
pub const MKMS_IDEMPOTENCY_CONFLICT: mkms_status = 104;
/// The buffer of the caller is too small. Nothing was done, and the length was set to the required size.
pub const MKMS_BUFFER_TOO_SMALL: mkms_status = 190;
/// The caller is not authenticated: the token is malformed, unknown, revoked or expired.
pub const MKMS_NOT_AUTHENTICATED: mkms_status = 201;
/// No grant or role of the caller allows the operation.
pub const MKMS_ACCESS_DENIED: mkms_status = 202;
/// There is no such grant.
pub const MKMS_GRANT_NOT_FOUND: mkms_status = 203;
/// There is no such credential.
pub const MKMS_CREDENTIAL_NOT_FOUND: mkms_status = 204;
/// A key with this name exists or existed. Names are never reused.
pub const MKMS_NAME_TAKEN: mkms_status = 301;
/// There is no such key.
pub const MKMS_KEY_NOT_FOUND: mkms_status = 302;
/// The key has no such version.
pub const MKMS_VERSION_NOT_FOUND: mkms_status = 303;
/// The key is disabled.
pub const MKMS_KEY_DISABLED: mkms_status = 304;
/// The key is revoked. Revocation is final.
pub const MKMS_KEY_REVOKED: mkms_status = 305;
/// The key is scheduled for deletion.
pub const MKMS_KEY_PENDING_DELETION: mkms_status = 306;
/// The key's material has been erased.
pub const MKMS_KEY_DESTROYED: mkms_status = 307;
/// The version is disabled, or its grace window has ended.
pub const MKMS_VERSION_DISABLED: mkms_status = 308;
/// The version is revoked. Revocation is final.
pub const MKMS_VERSION_REVOKED: mkms_status = 309;
/// The version's material has been erased.
pub const MKMS_VERSION_DESTROYED: mkms_status = 310;
/// A version that is not the current one was asked to encrypt, to sign or to be enabled.
pub const MKMS_VERSION_NOT_CURRENT: mkms_status = 311;
/// The state of the key or version does not allow this transition.
pub const MKMS_WRONG_STATE: mkms_status = 312;
/// The key's purpose does not include the operation.
pub const MKMS_WRONG_PURPOSE: mkms_status = 313;
/// The key's type cannot do the operation.
pub const MKMS_WRONG_KEY_TYPE: mkms_status = 314;
/// The version has encrypted as many messages as its algorithm allows.
pub const MKMS_KEY_EXHAUSTED: mkms_status = 315;
/// Another change came first, and the request no longer fits.
pub const MKMS_CONFLICT: mkms_status = 316;
/// A limit is reached, such as the number of versions of a key.
pub const MKMS_LIMIT_EXCEEDED: mkms_status = 317;
/// The key belongs to an import that is not finalized: until then it can be changed only at its source.
pub const MKMS_IMPORT_OPEN: mkms_status = 318;
/// A later run of the same import has begun. This run writes nothing more; what it wrote is kept.
pub const MKMS_IMPORT_SUPERSEDED: mkms_status = 319;
/// The ciphertext is truncated, has an unknown format, or belongs to another key than the one in the request.
pub const MKMS_INVALID_CIPHERTEXT: mkms_status = 401;
/// The ciphertext does not authenticate: it was altered, or the context differs.
pub const MKMS_DECRYPTION_FAILED: mkms_status = 402;
/// The plaintext is too long for the key's algorithm.
pub const MKMS_PLAINTEXT_TOO_LONG: mkms_status = 403;
/// The cryptography provider failed.
pub const MKMS_CRYPTO_FAILURE: mkms_status = 404;
/// The store cannot be reached, opened or written.
pub const MKMS_STORE_UNAVAILABLE: mkms_status = 501;
/// Other callers or nodes wrote first until this node stopped retrying. Nothing was done.
pub const MKMS_STORE_CONTENDED: mkms_status = 502;
/// The store's disk or quota is full.
pub const MKMS_STORE_FULL: mkms_status = 503;
/// The store cannot be written: the file is read-only, or the process lacks write permission.
pub const MKMS_STORE_READ_ONLY: mkms_status = 504;
/// The file is not a database, or its content is inconsistent.
pub const MKMS_STORE_CORRUPT: mkms_status = 505;
/// The store was written by a newer version of this software.
pub const MKMS_SCHEMA_TOO_NEW: mkms_status = 506;
/// Another process uses the store, and this one cannot share it.
pub const MKMS_STORE_IN_USE: mkms_status = 507;
/// The store is older than its last known state: a backup or snapshot was restored and not acknowledged.
pub const MKMS_RESTORE_DETECTED: mkms_status = 508;
/// A row, record or signature does not match its seal, the signing key or the log.
pub const MKMS_INTEGRITY_FAILURE: mkms_status = 509;
/// The store failed during a commit, and it is not known whether the commit took place.
pub const MKMS_OUTCOME_UNKNOWN: mkms_status = 510;
/// This machine's clock differs too much from the store's.
pub const MKMS_CLOCK_SKEW: mkms_status = 511;
/// No root key was given, or it is malformed.
pub const MKMS_INVALID_ROOT_KEY: mkms_status = 601;
/// The root key is not one that this store is wrapped under.
pub const MKMS_WRONG_ROOT_KEY: mkms_status = 602;
/// The service that holds the root key cannot be reached, or throttles calls.
pub const MKMS_ROOT_KEY_UNAVAILABLE: mkms_status = 603;
/// The service that holds the root key refuses to use it: access denied, key disabled or deleted.
pub const MKMS_ROOT_KEY_REFUSED: mkms_status = 604;
/// The service has too much in flight. Nothing was done.
pub const MKMS_OVERLOADED: mkms_status = 701;
/// This caller has too much in flight. Nothing was done.
pub const MKMS_CALLER_OVERLOADED: mkms_status = 702;
/// The service is closed or closing.
pub const MKMS_CLOSED: mkms_status = 703;
/// A handle was used in a process that was forked after the handle was made.
pub const MKMS_USED_AFTER_FORK: mkms_status = 704;
/// A blocking call was made from within an asynchronous runtime.
pub const MKMS_BLOCKING_IN_ASYNC: mkms_status = 705;
/// The caller's own input or output failed: a stream, a backup, a file.
pub const MKMS_INPUT_OUTPUT: mkms_status = 706;
/// A fault in this software.
pub const MKMS_INTERNAL: mkms_status = 901;
/// A panic: a fault in this software. Details are on standard error. Please report it.
pub const MKMS_INTERNAL_PANIC: mkms_status = 990;

/// The status of an error code of the library: the number of the code.
pub fn of(code: ErrorCode) -> mkms_status {
    code.number().into()
}

//! The error codes: one table with name, number, HTTP status, meaning and advice of each.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Converts the retry column of the table below to a `bool`.
macro_rules! is_retryable {
    (retryable) => {
        true
    };
    (permanent) => {
        false
    };
}

/// Declares the codes. Columns: meaning (the doc comment), name, number, HTTP status, whether a retry can help, advice.
/// `docs/errors.md` is generated from the same columns.
macro_rules! codes {
    ($(
        $(#[doc = $meaning:literal])+
        $name:ident = $number:literal, $status:literal, $retry:ident, $advice:literal;
    )+) => {
        /// The kind of an error, as a stable name and number that programs can rely on.
        ///
        /// A code has a name and a number, the same in Rust, C, Python and over HTTP. Numbers are grouped by kind: 1xx
        /// arguments, 2xx rights, 3xx keys and versions, 4xx cryptography, 5xx store, 6xx root key, 7xx process, 9xx
        /// internal. They are not HTTP statuses. Codes are added, but never renamed, renumbered or reused; the numbers
        /// x90 to x99 of each group are reserved for front ends, for errors that only they have. `docs/errors.md` lists
        /// all codes with advice.
        ///
        /// Serialized as its name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[repr(u16)]
        pub enum ErrorCode { $($(#[doc = $meaning])+ $name = $number,)+ }

        impl ErrorCode {
            /// All codes, in ascending order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The code's name, as it appears in audit records and in every interface.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }

            /// Whether the same call may succeed when it is repeated unchanged after a short wait.
            pub const fn is_retryable(self) -> bool {
                match self { $(Self::$name => is_retryable!($retry),)+ }
            }

            /// The HTTP status that a service should respond with. A route may choose a more specific one.
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$name => $status,)+ }
            }

            /// The meaning of the code, as one or two sentences of plain text.
            pub fn meaning(self) -> String {
                let text = match self { $(Self::$name => concat!($($meaning),+),)+ };
                text.trim().to_owned()
            }

            /// Advice for the caller or the operator, as one or two sentences of plain text.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$name => $advice,)+ }
            }
        }
    };
}

codes! {
    /// An argument is malformed, out of range or too large.
    InvalidArgument = 101, 400, permanent, "Correct the argument that the message names.";
    /// The name of a key is empty, too long, contains unprintable characters or has the form of a UUID.
    InvalidName = 102, 400, permanent, "Choose another name.";
    /// The configuration is wrong or incomplete.
    InvalidConfiguration = 103, 500, permanent, "Correct the setting that the message names, and open again.";
    /// The idempotency key was used for another request.
    IdempotencyConflict = 104, 409, permanent, "Use a new idempotency key for each request.";

    /// The caller is not authenticated: the token is malformed, unknown, revoked or expired.
    NotAuthenticated = 201, 401, permanent, "Get a valid credential.";
    /// No grant or role of the caller allows the operation.
    AccessDenied = 202, 403, permanent, "Ask an admin for a grant.";
    /// There is no such grant.
    GrantNotFound = 203, 404, permanent, "List the grants; this one may have been revoked.";
    /// There is no such credential.
    CredentialNotFound = 204, 404, permanent, "List the tokens; this one may have been revoked.";

    /// A key with this name exists or existed. Names are never reused.
    NameTaken = 301, 409, permanent, "Use the key that exists, or choose another name.";
    /// There is no such key.
    KeyNotFound = 302, 404, permanent, "Check the key's name or id, and which store is open.";
    /// The key has no such version.
    VersionNotFound = 303, 404, permanent, "List the key's versions.";
    /// The key is disabled.
    KeyDisabled = 304, 409, permanent, "Enable the key first.";
    /// The key is revoked. Revocation is final.
    KeyRevoked = 305, 409, permanent, "Use another key.";
    /// The key is scheduled for deletion.
    KeyPendingDeletion = 306, 409, permanent, "Cancel the deletion first.";
    /// The key's material has been erased.
    KeyDestroyed = 307, 409, permanent, "Use another key. Ciphertexts of the erased key cannot be decrypted.";
    /// The version is disabled, or its grace window has ended.
    VersionDisabled = 308, 409, permanent, "Enable the version, or extend its grace window.";
    /// The version is revoked. Revocation is final.
    VersionRevoked = 309, 409, permanent, "Rotate the key to get a new version.";
    /// The version's material has been erased.
    VersionDestroyed = 310, 409, permanent, "Use another version. Ciphertexts of the erased one cannot be decrypted.";
    /// A version that is not the current one was asked to encrypt, to sign or to be enabled.
    VersionNotCurrent = 311, 409, permanent, "Name no version, or the current one.";
    /// The state of the key or version does not allow this transition.
    WrongState = 312, 409, permanent, "Read the key's state, and choose a transition that it allows.";
    /// The key's purpose does not include the operation.
    WrongPurpose = 313, 409, permanent, "Use a key that was created for this purpose.";
    /// The key's type cannot do the operation.
    WrongKeyType = 314, 409, permanent, "Use a key of another type.";
    /// The version has encrypted as many messages as its algorithm allows.
    KeyExhausted = 315, 409, permanent, "Rotate the key.";
    /// Another change came first, and the request no longer fits.
    Conflict = 316, 409, permanent, "Read the current state, then decide whether to repeat the request.";
    /// A limit is reached, such as the number of versions of a key.
    LimitExceeded = 317, 409, permanent, "Remove what is not needed, or raise the limit if it is a setting.";
    /// The key belongs to an import that is not finalized: until then it can be changed only at its source.
    ImportOpen = 318, 409, permanent, "Change the key at its source and import again, or finalize the import.";
    /// A later run of the same import has begun. This run writes nothing more; what it wrote is kept.
    ImportSuperseded = 319, 409, permanent, "Wait for the later run to end, and import again if necessary.";

    /// The ciphertext is truncated, has an unknown format, or belongs to another key than the one in the request.
    InvalidCiphertext = 401, 400, permanent, "Pass the ciphertext and the key unaltered, as encrypting returned them.";
    /// The ciphertext does not authenticate: it was altered, or the context differs.
    DecryptionFailed = 402, 400, permanent, "Pass the context used to encrypt; check the ciphertext's origin.";
    /// The plaintext is too long for the key's algorithm.
    PlaintextTooLong = 403, 400, permanent, "Use a data key or a stream for long plaintexts.";
    /// The cryptography provider failed.
    CryptoFailure = 404, 500, permanent, "Report it if it happens again.";

    /// The store cannot be reached, opened or written.
    StoreUnavailable = 501, 503, retryable, "Check the store's address, its server and its disk.";
    /// Other callers or nodes wrote first until this node stopped retrying. Nothing was done.
    StoreContended = 502, 503, retryable, "Retry later. If it lasts, reduce concurrent writers.";
    /// The store's disk or quota is full.
    StoreFull = 503, 503, retryable, "Free or add disk space.";
    /// The store cannot be written: the file is read-only, or the process lacks write permission.
    StoreReadOnly = 504, 503, permanent, "Give the process write access to the store.";
    /// The file is not a database, or its content is inconsistent.
    StoreCorrupt = 505, 503, permanent, "Check the path. Restore a backup if the store is damaged.";
    /// The store was written by a newer version of this software.
    SchemaTooNew = 506, 503, permanent, "Use the newer version of this software.";
    /// Another process uses the store, and this one cannot share it.
    StoreInUse = 507, 503, permanent, "Close the other process, or use another store.";
    /// The store is older than its last known state: a backup or snapshot was restored and not acknowledged.
    RestoreDetected = 508, 503, permanent, "Acknowledge the restore if it was intended; else treat it as an attack.";
    /// A row, record or signature does not match its seal, the signing key or the log.
    IntegrityFailure = 509, 500, permanent, "Verify the log, and find out how the store was altered.";
    /// The store failed during a commit, and it is not known whether the commit took place.
    OutcomeUnknown = 510, 504, permanent, "Check whether the change took effect before you repeat it.";
    /// This machine's clock differs too much from the store's.
    ClockSkew = 511, 503, retryable, "Correct the clock of this machine or of the database server.";

    /// No root key was given, or it is malformed.
    InvalidRootKey = 601, 503, permanent, "Configure a root key in one of the documented forms.";
    /// The root key is not one that this store is wrapped under.
    WrongRootKey = 602, 503, permanent, "Configure the root key of this store.";
    /// The service that holds the root key cannot be reached, or throttles calls.
    RootKeyUnavailable = 603, 503, retryable, "Check the network and the root key service.";
    /// The service that holds the root key refuses to use it: access denied, key disabled or deleted.
    RootKeyRefused = 604, 503, permanent, "Check the root key's state and this process's permissions on it.";

    /// The service has too much in flight. Nothing was done.
    Overloaded = 701, 503, retryable, "Retry later.";
    /// This caller has too much in flight. Nothing was done.
    CallerOverloaded = 702, 429, retryable, "Retry later, with fewer concurrent calls.";
    /// The service is closed or closing.
    Closed = 703, 503, permanent, "Open the service again.";
    /// A handle was used in a process that was forked after the handle was made.
    UsedAfterFork = 704, 500, permanent, "Open the service in the process that uses it, after the fork.";
    /// A blocking call was made from within an asynchronous runtime.
    BlockingInAsync = 705, 500, permanent, "Use the asynchronous interface, or call from a thread without a runtime.";
    /// The caller's own input or output failed: a stream, a backup, a file.
    InputOutput = 706, 500, permanent, "See the message and the error's source for the cause.";

    /// A fault in this software.
    Internal = 901, 500, permanent, "Report it.";
}

impl ErrorCode {
    /// The code's number, for interfaces that have no names. See [`ErrorCode`] for the groups.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The code with this number, if there is one.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.number() == number)
    }

    /// Whether requests fail until an operator acts or an outage ends, because the store, the root key or the clock is
    /// unusable.
    pub const fn is_unusable_service(self) -> bool {
        matches!(
            self,
            Self::StoreUnavailable
                | Self::StoreContended
                | Self::StoreFull
                | Self::StoreReadOnly
                | Self::StoreCorrupt
                | Self::StoreInUse
                | Self::SchemaTooNew
                | Self::RestoreDetected
                | Self::WrongRootKey
                | Self::InvalidRootKey
                | Self::RootKeyUnavailable
                | Self::RootKeyRefused
                | Self::ClockSkew
        )
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that is not the name of an [`ErrorCode`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of an error code")]
pub struct UnknownErrorCode(String);

impl FromStr for ErrorCode {
    type Err = UnknownErrorCode;

    /// Parses a name exactly as [`ErrorCode::as_str`] writes it.
    fn from_str(name: &str) -> Result<Self, UnknownErrorCode> {
        Self::ALL.iter().copied().find(|code| code.as_str() == name).ok_or_else(|| UnknownErrorCode(name.to_owned()))
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

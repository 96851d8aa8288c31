//! The error codes: one table with everything that is known about each.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Reads a column of the table below.
macro_rules! is_retryable {
    (retryable) => {
        true
    };
    (permanent) => {
        false
    };
}

/// Declares the codes. Columns: meaning (the doc comment), name, number, HTTP status, whether a retry can help, what to
/// do. `docs/errors.md` is made from the same columns.
macro_rules! codes {
    ($(
        $(#[doc = $meaning:literal])+
        $name:ident = $number:literal, $status:literal, $retry:ident, $advice:literal;
    )+) => {
        /// What went wrong, in a form that programs may rely on.
        ///
        /// A code has a name and a number, the same in Rust, C, Python and over HTTP. Numbers are grouped by kind: 1xx
        /// arguments, 2xx rights, 3xx keys and versions, 4xx cryptography, 5xx store, 6xx root key, 7xx process, 9xx
        /// internal. They are no HTTP statuses. Codes are added, never renamed, renumbered or used again; the numbers
        /// x90 to x99 of each group are left to front ends for errors that only they have. `docs/errors.md` lists all
        /// codes with what to do.
        ///
        /// Serde reads and writes the name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[repr(u16)]
        pub enum ErrorCode { $($(#[doc = $meaning])+ $name = $number,)+ }

        impl ErrorCode {
            /// Every code, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The code's name, as it appears in audit records and in every interface.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }

            /// Whether the same call may succeed when it is simply made again, after a short wait.
            pub const fn is_retryable(self) -> bool {
                match self { $(Self::$name => is_retryable!($retry),)+ }
            }

            /// The HTTP status that a service should answer with. A route may choose another one where it knows more.
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$name => $status,)+ }
            }

            /// What the code means, as one or two sentences of plain text.
            pub fn meaning(self) -> String {
                let text = match self { $(Self::$name => concat!($($meaning),+),)+ };
                text.trim().to_owned()
            }

            /// What the caller or the operator can do about it, as one or two sentences of plain text.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$name => $advice,)+ }
            }
        }
    };
}

codes! {
    /// An argument is malformed, out of range or too large.
    InvalidArgument = 101, 400, permanent, "Correct the argument that the message names.";
    /// The name of a key is empty, too long, has unprintable characters or the shape of a UUID.
    InvalidName = 102, 400, permanent, "Choose another name.";
    /// The configuration is wrong or incomplete.
    InvalidConfiguration = 103, 500, permanent, "Correct the setting that the message names, and open again.";
    /// The idempotency key was used for another request.
    IdempotencyConflict = 104, 409, permanent, "Use a new idempotency key for each request.";

    /// The caller is not known: the token is malformed, unknown, revoked or expired.
    NotAuthenticated = 201, 401, permanent, "Get a valid credential.";
    /// No grant or role of the caller allows the operation.
    AccessDenied = 202, 403, permanent, "Ask an admin for a grant.";
    /// There is no such grant.
    GrantNotFound = 203, 404, permanent, "List the grants. It may have been withdrawn already.";
    /// There is no such credential.
    CredentialNotFound = 204, 404, permanent, "List the tokens. It may have been withdrawn already.";

    /// A key of this name exists or existed. Names are never used again.
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
    KeyDestroyed = 307, 409, permanent, "Use another key. What the key encrypted cannot be decrypted.";
    /// The version is disabled, or its grace window is over.
    VersionDisabled = 308, 409, permanent, "Enable the version, or set a later end of its window.";
    /// The version is revoked. Revocation is final.
    VersionRevoked = 309, 409, permanent, "Rotate the key to go on with a new version.";
    /// The version's material has been erased.
    VersionDestroyed = 310, 409, permanent, "Use another version. What this one encrypted cannot be decrypted.";
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
    Conflict = 316, 409, permanent, "Read the present state before asking again.";
    /// A limit of the store is reached, such as the number of versions of a key.
    LimitExceeded = 317, 409, permanent, "Remove what is no longer needed, or raise the limit that the message names.";
    /// The key belongs to an import that is not finalised: until then its source decides on it.
    ImportOpen = 318, 409, permanent, "Change the key at its source and import again, or finalise the import.";
    /// Another run of the same import has begun since. This one writes nothing more; what it wrote stays.
    ImportSuperseded = 319, 409, permanent, "Let the other run end, and import again if it is needed.";

    /// The ciphertext is malformed: cut off, of an unknown format, or of another key than the one it was sent with.
    InvalidCiphertext = 401, 400, permanent, "Pass the ciphertext and the key unaltered, as encrypting returned them.";
    /// The ciphertext does not authenticate: it was altered, or the context differs.
    DecryptionFailed = 402, 400, permanent, "Pass the context that was used to encrypt; check where the ciphertext is from.";
    /// The plaintext is too long for the key's algorithm.
    PlaintextTooLong = 403, 400, permanent, "Use a data key or a stream for long plaintexts.";
    /// The cryptography provider failed.
    CryptoFailure = 404, 500, permanent, "Report it if it happens again.";

    /// The store cannot be reached, opened or written.
    StoreUnavailable = 501, 503, retryable, "Check the store's address, its server and its disk.";
    /// Other callers or nodes wrote first for as long as this node was willing to try. Nothing was done.
    StoreContended = 502, 503, retryable, "Retry later. If it lasts, reduce concurrent writers.";
    /// The store's disk or quota is full.
    StoreFull = 503, 503, retryable, "Free or add disk space.";
    /// The store may not be written: the file is read-only, or rights are missing.
    StoreReadOnly = 504, 503, permanent, "Give the process write access to the store.";
    /// The file is not a database, or its content contradicts itself.
    StoreCorrupt = 505, 503, permanent, "Check the path. Restore a backup if the store is damaged.";
    /// The store was written by a newer version of this software.
    SchemaTooNew = 506, 503, permanent, "Use the newer version of this software.";
    /// Another process holds the store in a way that excludes this one.
    StoreInUse = 507, 503, permanent, "Close the other process, or use another store.";
    /// The store is older than it was before: a backup or snapshot was restored, and nobody has acknowledged that.
    RestoreDetected = 508, 503, permanent, "Acknowledge the restore if it was intended; otherwise treat it as an attack.";
    /// A row, record or signature does not match what the integrity key or the log says of it.
    IntegrityFailure = 509, 500, permanent, "Verify the log, and investigate who altered the store.";
    /// The store was lost during a commit, and it is not known whether the commit took place.
    OutcomeUnknown = 510, 504, permanent, "Look whether the change is there before you repeat it.";
    /// This machine's clock is too far from the store's.
    ClockSkew = 511, 503, retryable, "Correct the clock of this machine or of the database server.";

    /// No root key was given, or it is malformed.
    InvalidRootKey = 601, 503, permanent, "Configure a root key in one of the documented forms.";
    /// The root key is not the one that this store was created with.
    WrongRootKey = 602, 503, permanent, "Configure the root key of this store.";
    /// The service that holds the root key cannot be reached, or limits the rate of calls.
    RootKeyUnavailable = 603, 503, retryable, "Check the network and the root key service.";
    /// The service that holds the root key refuses to use it: access denied, key disabled or deleted.
    RootKeyRefused = 604, 503, permanent, "Check the root key's state and the rights of this process on it.";

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
    /// The code's number, for interfaces without names. See [`ErrorCode`] for the groups.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The code of this number, if there is one.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.number() == number)
    }

    /// Whether no request can succeed until an operator acts or an outage ends: the store, the root key or the clock is
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

    /// The code of this name, exactly as [`ErrorCode::as_str`] writes it.
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

//! One error type with a stable code, the same in Rust, C, Python and over HTTP.

use std::fmt;

use serde::Serialize;

/// Declares the codes, each by its name alone: what programs see is what stands here.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// What went wrong, in a form programs may rely on. Codes are added, never renamed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
        #[non_exhaustive]
        pub enum ErrorCode { $($(#[$doc])* $name,)+ }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];
            /// The code's name, as it appears in records and in every interface.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }
        }
    };
}

codes! {
    /// An argument is malformed, out of range or too large.
    InvalidArgument,
    /// The name of a key is empty, too long, has unprintable characters or the shape of a UUID.
    InvalidName,
    /// The configuration is wrong or incomplete.
    InvalidConfiguration,
    /// No grant or role allows the operation.
    AccessDenied,
    /// There is no such key.
    KeyNotFound,
    /// The key has no such version.
    VersionNotFound,
    /// There is no such grant.
    GrantNotFound,
    /// There is no such credential.
    CredentialNotFound,
    /// The token is malformed, unknown, withdrawn or expired.
    NotAuthenticated,
    /// A key of this name exists, or existed: names are never used again.
    NameTaken,
    /// The state of the key forbids the operation: it is disabled.
    KeyDisabled,
    /// The key is revoked, for ever.
    KeyRevoked,
    /// The key is scheduled for deletion.
    KeyPendingDeletion,
    /// The key's material has been erased.
    KeyDestroyed,
    /// The version is disabled, or its grace window is over.
    VersionDisabled,
    /// The version is revoked, for ever.
    VersionRevoked,
    /// The version's material has been erased.
    VersionDestroyed,
    /// Another version than the current one was asked to encrypt, sign or be enabled.
    VersionNotCurrent,
    /// The key's purpose does not include the operation.
    WrongPurpose,
    /// The key's type cannot do the operation.
    WrongKeyType,
    /// The state of the key or version does not allow this transition.
    WrongState,
    /// The ciphertext is malformed: cut, of an unknown format, or of another key than it was sent with.
    InvalidCiphertext,
    /// The ciphertext does not authenticate: it was altered, or the context differs.
    DecryptionFailed,
    /// The plaintext is too long for the key's algorithm.
    PlaintextTooLong,
    /// The version has encrypted as many messages as its algorithm bears; rotate the key.
    KeyExhausted,
    /// Another change came first, and the request no longer fits: look at the present state before asking again.
    Conflict,
    /// The idempotency key was used for another request.
    IdempotencyConflict,
    /// The service has too much in flight; nothing was done.
    Overloaded,
    /// This caller has too much in flight, whatever others have; nothing was done.
    CallerOverloaded,
    /// The store was lost while committing, and it could not be found out whether it did.
    OutcomeUnknown,
    /// The store cannot be reached or written.
    StoreUnavailable,
    /// Other callers or nodes came first for as long as this node was willing to try; nothing was done.
    StoreContended,
    /// The store is full.
    StoreFull,
    /// The store may not be written: read-only file or missing rights.
    StoreReadOnly,
    /// The file is not a database, or its content contradicts itself.
    StoreCorrupt,
    /// The store was written by a newer version of this software.
    SchemaTooNew,
    /// Another process holds the store in a way that excludes this one.
    StoreInUse,
    /// The store is older than it was: it was put back, and that has not been acknowledged.
    RestoreDetected,
    /// The root key is not the one this store was made with.
    WrongRootKey,
    /// No root key was given, or it is malformed.
    InvalidRootKey,
    /// The root key service cannot be reached.
    RootKeyUnavailable,
    /// A row, record or signature does not match what the integrity key or the log say of it.
    IntegrityFailure,
    /// This machine's clock is too far from the store's.
    ClockSkew,
    /// The service is closed or closing.
    Closed,
    /// A handle was used in a process that was forked after it was made.
    UsedAfterFork,
    /// A blocking call was made from within an asynchronous runtime.
    BlockingInAsync,
    /// The caller's own input or output failed.
    InputOutput,
    /// The cryptography provider failed.
    CryptoFailure,
    /// A fault in this software. Please report it.
    Internal,
}

impl ErrorCode {
    /// Whether the same call may succeed when it is simply made again.
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::Overloaded
                | Self::CallerOverloaded
                | Self::StoreUnavailable
                | Self::StoreContended
                | Self::StoreFull
                | Self::RootKeyUnavailable
                | Self::ClockSkew
        )
    }

    /// Whether the service cannot work as it is, whatever it is asked: its store, its root key or its clock is in the
    /// way.
    pub fn is_unusable_service(self) -> bool {
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
                | Self::ClockSkew
        )
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error: a stable code and a message for a person. The message never holds a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    code: ErrorCode,
    message: String,
}

impl Error {
    /// An error with this code and message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
    /// A malformed argument.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, message)
    }
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        self.code
    }
    /// The message, without the code.
    pub fn message(&self) -> &str {
        &self.message
    }
    /// Whether the same call may succeed when it is simply made again.
    pub fn is_retryable(&self) -> bool {
        self.code.is_retryable()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

/// The result of everything that can fail here.
pub type Result<T> = std::result::Result<T, Error>;

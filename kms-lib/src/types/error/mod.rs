//! One error type with a stable code, the same in Rust, C, Python and over HTTP.

mod code;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

pub use code::{ErrorCode, UnknownErrorCode};

/// An error: a stable code, a message for a person and, where another error caused it, that error as
/// [`source`](std::error::Error::source).
///
/// The message says what failed, why, and what to do. It never contains a secret. It includes the text of the source
/// that matters, because most interfaces show only the message; a report that prints the whole chain shows that part
/// twice. Messages may change with any release, so programs compare [`Error::code`] instead.
///
/// An error of the operating system, or of the caller's own reader or writer ([`ErrorCode::InputOutput`]), is available
/// as the source:
///
/// ```
/// use kms_lib::{Config, ErrorCode};
/// use std::error::Error;
/// use std::io;
///
/// let error = Config::load(Some("no-such-file.toml".as_ref())).unwrap_err();
/// assert_eq!(error.code(), ErrorCode::InvalidConfiguration);
/// let cause = error.source().and_then(|source| source.downcast_ref::<io::Error>());
/// assert_eq!(cause.map(io::Error::kind), Some(io::ErrorKind::NotFound));
/// ```
#[derive(Clone, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Error {
    code: ErrorCode,
    message: String,
    source: Option<Source>,
}

/// The error that caused another one, in a form that can be cloned. It does not implement `Error` itself, so that
/// `source` returns the error inside.
#[derive(Clone)]
struct Source(Arc<dyn std::error::Error + Send + Sync>);

impl Deref for Source {
    type Target = dyn std::error::Error + Send + Sync;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl Error {
    /// An error with this code and message and no source.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), source: None }
    }

    /// An [`ErrorCode::InvalidArgument`] error.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, message)
    }

    /// Sets the error that caused this one. Neither `Display` nor `Debug` of the source may show a secret.
    #[must_use]
    pub fn with_source(self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { source: Some(Source(Arc::new(source))), ..self }
    }

    /// Replaces the message, for example by a more specific one.
    #[must_use]
    pub(crate) fn with_message(self, message: impl Into<String>) -> Self {
        Self { message: message.into(), ..self }
    }

    /// The stable code, which programs compare.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// The message, without the code.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the same call may succeed when it is repeated unchanged; see [`ErrorCode::is_retryable`].
    pub fn is_retryable(&self) -> bool {
        self.code.is_retryable()
    }
}

impl fmt::Debug for Error {
    /// The same text as `Display`, because `unwrap` prints it to a person.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The result of every operation that can fail.
pub type Result<T> = std::result::Result<T, Error>;

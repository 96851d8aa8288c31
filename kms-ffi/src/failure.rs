//! Why a call failed: the library's error, or one that only this interface knows.

use std::any::Any;

use kms_lib::{Error, ErrorCode};

use crate::status::{self, mkms_status};

/// The result of the work behind a function of the header.
pub type Outcome<T> = Result<T, Failure>;

/// A status with its name and a message.
#[derive(Debug)]
pub struct Failure {
    /// The status that the function returns.
    pub status: mkms_status,
    /// The status by name, as in every interface.
    pub name: &'static str,
    /// For a person. Never a secret.
    pub message: String,
    /// Whether the same call may succeed when it is simply made again.
    pub is_retryable: bool,
}

impl Failure {
    /// A malformed argument.
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::invalid(message).into()
    }
    /// A pointer that must not be NULL.
    pub fn null(name: &str) -> Self {
        Self::invalid(format!("{name} is NULL"))
    }
    /// A handle of another process.
    pub fn after_fork(kind: &str) -> Self {
        let message = format!("this process was forked after the {kind} was made; open the store anew in the child");
        Error::new(ErrorCode::UsedAfterFork, message).into()
    }
    /// A caller's buffer that is too small; nothing was done.
    pub fn too_small(name: &str, needed: usize, capacity: usize) -> Self {
        Self {
            status: status::MKMS_BUFFER_TOO_SMALL,
            name: "BufferTooSmall",
            message: format!("{name} has room for {capacity} bytes; {needed} are needed; nothing was done"),
            is_retryable: false,
        }
    }
    /// A panic. Its message may hold anything, so it is not passed on; the panic hook has written it to stderr.
    pub fn panic(_payload: Box<dyn Any + Send>) -> Self {
        Self {
            status: status::MKMS_INTERNAL_PANIC,
            name: "InternalPanic",
            message: "a fault in this software, which wrote more about it to stderr; please report it".to_owned(),
            is_retryable: false,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            status: status::of(error.code()),
            name: error.code().as_str(),
            message: error.message().to_owned(),
            is_retryable: error.is_retryable(),
        }
    }
}

//! The failure of a call: an error of the library, or one that only this interface has.

use std::any::Any;
use std::ops::Deref;

use kms_lib::{Error, ErrorCode};

use crate::status::{self, mkms_status};

/// The result of the work of a function of the header.
pub type Outcome<T> = Result<T, Failure>;

/// The reason why a call failed. It is behind a pointer and created by functions that are not inlined; otherwise,
/// successful calls would spend a good part of the boundary's time on reserving space for it.
#[derive(Debug)]
pub struct Failure(Box<Details>);

/// A status with its name and a message.
#[derive(Debug)]
pub struct Details {
    /// The status that the function returns.
    pub status: mkms_status,
    /// The name of the status, the same in every interface.
    pub name: &'static str,
    /// A message for people, without secrets.
    pub message: String,
    /// Whether the same call may succeed when it is made again unchanged.
    pub is_retryable: bool,
}

impl Deref for Failure {
    type Target = Details;

    fn deref(&self) -> &Details {
        &self.0
    }
}

impl Failure {
    /// The failure for a malformed argument.
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::invalid(message).into()
    }
    /// The failure for NULL where a pointer is required.
    #[cold]
    pub fn null(name: &str) -> Self {
        Self::invalid(format!("{name} is NULL"))
    }
    /// The failure for a pointer that is not a multiple of the alignment of its type.
    #[cold]
    pub fn misaligned(name: &str) -> Self {
        Self::invalid(format!("{name} is not aligned"))
    }
    /// The failure for a length beyond `isize::MAX`, which no object in memory can have.
    #[cold]
    pub fn too_long(name: &str, length: usize) -> Self {
        Self::invalid(format!("the length of {name}, {length} bytes, is too large"))
    }
    /// The failure for text that is not UTF-8 from this byte on.
    #[cold]
    pub fn not_utf8(name: &str, at: usize) -> Self {
        Self::invalid(format!("{name} is not valid UTF-8 at byte {at}"))
    }
    /// The failure for a pointer that is not a handle of this type.
    #[cold]
    pub fn wrong_handle(name: &str, kind: &str) -> Self {
        Self::invalid(format!("{name} is not a valid handle of type {kind} (another type, or freed)"))
    }
    /// The failure for a handle that the parent process created.
    #[cold]
    pub fn after_fork(kind: &str) -> Self {
        let message =
            format!("this process was forked after the {kind} was created; open the store again in the child");
        Error::new(ErrorCode::UsedAfterFork, message).into()
    }
    /// The failure for a caller's buffer that is too small; nothing was done.
    #[cold]
    pub fn too_small(name: &str, needed: usize, capacity: usize) -> Self {
        Self(Box::new(Details {
            status: status::MKMS_BUFFER_TOO_SMALL,
            name: "BufferTooSmall",
            message: format!("{name} has a capacity of {capacity} bytes, but {needed} are needed; nothing was done"),
            is_retryable: false,
        }))
    }
    /// The failure for a panic. Its message may contain a secret, so it is not passed on; the panic hook has written it
    /// to stderr.
    #[cold]
    pub fn panic(_payload: Box<dyn Any + Send>) -> Self {
        Self(Box::new(Details {
            status: status::MKMS_INTERNAL_PANIC,
            name: "InternalPanic",
            message: "a fault in this software (panic); details are on standard error; please report it".to_owned(),
            is_retryable: false,
        }))
    }
}

impl From<Error> for Failure {
    #[cold]
    fn from(error: Error) -> Self {
        Self(Box::new(Details {
            status: status::of(error.code()),
            name: error.code().as_str(),
            message: error.message().to_owned(),
            is_retryable: error.is_retryable(),
        }))
    }
}

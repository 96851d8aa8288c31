//! The error object, which every function of the header makes. `error_info` has the functions that read and free it.

use crate::failure::Failure;
use crate::handle::{Opaque, tag};
use crate::status::mkms_status;

/// An error object: the reason why a call failed. It belongs to the caller, who frees it with `mkms_error_free`.
pub struct mkms_error {
    _opaque: (),
}

/// The content of an error object: texts with a NUL at their end.
pub struct Held {
    /// The status that the call returned.
    pub status: mkms_status,
    /// Whether the same call may succeed when it is made again unchanged.
    pub is_retryable: bool,
    /// The name of the status.
    pub name: String,
    /// The message for people, without secrets.
    pub message: String,
}

impl From<Failure> for Held {
    fn from(failure: Failure) -> Self {
        let terminated = |text: &str| text.replace('\0', "\u{fffd}") + "\0";
        Self {
            status: failure.status,
            is_retryable: failure.is_retryable,
            name: terminated(failure.name),
            message: terminated(&failure.message),
        }
    }
}

impl Opaque for mkms_error {
    type Value = Held;
    const TAG: u64 = tag(b"mkmserro");
    const NAME: &'static str = "mkms_error";
    const BOUND_TO_PROCESS: bool = false;
}

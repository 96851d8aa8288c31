//! Result buffers, which the library allocates.

use kms_lib::Zeroizing;

use crate::arguments;
use crate::boundary::{call, free};
use crate::handle::{self, Opaque, tag};
use crate::status::mkms_status;

use crate::error::mkms_error;

/// Bytes that a call has returned. The buffer belongs to the caller, who frees it with `mkms_buffer_free`, which wipes
/// it.
pub struct mkms_buffer {
    _opaque: (),
}

impl Opaque for mkms_buffer {
    type Value = Zeroizing<Vec<u8>>;
    const TAG: u64 = tag(b"mkmsbuff");
    const NAME: &'static str = "mkms_buffer";
    const BOUND_TO_PROCESS: bool = false;
}

/// Creates a buffer from these bytes.
pub fn made(bytes: Vec<u8>) -> *mut mkms_buffer {
    handle::new(Zeroizing::new(bytes))
}

/// Returns the bytes of a buffer, which live as long as the buffer. Text is UTF-8 and does not end with a NUL. The
/// pointer of an empty buffer is not NULL, but must not be read.
///
/// Errors: `MKMS_INVALID_ARGUMENT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_buffer_get(
    buffer: *const mkms_buffer,
    data: *mut *const u8,
    data_len: *mut usize,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; buffer = handle::get [buffer]; data = arguments::place [data]; data_len = arguments::place [data_len]; => {
        data.set(buffer.as_ptr());
        data_len.set(buffer.len());
        Ok(())
    })
}

/// Wipes and frees a buffer, and sets `*buffer` to NULL. NULL and a pointer to NULL are ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_buffer_free(buffer: *mut *mut mkms_buffer) -> mkms_status {
    free!(buffer)
}

//! Reading and freeing error objects.

use crate::arguments::{self, Extensible};
use crate::boundary::{call, free};
use crate::error::mkms_error;
use crate::handle;
use crate::status::mkms_status;

/// The content of an error object. Set `size` to `sizeof(mkms_error_info)` before it is filled.
///
/// The texts are UTF-8 and end with a NUL, which their lengths do not count. They belong to the error object and live
/// as long as it does.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mkms_error_info {
    /// `sizeof(mkms_error_info)`.
    pub size: usize,
    /// The status that the call returned.
    pub status: mkms_status,
    /// 1 if the same call may succeed when it is made again unchanged, otherwise 0.
    pub retryable: i32,
    /// The name of the status, such as `KeyNotFound`; the same in every interface.
    pub name: *const std::ffi::c_char,
    /// Length of `name`.
    pub name_len: usize,
    /// A message for people. It never contains a secret.
    pub message: *const std::ffi::c_char,
    /// Length of `message`.
    pub message_len: usize,
}

// SAFETY: integers and raw pointers; the size comes first.
unsafe impl Extensible for mkms_error_info {
    const NAME: &'static str = "mkms_error_info";
}

/// Reads the content of an error object.
///
/// Errors: `MKMS_INVALID_ARGUMENT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_error_get(
    object: *const mkms_error,
    info: *mut mkms_error_info,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; object = handle::get [object]; info = arguments::filled [info]; => {
        info.set(|| mkms_error_info {
            size: 0,
            status: object.status,
            retryable: object.is_retryable.into(),
            name: object.name.as_ptr().cast(),
            name_len: object.name.len() - 1,
            message: object.message.as_ptr().cast(),
            message_len: object.message.len() - 1,
        });
        Ok(())
    })
}

/// Frees an error object and sets `*object` to NULL. NULL and a pointer to NULL are ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_error_free(object: *mut *mut mkms_error) -> mkms_status {
    free!(object)
}

//! The version of the library.

use std::ffi::c_char;

use crate::arguments;
use crate::boundary::call;
use crate::error::mkms_error;
use crate::status::mkms_status;

/// The major version of the interface. It changes with the library's soname.
pub const MKMS_VERSION_MAJOR: u32 = 1;
/// The minor version: it grows when functions, fields or statuses are added.
pub const MKMS_VERSION_MINOR: u32 = 0;
/// The patch version: it grows with bug fixes.
pub const MKMS_VERSION_PATCH: u32 = 0;

/// Returns the version of the library's interface, which may be newer than that of the header, and the version of the
/// software as text with a NUL at its end. The text lives as long as the library is loaded.
///
/// `major`, `minor`, `patch` and `text` may be NULL.
///
/// Errors: none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_version(
    major: *mut u32,
    minor: *mut u32,
    patch: *mut u32,
    text: *mut *const c_char,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    major = arguments::optional_place [major];
    minor = arguments::optional_place [minor];
    patch = arguments::optional_place [patch];
    text = arguments::optional_place [text];
    => {
        let parts = [(major, MKMS_VERSION_MAJOR), (minor, MKMS_VERSION_MINOR), (patch, MKMS_VERSION_PATCH)];
        for (place, value) in parts {
            if let Some(place) = place {
                place.set(value);
            }
        }
        if let Some(place) = text {
            place.set(concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast());
        }
        Ok(())
    })
}

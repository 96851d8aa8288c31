//! For tests of the boundary; not part of the interface.

use crate::boundary::call;
use crate::error::mkms_error;
use crate::status::mkms_status;

/// Panics behind the boundary, so that a test sees `MKMS_INTERNAL_PANIC`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_test_panic(error: *mut *mut mkms_error) -> mkms_status {
    call!(error; => { panic!("asked for by a test") })
}

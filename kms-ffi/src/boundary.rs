//! The boundary that every function of the header crosses in the same way.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::mkms_error;
use crate::failure::{Failure, Outcome};
use crate::handle;
use crate::status::{MKMS_OK, mkms_status};

/// Does the work of a function. A panic ends here.
pub fn guarded(work: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
    // State that a panic leaves inconsistent lies behind locks that the library recovers or poisons.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| Err(Failure::panic(payload)))
}

/// Turns the outcome into a status, with an error object if the caller has a place for it.
///
/// # Safety
/// `error` is NULL or can be written.
pub unsafe fn report(outcome: Outcome<()>, error: *mut *mut mkms_error) -> mkms_status {
    let Err(failure) = outcome else { return MKMS_OK };
    let status = failure.status;
    if !error.is_null() {
        let made = handle::new::<mkms_error>(failure.into());
        // SAFETY: not NULL, and the caller promises that it can be written. It is not read before: it may be
        // uninitialized.
        unsafe { error.write(made) };
    }
    status
}

/// The body of a function of the header: reads its arguments with the functions of [`crate::arguments`] and
/// [`crate::handle`], does the work, and reports to `error`. A reader is given the pointers and the argument's name.
macro_rules! call {
    ($error:expr; $($name:ident = $reader:path [$($argument:expr),+];)* => $work:block) => {{
        let outcome = $crate::boundary::guarded(|| {
            $(
                // SAFETY: the caller keeps the contract of the header: pointers are NULL or valid for what they are
                // declared as and for the length beside them, for the time of the call, handles until they are freed.
                let $name = unsafe { $reader($($argument),+, stringify!($name)) }?;
            )*
            $work
        });
        // SAFETY: the caller keeps the contract of the header: `error` is NULL or can be written.
        unsafe { $crate::boundary::report(outcome, $error) }
    }};
}

/// Frees a handle; the body of a function `mkms_x_free`.
macro_rules! free {
    ($place:expr) => {{
        let outcome = $crate::boundary::guarded(|| {
            // SAFETY: the caller keeps the contract of the header: the place can be read and written, and nobody uses
            // the handle in it.
            unsafe { $crate::handle::free($place) }
        });
        // SAFETY: there is no place for an error object.
        unsafe { $crate::boundary::report(outcome, std::ptr::null_mut()) }
    }};
}

pub(crate) use {call, free};

//! The steps that every function of the header takes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::mkms_error;
use crate::failure::{Failure, Outcome};
use crate::handle;
use crate::status::{MKMS_OK, mkms_status};

/// Runs the work of a function and turns a panic into a failure.
pub fn guarded(work: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
    // State that a panic may leave inconsistent is protected by locks that the library recovers or poisons.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| Err(Failure::panic(payload)))
}

/// Turns the outcome into a status, and writes an error object if `error` is not NULL.
///
/// # Safety
/// `error` is NULL or can be written.
#[inline]
pub unsafe fn report(outcome: Outcome<()>, error: *mut *mut mkms_error) -> mkms_status {
    match outcome {
        Ok(()) => MKMS_OK,
        // SAFETY: as the caller promises.
        Err(failure) => unsafe { report_failure(failure, error) },
    }
}

/// # Safety
/// As [`report`].
#[cold]
unsafe fn report_failure(failure: Failure, error: *mut *mut mkms_error) -> mkms_status {
    let status = failure.status;
    if !error.is_null() {
        let made = handle::new::<mkms_error>(failure.into());
        // SAFETY: not NULL, and the caller promises that it can be written. It may be uninitialized, so it is not read.
        unsafe { error.write(made) };
    }
    status
}

/// The body of a function of the header: reads its arguments with the functions of [`crate::arguments`] and
/// [`crate::handle`], runs the work, and reports to `error`. Each reader gets the pointers and the argument's name.
macro_rules! call {
    ($error:expr; $($name:ident = $reader:path [$($argument:expr),+];)* => $work:block) => {{
        let outcome = $crate::boundary::guarded(|| {
            $(
                // SAFETY: the caller keeps the contract of the header: pointers are NULL, or valid during the call for
                // their declared type and the length that goes with them; handles are valid until they are freed.
                let $name = unsafe { $reader($($argument),+, stringify!($name)) }?;
            )*
            $work
        });
        // SAFETY: the caller keeps the contract of the header: `error` is NULL or can be written.
        unsafe { $crate::boundary::report(outcome, $error) }
    }};
}

/// The body of a function `mkms_x_free`: frees a handle.
macro_rules! free {
    ($place:expr) => {{
        let outcome = $crate::boundary::guarded(|| {
            // SAFETY: the caller keeps the contract of the header: the pointer can be read and written, and no thread
            // uses the handle.
            unsafe { $crate::handle::free($place) }
        });
        // SAFETY: the pointer for the error object is NULL.
        unsafe { $crate::boundary::report(outcome, std::ptr::null_mut()) }
    }};
}

pub(crate) use {call, free};

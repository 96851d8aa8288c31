//! Opening and closing a service.

use kms_lib::blocking::Kms;

use crate::arguments;
use crate::boundary::{call, free};
use crate::config::mkms_config;
use crate::error::mkms_error;
use crate::handle::{self, Opaque, tag};
use crate::status::mkms_status;

/// A service on one store. It can be used by any number of threads at once.
pub struct mkms_kms {
    _opaque: (),
}

impl Opaque for mkms_kms {
    type Value = Kms;
    const TAG: u64 = tag(b"mkmskms0");
    const NAME: &'static str = "mkms_kms";
    const BOUND_TO_PROCESS: bool = true;
}

/// Opens the store, and creates it if it is missing. The caller closes the service with `mkms_close` and frees it with
/// `mkms_kms_free`. A SQLite store must not be opened by another copy of SQLite in the same process: when that copy
/// closes the file, the process loses the locks of this library (POSIX).
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_INVALID_CONFIGURATION`, `MKMS_INVALID_ROOT_KEY`, `MKMS_WRONG_ROOT_KEY`,
/// `MKMS_STORE_CORRUPT`, `MKMS_SCHEMA_TOO_NEW`, `MKMS_STORE_READ_ONLY`, `MKMS_STORE_IN_USE`, `MKMS_STORE_UNAVAILABLE`,
/// `MKMS_INTEGRITY_FAILURE`, `MKMS_RESTORE_DETECTED`, `MKMS_CLOCK_SKEW`, `MKMS_USED_AFTER_FORK` if the parent of this
/// process had a SQLite store open when it forked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_open(
    config: *const mkms_config,
    kms: *mut *mut mkms_kms,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; kms = arguments::place [kms]; => {
        kms.set(handle::new(Kms::open(config.snapshot()?)?));
        Ok(())
    })
}

/// Opens a SQLite store without writing anything, also on a read-only medium. Listing, describing and verifying work;
/// operations that need an audit record fail with `MKMS_STORE_READ_ONLY`.
///
/// Errors: those of `mkms_open`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_open_read_only(
    config: *const mkms_config,
    kms: *mut *mut mkms_kms,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; kms = arguments::place [kms]; => {
        kms.set(handle::new(Kms::open_read_only(config.snapshot()?)?));
        Ok(())
    })
}

/// Closes the service: refuses new calls, commits the operations in flight, and wipes key material. Later calls through
/// its sessions return `MKMS_CLOSED`. The service is closed even if this call fails. Closing twice changes nothing.
///
/// Errors: with `audit.ack = "queued"`, the reason why records of returned results could not be written;
/// `MKMS_USED_AFTER_FORK`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_close(kms: *const mkms_kms, error: *mut *mut mkms_error) -> mkms_status {
    call!(error; kms = handle::get [kms]; => { Ok(kms.close()?) })
}

/// Frees the handle of a service and sets `*kms` to NULL; it never fails after `mkms_close`. Remaining sessions keep
/// working until the service is closed, so close it first. In a forked child the handle is leaked. NULL and a pointer
/// to NULL are ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_kms_free(kms: *mut *mut mkms_kms) -> mkms_status {
    free!(kms)
}

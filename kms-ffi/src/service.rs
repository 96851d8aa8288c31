//! Readiness, metrics, scheduled jobs and backups of a service.

use std::ffi::c_char;

use kms_lib::blocking::Kms;
use kms_lib::json::Jobs;

use crate::arguments;
use crate::boundary::call;
use crate::buffer::mkms_buffer;
use crate::config::mkms_config;
use crate::error::mkms_error;
use crate::handle;
use crate::json;
use crate::kms::mkms_kms;
use crate::session::mkms_session;
use crate::status::mkms_status;

/// Checks whether operations can be expected to succeed, and fails with the reason if they cannot. The check takes the
/// lock of the store and needs the service's own keys. The result is a JSON object with `rootKey`: `ok`, or `degraded`
/// if the last call to the root key failed, so that only keys in the cache are certain to work. The caller frees it
/// with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_ready(
    kms: *const mkms_kms,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; kms = handle::get [kms]; answer = arguments::place [answer]; => {
        answer.set(json::answer(&kms.ready()?)?);
        Ok(())
    })
}

/// Returns the counters since the service was opened, and its state, as JSON without names of keys or callers. The
/// caller frees it with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_telemetry(
    kms: *const mkms_kms,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; kms = handle::get [kms]; answer = arguments::place [answer]; => {
        answer.set(json::answer(&kms.telemetry()?)?);
        Ok(())
    })
}

/// Runs the scheduler's jobs now, whether or not they are due. The result is a JSON object with `rotated`, `destroyed`,
/// `revoked`, `failed` and `verification`, which the caller frees with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, service errors. The result lists keys that failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_run_scheduler(
    kms: *const mkms_kms,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; kms = handle::get [kms]; answer = arguments::place [answer]; => {
        answer.set(json::answer(&Jobs::from(&kms.run_scheduler()?))?);
        Ok(())
    })
}

/// Copies the store to a new file (mode 0600) while the service is in use, verifies the copy and records the backup.
/// The result is a JSON object with `verification` and `checkpoint`, which the caller frees with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, also if the file exists; `MKMS_ACCESS_DENIED`, `MKMS_INPUT_OUTPUT`,
/// `MKMS_STORE_FULL`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_backup(
    session: *const mkms_session,
    path: *const c_char,
    path_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    path = arguments::text [path, path_len];
    answer = arguments::place [answer];
    => {
        answer.set(json::answer(&session.session.backup(path)?)?);
        Ok(())
    })
}

/// Lists the changes that restoring a backup would undo, and the data that would be lost. The result is a JSON object,
/// which the caller frees with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_ROOT_KEY`, `MKMS_INTEGRITY_FAILURE`, service
/// errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_compare_backup(
    session: *const mkms_session,
    path: *const c_char,
    path_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    path = arguments::text [path, path_len];
    answer = arguments::place [answer];
    => {
        answer.set(json::answer(&session.session.compare_backup(path)?)?);
        Ok(())
    })
}

/// Verifies a backup without restoring it, with the root key of `config`. The result is that of `mkms_backup`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_WRONG_ROOT_KEY`, `MKMS_INTEGRITY_FAILURE`, `MKMS_STORE_CORRUPT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_verify_backup(
    config: *const mkms_config,
    path: *const c_char,
    path_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    config = handle::get [config];
    path = arguments::text [path, path_len];
    answer = arguments::place [answer];
    => {
        answer.set(json::answer(&Kms::verify_backup(&config.snapshot()?, path)?)?);
        Ok(())
    })
}

/// Verifies a backup, and restores it to the store that `config` names, which must not exist yet. The result is that of
/// `mkms_backup`.
///
/// Errors: those of `mkms_verify_backup`, `MKMS_INPUT_OUTPUT`, `MKMS_STORE_FULL`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_restore(
    config: *const mkms_config,
    path: *const c_char,
    path_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    config = handle::get [config];
    path = arguments::text [path, path_len];
    answer = arguments::place [answer];
    => {
        answer.set(json::answer(&Kms::restore(&config.snapshot()?, path)?)?);
        Ok(())
    })
}

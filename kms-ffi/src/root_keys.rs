//! Root keys: adding, rewrapping, verifying and retiring generations.

use std::ffi::c_char;
use std::sync::Arc;

use kms_lib::{RetireOptions, RootKeyJob, RootKeyProgress, RootKeySource};
use serde::Deserialize;

use crate::arguments::{self, Extensible};
use crate::boundary::{call, free};
use crate::buffer::mkms_buffer;
use crate::config_root_keys::{aws_source, mkms_aws_root_key};
use crate::error::mkms_error;
use crate::failure::Outcome;
use crate::handle::{self, Opaque, tag};
use crate::json;
use crate::session::mkms_session;
use crate::status::mkms_status;

/// The progress of a root key job. Another thread may read it while the job runs.
pub struct mkms_progress {
    _opaque: (),
}

impl Opaque for mkms_progress {
    type Value = Arc<RootKeyProgress>;
    const TAG: u64 = tag(b"mkmsprog");
    const NAME: &'static str = "mkms_progress";
    const BOUND_TO_PROCESS: bool = false;
}

/// The options of a root key job. Flags are 1 or 0. Set `size` to `sizeof(mkms_root_key_job)`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mkms_root_key_job {
    /// `sizeof(mkms_root_key_job)`.
    pub size: usize,
    /// Receives the progress of the job; may be NULL. It must not be freed before the job has ended.
    pub progress: *const mkms_progress,
    /// The maximum number of wrappings per second; 0 for no limit.
    pub rate: u32,
    /// Dry run: do everything except writing.
    pub dry_run: u8,
    /// Skip wrappings that were verified since they were written.
    pub only_new: u8,
}

// SAFETY: integers and a raw pointer; the size comes first.
unsafe impl Extensible for mkms_root_key_job {
    const NAME: &'static str = "mkms_root_key_job";
}

/// Reads the options of a job; NULL means no limit, no progress object and no flags.
///
/// # Safety
/// As [`arguments::options`], and the progress is NULL or in use while the call lasts.
unsafe fn read_job(pointer: *const mkms_root_key_job, name: &'static str) -> Outcome<RootKeyJob> {
    // SAFETY: as the caller promises.
    let given = unsafe { arguments::options(pointer, name) }?;
    let mut job = RootKeyJob::default()
        .rate(Some(given.rate).filter(|rate| *rate > 0))
        .dry_run(given.dry_run != 0)
        .only_new(given.only_new != 0);
    if !given.progress.is_null() {
        // SAFETY: as the caller promises.
        let progress = unsafe { handle::get(given.progress, "job->progress") }?;
        job = job.progress(Arc::clone(progress));
    }
    Ok(job)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Retire {
    #[serde(default)]
    compromised: bool,
    #[serde(default)]
    verify_new: bool,
}

/// Creates a progress object for a root key job. The caller frees it with `mkms_progress_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_progress_new(
    progress: *mut *mut mkms_progress,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; progress = arguments::place [progress]; => {
        progress.set(handle::new(Arc::default()));
        Ok(())
    })
}

/// Returns how many items (versions and keys of the service) a job has processed, how many of them failed, and the
/// total (0 until it is known).
///
/// Errors: `MKMS_INVALID_ARGUMENT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_progress_get(
    progress: *const mkms_progress,
    done: *mut u64,
    failed: *mut u64,
    total: *mut u64,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    progress = handle::get [progress];
    done = arguments::place [done];
    failed = arguments::place [failed];
    total = arguments::place [total];
    => {
        done.set(progress.done());
        failed.set(progress.failed());
        total.set(progress.total());
        Ok(())
    })
}

/// Frees a progress object and sets `*progress` to NULL. NULL and a pointer to NULL are ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_progress_free(progress: *mut *mut mkms_progress) -> mkms_status {
    free!(progress)
}

/// Returns the generations of the root key, oldest first: a JSON array, which the caller frees with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_list_root_keys(
    session: *const mkms_session,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; session = handle::get [session]; answer = arguments::place [answer]; => {
        answer.set(json::answer(&session.session.list_root_keys()?)?);
        Ok(())
    })
}

/// Adds a generation of the root key. `root_key` is text as for `mkms_config_root_key`. The result is the generation as
/// JSON, which the caller frees with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_INVALID_ROOT_KEY`, `MKMS_ACCESS_DENIED`, `MKMS_CONFLICT`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_add_root_key(
    session: *const mkms_session,
    root_key: *const c_char,
    root_key_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    root_key = arguments::text [root_key, root_key_len];
    answer = arguments::place [answer];
    => {
        answer.set(json::answer(&session.session.add_root_key(&RootKeySource::parse(root_key)?)?)?);
        Ok(())
    })
}

/// Adds a key in AWS KMS as a generation of the root key. The result is that of `mkms_add_root_key`.
///
/// Errors: those of `mkms_add_root_key`, `MKMS_INVALID_CONFIGURATION`, `MKMS_ROOT_KEY_UNAVAILABLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_add_aws_root_key(
    session: *const mkms_session,
    root_key: *const mkms_aws_root_key,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    root_key = aws_source [root_key];
    answer = arguments::place [answer];
    => {
        answer.set(json::answer(&session.session.add_root_key(&root_key)?)?);
        Ok(())
    })
}

/// Returns the cost of rewrapping: a JSON object with `materials` (versions and keys of the service that lack a
/// wrapping) and `calls` (to each root key), which the caller frees with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_plan_rewrap(
    session: *const mkms_session,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; session = handle::get [session]; answer = arguments::place [answer]; => {
        answer.set(json::answer(&session.session.plan_rewrap()?)?);
        Ok(())
    })
}

/// Wraps all key material under every generation that is in use. It can be repeated after an interruption. The result
/// is a JSON object with `total`, `done`, `missing`, `failed` and `failures`, which the caller frees with
/// `mkms_buffer_free`.
///
/// `job` may be NULL.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors. The result lists the failures of single keys.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_rewrap(
    session: *const mkms_session,
    job: *const mkms_root_key_job,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    job = read_job [job];
    answer = arguments::place [answer];
    => {
        answer.set(json::answer(&session.session.rewrap(&job)?)?);
        Ok(())
    })
}

/// Verifies all wrappings of one generation of the root key by unwrapping them. The result is that of `mkms_rewrap`.
///
/// `job` may be NULL.
///
/// Errors: those of `mkms_rewrap`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_verify_root_key(
    session: *const mkms_session,
    generation: u32,
    job: *const mkms_root_key_job,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    job = read_job [job];
    answer = arguments::place [answer];
    => {
        answer.set(json::answer(&session.session.verify_root_key(generation, &job)?)?);
        Ok(())
    })
}

/// Tries out rewrapping under a root key that is not added yet, and writes nothing. The result is that of
/// `mkms_rewrap`.
///
/// `job` may be NULL.
///
/// Errors: those of `mkms_rewrap`, `MKMS_INVALID_ROOT_KEY`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_verify_planned_root_key(
    session: *const mkms_session,
    root_key: *const c_char,
    root_key_len: usize,
    job: *const mkms_root_key_job,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    root_key = arguments::text [root_key, root_key_len];
    job = read_job [job];
    answer = arguments::place [answer];
    => {
        let source = RootKeySource::parse(root_key)?;
        answer.set(json::answer(&session.session.verify_planned_root_key(&source, &job)?)?);
        Ok(())
    })
}

/// Tries out rewrapping under a key in AWS KMS that is not added yet, and writes nothing. The result is that of
/// `mkms_rewrap`.
///
/// `job` may be NULL.
///
/// Errors: those of `mkms_rewrap`, `MKMS_INVALID_CONFIGURATION`, `MKMS_ROOT_KEY_UNAVAILABLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_verify_planned_aws_root_key(
    session: *const mkms_session,
    root_key: *const mkms_aws_root_key,
    job: *const mkms_root_key_job,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    root_key = aws_source [root_key];
    job = read_job [job];
    answer = arguments::place [answer];
    => {
        answer.set(json::answer(&session.session.verify_planned_root_key(&root_key, &job)?)?);
        Ok(())
    })
}

/// Retires a generation of the root key: erases all wrappings under it. `request` is a JSON object with `compromised`
/// (the key may have leaked) and `verifyNew` (first verify wrappings that are not verified yet), both optional. The
/// result is a JSON object with `rootKey`, `erased`, `erasurePending`, `rotate` and `backups`, which the caller frees
/// with `mkms_buffer_free`.
///
/// `request` may be NULL.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_STATE`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_retire_root_key(
    session: *const mkms_session,
    generation: u32,
    request: *const c_char,
    request_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    answer = arguments::place [answer];
    request = json::optional::<Retire> [request, request_len];
    => {
        let options =
            RetireOptions::default().compromised(request.compromised).verify_new(request.verify_new);
        answer.set(json::answer(&session.session.retire_root_key(generation, &options)?)?);
        Ok(())
    })
}

/// Replaces the integrity key and reseals every row, or completes an interrupted replacement. All wrappings count as
/// unverified afterwards. The result is a JSON object with `number`, `resealed` and `left`, which the caller frees with
/// `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, `MKMS_INTEGRITY_FAILURE`, `MKMS_CONFLICT`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_replace_integrity_key(
    session: *const mkms_session,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; session = handle::get [session]; answer = arguments::place [answer]; => {
        answer.set(json::answer(&session.session.replace_integrity_key()?)?);
        Ok(())
    })
}

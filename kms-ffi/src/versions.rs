//! Versions of keys.

use std::ffi::c_char;

use kms_lib::Timestamp;
use kms_lib::json::Key;
use serde::Deserialize;

use crate::arguments;
use crate::boundary::call;
use crate::buffer::mkms_buffer;
use crate::error::mkms_error;
use crate::handle;
use crate::json;
use crate::keys::ListPart;
use crate::session::mkms_session;
use crate::status::mkms_status;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Window {
    #[serde(deserialize_with = "Option::deserialize")]
    not_after: Option<Timestamp>,
}

/// Returns the versions of a key, oldest first: a JSON object with `items` and, unless it is the last page,
/// `nextCursor`. `query` is a JSON object with `limit` (100) and `cursor`, both optional. The caller frees the result
/// with `mkms_buffer_free`.
///
/// `query` may be NULL.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_list_versions(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    query: *const c_char,
    query_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    answer = arguments::place [answer];
    query = json::optional::<ListPart> [query, query_len];
    => {
        answer.set(json::answer(&session.session.list_versions(key, &query.paging())?)?);
        Ok(())
    })
}

/// Returns a version of a key as JSON. The caller frees it with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_VERSION_NOT_FOUND`, `MKMS_ACCESS_DENIED`, service
/// errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_get_version(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    version: u32,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    answer = arguments::place [answer];
    => {
        answer.set(json::answer(&session.session.get_version(key, version)?)?);
        Ok(())
    })
}

/// Returns the public key of a version of an RSA key as PEM (SubjectPublicKeyInfo). The caller frees it with
/// `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_VERSION_NOT_FOUND`, `MKMS_WRONG_KEY_TYPE`,
/// `MKMS_ACCESS_DENIED`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_public_key(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    version: u32,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    answer = arguments::place [answer];
    => {
        answer.set(json::text(session.session.public_key(key, version)?));
        Ok(())
    })
}

/// Enables the current version of a key after it was disabled. The result is the key as JSON, which the caller frees
/// with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_STATE`, key state errors,
/// version state errors, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_enable_version(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    version: u32,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    answer = arguments::place [answer];
    => {
        answer.set(json::answer(&Key::from(session.session.enable_version(key, version)?))?);
        Ok(())
    })
}

/// Disables a version of a key: it no longer encrypts or signs. The result is the key as JSON, which the caller frees
/// with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_STATE`, key state errors,
/// version state errors, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_disable_version(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    version: u32,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    answer = arguments::place [answer];
    => {
        answer.set(json::answer(&Key::from(session.session.disable_version(key, version)?))?);
        Ok(())
    })
}

/// Revokes a version of a key, permanently, and ends its grace window now. The result is the key as JSON, which the
/// caller frees with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_STATE`, key state errors,
/// version state errors, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_revoke_version(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    version: u32,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    answer = arguments::place [answer];
    => {
        answer.set(json::answer(&Key::from(session.session.revoke_version(key, version)?))?);
        Ok(())
    })
}

/// Sets the end of the grace window of a former version, until which it decrypts and verifies. `request` is a JSON
/// object with `notAfter`: a time (RFC 3339), or null for no end. The result is the key as JSON, which the caller frees
/// with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_STATE`, key state errors,
/// version state errors, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_set_window(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    version: u32,
    request: *const c_char,
    request_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    answer = arguments::place [answer];
    request = json::request::<Window> [request, request_len];
    => {
        answer.set(json::answer(&Key::from(session.session.set_window(key, version, request.not_after)?))?);
        Ok(())
    })
}

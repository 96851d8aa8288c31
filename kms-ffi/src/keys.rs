//! Creating, listing, editing, rotating, disabling, revoking and deleting keys.

use std::ffi::c_char;

use kms_lib::json::Key;
use kms_lib::{AuditContext, KeyFilter, KeyPurpose, KeyState, KeyType, KeyUpdate, NewKey, Paging};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::arguments;
use crate::boundary::call;
use crate::buffer::mkms_buffer;
use crate::error::mkms_error;
use crate::handle;
use crate::json;
use crate::session::mkms_session;
use crate::status::mkms_status;

/// A query for a list of keys: filters and the page.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListKeys {
    limit: Option<usize>,
    cursor: Option<String>,
    state: Option<KeyState>,
    #[serde(rename = "type")]
    key_type: Option<KeyType>,
    purpose: Option<KeyPurpose>,
    name_prefix: Option<String>,
}

/// A query for a page of a list.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListPart {
    limit: Option<usize>,
    cursor: Option<String>,
}

impl ListPart {
    /// The page as a type of the library.
    pub fn paging(self) -> Paging {
        paging(self.limit, self.cursor)
    }
}

/// The page of at most `limit` entries after a cursor.
pub fn paging(limit: Option<usize>, cursor: Option<String>) -> Paging {
    let mut paging = limit.map_or_else(Paging::default, Paging::new);
    paging.cursor = cursor;
    paging
}

/// An edit of a key. Omitted fields change nothing; null removes the value.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Update {
    #[serde(default, deserialize_with = "given")]
    rotation_period_days: Option<Option<u32>>,
    #[serde(default, deserialize_with = "given")]
    grace_period_days: Option<Option<u32>>,
    #[serde(default, deserialize_with = "given")]
    metadata: Option<Option<Map<String, Value>>>,
    audit_context: Option<AuditContext>,
    expected_revision: Option<u64>,
}

/// Distinguishes null from an omitted field.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rotate {
    expected_current_version: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Schedule {
    waiting_days: Option<u32>,
}

/// Creates a key with its first version. `request` is a JSON object with `name`, `type` (`AES256_GCM`, `RSA_2048`),
/// `purpose` (`ENCRYPTION`, `SIGNING`), and optionally `rotationPeriodDays`, `gracePeriodDays`, `metadata`,
/// `auditContext`. The result is the key with its `versions`, as JSON, which the caller frees with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_INVALID_NAME`, `MKMS_NAME_TAKEN`, `MKMS_WRONG_PURPOSE`, `MKMS_ACCESS_DENIED`,
/// service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_create_key(
    session: *const mkms_session,
    request: *const c_char,
    request_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    answer = arguments::place [answer];
    request = json::request::<NewKey> [request, request_len];
    => {
        answer.set(json::answer(&Key::from(session.session.create_key(request)?))?);
        Ok(())
    })
}

/// Returns the keys that the caller may read, by name, without their versions: a JSON object with `items` and, unless
/// it is the last page, `nextCursor`. `query` is a JSON object with `limit` (100), `cursor`, `state`, `type`,
/// `purpose`, `namePrefix`, all optional. The caller frees the result with `mkms_buffer_free`.
///
/// `query` may be NULL.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_NOT_AUTHENTICATED`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_list_keys(
    session: *const mkms_session,
    query: *const c_char,
    query_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    answer = arguments::place [answer];
    query = json::optional::<ListKeys> [query, query_len];
    => {
        let mut filter = KeyFilter::new();
        (filter.state, filter.key_type, filter.purpose) = (query.state, query.key_type, query.purpose);
        filter.name_prefix = query.name_prefix;
        let page = session.session.list_keys(&filter, &paging(query.limit, query.cursor))?;
        answer.set(json::answer(&page)?);
        Ok(())
    })
}

/// Returns a key, identified by name or id, with its `versions` as JSON. The caller frees it with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_get_key(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    answer = arguments::place [answer];
    => {
        answer.set(json::answer(&Key::from(session.session.get_key(key)?))?);
        Ok(())
    })
}

/// Rotates a key: creates a new current version. `request` is a JSON object with the optional field
/// `expectedCurrentVersion`: with it, the call fails with `MKMS_CONFLICT` if another rotation came first. The result is
/// the key as JSON, which the caller frees with `mkms_buffer_free`.
///
/// `request` may be NULL.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_CONFLICT`, `MKMS_WRONG_STATE`,
/// key state errors, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_rotate_key(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    request: *const c_char,
    request_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    answer = arguments::place [answer];
    request = json::optional::<Rotate> [request, request_len];
    => {
        answer.set(json::answer(&Key::from(session.session.rotate_key(key, request.expected_current_version)?))?);
        Ok(())
    })
}

/// Enables a disabled key. The result is the key as JSON, which the caller frees with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_STATE`, key state errors,
/// version state errors, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_enable_key(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    answer = arguments::place [answer];
    => {
        answer.set(json::answer(&Key::from(session.session.enable_key(key)?))?);
        Ok(())
    })
}

/// Disables a key: no cryptography and no rotation until it is enabled again. The result is the key as JSON, which the
/// caller frees with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_STATE`, key state errors,
/// version state errors, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_disable_key(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    answer = arguments::place [answer];
    => {
        answer.set(json::answer(&Key::from(session.session.disable_key(key)?))?);
        Ok(())
    })
}

/// Revokes a key with all its versions, permanently. Its ciphertexts can no longer be decrypted. The result is the key
/// as JSON, which the caller frees with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_STATE`, key state errors,
/// version state errors, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_revoke_key(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    answer = arguments::place [answer];
    => {
        answer.set(json::answer(&Key::from(session.session.revoke_key(key)?))?);
        Ok(())
    })
}

/// Cancels a scheduled deletion. The result is the key as JSON, which the caller frees with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_STATE`, key state errors,
/// version state errors, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_cancel_deletion(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    answer = arguments::place [answer];
    => {
        answer.set(json::answer(&Key::from(session.session.cancel_deletion(key)?))?);
        Ok(())
    })
}

/// Erases the material of former versions of a key that are revoked or past their grace window. They stay in the key's
/// history as `DESTROYED`, and no longer count towards the limit of versions. Many versions are erased in several
/// steps; if the call fails in between, repeat it to continue. The result is the key as JSON, which the caller frees
/// with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_STATE`, key state errors,
/// version state errors, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_trim_key(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    answer = arguments::place [answer];
    => {
        answer.set(json::answer(&Key::from(session.session.trim_key(key)?))?);
        Ok(())
    })
}

/// Edits a key. `request` is a JSON object with at least one of `rotationPeriodDays`, `gracePeriodDays`, `metadata`
/// (null removes), `auditContext`, and optionally `expectedRevision`. The result is the key as JSON, which the caller
/// frees with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_CONFLICT`, key state errors,
/// service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_update_key(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    request: *const c_char,
    request_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    answer = arguments::place [answer];
    request = json::request::<Update> [request, request_len];
    => {
        let mut update = KeyUpdate::new();
        update.rotation_period_days = request.rotation_period_days;
        update.grace_period_days = request.grace_period_days;
        update.metadata = request.metadata.map(|metadata| metadata.map(Value::Object));
        update.audit_context = request.audit_context;
        update.expected_revision = request.expected_revision;
        answer.set(json::answer(&Key::from(session.session.update_key(key, update)?))?);
        Ok(())
    })
}

/// Schedules the erasure of a key's material. `request` is a JSON object with the optional field `waitingDays` (30).
/// The result is the key as JSON, which the caller frees with `mkms_buffer_free`.
///
/// `request` may be NULL.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_STATE`, key state errors,
/// version state errors, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_schedule_deletion(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    request: *const c_char,
    request_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    answer = arguments::place [answer];
    request = json::optional::<Schedule> [request, request_len];
    => {
        answer.set(json::answer(&Key::from(session.session.schedule_deletion(key, request.waiting_days)?))?);
        Ok(())
    })
}

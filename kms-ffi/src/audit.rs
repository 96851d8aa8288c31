//! The audit log, the quarantine and the metrics.

use std::ffi::c_char;

use kms_lib::{Action, AuditQuery, ImportJob, KeyRef, Status, Timestamp, VerifyOptions};
use serde::Deserialize;

use crate::arguments;
use crate::boundary::call;
use crate::buffer::mkms_buffer;
use crate::error::mkms_error;
use crate::failure::Failure;
use crate::handle;
use crate::json;
use crate::keys::paging;
use crate::session::mkms_session;
use crate::status::mkms_status;

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Order {
    Asc,
    Desc,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListAudit {
    limit: Option<usize>,
    cursor: Option<String>,
    order: Option<Order>,
    action: Option<Action>,
    actor: Option<String>,
    key_id: Option<String>,
    status: Option<Status>,
    request_id: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListImported {
    source: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Verify {
    #[serde(default)]
    incremental: bool,
    pinned_key: Option<String>,
}

/// Returns records of the log, newest first: a JSON object with `items` and, unless it is the last page, `nextCursor`.
/// `query` is a JSON object with `limit` (100), `cursor`, `order` (`asc`, `desc`), `action`, `actor`, `keyId`,
/// `status`, `requestId`, `since`, `until`, all optional. To export the log, read it with `order` `asc` page by page.
/// The caller frees the result with `mkms_buffer_free`.
///
/// `query` may be NULL.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_list_audit(
    session: *const mkms_session,
    query: *const c_char,
    query_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    answer = arguments::place [answer];
    query = json::optional::<ListAudit> [query, query_len];
    => {
        let mut wanted = AuditQuery::new();
        wanted.oldest_first = query.order == Some(Order::Asc);
        (wanted.action, wanted.status) = (query.action, query.status);
        (wanted.actor, wanted.request_id) = (query.actor, query.request_id);
        wanted.key = query.key_id.map(KeyRef::from);
        (wanted.since, wanted.until) = (query.since, query.until);
        let page = session.session.list_audit(&wanted, &paging(query.limit, query.cursor))?;
        answer.set(json::answer(&page)?);
        Ok(())
    })
}

/// Returns rows of the log that was imported from Mini KMS on Node, in the order of their links: a JSON object with
/// `items` and, unless it is the last page, `nextCursor`. `query` is a JSON object with `source` (the name of the
/// import; default `mini-kms`), `limit` (100) and `cursor`, all optional. The caller frees the result with
/// `mkms_buffer_free`.
///
/// `query` may be NULL.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_list_imported_audit(
    session: *const mkms_session,
    query: *const c_char,
    query_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    answer = arguments::place [answer];
    query = json::optional::<ListImported> [query, query_len];
    => {
        let source = query.source.unwrap_or_else(|| ImportJob::default().name);
        let page = session.session.list_imported_audit(&source, &paging(query.limit, query.cursor))?;
        answer.set(json::answer(&page)?);
        Ok(())
    })
}

/// Verifies the log, and compares the tables with it. `request` is a JSON object with `incremental` (read new records
/// and a part of the older ones) and `pinnedKey` (a public key of the log that the verifier trusts), both optional. The
/// result is a JSON object with `ok`, `size`, `from`, `faults` and more, which the caller frees with
/// `mkms_buffer_free`.
///
/// `request` may be NULL.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors. These mean that the log could not be
/// verified.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_verify_audit(
    session: *const mkms_session,
    request: *const c_char,
    request_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    answer = arguments::place [answer];
    request = json::optional::<Verify> [request, request_len];
    => {
        let report = match (request.incremental, request.pinned_key) {
            (true, Some(_)) => {
                return Err(Failure::invalid("request: pinnedKey and incremental exclude each other; omit incremental"));
            }
            (true, None) => session.session.verify_audit_incrementally()?,
            (false, None) => session.session.verify_audit()?,
            (false, Some(key)) => session.session.verify_audit_with(&VerifyOptions::new().pinned_key(key))?,
        };
        answer.set(json::answer(&report)?);
        Ok(())
    })
}

/// Returns the signed head of the log (C2SP checkpoint) as text. The caller frees it with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_checkpoint(
    session: *const mkms_session,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; session = handle::get [session]; answer = arguments::place [answer]; => {
        answer.set(json::text(session.session.checkpoint()?));
        Ok(())
    })
}

/// Returns the public key of the log as text, in the form that verifiers pin (C2SP signed note). The caller frees it
/// with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_audit_public_key(
    session: *const mkms_session,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; session = handle::get [session]; answer = arguments::place [answer]; => {
        answer.set(json::text(session.session.audit_public_key()?));
        Ok(())
    })
}

/// Returns all public keys of the log with the range of log sizes that each of them signs: a JSON array. The caller
/// frees it with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_audit_public_keys(
    session: *const mkms_session,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; session = handle::get [session]; answer = arguments::place [answer]; => {
        answer.set(json::answer(&session.session.audit_public_keys()?)?);
        Ok(())
    })
}

/// Replaces the signing key of the log, and returns the new public key as text. The caller frees it with
/// `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_replace_signing_key(
    session: *const mkms_session,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; session = handle::get [session]; answer = arguments::place [answer]; => {
        answer.set(json::text(session.session.replace_signing_key()?));
        Ok(())
    })
}

/// Returns the numbers of keys, records and uses, and the alerts, as JSON. The caller frees it with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_metrics(
    session: *const mkms_session,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; session = handle::get [session]; answer = arguments::place [answer]; => {
        answer.set(json::answer(&session.session.metrics()?)?);
        Ok(())
    })
}

/// Returns the quarantined rows: a JSON array. The caller frees it with `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_list_quarantine(
    session: *const mkms_session,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; session = handle::get [session]; answer = arguments::place [answer]; => {
        answer.set(json::answer(&session.session.list_quarantine()?)?);
        Ok(())
    })
}

/// Releases the quarantined rows that match the log again, and returns them as a JSON array. The caller frees it with
/// `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_release_quarantine(
    session: *const mkms_session,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; session = handle::get [session]; answer = arguments::place [answer]; => {
        answer.set(json::answer(&session.session.release_quarantine()?)?);
        Ok(())
    })
}

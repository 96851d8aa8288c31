//! Grants and tokens.

use std::ffi::c_char;

use kms_lib::{Conditions, CredentialDescription, GrantFilter, NewGrant, NewToken, Permission, Role, Timestamp};
use serde::{Deserialize, Serialize};

use crate::arguments;
use crate::boundary::call;
use crate::buffer::mkms_buffer;
use crate::error::mkms_error;
use crate::handle;
use crate::json;
use crate::keys::{ListPart, paging};
use crate::session::mkms_session;
use crate::status::mkms_status;

/// The text that means all keys.
const ALL_KEYS: &str = "*";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PutGrant {
    principal: String,
    role: Role,
    key_id: String,
    allowed_ops: Vec<Permission>,
    conditions: Option<Conditions>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListGrants {
    limit: Option<usize>,
    cursor: Option<String>,
    principal: Option<String>,
    key_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CreateToken {
    principal: String,
    #[serde(default)]
    role: Option<Role>,
    label: Option<String>,
    expires_at: Option<Timestamp>,
}

impl CreateToken {
    fn read(self, role: Role) -> NewToken {
        let mut new = NewToken::new(self.principal, self.role.unwrap_or(role)).expires_at(self.expires_at);
        new.label = self.label;
        new
    }
}

/// A new token. Its secret is returned only here.
#[derive(Serialize)]
struct Created<'a> {
    token: &'a str,
    credential: &'a CredentialDescription,
}

/// Creates a grant, or replaces the one that the principal has from the same grantor on the same keys. `request` is a
/// JSON object with `principal`, `role` (`admin`, `auditor`, `app`), `keyId` (a key's id or name, or `*`),
/// `allowedOps`, and optionally `conditions`. The result is the grant as JSON, which the caller frees with
/// `mkms_buffer_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_put_grant(
    session: *const mkms_session,
    request: *const c_char,
    request_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    answer = arguments::place [answer];
    request = json::request::<PutGrant> [request, request_len];
    => {
        let new = NewGrant::new(request.principal, request.role)
            .allow(request.allowed_ops)
            .conditions(request.conditions.unwrap_or_default());
        let new = if request.key_id == ALL_KEYS { new.on_all_keys() } else { new.on_key(request.key_id) };
        answer.set(json::answer(&session.session.put_grant(new)?)?);
        Ok(())
    })
}

/// Withdraws a grant, identified by its id. Grants that were passed on through it stay in force.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_GRANT_NOT_FOUND`, `MKMS_ACCESS_DENIED`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_revoke_grant(
    session: *const mkms_session,
    id: *const c_char,
    id_len: usize,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; session = handle::get [session]; id = arguments::text [id, id_len]; => {
        Ok(session.session.revoke_grant(id.parse()?)?)
    })
}

/// Withdraws a grant, identified by its id, and all grants that were passed on through it.
///
/// Errors: those of `mkms_revoke_grant`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_revoke_grant_cascading(
    session: *const mkms_session,
    id: *const c_char,
    id_len: usize,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; session = handle::get [session]; id = arguments::text [id, id_len]; => {
        Ok(session.session.revoke_grant_cascading(id.parse()?)?)
    })
}

/// Returns the grants in force, by principal: a JSON object with `items` and, unless it is the last page, `nextCursor`.
/// `query` is a JSON object with `limit` (100), `cursor`, `principal`, `keyId`, all optional. The caller frees the
/// result with `mkms_buffer_free`.
///
/// `query` may be NULL.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_list_grants(
    session: *const mkms_session,
    query: *const c_char,
    query_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    answer = arguments::place [answer];
    query = json::optional::<ListGrants> [query, query_len];
    => {
        let filter = match query.key_id {
            None => GrantFilter::new(),
            Some(key) if key == ALL_KEYS => GrantFilter::new().on_all_keys(),
            Some(key) => GrantFilter::new().on_key(key),
        };
        let filter = query.principal.into_iter().fold(filter, GrantFilter::principal);
        answer.set(json::answer(&session.session.list_grants(&filter, &paging(query.limit, query.cursor))?)?);
        Ok(())
    })
}

/// Creates a token. `request` is a JSON object with `principal`, and optionally `role` (`admin`, `auditor`, `app`;
/// default `app`), `label` and `expiresAt`. The result is a JSON object with `token`, which cannot be read again later,
/// and `credential`; the caller frees it with `mkms_buffer_free`, which wipes it.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_create_token(
    session: *const mkms_session,
    request: *const c_char,
    request_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    answer = arguments::place [answer];
    request = json::request::<CreateToken> [request, request_len];
    => {
        let made = session.session.create_token(request.read(Role::App))?;
        answer.set(json::answer(&Created { token: &made.token, credential: &made.credential })?);
        Ok(())
    })
}

/// Creates the first token of a store, for an admin; `MKMS_CONFLICT` if the store has or ever had a credential.
/// `request` and the result are those of `mkms_create_token`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, `MKMS_CONFLICT`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_create_first_token(
    session: *const mkms_session,
    request: *const c_char,
    request_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    answer = arguments::place [answer];
    request = json::request::<CreateToken> [request, request_len];
    => {
        let made = session.session.create_first_token(request.read(Role::Admin))?;
        answer.set(json::answer(&Created { token: &made.token, credential: &made.credential })?);
        Ok(())
    })
}

/// Withdraws a token, identified by its credential's id: from now on, no operation with this token succeeds.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_CREDENTIAL_NOT_FOUND`, `MKMS_ACCESS_DENIED`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_revoke_credential(
    session: *const mkms_session,
    id: *const c_char,
    id_len: usize,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; session = handle::get [session]; id = arguments::text [id, id_len]; => {
        Ok(session.session.revoke_credential(id.parse()?)?)
    })
}

/// Returns the credentials that are not withdrawn, by id: a JSON object with `items` and, unless it is the last page,
/// `nextCursor`. `query` is a JSON object with `limit` (100) and `cursor`, both optional. The caller frees the result
/// with `mkms_buffer_free`.
///
/// `query` may be NULL.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_ACCESS_DENIED`, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_list_credentials(
    session: *const mkms_session,
    query: *const c_char,
    query_len: usize,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    answer = arguments::place [answer];
    query = json::optional::<ListPart> [query, query_len];
    => {
        answer.set(json::answer(&session.session.list_credentials(&query.paging())?)?);
        Ok(())
    })
}

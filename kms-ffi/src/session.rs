//! Sessions: the operations of one actor.

use std::ffi::c_char;
use std::net::IpAddr;

use kms_lib::blocking::{Kms, Session};
use kms_lib::{Actor, Role};

use crate::arguments::{self, Extensible};
use crate::boundary::{call, free};
use crate::error::mkms_error;
use crate::failure::{Failure, Outcome};
use crate::handle::{self, Opaque, tag};
use crate::kms::mkms_kms;
use crate::status::mkms_status;

/// The role of a caller: one of the constants `MKMS_ROLE_...`.
pub type mkms_role = i32;
/// An app: may do what its grants allow.
pub const MKMS_ROLE_APP: mkms_role = 1;
/// An auditor: may read keys, grants, metrics and the log, and verify the log.
pub const MKMS_ROLE_AUDITOR: mkms_role = 2;
/// An admin: may do everything.
pub const MKMS_ROLE_ADMIN: mkms_role = 3;

/// The operations of one actor. A session can be used by any number of threads at once, and is cheap to create.
pub struct mkms_session {
    _opaque: (),
}

/// A session with its service, so that other sessions can be derived from it.
pub struct Acting {
    kms: Kms,
    /// The session of the library.
    pub session: Session,
}

impl Opaque for mkms_session {
    type Value = Acting;
    const TAG: u64 = tag(b"mkmssess");
    const NAME: &'static str = "mkms_session";
    const BOUND_TO_PROCESS: bool = true;
}

/// Properties of a request. Pointers may be NULL. Set `size` to `sizeof(mkms_session_options)`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mkms_session_options {
    /// `sizeof(mkms_session_options)`.
    pub size: usize,
    /// The address that the actor calls from, IPv4 or IPv6 as text. Conditions of grants use it, and audit records show
    /// it.
    pub source_ip: *const c_char,
    /// Length of `source_ip`.
    pub source_ip_len: usize,
    /// An id for the request, which audit records show: 1 to 256 printable bytes.
    pub request_id: *const c_char,
    /// Length of `request_id`.
    pub request_id_len: usize,
    /// The idempotency key: a change that is repeated with the same key within 24 hours takes effect once.
    pub idempotency_key: *const c_char,
    /// Length of `idempotency_key`.
    pub idempotency_key_len: usize,
}

// SAFETY: integers and raw pointers; the size comes first.
unsafe impl Extensible for mkms_session_options {
    const NAME: &'static str = "mkms_session_options";
}

/// Creates a session of a principal in a role. The principal is not authenticated: the program vouches for it. The
/// caller frees the session with `mkms_session_free`.
///
/// `options` may be NULL.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, also for reserved principals; `MKMS_USED_AFTER_FORK`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_session_new(
    kms: *const mkms_kms,
    principal: *const c_char,
    principal_len: usize,
    role: mkms_role,
    options: *const mkms_session_options,
    session: *mut *mut mkms_session,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    kms = handle::get_here [kms];
    principal = arguments::text [principal, principal_len];
    options = arguments::options [options];
    session = arguments::place [session];
    => {
        let actor = Actor::new(principal, self::role(role)?)?;
        session.set(handle::new(acting(kms.clone(), actor, &options)?));
        Ok(())
    })
}

/// Creates a session of the operator: an admin who is identified only by access to the store and its root key. The
/// caller frees it with `mkms_session_free`.
///
/// `options` may be NULL.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_USED_AFTER_FORK`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_session_new_operator(
    kms: *const mkms_kms,
    options: *const mkms_session_options,
    session: *mut *mut mkms_session,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    kms = handle::get_here [kms];
    options = arguments::options [options];
    session = arguments::place [session];
    => {
        session.set(handle::new(acting(kms.clone(), Actor::operator(), &options)?));
        Ok(())
    })
}

/// Creates a session of the principal that a token was issued to. The token is checked again before anything is
/// committed. The caller frees the session with `mkms_session_free`.
///
/// `options` may be NULL.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_NOT_AUTHENTICATED`, `MKMS_CLOSED`, `MKMS_USED_AFTER_FORK`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_session_authenticate(
    kms: *const mkms_kms,
    token: *const c_char,
    token_len: usize,
    options: *const mkms_session_options,
    session: *mut *mut mkms_session,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    kms = handle::get [kms];
    token = arguments::text [token, token_len];
    options = arguments::options [options];
    session = arguments::place [session];
    => {
        let actor = kms.authenticate(token)?;
        session.set(handle::new(acting(kms.clone(), actor, &options)?));
        Ok(())
    })
}

/// Creates a session of the same actor with other options, such as those of one request. Options that are not given are
/// not inherited. The caller frees it with `mkms_session_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_USED_AFTER_FORK`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_session_with(
    session: *const mkms_session,
    options: *const mkms_session_options,
    derived: *mut *mut mkms_session,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get_here [session];
    options = arguments::structure [options];
    derived = arguments::place [derived];
    => {
        let former = session.session.actor();
        let mut actor = match former.principal() {
            "operator" => Actor::operator(),
            principal => Actor::new(principal, former.role())?,
        };
        if let Some(credential) = former.credential() {
            actor = actor.with_credential(credential);
        }
        derived.set(handle::new(acting(session.kms.clone(), actor, &options)?));
        Ok(())
    })
}

/// Frees a session and sets `*session` to NULL. In a forked child it is leaked. NULL and a pointer to NULL are ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_session_free(session: *mut *mut mkms_session) -> mkms_status {
    free!(session)
}

/// The role with this number.
pub fn role(number: mkms_role) -> Outcome<Role> {
    match number {
        MKMS_ROLE_APP => Ok(Role::App),
        MKMS_ROLE_AUDITOR => Ok(Role::Auditor),
        MKMS_ROLE_ADMIN => Ok(Role::Admin),
        _ => Err(Failure::invalid("role must be one of MKMS_ROLE_APP, MKMS_ROLE_AUDITOR and MKMS_ROLE_ADMIN")),
    }
}

fn acting(kms: Kms, mut actor: Actor, options: &mkms_session_options) -> Outcome<Acting> {
    let field = |pointer, length, name| {
        // SAFETY: the caller keeps the contract of the header: pointers in options are NULL or valid for their lengths.
        unsafe { arguments::optional_text(pointer, length, name) }
    };
    if let Some(address) = field(options.source_ip, options.source_ip_len, "options->source_ip")? {
        let address: IpAddr =
            address.parse().map_err(|_| Failure::invalid("options->source_ip is not an IPv4 or IPv6 address"))?;
        actor = actor.with_source_ip(address);
    }
    if let Some(id) = field(options.request_id, options.request_id_len, "options->request_id")? {
        actor = actor.with_request_id(id)?;
    }
    let mut session = kms.session(actor);
    if let Some(key) = field(options.idempotency_key, options.idempotency_key_len, "options->idempotency_key")? {
        session = session.with_idempotency_key(key)?;
    }
    Ok(Acting { kms, session })
}

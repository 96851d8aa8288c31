//! The encryption context.

use std::borrow::Cow;
use std::ffi::c_char;

use kms_lib::Context;

use crate::arguments;
use crate::boundary::{call, free};
use crate::error::mkms_error;
use crate::failure::Outcome;
use crate::handle::{self, Opaque, tag};
use crate::shared::Shared;
use crate::status::mkms_status;

/// An encryption context: names and values that a ciphertext is bound to (additional authenticated data). They are not
/// secret: by default, audit records show them. At most 64 entries and 8 KiB. A context can be used for any number of
/// calls, from any thread.
pub struct mkms_context {
    _opaque: (),
}

/// The names and values of an encryption context, protected by a lock because threads may share a handle.
pub struct Entries(Shared<Context>);

impl Entries {
    /// A copy of the context that later changes do not affect.
    pub fn snapshot(&self) -> Outcome<Context> {
        Ok(self.0.read()?.clone())
    }
}

impl Opaque for mkms_context {
    type Value = Entries;
    const TAG: u64 = tag(b"mkmscont");
    const NAME: &'static str = "mkms_context";
    const BOUND_TO_PROCESS: bool = false;
}

/// The empty context. Calls without a context borrow it, because making and dropping one takes as long as reading all
/// other arguments.
static EMPTY: Context = Context::new();

/// Reads an encryption context: NULL means the empty one.
///
/// # Safety
/// As `handle::get`.
#[inline]
pub unsafe fn read(pointer: *const mkms_context, name: &'static str) -> Outcome<Cow<'static, Context>> {
    // SAFETY: as the caller promises.
    let read = unsafe { read_optional(pointer, name) }?;
    Ok(read.map_or(Cow::Borrowed(&EMPTY), Cow::Owned))
}

/// Reads an optional encryption context.
///
/// # Safety
/// As `handle::get`.
#[inline]
pub unsafe fn read_optional(pointer: *const mkms_context, name: &'static str) -> Outcome<Option<Context>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller promises.
    unsafe { handle::get(pointer, name) }?.snapshot().map(Some)
}

/// Creates an empty context, which the caller frees with `mkms_context_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_context_new(context: *mut *mut mkms_context, error: *mut *mut mkms_error) -> mkms_status {
    call!(error; context = arguments::place [context]; => {
        context.set(handle::new(Entries(Shared::new(Context::new(), mkms_context::NAME))));
        Ok(())
    })
}

/// Sets an entry, and replaces an entry of the same name. The limits are checked when the context is used.
///
/// Errors: `MKMS_INVALID_ARGUMENT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_context_set(
    context: *mut mkms_context,
    name: *const c_char,
    name_len: usize,
    value: *const c_char,
    value_len: usize,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    context = handle::get [context];
    name = arguments::text [name, name_len];
    value = arguments::text [value, value_len];
    => {
        context.0.write()?.set(name, value);
        Ok(())
    })
}

/// Frees a context and sets `*context` to NULL. NULL and a pointer to NULL are ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_context_free(context: *mut *mut mkms_context) -> mkms_status {
    free!(context)
}

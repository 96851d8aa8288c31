//! For tests and benchmarks of the boundary; not part of the interface.

use kms_lib::blocking::Session;
use kms_lib::{Context, Decrypted, Encrypted, Result};

use crate::boundary::call;
use crate::error::mkms_error;
use crate::handle;
use crate::session::mkms_session;
use crate::status::mkms_status;

/// Panics inside the boundary, so that a test sees `MKMS_INTERNAL_PANIC`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_test_panic(error: *mut *mut mkms_error) -> mkms_status {
    call!(error; => { panic!("asked for by a test") })
}

/// The Rust session of a handle: benchmarks call the same service with and without the boundary.
///
/// # Safety
/// `session` is NULL or points to a handle that is not freed meanwhile.
pub unsafe fn rust_session(session: *const mkms_session) -> Option<Session> {
    // SAFETY: as the caller promises.
    unsafe { handle::get(session, "session") }.ok().map(|acting| acting.session.clone())
}

/// Encrypts without the boundary. `Session::encrypt` is generic, so each crate compiles a copy of its own: a benchmark
/// that called another copy than the header's functions do would measure the difference of the two.
#[inline(never)]
pub fn rust_encrypt(session: &Session, key: &str, plaintext: &[u8], context: &Context) -> Result<Encrypted> {
    session.encrypt(key, plaintext, context)
}

/// Decrypts without the boundary; see [`rust_encrypt`].
#[inline(never)]
pub fn rust_decrypt(session: &Session, ciphertext: &[u8], context: &Context) -> Result<Decrypted> {
    session.decrypt(ciphertext, context)
}

//! Single operations: encrypt, decrypt, sign, verify, generate a data key, re-encrypt.

use std::ffi::c_char;

use kms_lib::Ciphertext;
use kms_lib::limits::RSA_2048_BYTES;
use kms_lib::{DataKey, Decrypted};

use crate::algorithm::{self, mkms_signing_algorithm};
use crate::arguments;
use crate::boundary::call;
use crate::buffer::{self, mkms_buffer};
use crate::context::{self, mkms_context};
use crate::error::mkms_error;
use crate::handle;
use crate::items::{self, mkms_decrypt_item, mkms_reencrypt_item};
use crate::operation::mkms_operation;
use crate::session::mkms_session;
use crate::status::mkms_status;

/// Encrypts up to 64 MiB (RSA: 190 bytes) under the current version of a key, which `key` identifies by name or id. The
/// ciphertext is bound to `context`. The caller frees it with `mkms_buffer_free`.
///
/// `context` and `operation` may be NULL.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_PURPOSE`, key state errors,
/// `MKMS_PLAINTEXT_TOO_LONG`, `MKMS_KEY_EXHAUSTED`; service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_encrypt(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    plaintext: *const u8,
    plaintext_len: usize,
    context: *const mkms_context,
    ciphertext: *mut *mut mkms_buffer,
    operation: *mut mkms_operation,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    plaintext = arguments::bytes [plaintext, plaintext_len];
    context = context::read [context];
    ciphertext = arguments::place [ciphertext];
    operation = arguments::optional_filled [operation];
    => {
        let done = session.session.encrypt(key, plaintext, &context)?;
        operation.set(|| mkms_operation::new(done.key, done.version, &done.receipt));
        ciphertext.set(buffer::made(done.ciphertext));
        Ok(())
    })
}

/// Like `mkms_encrypt`, but writes to a buffer of the caller, which may be that of the plaintext. The buffer must have
/// room for `mkms_ciphertext_max(plaintext_len)` bytes. If it is smaller, `*ciphertext_len` is set to that number, and
/// nothing is encrypted or recorded.
///
/// `context` and `operation` may be NULL; `ciphertext` may be NULL if `ciphertext_capacity` is 0.
///
/// Errors: those of `mkms_encrypt`, `MKMS_BUFFER_TOO_SMALL`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_encrypt_into(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    plaintext: *const u8,
    plaintext_len: usize,
    context: *const mkms_context,
    ciphertext: *mut u8,
    ciphertext_capacity: usize,
    ciphertext_len: *mut usize,
    operation: *mut mkms_operation,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    plaintext = arguments::bytes [plaintext, plaintext_len];
    context = context::read [context];
    ciphertext = arguments::output [ciphertext, ciphertext_capacity, ciphertext_len, "ciphertext_len"];
    operation = arguments::optional_filled [operation];
    => {
        ciphertext.require(Ciphertext::max_len(plaintext.len()))?;
        let done = session.session.encrypt(key, plaintext, &context)?;
        operation.set(|| mkms_operation::new(done.key, done.version, &done.receipt));
        ciphertext.set(&done.ciphertext)
    })
}

/// Returns the maximum length of the ciphertext for a plaintext of this length, whatever the type of the key.
///
/// Errors: `MKMS_INVALID_ARGUMENT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_ciphertext_max(
    plaintext_len: usize,
    ciphertext_len: *mut usize,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; ciphertext_len = arguments::place [ciphertext_len]; => {
        ciphertext_len.set(Ciphertext::max_len(plaintext_len));
        Ok(())
    })
}

/// Decrypts a ciphertext of `mkms_encrypt`; the context must be the same. The ciphertext names its key and version. The
/// caller frees the plaintext with `mkms_buffer_free`, which wipes it.
///
/// `context` and `operation` may be NULL.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_INVALID_CIPHERTEXT`, `MKMS_DECRYPTION_FAILED`, `MKMS_ACCESS_DENIED`,
/// `MKMS_KEY_NOT_FOUND`, key state errors, version state errors, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_decrypt(
    session: *const mkms_session,
    ciphertext: *const u8,
    ciphertext_len: usize,
    context: *const mkms_context,
    plaintext: *mut *mut mkms_buffer,
    operation: *mut mkms_operation,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    ciphertext = arguments::bytes [ciphertext, ciphertext_len];
    context = context::read [context];
    plaintext = arguments::place [plaintext];
    operation = arguments::optional_filled [operation];
    => {
        let done = session.session.decrypt(ciphertext, &context)?;
        operation.set(|| mkms_operation::new(done.key, done.version, &done.receipt));
        plaintext.set(handle::new(done.plaintext));
        Ok(())
    })
}

/// Like `mkms_decrypt`, but writes to a buffer of the caller, which may be that of the ciphertext. The buffer must have
/// room for the plaintext (RSA: for 190 bytes). If it is smaller, `*plaintext_len` is set to the required size, and
/// nothing is decrypted or recorded.
///
/// `context` and `operation` may be NULL; `plaintext` may be NULL if `plaintext_capacity` is 0.
///
/// Errors: those of `mkms_decrypt`, `MKMS_BUFFER_TOO_SMALL`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_decrypt_into(
    session: *const mkms_session,
    ciphertext: *const u8,
    ciphertext_len: usize,
    context: *const mkms_context,
    plaintext: *mut u8,
    plaintext_capacity: usize,
    plaintext_len: *mut usize,
    operation: *mut mkms_operation,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    ciphertext = arguments::bytes [ciphertext, ciphertext_len];
    context = context::read [context];
    plaintext = arguments::output [plaintext, plaintext_capacity, plaintext_len, "plaintext_len"];
    operation = arguments::optional_filled [operation];
    => {
        // The service refuses and records input that is not a ciphertext.
        plaintext.require(Ciphertext::max_plaintext_len(ciphertext).unwrap_or(0))?;
        let done = session.session.decrypt(ciphertext, &context)?;
        operation.set(|| mkms_operation::new(done.key, done.version, &done.receipt));
        plaintext.set(&done.plaintext)
    })
}

/// Decrypts a ciphertext if it agrees with the key, version, nonce and tag in the item; otherwise it fails with
/// `MKMS_INVALID_CIPHERTEXT`. With `oaep_version` the ciphertext is not in the format of this service but raw RSA-OAEP
/// with SHA-256. The caller frees the plaintext with `mkms_buffer_free`, which wipes it.
///
/// `operation` may be NULL.
///
/// Errors: those of `mkms_decrypt`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_decrypt_checked(
    session: *const mkms_session,
    item: *const mkms_decrypt_item,
    plaintext: *mut *mut mkms_buffer,
    operation: *mut mkms_operation,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    item = items::decrypt_item [item];
    plaintext = arguments::place [plaintext];
    operation = arguments::optional_filled [operation];
    => {
        let done: Decrypted = session.session.decrypt_item(item)?;
        operation.set(|| mkms_operation::new(done.key, done.version, &done.receipt));
        plaintext.set(handle::new(done.plaintext));
        Ok(())
    })
}

/// Signs up to 64 MiB with the current version of an RSA key. The caller frees the signature with `mkms_buffer_free`.
///
/// `operation` may be NULL.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_KEY_NOT_FOUND`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_PURPOSE`,
/// `MKMS_WRONG_KEY_TYPE`, key state errors, service errors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_sign(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    payload: *const u8,
    payload_len: usize,
    algorithm: mkms_signing_algorithm,
    signature: *mut *mut mkms_buffer,
    operation: *mut mkms_operation,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    payload = arguments::bytes [payload, payload_len];
    signature = arguments::place [signature];
    operation = arguments::optional_filled [operation];
    => {
        let done = session.session.sign(key, payload, algorithm::read(algorithm)?)?;
        operation.set(|| mkms_operation::new(done.key, done.version, &done.receipt));
        signature.set(buffer::made(done.signature));
        Ok(())
    })
}

/// Like `mkms_sign`, but writes to a buffer of the caller, which must have room for 256 bytes. If it is smaller,
/// `*signature_len` is set to 256, and nothing is signed or recorded.
///
/// `operation` may be NULL; `signature` may be NULL if `signature_capacity` is 0.
///
/// Errors: those of `mkms_sign`, `MKMS_BUFFER_TOO_SMALL`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_sign_into(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    payload: *const u8,
    payload_len: usize,
    algorithm: mkms_signing_algorithm,
    signature: *mut u8,
    signature_capacity: usize,
    signature_len: *mut usize,
    operation: *mut mkms_operation,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    payload = arguments::bytes [payload, payload_len];
    signature = arguments::output [signature, signature_capacity, signature_len, "signature_len"];
    operation = arguments::optional_filled [operation];
    => {
        let algorithm = algorithm::read(algorithm)?;
        signature.require(RSA_2048_BYTES)?;
        let done = session.session.sign(key, payload, algorithm)?;
        operation.set(|| mkms_operation::new(done.key, done.version, &done.receipt));
        signature.set(&done.signature)
    })
}

/// Signs with this version of a key, which must be the current one. The caller frees the signature with
/// `mkms_buffer_free`.
///
/// `operation` may be NULL.
///
/// Errors: those of `mkms_sign`, `MKMS_VERSION_NOT_CURRENT`, `MKMS_VERSION_NOT_FOUND`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_sign_with_version(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    version: u32,
    payload: *const u8,
    payload_len: usize,
    algorithm: mkms_signing_algorithm,
    signature: *mut *mut mkms_buffer,
    operation: *mut mkms_operation,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    payload = arguments::bytes [payload, payload_len];
    signature = arguments::place [signature];
    operation = arguments::optional_filled [operation];
    => {
        let done = session.session.sign_with_version(key, version, payload, algorithm::read(algorithm)?)?;
        operation.set(|| mkms_operation::new(done.key, done.version, &done.receipt));
        signature.set(buffer::made(done.signature));
        Ok(())
    })
}

/// Verifies a signature. An invalid signature is not an error: `*valid` is set to false. `version` 0 tries the usable
/// versions, newest first, at most 10,000; if a key has more, the call fails with `MKMS_INVALID_ARGUMENT`, and the
/// version must be given.
///
/// `operation` may be NULL.
///
/// Errors: those of `mkms_sign`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_verify(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    version: u32,
    payload: *const u8,
    payload_len: usize,
    signature: *const u8,
    signature_len: usize,
    algorithm: mkms_signing_algorithm,
    valid: *mut bool,
    operation: *mut mkms_operation,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    payload = arguments::bytes [payload, payload_len];
    signature = arguments::bytes [signature, signature_len];
    valid = arguments::place [valid];
    operation = arguments::optional_filled [operation];
    => {
        let version = Some(version).filter(|version| *version > 0);
        let done = session.session.verify(key, payload, signature, algorithm::read(algorithm)?, version)?;
        operation.set(|| mkms_operation::of_verification(done.version, &done.receipt));
        valid.set(done.valid);
        Ok(())
    })
}

/// Generates a data key of 1 to 1,024 bytes, and encrypts it under a key. Use the plaintext and wipe it; store the
/// ciphertext with the data. The caller frees both with `mkms_buffer_free`.
///
/// `context` and `operation` may be NULL; `plaintext` may be NULL: then only the ciphertext is returned.
///
/// Errors: those of `mkms_encrypt`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_generate_data_key(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    data_key_len: usize,
    context: *const mkms_context,
    plaintext: *mut *mut mkms_buffer,
    ciphertext: *mut *mut mkms_buffer,
    operation: *mut mkms_operation,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    context = context::read [context];
    plaintext = arguments::optional_place [plaintext];
    ciphertext = arguments::place [ciphertext];
    operation = arguments::optional_filled [operation];
    => {
        let done: DataKey = if plaintext.is_some() {
            session.session.generate_data_key(key, data_key_len, &context)?
        } else {
            session.session.generate_data_key_without_plaintext(key, data_key_len, &context)?
        };
        operation.set(|| mkms_operation::new(done.key, done.version, &done.receipt));
        if let Some(place) = plaintext {
            place.set(handle::new(done.plaintext.unwrap_or_default()));
        }
        ciphertext.set(buffer::made(done.ciphertext));
        Ok(())
    })
}

/// Like `mkms_generate_data_key`, but writes to buffers of the caller. They must have room for `data_key_len` bytes of
/// plaintext and `mkms_ciphertext_max(data_key_len)` bytes of ciphertext; otherwise nothing is done.
///
/// `context` and `operation` may be NULL; `ciphertext` may be NULL if `ciphertext_capacity` is 0.
///
/// Errors: those of `mkms_encrypt`, `MKMS_BUFFER_TOO_SMALL`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_generate_data_key_into(
    session: *const mkms_session,
    key: *const c_char,
    key_len: usize,
    plaintext: *mut u8,
    data_key_len: usize,
    context: *const mkms_context,
    ciphertext: *mut u8,
    ciphertext_capacity: usize,
    ciphertext_len: *mut usize,
    operation: *mut mkms_operation,
    error: *mut *mut mkms_error,
) -> mkms_status {
    let mut written = 0;
    call!(error;
    session = handle::get [session];
    key = arguments::text [key, key_len];
    plaintext = arguments::output [plaintext, data_key_len, &raw mut written, "plaintext"];
    context = context::read [context];
    ciphertext = arguments::output [ciphertext, ciphertext_capacity, ciphertext_len, "ciphertext_len"];
    operation = arguments::optional_filled [operation];
    => {
        ciphertext.require(Ciphertext::max_len(data_key_len))?;
        let done: DataKey = session.session.generate_data_key(key, data_key_len, &context)?;
        operation.set(|| mkms_operation::new(done.key, done.version, &done.receipt));
        plaintext.set(&done.plaintext.unwrap_or_default())?;
        ciphertext.set(&done.ciphertext)
    })
}

/// Re-encrypts a ciphertext under the current version of its key or of another one. The plaintext is not returned.
/// Needs the permission `decrypt` on the source and `encrypt` on the destination. The caller frees the new ciphertext
/// with `mkms_buffer_free`.
///
/// `operation` may be NULL.
///
/// Errors: those of `mkms_decrypt` and `mkms_encrypt`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_reencrypt(
    session: *const mkms_session,
    item: *const mkms_reencrypt_item,
    ciphertext: *mut *mut mkms_buffer,
    operation: *mut mkms_operation,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    item = items::reencrypt_item [item];
    ciphertext = arguments::place [ciphertext];
    operation = arguments::optional_filled [operation];
    => {
        let done = session.session.reencrypt(item)?.encrypted;
        operation.set(|| mkms_operation::new(done.key, done.version, &done.receipt));
        ciphertext.set(buffer::made(done.ciphertext));
        Ok(())
    })
}

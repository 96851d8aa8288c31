//! Batches: up to 1,000 items in one call and one commit. Items fail independently.

use std::ffi::c_char;

use kms_lib::Zeroizing;
use kms_lib::{Decrypted, Encrypted, Reencrypted, Signature, SignatureCheck};

use crate::arguments::{self, Extensible};
use crate::boundary::{call, free};
use crate::error::mkms_error;
use crate::failure::{Failure, Outcome};
use crate::handle::{self, Opaque, tag};
use crate::items::{
    mkms_decrypt_item, mkms_encrypt_item, mkms_reencrypt_item, mkms_sign_item, mkms_verify_item, read_decrypt,
    read_encrypt, read_reencrypt, read_sign, read_verify,
};
use crate::operation::{ID, mkms_operation};
use crate::session::mkms_session;
use crate::status::{MKMS_OK, mkms_status};

/// The result of one item of a batch. Set `size` to `sizeof(mkms_result)` before it is filled. Pointers belong to the
/// results and live as long as they do.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mkms_result {
    /// `sizeof(mkms_result)`.
    pub size: usize,
    /// `MKMS_OK`, or the status of the failed item. If the item failed, all fields below `message` are 0.
    pub status: mkms_status,
    /// 1 if the same item may succeed when it is sent again unchanged, otherwise 0.
    pub retryable: i32,
    /// The name of the status, with a NUL at its end; NULL if the item succeeded.
    pub name: *const c_char,
    /// The error message, with a NUL at its end; NULL if the item succeeded.
    pub message: *const c_char,
    /// The ciphertext, plaintext or signature; NULL for a verification.
    pub data: *const u8,
    /// Length of `data`.
    pub data_len: usize,
    /// 1 if the signature is valid, otherwise 0.
    pub valid: i32,
    /// The version of the key.
    pub version: u32,
    /// The sequence number of the audit record of the batch for this key; 0 if it is not written yet.
    pub record: u64,
    /// The identifier of the key, with a NUL at its end. Empty for a verification.
    pub key_id: [c_char; 37],
}

// SAFETY: integers and raw pointers; the size comes first.
unsafe impl Extensible for mkms_result {
    const NAME: &'static str = "mkms_result";
}

/// The results of a batch, in the order of its items. They belong to the caller, who frees them with
/// `mkms_results_free`, which wipes them.
pub struct mkms_results {
    _opaque: (),
}

impl Opaque for mkms_results {
    type Value = Vec<Answer>;
    const TAG: u64 = tag(b"mkmsresu");
    const NAME: &'static str = "mkms_results";
    const BOUND_TO_PROCESS: bool = false;
}

/// The result of one item.
pub enum Answer {
    /// The item succeeded.
    Done {
        /// The ciphertext, plaintext or signature.
        data: Option<Zeroizing<Vec<u8>>>,
        /// Whether the signature is valid.
        valid: bool,
        /// The operation that was recorded.
        operation: mkms_operation,
    },
    /// The item failed; the name and the message are C strings.
    Failed(mkms_status, bool, String, String),
}

impl Answer {
    fn of<T>(
        result: kms_lib::Result<T>,
        done: impl FnOnce(T) -> (Option<Zeroizing<Vec<u8>>>, bool, mkms_operation),
    ) -> Self {
        match result.map(done) {
            Ok((data, valid, operation)) => Self::Done { data, valid, operation },
            Err(error) => {
                let failure = Failure::from(error);
                let message = failure.message.replace('\0', "\u{fffd}") + "\0";
                Self::Failed(failure.status, failure.is_retryable, failure.name.to_owned() + "\0", message)
            }
        }
    }
    fn show(&self) -> mkms_result {
        let empty = mkms_result {
            size: 0,
            status: MKMS_OK,
            retryable: 0,
            name: std::ptr::null(),
            message: std::ptr::null(),
            data: std::ptr::null(),
            data_len: 0,
            valid: 0,
            version: 0,
            record: 0,
            key_id: [0; ID],
        };
        match self {
            Self::Failed(status, is_retryable, name, message) => mkms_result {
                status: *status,
                retryable: (*is_retryable).into(),
                name: name.as_ptr().cast(),
                message: message.as_ptr().cast(),
                ..empty
            },
            Self::Done { data, valid, operation } => mkms_result {
                data: data.as_ref().map_or(std::ptr::null(), |data| data.as_ptr()),
                data_len: data.as_ref().map_or(0, |data| data.len()),
                valid: (*valid).into(),
                version: operation.version,
                record: operation.record,
                key_id: operation.key_id,
                ..empty
            },
        }
    }
}

fn encrypted(done: Encrypted) -> (Option<Zeroizing<Vec<u8>>>, bool, mkms_operation) {
    let operation = mkms_operation::new(done.key, done.version, &done.receipt);
    (Some(Zeroizing::new(done.ciphertext)), false, operation)
}

fn decrypted(done: Decrypted) -> (Option<Zeroizing<Vec<u8>>>, bool, mkms_operation) {
    let operation = mkms_operation::new(done.key, done.version, &done.receipt);
    (Some(done.plaintext), false, operation)
}

fn signed(done: Signature) -> (Option<Zeroizing<Vec<u8>>>, bool, mkms_operation) {
    let operation = mkms_operation::new(done.key, done.version, &done.receipt);
    (Some(Zeroizing::new(done.signature)), false, operation)
}

fn verified(done: SignatureCheck) -> (Option<Zeroizing<Vec<u8>>>, bool, mkms_operation) {
    (None, done.valid, mkms_operation::of_verification(done.version, &done.receipt))
}

fn reencrypted(done: Reencrypted) -> (Option<Zeroizing<Vec<u8>>>, bool, mkms_operation) {
    encrypted(done.encrypted)
}

/// Encrypts up to 1,000 plaintexts in one call and one commit. Items fail independently. The caller frees the results
/// with `mkms_results_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, also if one of the items cannot be read (then nothing is done); service errors. An
/// item's own errors are those of `mkms_encrypt`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_encrypt_batch(
    session: *const mkms_session,
    items: *const mkms_encrypt_item,
    items_len: usize,
    results: *mut *mut mkms_results,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    items = arguments::structures [items, items_len];
    results = arguments::place [results];
    => {
        // SAFETY: the caller keeps the contract of the header: pointers in items are NULL or valid.
        let items = items.iter().map(|item| unsafe { read_encrypt(item) }).collect::<Outcome<Vec<_>>>()?;
        let done = session.session.encrypt_batch(&items)?;
        results.set(handle::new(done.into_iter().map(|result| Answer::of(result, encrypted)).collect()));
        Ok(())
    })
}

/// Decrypts up to 1,000 ciphertexts in one call and one commit. Items fail independently. The caller frees the results
/// with `mkms_results_free`.
///
/// Errors: those of `mkms_encrypt_batch`. An item's own errors are those of `mkms_decrypt`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_decrypt_batch(
    session: *const mkms_session,
    items: *const mkms_decrypt_item,
    items_len: usize,
    results: *mut *mut mkms_results,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    items = arguments::structures [items, items_len];
    results = arguments::place [results];
    => {
        // SAFETY: the caller keeps the contract of the header: pointers in items are NULL or valid.
        let items = items.iter().map(|item| unsafe { read_decrypt(item) }).collect::<Outcome<Vec<_>>>()?;
        let done = session.session.decrypt_batch(&items)?;
        results.set(handle::new(done.into_iter().map(|result| Answer::of(result, decrypted)).collect()));
        Ok(())
    })
}

/// Signs up to 1,000 payloads in one call and one commit. Items fail independently. The caller frees the results with
/// `mkms_results_free`.
///
/// Errors: those of `mkms_encrypt_batch`. An item's own errors are those of `mkms_sign`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_sign_batch(
    session: *const mkms_session,
    items: *const mkms_sign_item,
    items_len: usize,
    results: *mut *mut mkms_results,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    items = arguments::structures [items, items_len];
    results = arguments::place [results];
    => {
        // SAFETY: the caller keeps the contract of the header: pointers in items are NULL or valid.
        let items = items.iter().map(|item| unsafe { read_sign(item) }).collect::<Outcome<Vec<_>>>()?;
        let done = session.session.sign_batch(&items)?;
        results.set(handle::new(done.into_iter().map(|result| Answer::of(result, signed)).collect()));
        Ok(())
    })
}

/// Verifies up to 1,000 signatures in one call and one commit. Items fail independently. The caller frees the results
/// with `mkms_results_free`.
///
/// Errors: those of `mkms_encrypt_batch`. An item's own errors are those of `mkms_verify`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_verify_batch(
    session: *const mkms_session,
    items: *const mkms_verify_item,
    items_len: usize,
    results: *mut *mut mkms_results,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    items = arguments::structures [items, items_len];
    results = arguments::place [results];
    => {
        // SAFETY: the caller keeps the contract of the header: pointers in items are NULL or valid.
        let items = items.iter().map(|item| unsafe { read_verify(item) }).collect::<Outcome<Vec<_>>>()?;
        let done = session.session.verify_batch(&items)?;
        results.set(handle::new(done.into_iter().map(|result| Answer::of(result, verified)).collect()));
        Ok(())
    })
}

/// Re-encrypts up to 1,000 ciphertexts in one call and one commit. Items fail independently. The caller frees the
/// results with `mkms_results_free`.
///
/// Errors: those of `mkms_encrypt_batch`. An item's own errors are those of `mkms_reencrypt`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_reencrypt_batch(
    session: *const mkms_session,
    items: *const mkms_reencrypt_item,
    items_len: usize,
    results: *mut *mut mkms_results,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    items = arguments::structures [items, items_len];
    results = arguments::place [results];
    => {
        // SAFETY: the caller keeps the contract of the header: pointers in items are NULL or valid.
        let items = items.iter().map(|item| unsafe { read_reencrypt(item) }).collect::<Outcome<Vec<_>>>()?;
        let done = session.session.reencrypt_batch(&items)?;
        results.set(handle::new(done.into_iter().map(|result| Answer::of(result, reencrypted)).collect()));
        Ok(())
    })
}

/// Returns the number of results, which equals the number of items.
///
/// Errors: `MKMS_INVALID_ARGUMENT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_results_count(
    results: *const mkms_results,
    count: *mut usize,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; results = handle::get [results]; count = arguments::place [count]; => {
        count.set(results.len());
        Ok(())
    })
}

/// Reads the result of an item; the first item has index 0.
///
/// Errors: `MKMS_INVALID_ARGUMENT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_results_get(
    results: *const mkms_results,
    index: usize,
    result: *mut mkms_result,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; results = handle::get [results]; result = arguments::filled [result]; => {
        let answer = results.get(index).ok_or_else(|| {
            Failure::invalid(format!("index is {index}; there are {} results", results.len()))
        })?;
        result.set(|| answer.show());
        Ok(())
    })
}

/// Wipes and frees results, and sets `*results` to NULL. NULL and a pointer to NULL are ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_results_free(results: *mut *mut mkms_results) -> mkms_status {
    free!(results)
}

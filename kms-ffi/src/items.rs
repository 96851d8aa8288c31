//! The items of batches, and of single calls that take one.

use std::ffi::c_char;

use kms_lib::{DecryptItem, EncryptItem, KeyRef, ReencryptItem, SignItem, VerifyItem};

use crate::algorithm::{self, mkms_signing_algorithm};
use crate::arguments::{self, Extensible};
use crate::context::{self, mkms_context};
use crate::failure::{Failure, Outcome};

/// A plaintext of a batch. Set `size` to `sizeof(mkms_encrypt_item)`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mkms_encrypt_item {
    /// `sizeof(mkms_encrypt_item)`.
    pub size: usize,
    /// The key, by name or id.
    pub key: *const c_char,
    /// Length of `key`.
    pub key_len: usize,
    /// The plaintext.
    pub plaintext: *const u8,
    /// Length of `plaintext`.
    pub plaintext_len: usize,
    /// The context that the ciphertext is bound to; NULL for the empty one.
    pub context: *const mkms_context,
}

/// A ciphertext to decrypt, with the properties that it must have. Set `size` to `sizeof(mkms_decrypt_item)`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mkms_decrypt_item {
    /// `sizeof(mkms_decrypt_item)`.
    pub size: usize,
    /// The ciphertext.
    pub ciphertext: *const u8,
    /// Length of `ciphertext`.
    pub ciphertext_len: usize,
    /// The context it was encrypted with; NULL for the empty one.
    pub context: *const mkms_context,
    /// The key it must have been encrypted with, by name or id; NULL for any.
    pub key: *const c_char,
    /// Length of `key`.
    pub key_len: usize,
    /// The nonce that it must contain; NULL for any.
    pub iv: *const u8,
    /// Length of `iv`.
    pub iv_len: usize,
    /// The authentication tag that it must contain; NULL for any.
    pub auth_tag: *const u8,
    /// Length of `auth_tag`.
    pub auth_tag_len: usize,
    /// The version it must have been encrypted with; 0 for any.
    pub version: u32,
    /// If not 0, the ciphertext is not in the format of this service but raw RSA-OAEP with SHA-256, made with the
    /// public key of this version of `key`. Such a ciphertext has no context, `iv` or `auth_tag`.
    pub oaep_version: u32,
    /// The additional data of a ciphertext of Mini KMS on Node as JSON text; NULL for none.
    pub imported_aad: *const c_char,
    /// Length of `imported_aad`.
    pub imported_aad_len: usize,
    /// 1 if the ciphertext is one of Mini KMS on Node, made with an imported version of `key`, with `iv` and `auth_tag`
    /// for AES. Such a ciphertext has no context. Otherwise 0.
    pub imported: u32,
}

/// A payload of a batch to sign. Set `size` to `sizeof(mkms_sign_item)`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mkms_sign_item {
    /// `sizeof(mkms_sign_item)`.
    pub size: usize,
    /// The key, by name or id.
    pub key: *const c_char,
    /// Length of `key`.
    pub key_len: usize,
    /// The payload.
    pub payload: *const u8,
    /// Length of `payload`.
    pub payload_len: usize,
    /// The signature algorithm: one of the constants `MKMS_SIGN_...`.
    pub algorithm: mkms_signing_algorithm,
    /// The version, which must be the current one; 0 for the current one.
    pub version: u32,
}

/// A signature of a batch to verify. Set `size` to `sizeof(mkms_verify_item)`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mkms_verify_item {
    /// `sizeof(mkms_verify_item)`.
    pub size: usize,
    /// The key, by name or id.
    pub key: *const c_char,
    /// Length of `key`.
    pub key_len: usize,
    /// The payload.
    pub payload: *const u8,
    /// Length of `payload`.
    pub payload_len: usize,
    /// The signature.
    pub signature: *const u8,
    /// Length of `signature`.
    pub signature_len: usize,
    /// The signature algorithm: one of the constants `MKMS_SIGN_...`.
    pub algorithm: mkms_signing_algorithm,
    /// The version; 0 for any usable one.
    pub version: u32,
}

/// A ciphertext to re-encrypt. Set `size` to `sizeof(mkms_reencrypt_item)`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mkms_reencrypt_item {
    /// `sizeof(mkms_reencrypt_item)`.
    pub size: usize,
    /// The ciphertext.
    pub ciphertext: *const u8,
    /// Length of `ciphertext`.
    pub ciphertext_len: usize,
    /// The context it was encrypted with; NULL for the empty one.
    pub context: *const mkms_context,
    /// The key to encrypt it under, by name or id; NULL for the key of the ciphertext.
    pub destination: *const c_char,
    /// Length of `destination`.
    pub destination_len: usize,
    /// The new context; NULL for the context of the ciphertext.
    pub destination_context: *const mkms_context,
}

macro_rules! extensible {
    ($($name:ident),+) => {$(
        // SAFETY: integers and raw pointers; the size comes first.
        unsafe impl Extensible for $name {
            const NAME: &'static str = stringify!($name);
        }
    )+};
}
extensible!(mkms_encrypt_item, mkms_decrypt_item, mkms_sign_item, mkms_verify_item, mkms_reencrypt_item);

/// An optional version: 0 means none.
fn number(version: u32) -> Option<u32> {
    Some(version).filter(|version| *version > 0)
}

/// Reads an item to encrypt.
///
/// # Safety
/// The pointers of the item are NULL or valid for their lengths while `'a` lasts.
pub unsafe fn read_encrypt<'a>(item: &mkms_encrypt_item) -> Outcome<EncryptItem<'a>> {
    // SAFETY: as the caller promises.
    let key = unsafe { arguments::text(item.key, item.key_len, "key of an item") }?;
    // SAFETY: as the caller promises.
    let plaintext = unsafe { arguments::bytes(item.plaintext, item.plaintext_len, "plaintext of an item") }?;
    // SAFETY: as the caller promises.
    let context = unsafe { context::read(item.context, "context of an item") }?;
    Ok(EncryptItem::new(key, plaintext, context.into_owned()))
}

/// Reads an item to decrypt.
///
/// # Safety
/// As [`read_encrypt`].
pub unsafe fn read_decrypt<'a>(item: &mkms_decrypt_item) -> Outcome<DecryptItem<'a>> {
    let optional = |pointer: *const u8, length, name| {
        if pointer.is_null() && length == 0 {
            return Ok(None);
        }
        if pointer.is_null() {
            return Err(Failure::null(name));
        }
        // SAFETY: as the caller promises.
        unsafe { arguments::bytes(pointer, length, name) }.map(Some)
    };
    // SAFETY: as the caller promises.
    let key = unsafe { arguments::optional_text(item.key, item.key_len, "key of an item") }?;
    // SAFETY: as the caller promises.
    let ciphertext = unsafe { arguments::bytes(item.ciphertext, item.ciphertext_len, "ciphertext of an item") }?;
    // SAFETY: as the caller promises.
    let context = unsafe { context::read(item.context, "context of an item") }?;
    // SAFETY: as the caller promises.
    let aad = unsafe { arguments::optional_text(item.imported_aad, item.imported_aad_len, "imported_aad of an item") }?;
    let mut read = DecryptItem::new(ciphertext, context.into_owned());
    read.key = key.map(KeyRef::from);
    (read.is_imported, read.imported_aad) = (item.imported != 0, aad);
    (read.version, read.oaep_version) = (number(item.version), number(item.oaep_version));
    read.iv = optional(item.iv, item.iv_len, "iv of an item")?;
    read.auth_tag = optional(item.auth_tag, item.auth_tag_len, "auth_tag of an item")?;
    Ok(read)
}

/// Reads an item to sign.
///
/// # Safety
/// As [`read_encrypt`].
pub unsafe fn read_sign<'a>(item: &mkms_sign_item) -> Outcome<SignItem<'a>> {
    // SAFETY: as the caller promises.
    let key = unsafe { arguments::text(item.key, item.key_len, "key of an item") }?;
    // SAFETY: as the caller promises.
    let payload = unsafe { arguments::bytes(item.payload, item.payload_len, "payload of an item") }?;
    let mut read = SignItem::new(key, payload, algorithm::read(item.algorithm)?);
    read.version = number(item.version);
    Ok(read)
}

/// Reads an item to verify.
///
/// # Safety
/// As [`read_encrypt`].
pub unsafe fn read_verify<'a>(item: &mkms_verify_item) -> Outcome<VerifyItem<'a>> {
    // SAFETY: as the caller promises.
    let key = unsafe { arguments::text(item.key, item.key_len, "key of an item") }?;
    // SAFETY: as the caller promises.
    let payload = unsafe { arguments::bytes(item.payload, item.payload_len, "payload of an item") }?;
    // SAFETY: as the caller promises.
    let signature = unsafe { arguments::bytes(item.signature, item.signature_len, "signature of an item") }?;
    let mut read = VerifyItem::new(key, payload, signature, algorithm::read(item.algorithm)?);
    read.version = number(item.version);
    Ok(read)
}

/// Reads an item to re-encrypt.
///
/// # Safety
/// As [`read_encrypt`].
pub unsafe fn read_reencrypt<'a>(item: &mkms_reencrypt_item) -> Outcome<ReencryptItem<'a>> {
    // SAFETY: as the caller promises.
    let ciphertext = unsafe { arguments::bytes(item.ciphertext, item.ciphertext_len, "ciphertext of an item") }?;
    // SAFETY: as the caller promises.
    let context = unsafe { context::read(item.context, "context of an item") }?;
    // SAFETY: as the caller promises.
    let key = unsafe { arguments::optional_text(item.destination, item.destination_len, "destination of an item") }?;
    // SAFETY: as the caller promises.
    let new = unsafe { context::read_optional(item.destination_context, "destination_context of an item") }?;
    let mut read = ReencryptItem::new(ciphertext, context.into_owned());
    (read.destination, read.destination_context) = (key.map(KeyRef::from), new);
    Ok(read)
}

/// Reads one item.
///
/// # Safety
/// As `arguments::structure`, and the pointers in it are NULL or valid for their lengths while `'a` lasts.
pub unsafe fn decrypt_item<'a>(pointer: *const mkms_decrypt_item, name: &'static str) -> Outcome<DecryptItem<'a>> {
    // SAFETY: as the caller promises.
    let item = unsafe { arguments::structure(pointer, name) }?;
    // SAFETY: as the caller promises.
    unsafe { read_decrypt(&item) }
}

/// Reads one item.
///
/// # Safety
/// As [`decrypt_item`].
pub unsafe fn reencrypt_item<'a>(
    pointer: *const mkms_reencrypt_item,
    name: &'static str,
) -> Outcome<ReencryptItem<'a>> {
    // SAFETY: as the caller promises.
    let item = unsafe { arguments::structure(pointer, name) }?;
    // SAFETY: as the caller promises.
    unsafe { read_reencrypt(&item) }
}

//! Single cryptographic requests, for batches and for calls with options that the plain methods lack.

use super::KeyRef;
use crate::crypto::provider::SignatureAlgorithm;
use crate::types::context::Context;

/// One plaintext to encrypt, for [`Session::encrypt_batch`](crate::Session::encrypt_batch).
/// `Debug` hides the plaintext.
#[derive(Clone)]
#[non_exhaustive]
pub struct EncryptItem<'a> {
    /// The key to encrypt under.
    pub key: KeyRef,
    /// The plaintext: at most 64 MiB (RSA: 190 bytes).
    pub plaintext: &'a [u8],
    /// The context to which the ciphertext is bound.
    pub context: Context,
}

impl<'a> EncryptItem<'a> {
    /// A request to encrypt this plaintext under the key's current version, bound to `context`.
    pub fn new(key: impl Into<KeyRef>, plaintext: &'a [u8], context: Context) -> Self {
        Self { key: key.into(), plaintext, context }
    }
}

/// A request to decrypt one ciphertext. It names its own key and version; all other values given must agree with it.
/// Any disagreement is `InvalidCiphertext`, whether or not the given key exists; a caller that may not decrypt with
/// `key` gets `AccessDenied`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DecryptItem<'a> {
    /// The ciphertext, as encrypting returned it unless a field below says otherwise.
    pub ciphertext: &'a [u8],
    /// The context with which it was encrypted.
    pub context: Context,
    /// The key with which it must have been encrypted.
    pub key: Option<KeyRef>,
    /// The version with which it must have been encrypted.
    pub version: Option<u32>,
    /// The nonce that the ciphertext must contain (empty for RSA).
    pub iv: Option<&'a [u8]>,
    /// The authentication tag that the ciphertext must contain (empty for RSA).
    pub auth_tag: Option<&'a [u8]>,
    /// Set for raw RSA-OAEP with SHA-256 made by another tool: the version of `key` whose public key was used. Such a
    /// ciphertext has no context, `iv` or `auth_tag`.
    pub oaep_version: Option<u32>,
    /// Set for a ciphertext of Mini KMS on Node, made with an imported version of `key`: with `iv` and `auth_tag` for
    /// AES, without them for RSA.
    pub is_imported: bool,
    /// The additional data of such a ciphertext as JSON text, as the caller sent it there (`aad`).
    pub imported_aad: Option<&'a str>,
}

impl<'a> DecryptItem<'a> {
    /// A request to decrypt a ciphertext that was encrypted with this context.
    pub fn new(ciphertext: &'a [u8], context: Context) -> Self {
        Self {
            ciphertext,
            context,
            key: None,
            version: None,
            iv: None,
            auth_tag: None,
            oaep_version: None,
            is_imported: false,
            imported_aad: None,
        }
    }
    /// A request to decrypt a ciphertext of Mini KMS on Node, with the `aad` that was sent there, as JSON text. For an
    /// AES key, [`iv`](Self::iv) and [`auth_tag`](Self::auth_tag) are also needed. Without [`version`](Self::version),
    /// the newest imported version is used, since the ciphertext does not name its own.
    ///
    /// The additional data is serialized as JavaScript does: `{"b":1,"2":1e21}` becomes `{"2":1e+21,"b":1}` after the
    /// key's id and version. If it is an object of texts, the conditions of grants treat it as a context.
    pub fn imported(key: impl Into<KeyRef>, ciphertext: &'a [u8], aad: Option<&'a str>) -> Self {
        Self { is_imported: true, imported_aad: aad, ..Self::new(ciphertext, Context::new()) }.key(key)
    }
    /// A request to decrypt a ciphertext that another tool made with the public key of this version; see
    /// [`Session::decrypt_oaep`](crate::Session::decrypt_oaep).
    pub fn oaep(key: impl Into<KeyRef>, version: u32, ciphertext: &'a [u8]) -> Self {
        Self { key: Some(key.into()), oaep_version: Some(version), ..Self::new(ciphertext, Context::new()) }
    }
    /// Requires that the ciphertext was made with this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<KeyRef>) -> Self {
        self.key = Some(key.into());
        self
    }
    /// Requires that the ciphertext was made with this version.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.version = Some(version);
        self
    }
    /// Requires that the ciphertext contains this nonce.
    #[must_use]
    pub fn iv(mut self, iv: &'a [u8]) -> Self {
        self.iv = Some(iv);
        self
    }
    /// Requires that the ciphertext contains this authentication tag.
    #[must_use]
    pub fn auth_tag(mut self, tag: &'a [u8]) -> Self {
        self.auth_tag = Some(tag);
        self
    }
}

/// One payload to sign, for [`Session::sign_batch`](crate::Session::sign_batch).
/// `Debug` hides the payload.
#[derive(Clone)]
#[non_exhaustive]
pub struct SignItem<'a> {
    /// The key to sign with.
    pub key: KeyRef,
    /// The payload: at most 64 MiB. Its SHA-256 is signed.
    pub payload: &'a [u8],
    /// The algorithm of the signature.
    pub algorithm: SignatureAlgorithm,
    /// The version to sign with, which must be the current one (`VersionNotCurrent`); by default the current one.
    pub version: Option<u32>,
}

impl<'a> SignItem<'a> {
    /// A request to sign this payload with the key's current version.
    pub fn new(key: impl Into<KeyRef>, payload: &'a [u8], algorithm: SignatureAlgorithm) -> Self {
        Self { key: key.into(), payload, algorithm, version: None }
    }
    /// Requires that this version signs; it must be the current one.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.version = Some(version);
        self
    }
}

/// One signature to verify, for [`Session::verify_batch`](crate::Session::verify_batch).
/// `Debug` hides the payload.
#[derive(Clone)]
#[non_exhaustive]
pub struct VerifyItem<'a> {
    /// The key that should have made the signature.
    pub key: KeyRef,
    /// The payload that was signed.
    pub payload: &'a [u8],
    /// The signature to verify.
    pub signature: &'a [u8],
    /// The algorithm of the signature.
    pub algorithm: SignatureAlgorithm,
    /// The version that should have made the signature; by default one of the newest usable ones
    /// ([`Session::verify_batch`](crate::Session::verify_batch)).
    pub version: Option<u32>,
}

impl<'a> VerifyItem<'a> {
    /// A request to verify this signature over this payload, made by any usable version of the key.
    pub fn new(key: impl Into<KeyRef>, payload: &'a [u8], signature: &'a [u8], algorithm: SignatureAlgorithm) -> Self {
        Self { key: key.into(), payload, signature, algorithm, version: None }
    }
    /// Requires that this version made the signature.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.version = Some(version);
        self
    }
}

/// One ciphertext to re-encrypt, for [`Session::reencrypt`](crate::Session::reencrypt).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReencryptItem<'a> {
    /// The ciphertext to re-encrypt.
    pub ciphertext: &'a [u8],
    /// The context with which it was encrypted.
    pub context: Context,
    /// The key of the new ciphertext; by default the same key.
    pub destination: Option<KeyRef>,
    /// The context of the new ciphertext; by default the same context.
    pub destination_context: Option<Context>,
}

impl<'a> ReencryptItem<'a> {
    /// A request to re-encrypt a ciphertext with this context under the current version of its own key.
    pub fn new(ciphertext: &'a [u8], context: Context) -> Self {
        Self { ciphertext, context, destination: None, destination_context: None }
    }
    /// Encrypts under this key instead.
    #[must_use]
    pub fn destination(mut self, key: impl Into<KeyRef>) -> Self {
        self.destination = Some(key.into());
        self
    }
    /// Binds the new ciphertext to this context instead.
    #[must_use]
    pub fn destination_context(mut self, context: Context) -> Self {
        self.destination_context = Some(context);
        self
    }
}

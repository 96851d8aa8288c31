//! Single cryptographic requests, for batches and for calls that say more than the plain methods.

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
    /// At most 64 MiB (RSA: 190 bytes).
    pub plaintext: &'a [u8],
    /// The context that the ciphertext is bound to.
    pub context: Context,
}

impl<'a> EncryptItem<'a> {
    /// This plaintext under the key's current version, bound to `context`.
    pub fn new(key: impl Into<KeyRef>, plaintext: &'a [u8], context: Context) -> Self {
        Self { key: key.into(), plaintext, context }
    }
}

/// One ciphertext to decrypt. It names its key and version itself; what else is passed must agree with it. Anything
/// that does not is `InvalidCiphertext`, whether or not there is such a key; callers who may not decrypt with `key` get
/// `AccessDenied`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DecryptItem<'a> {
    /// The ciphertext.
    pub ciphertext: &'a [u8],
    /// The context it was encrypted with.
    pub context: Context,
    /// The key it must have been encrypted with.
    pub key: Option<KeyRef>,
    /// The version it must have been encrypted with.
    pub version: Option<u32>,
    /// The nonce that it must hold (for RSA an empty one).
    pub iv: Option<&'a [u8]>,
    /// The authentication tag that it must hold (for RSA an empty one).
    pub auth_tag: Option<&'a [u8]>,
    /// The ciphertext is none of this service, but raw RSA-OAEP with SHA-256, made with the public key of this version
    /// of `key`. It has no context, `iv` or `auth_tag`.
    pub oaep_version: Option<u32>,
    /// The ciphertext is one of Mini KMS on Node, made with an imported version of `key`: with `iv` and `auth_tag` for
    /// AES, without them for RSA.
    pub is_imported: bool,
    /// The additional data of such a ciphertext as JSON text, as its caller sent it there (`aad`).
    pub imported_aad: Option<&'a str>,
}

impl<'a> DecryptItem<'a> {
    /// A ciphertext that was encrypted with this context.
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
    /// A ciphertext of Mini KMS on Node, with the `aad` that its caller sent there, as JSON text. One of an AES key
    /// also needs [`iv`](Self::iv) and [`auth_tag`](Self::auth_tag). Without [`version`](Self::version), the newest
    /// imported version is taken; the ciphertext does not name its own.
    ///
    /// The additional data is printed as JavaScript does: `{"b":1,"2":1e21}` stands for `{"2":1e+21,"b":1}` behind the
    /// id of the key and the version. If it is an object of texts, the conditions of grants hold it as a context.
    pub fn imported(key: impl Into<KeyRef>, ciphertext: &'a [u8], aad: Option<&'a str>) -> Self {
        Self { is_imported: true, imported_aad: aad, ..Self::new(ciphertext, Context::new()) }.key(key)
    }
    /// A ciphertext that another tool made with the public key of this version; see
    /// [`Session::decrypt_oaep`](crate::Session::decrypt_oaep).
    pub fn oaep(key: impl Into<KeyRef>, version: u32, ciphertext: &'a [u8]) -> Self {
        Self { key: Some(key.into()), oaep_version: Some(version), ..Self::new(ciphertext, Context::new()) }
    }
    /// It must have been encrypted with this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<KeyRef>) -> Self {
        self.key = Some(key.into());
        self
    }
    /// It must have been encrypted with this version.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.version = Some(version);
        self
    }
    /// It must hold this nonce.
    #[must_use]
    pub fn iv(mut self, iv: &'a [u8]) -> Self {
        self.iv = Some(iv);
        self
    }
    /// It must hold this authentication tag.
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
    /// At most 64 MiB; its SHA-256 is signed.
    pub payload: &'a [u8],
    /// The algorithm of the signature.
    pub algorithm: SignatureAlgorithm,
    /// The version to sign with, which must be the current one (`VersionNotCurrent`); the current one without.
    pub version: Option<u32>,
}

impl<'a> SignItem<'a> {
    /// This payload with the key's current version.
    pub fn new(key: impl Into<KeyRef>, payload: &'a [u8], algorithm: SignatureAlgorithm) -> Self {
        Self { key: key.into(), payload, algorithm, version: None }
    }
    /// With this version, which must be the current one.
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
    /// The key whose signature it should be.
    pub key: KeyRef,
    /// The payload that was signed.
    pub payload: &'a [u8],
    /// The signature.
    pub signature: &'a [u8],
    /// The algorithm of the signature.
    pub algorithm: SignatureAlgorithm,
    /// The version whose signature it should be; without, one of the newest usable ones
    /// ([`Session::verify_batch`](crate::Session::verify_batch)).
    pub version: Option<u32>,
}

impl<'a> VerifyItem<'a> {
    /// This signature over this payload, by any usable version of the key.
    pub fn new(key: impl Into<KeyRef>, payload: &'a [u8], signature: &'a [u8], algorithm: SignatureAlgorithm) -> Self {
        Self { key: key.into(), payload, signature, algorithm, version: None }
    }
    /// By this version.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.version = Some(version);
        self
    }
}

/// One ciphertext to encrypt anew, for [`Session::reencrypt`](crate::Session::reencrypt).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReencryptItem<'a> {
    /// The ciphertext.
    pub ciphertext: &'a [u8],
    /// The context it was encrypted with.
    pub context: Context,
    /// The key of the new ciphertext; the same one without.
    pub destination: Option<KeyRef>,
    /// The context of the new ciphertext; the same one without.
    pub destination_context: Option<Context>,
}

impl<'a> ReencryptItem<'a> {
    /// A ciphertext that was encrypted with this context, anew under the current version of its own key.
    pub fn new(ciphertext: &'a [u8], context: Context) -> Self {
        Self { ciphertext, context, destination: None, destination_context: None }
    }
    /// Under this key.
    #[must_use]
    pub fn destination(mut self, key: impl Into<KeyRef>) -> Self {
        self.destination = Some(key.into());
        self
    }
    /// Bound to this context.
    #[must_use]
    pub fn destination_context(mut self, context: Context) -> Self {
        self.destination_context = Some(context);
        self
    }
}

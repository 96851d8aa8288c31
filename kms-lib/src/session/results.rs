//! The results of cryptographic operations.

use zeroize::Zeroizing;

use super::item::Done;
use super::job::Product;
use crate::types::audit::Receipt;
use crate::types::ids::KeyId;
use crate::types::key::KeyType;

/// A ciphertext, with the key and version that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Encrypted {
    /// The ciphertext in a self-describing form that names its format, algorithm, key and version.
    pub ciphertext: Vec<u8>,
    /// The key that encrypted it.
    pub key: KeyId,
    /// The type of the key.
    pub key_type: KeyType,
    /// The version that encrypted it.
    pub version: u32,
    /// The position of the operation's record in the log.
    pub receipt: Receipt,
}

/// A plaintext. It is wiped when dropped, and `Debug` hides it. It has no `PartialEq`, since comparing secrets byte by
/// byte reveals by its duration where they differ.
#[derive(Clone)]
#[non_exhaustive]
pub struct Decrypted {
    /// The decrypted bytes, wiped when dropped.
    pub plaintext: Zeroizing<Vec<u8>>,
    /// The key that decrypted it.
    pub key: KeyId,
    /// The version that decrypted it.
    pub version: u32,
    /// The position of the operation's record in the log.
    pub receipt: Receipt,
}

/// A data key: encrypt with `plaintext`, keep `ciphertext` beside the data, then drop `plaintext`. It is wiped when
/// dropped, and `Debug` hides the plaintext. Like [`Decrypted`], it has no `PartialEq`.
#[derive(Clone)]
#[non_exhaustive]
pub struct DataKey {
    /// The data key in plain; none if it was not requested.
    pub plaintext: Option<Zeroizing<Vec<u8>>>,
    /// The data key encrypted under the key; `decrypt` returns the plaintext.
    pub ciphertext: Vec<u8>,
    /// The key that encrypted the data key.
    pub key: KeyId,
    /// The version that encrypted the data key.
    pub version: u32,
    /// The position of the operation's record in the log.
    pub receipt: Receipt,
}

/// A signature, with the key and version that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Signature {
    /// The bytes of the signature.
    pub signature: Vec<u8>,
    /// The key that signed.
    pub key: KeyId,
    /// The version that signed.
    pub version: u32,
    /// The position of the operation's record in the log.
    pub receipt: Receipt,
}

/// The result of verifying a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SignatureCheck {
    /// True if the signature is valid.
    pub valid: bool,
    /// The version that made the signature; if the signature is not valid, the newest version that was tried.
    pub version: u32,
    /// The position of the operation's record in the log.
    pub receipt: Receipt,
}

/// The result of re-encrypting a ciphertext.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reencrypted {
    /// The new ciphertext, with the key and version that encrypted it.
    pub encrypted: Encrypted,
    /// The key of the old ciphertext.
    pub source_key: KeyId,
    /// The version of the old ciphertext.
    pub source_version: u32,
}

pub(super) fn encrypted(done: Done) -> Encrypted {
    let Done { product, key, key_type, version, receipt } = done;
    // A ciphertext is not secret: it is moved out of the wiping wrapper without a copy.
    let ciphertext = std::mem::take(&mut *product.into_bytes());
    Encrypted { ciphertext, key, key_type, version, receipt }
}

pub(super) fn decrypted(done: Done) -> Decrypted {
    Decrypted { plaintext: done.product.into_bytes(), key: done.key, version: done.version, receipt: done.receipt }
}

pub(super) fn signature(done: Done) -> Signature {
    let signature = std::mem::take(&mut *done.product.into_bytes());
    Signature { signature, key: done.key, version: done.version, receipt: done.receipt }
}

pub(super) fn verification(done: Done) -> SignatureCheck {
    let valid = matches!(done.product, Product::Valid(true));
    SignatureCheck { valid, version: done.version, receipt: done.receipt }
}

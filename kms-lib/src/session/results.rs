//! What cryptographic operations give.

use zeroize::Zeroizing;

use super::item::Done;
use super::job::Product;
use crate::types::audit::Receipt;
use crate::types::ids::KeyId;
use crate::types::key::KeyType;

/// A ciphertext.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Encrypted {
    /// Self-describing: names format, algorithm, key and version.
    pub ciphertext: Vec<u8>,
    /// The key.
    pub key: KeyId,
    /// Its type.
    pub key_type: KeyType,
    /// The version.
    pub version: u32,
    /// Where the operation stands in the log.
    pub receipt: Receipt,
}

/// A plaintext. Wiped when dropped; its `Debug` hides it. It cannot be compared: comparing secrets byte by byte tells
/// by its time where they differ.
#[derive(Clone)]
#[non_exhaustive]
pub struct Decrypted {
    /// What was encrypted.
    pub plaintext: Zeroizing<Vec<u8>>,
    /// The key.
    pub key: KeyId,
    /// The version.
    pub version: u32,
    /// Where the operation stands in the log.
    pub receipt: Receipt,
}

/// A data key: use `plaintext` to encrypt, keep `ciphertext` beside the data, forget `plaintext`. Wiped when dropped;
/// its `Debug` hides the plaintext. It cannot be compared, as [`Decrypted`] cannot.
#[derive(Clone)]
#[non_exhaustive]
pub struct DataKey {
    /// The data key; none if it was not asked for.
    pub plaintext: Option<Zeroizing<Vec<u8>>>,
    /// The data key under the key: `decrypt` gives it back.
    pub ciphertext: Vec<u8>,
    /// The key.
    pub key: KeyId,
    /// The version.
    pub version: u32,
    /// Where the operation stands in the log.
    pub receipt: Receipt,
}

/// A signature.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Signature {
    /// The signature.
    pub signature: Vec<u8>,
    /// The key.
    pub key: KeyId,
    /// The version.
    pub version: u32,
    /// Where the operation stands in the log.
    pub receipt: Receipt,
}

/// Whether a signature is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SignatureCheck {
    /// Whether it is.
    pub valid: bool,
    /// The version whose signature it is; if it is not valid, the newest that was tried.
    pub version: u32,
    /// Where the operation stands in the log.
    pub receipt: Receipt,
}

/// A new ciphertext of what another held.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reencrypted {
    /// The new ciphertext.
    pub encrypted: Encrypted,
    /// The key of the old one.
    pub source_key: KeyId,
    /// The version of the old one.
    pub source_version: u32,
}

pub(super) fn encrypted(done: Done) -> Encrypted {
    let Done { product, key, key_type, version, receipt } = done;
    // A ciphertext is no secret: it leaves its wiping behind without a copy.
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

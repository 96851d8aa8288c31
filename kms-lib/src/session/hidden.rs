//! `Debug` output of plaintexts, payloads and data keys: only their lengths.

use std::fmt;

use super::items::{EncryptItem, SignItem, VerifyItem};
use super::results::{DataKey, Decrypted};

/// A placeholder for bytes that are not shown, with their number.
struct Hidden(usize);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes, hidden)", self.0)
    }
}

impl fmt::Debug for Decrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plaintext, key, version, receipt } = self;
        f.debug_struct("Decrypted")
            .field("plaintext", &Hidden(plaintext.len()))
            .field("key", key)
            .field("version", version)
            .field("receipt", receipt)
            .finish()
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plaintext, ciphertext, key, version, receipt } = self;
        f.debug_struct("DataKey")
            .field("plaintext", &plaintext.as_ref().map(|plaintext| Hidden(plaintext.len())))
            .field("ciphertext", ciphertext)
            .field("key", key)
            .field("version", version)
            .field("receipt", receipt)
            .finish()
    }
}

impl fmt::Debug for EncryptItem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, plaintext, context } = self;
        f.debug_struct("EncryptItem")
            .field("key", key)
            .field("plaintext", &Hidden(plaintext.len()))
            .field("context", context)
            .finish()
    }
}

impl fmt::Debug for SignItem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, payload, algorithm, version } = self;
        f.debug_struct("SignItem")
            .field("key", key)
            .field("payload", &Hidden(payload.len()))
            .field("algorithm", algorithm)
            .field("version", version)
            .finish()
    }
}

impl fmt::Debug for VerifyItem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, payload, signature, algorithm, version } = self;
        f.debug_struct("VerifyItem")
            .field("key", key)
            .field("payload", &Hidden(payload.len()))
            .field("signature", signature)
            .field("algorithm", algorithm)
            .field("version", version)
            .finish()
    }
}

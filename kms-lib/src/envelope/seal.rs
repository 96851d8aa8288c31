//! Seals: an HMAC-SHA256 (RFC 2104) over each row, under a key that whoever only writes the database does not have.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::types::error::{Error, ErrorCode, Result};

type HmacSha256 = Hmac<Sha256>;

/// Makes and checks seals. The keys for its uses are derived (HKDF, RFC 5869) from the one integrity key.
#[derive(Clone)]
pub struct Seals {
    rows: HmacSha256,
    contexts: HmacSha256,
}

impl Seals {
    /// Seals under this integrity key.
    pub fn new(integrity_key: &[u8; 32]) -> Result<Self> {
        Ok(Self {
            rows: keyed(integrity_key, b"kms-seal-rows/v1")?,
            contexts: keyed(integrity_key, b"kms-contexts/v1")?,
        })
    }
    /// The seal of a row in the form of [`super::row`].
    pub fn seal(&self, row: &[u8]) -> [u8; 32] {
        let mut mac = self.rows.clone();
        mac.update(row);
        mac.finalize().into_bytes().into()
    }
    /// Whether this is the row's seal, compared in constant time.
    pub fn is_sealed(&self, row: &[u8], seal: &[u8]) -> bool {
        let mut mac = self.rows.clone();
        mac.update(row);
        mac.verify_slice(seal).is_ok()
    }
    /// The HMAC that stands for an encryption context in the records of keys that do not show it.
    pub fn context_mac(&self, canonical_context: &[u8]) -> [u8; 32] {
        let mut mac = self.contexts.clone();
        mac.update(canonical_context);
        mac.finalize().into_bytes().into()
    }
}

fn keyed(integrity_key: &[u8; 32], label: &[u8]) -> Result<HmacSha256> {
    let mut key = Zeroizing::new([0; 32]);
    let failed = || Error::new(ErrorCode::Internal, "a seal key could not be derived");
    Hkdf::<Sha256>::new(None, integrity_key).expand(label, key.as_mut_slice()).map_err(|_| failed())?;
    HmacSha256::new_from_slice(key.as_slice()).map_err(|_| failed())
}

impl std::fmt::Debug for Seals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seals")
    }
}

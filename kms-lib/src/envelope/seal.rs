//! Seals: an HMAC-SHA256 (RFC 2104) over each row, under a key that whoever only writes the database does not have.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::types::error::{Error, ErrorCode, Result};

type HmacSha256 = Hmac<Sha256>;

/// Makes and checks seals. The keys for its uses are derived (HKDF, RFC 5869) from the one integrity key.
#[derive(Clone)]
pub struct Seals {
    rows: HmacSha256,
    contexts: HmacSha256,
    sets: HmacSha256,
}

/// The set of all rows as they are now, folded into one value that is renewed row by row: the exclusive or of an HMAC
/// of each. It stays in memory, since who knew it could look for other rows that fold into the same;
/// [`Seals::commitment`] is what others may see.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct RowSet([u8; 32]);

impl RowSet {
    /// The set of one row.
    pub fn of(seals: &Seals, row: &[u8]) -> Self {
        let mut mac = seals.sets.clone();
        mac.update(&[0]);
        mac.update(row);
        Self(mac.finalize().into_bytes().into())
    }
    /// Puts a row in that was not there, or takes one out that was.
    pub fn toggle(&mut self, seals: &Seals, row: &[u8]) {
        self.combine(&Self::of(seals, row));
    }
    /// Puts all rows of another set in; those that both have are taken out.
    pub fn combine(&mut self, other: &Self) {
        for (byte, other) in self.0.iter_mut().zip(other.0) {
            *byte ^= other;
        }
    }
}

impl std::fmt::Debug for RowSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RowSet")
    }
}

impl Seals {
    /// Seals under this integrity key.
    pub fn new(integrity_key: &[u8; 32]) -> Result<Self> {
        Ok(Self {
            rows: keyed(integrity_key, b"kms-seal-rows/v1")?,
            contexts: keyed(integrity_key, b"kms-contexts/v1")?,
            sets: keyed(integrity_key, b"kms-rows/v1")?,
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
    /// What stands in the head for these rows being all there are at this revision: a single seal is still good when an
    /// older state of its row is put back, this one is not.
    pub fn commitment(&self, revision: u64, rows: &RowSet) -> [u8; 32] {
        let mut mac = self.sets.clone();
        mac.update(&[1]);
        mac.update(&revision.to_be_bytes());
        mac.update(&rows.0);
        mac.finalize().into_bytes().into()
    }
    /// Whether `said` is the commitment to these rows at this revision, compared in constant time.
    pub fn is_commitment(&self, said: &[u8; 32], revision: u64, rows: &RowSet) -> bool {
        self.commitment(revision, rows).ct_eq(said).into()
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

//! Seals: an HMAC-SHA256 (RFC 2104) over each row, under a key that an attacker with mere write access does not have.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::types::error::{Error, ErrorCode, Result};

type HmacSha256 = Hmac<Sha256>;

/// Bytes of the integrity key: 32 for seals and the row commitment, which a replacement generates again, and 32 for the
/// HMACs of contexts, which a replacement keeps, so that equal contexts have the same HMAC in the whole log.
pub const INTEGRITY_KEY_BYTES: usize = 64;

/// Makes and checks seals. The keys for the different uses are derived from the integrity key (HKDF, RFC 5869).
#[derive(Clone)]
pub struct Seals {
    number: u32,
    rows: HmacSha256,
    contexts: HmacSha256,
    sets: HmacSha256,
    /// Set while rows are resealed.
    former: Option<Former>,
}

/// The integrity key before the current one.
#[derive(Clone)]
struct Former {
    rows: HmacSha256,
    /// The sequence number of the record of the replacement. Rows of this and later records have no seal under this
    /// key.
    until: u64,
}

/// The set of all current rows, folded into one value that can be updated row by row: the exclusive or of an HMAC of
/// each row. It stays in memory, because with it an attacker could search for other rows with the same fold;
/// [`Seals::commitment`] is stored instead.
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
    /// Adds a row that is not in the set, or removes one that is.
    pub fn toggle(&mut self, seals: &Seals, row: &[u8]) {
        self.combine(&Self::of(seals, row));
    }
    /// The 32 bytes of the fold.
    #[cfg(test)]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
    /// Adds all rows of another set; rows in both sets are removed.
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
    pub fn new(number: u32, integrity_key: &[u8; INTEGRITY_KEY_BYTES]) -> Result<Self> {
        let (rows, contexts) = integrity_key.split_at(INTEGRITY_KEY_BYTES / 2);
        Ok(Self {
            number,
            rows: keyed(rows, b"kms-seal-rows/v1")?,
            contexts: keyed(contexts, b"kms-contexts/v1")?,
            sets: keyed(rows, b"kms-rows/v1")?,
            former: None,
        })
    }
    /// These seals together with those of the former key, which are valid for rows of records before `until`.
    pub fn beside(&self, former: &Self, until: u64) -> Self {
        Self { former: Some(Former { rows: former.rows.clone(), until }), ..self.clone() }
    }
    /// These seals without those of the former key.
    pub fn alone(&self) -> Self {
        Self { former: None, ..self.clone() }
    }
    /// The number of the integrity key.
    pub fn number(&self) -> u32 {
        self.number
    }
    /// Whether rows are being resealed.
    pub fn has_former(&self) -> bool {
        self.former.is_some()
    }
    /// The seal of a row's bytes (see [`super::row`]).
    pub fn seal(&self, row: &[u8]) -> [u8; 32] {
        let mut mac = self.rows.clone();
        mac.update(row);
        mac.finalize().into_bytes().into()
    }
    /// Whether this is the row's seal, compared in constant time. For rows without a revision: while rows are resealed,
    /// a seal under the former key is valid too.
    pub fn is_sealed(&self, row: &[u8], seal: &[u8]) -> bool {
        is_mac(&self.rows, row, seal) || self.former.as_ref().is_some_and(|former| is_mac(&former.rows, row, seal))
    }
    /// Whether this is the seal of a row of the record `revision`.
    pub fn is_row_sealed(&self, row: &[u8], seal: &[u8], revision: u64) -> bool {
        is_mac(&self.rows, row, seal) || self.is_stale(row, seal, revision)
    }
    /// Whether this is a seal under the former key of a row of the record `revision`, so that the row has to be
    /// resealed.
    pub fn is_stale(&self, row: &[u8], seal: &[u8], revision: u64) -> bool {
        let former = self.former.as_ref().filter(|former| revision < former.until);
        former.is_some_and(|former| is_mac(&former.rows, row, seal))
    }
    /// The row commitment in the head: these are all rows at this revision. It detects a row that was rolled back to an
    /// older state, whose own seal is still valid.
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
    /// The HMAC that represents an encryption context in the records of keys with the audit context `hmac`.
    pub fn context_mac(&self, canonical_context: &[u8]) -> [u8; 32] {
        let mut mac = self.contexts.clone();
        mac.update(canonical_context);
        mac.finalize().into_bytes().into()
    }
}

fn is_mac(key: &HmacSha256, row: &[u8], seal: &[u8]) -> bool {
    let mut mac = key.clone();
    mac.update(row);
    mac.verify_slice(seal).is_ok()
}

fn keyed(integrity_key: &[u8], label: &[u8]) -> Result<HmacSha256> {
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

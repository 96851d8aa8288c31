//! Seals: an HMAC-SHA256 (RFC 2104) over each row, under a key that whoever only writes the database does not have.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::types::error::{Error, ErrorCode, Result};

type HmacSha256 = Hmac<Sha256>;

/// Bytes of the integrity key: 32 for seals and the row commitment, which a replacement draws anew, and 32 for the
/// HMACs of contexts, which it carries over, so that equal contexts keep their HMAC in the log.
pub const INTEGRITY_KEY_BYTES: usize = 64;

/// Makes and checks seals. The keys for its uses are derived (HKDF, RFC 5869) from the one integrity key.
#[derive(Clone)]
pub struct Seals {
    number: u32,
    rows: HmacSha256,
    contexts: HmacSha256,
    sets: HmacSha256,
    /// While rows are resealed.
    former: Option<Former>,
}

/// The integrity key before the present one.
#[derive(Clone)]
struct Former {
    rows: HmacSha256,
    /// The record of the replacement: no row that this or a later record wrote has a seal under this key.
    until: u64,
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
    /// The 32 bytes that the head carries.
    #[cfg(test)]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
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
    /// Seals under the integrity key of this number.
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
    /// These seals, beside those of the key before: of rows that records before `until` wrote they count too.
    pub fn beside(&self, former: &Self, until: u64) -> Self {
        Self { former: Some(Former { rows: former.rows.clone(), until }), ..self.clone() }
    }
    /// These seals, once no row has a seal of the key before.
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
    /// The seal of a row in the form of [`super::row`].
    pub fn seal(&self, row: &[u8]) -> [u8; 32] {
        let mut mac = self.rows.clone();
        mac.update(row);
        mac.finalize().into_bytes().into()
    }
    /// Whether this is the row's seal, compared in constant time. For rows that name no record: while rows are
    /// resealed, a seal of the key before counts.
    pub fn is_sealed(&self, row: &[u8], seal: &[u8]) -> bool {
        is_mac(&self.rows, row, seal) || self.former.as_ref().is_some_and(|former| is_mac(&former.rows, row, seal))
    }
    /// Whether this is the seal of a row that the record `revision` wrote.
    pub fn is_row_sealed(&self, row: &[u8], seal: &[u8], revision: u64) -> bool {
        is_mac(&self.rows, row, seal) || self.is_stale(row, seal, revision)
    }
    /// Whether this is the seal that the key before gave to a row of the record `revision`: the row is to be resealed.
    pub fn is_stale(&self, row: &[u8], seal: &[u8], revision: u64) -> bool {
        let former = self.former.as_ref().filter(|former| revision < former.until);
        former.is_some_and(|former| is_mac(&former.rows, row, seal))
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

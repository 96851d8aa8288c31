//! The description of an operation: its key, version and record.

use kms_lib::{KeyId, Receipt};

use crate::arguments::Extensible;

/// Characters of an identifier, with a NUL behind them.
pub(crate) const ID: usize = 37;
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// An operation that was done. Set `size` to `sizeof(mkms_operation)` before it is filled.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mkms_operation {
    /// `sizeof(mkms_operation)`.
    pub size: usize,
    /// Sequence number of the operation's record in the audit log; 0 if it is accepted and not written yet (with
    /// `audit.ack = "queued"`).
    pub record: u64,
    /// Hash of that record.
    pub record_hash: [u8; 32],
    /// Version of the key.
    pub version: u32,
    /// Identifier of the key: a UUID in lower case, with a NUL at its end. Empty for the verification of a signature.
    pub key_id: [std::ffi::c_char; 37],
}

// SAFETY: integers; the size comes first.
unsafe impl Extensible for mkms_operation {
    const NAME: &'static str = "mkms_operation";
}

impl mkms_operation {
    /// The operation on this version of this key.
    pub fn new(key: KeyId, version: u32, receipt: &Receipt) -> Self {
        Self { size: 0, record: receipt.seq, record_hash: receipt.hash, version, key_id: id(key) }
    }

    /// The verification of a signature, which does not say which key it was.
    pub fn of_verification(version: u32, receipt: &Receipt) -> Self {
        Self { size: 0, record: receipt.seq, record_hash: receipt.hash, version, key_id: [0; ID] }
    }
}

/// An identifier with a NUL at its end. Written here, without an allocation: every call with an `mkms_operation` makes
/// one.
pub fn id(key: KeyId) -> [std::ffi::c_char; ID] {
    let mut id = [0; ID];
    let mut at = 0;
    let mut push = |character: u8| {
        // ASCII, which fits whether or not the platform's char has a sign.
        id[at] = character as std::ffi::c_char;
        at += 1;
    };
    for (index, byte) in key.as_bytes().iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            push(b'-');
        }
        push(DIGITS[usize::from(byte >> 4)]);
        push(DIGITS[usize::from(byte & 0xf)]);
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_written_as_the_library_writes_them() {
        let key: KeyId = "0123abcd-ef45-4678-9abc-def012345678".parse().expect("it is a UUID");
        let written: String =
            id(key).iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte as u8)).collect();
        assert_eq!(written, key.to_string());
    }
}

//! The description of an operation: its key, version and record.

use kms_lib::{KeyId, Receipt};

use crate::arguments::Extensible;

/// Characters of an identifier, including the NUL at its end.
pub(crate) const ID: usize = 37;
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The description of a completed operation. Set `size` to `sizeof(mkms_operation)` before it is filled.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mkms_operation {
    /// `sizeof(mkms_operation)`.
    pub size: usize,
    /// The sequence number of the operation's audit record; 0 if it was accepted but is not written yet (with
    /// `audit.ack = "queued"`).
    pub record: u64,
    /// The hash of the audit record.
    pub record_hash: [u8; 32],
    /// The version of the key.
    pub version: u32,
    /// The identifier of the key: a UUID in lower case, with a NUL at its end. Empty for the verification of a
    /// signature.
    pub key_id: [std::ffi::c_char; 37],
}

// SAFETY: integers; the size comes first.
unsafe impl Extensible for mkms_operation {
    const NAME: &'static str = "mkms_operation";
}

impl mkms_operation {
    /// Describes an operation on a version of a key.
    pub fn new(key: KeyId, version: u32, receipt: &Receipt) -> Self {
        Self { size: 0, record: receipt.seq, record_hash: receipt.hash, version, key_id: id(key) }
    }

    /// Describes the verification of a signature, for which the key is not reported.
    pub fn of_verification(version: u32, receipt: &Receipt) -> Self {
        Self { size: 0, record: receipt.seq, record_hash: receipt.hash, version, key_id: [0; ID] }
    }
}

/// An identifier with a NUL at its end. It is formatted here without an allocation, because every call with an
/// `mkms_operation` needs one.
pub fn id(key: KeyId) -> [std::ffi::c_char; ID] {
    let mut id = [0; ID];
    let mut at = 0;
    let mut push = |character: u8| {
        // ASCII fits into `char` whether or not it is signed on the platform.
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

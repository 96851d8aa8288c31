//! Buffers for plaintext and key material.

use zeroize::Zeroizing;

/// Appends to a buffer that is wiped when dropped. A vector that grows would leave its former content in freed memory;
/// here, a full buffer is replaced by a larger one and wiped.
pub fn append(buffer: &mut Zeroizing<Vec<u8>>, bytes: &[u8]) {
    let length = buffer.len() + bytes.len();
    if length > buffer.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(length.max(2 * buffer.capacity())));
        larger.extend_from_slice(buffer);
        *buffer = larger;
    }
    buffer.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_grows_only_into_a_new_one() {
        let mut buffer = Zeroizing::new(Vec::with_capacity(4));
        append(&mut buffer, &[1, 2]);
        let place = buffer.as_ptr();
        append(&mut buffer, &[3, 4]);
        assert_eq!((buffer.as_ptr(), buffer.as_slice()), (place, [1, 2, 3, 4].as_slice()));
        append(&mut buffer, &[5]);
        assert_eq!(buffer.as_slice(), [1, 2, 3, 4, 5]);
        assert!(buffer.capacity() >= 8);
        append(&mut buffer, &[0; 100]);
        assert_eq!(buffer.len(), 105);
    }
}

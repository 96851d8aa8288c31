//! Streams: encryption of inputs of any size in constant memory.
//!
//! The construction is STREAM (Hoang, Reyhanitabar, Rogaway, Vizár, 2015) over AES-256-GCM, as in age and Tink. A new
//! data key is encrypted under the caller's key. The key of the chunks is derived from the data key and the hash of the
//! header (HKDF, RFC 5869), so that header, data key and context cannot be exchanged.
//!
//! | part | bytes |
//! | --- | --- |
//! | format, always 2 | 1 |
//! | length of the data key's ciphertext, big-endian | 4 |
//! | the data key's ciphertext, in the format of [`super::ciphertext`] | the length above |
//! | salt | 16 |
//! | chunks: 65,536 bytes of plaintext each, at most as many in the last one, and a tag of 16 bytes | |
//!
//! The nonce of a chunk is seven zero bytes, the chunk's number as 32 bits big-endian, and a byte that is 1 for the
//! last chunk, else 0. The last chunk is empty only if the whole plaintext is. No plaintext of a chunk is released
//! before its tag is verified.

use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::provider::{Aead, NONCE, Provider, TAG};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::secret::append;

/// The format byte of a stream.
pub const FORMAT: u8 = 2;
/// Plaintext bytes of a full chunk.
pub const CHUNK: usize = 64 * 1024;
/// Bytes of a data key.
pub const DATA_KEY: usize = 32;
/// Longest accepted ciphertext of a data key, in bytes. With RSA-2048, it has 286.
const BLOB_MAX: usize = 512;
const SALT: usize = 16;
/// Bytes of format and length.
const PREFIX: usize = 5;

/// The header of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The ciphertext of the data key under the caller's key.
    pub data_key: Vec<u8>,
    salt: [u8; SALT],
}

impl Header {
    /// A header with a new salt.
    pub fn new(provider: &dyn Provider, data_key: Vec<u8>) -> Result<Self> {
        let mut salt = [0; SALT];
        provider.random(&mut salt)?;
        Ok(Self { data_key, salt })
    }
    /// The bytes of the header.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(PREFIX + self.data_key.len() + SALT);
        bytes.push(FORMAT);
        // The conversion cannot fail: a data key's ciphertext has a few hundred bytes.
        bytes.extend_from_slice(&u32::try_from(self.data_key.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(&self.data_key);
        bytes.extend_from_slice(&self.salt);
        bytes
    }
    /// Parses the header at the beginning of `input`. Returns the header and its length, or `None` if more bytes are
    /// needed. Fails with `InvalidCiphertext`.
    pub fn parse(input: &[u8]) -> Result<Option<(Self, usize)>> {
        let bad = |why: &str| Error::new(ErrorCode::InvalidCiphertext, format!("the stream {why}"));
        match input.first() {
            None => return Ok(None),
            Some(&FORMAT) => {}
            Some(&format) if format > FORMAT => {
                return Err(bad(&format!("has format {format}, which is newer than this software")));
            }
            Some(_) => return Err(bad("is malformed: it does not begin with the format byte of streams")),
        }
        let Some(length) = input.get(1..PREFIX).and_then(|bytes| bytes.try_into().ok()) else { return Ok(None) };
        let length = u32::from_be_bytes(length) as usize;
        if length == 0 || length > BLOB_MAX {
            return Err(bad("is malformed: the length in its header is invalid"));
        }
        let end = PREFIX + length + SALT;
        let Some(rest) = input.get(PREFIX..end) else { return Ok(None) };
        let mut salt = [0; SALT];
        salt.copy_from_slice(&rest[length..]);
        Ok(Some((Self { data_key: rest[..length].to_vec(), salt }, end)))
    }
    fn chunk_key(&self, provider: &dyn Provider, data_key: &[u8]) -> Result<Box<dyn Aead>> {
        let mut info = b"kms-stream/v1\0".to_vec();
        info.extend_from_slice(&Sha256::digest(self.to_bytes()));
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(&self.salt), data_key)
            .expand(&info, key.as_mut_slice())
            .map_err(|_| Error::new(ErrorCode::Internal, "the key of a stream could not be derived"))?;
        provider.aes(&key)
    }
}

/// The number of the next chunk.
struct Counter(u32);

impl Counter {
    fn next(&mut self, last: bool) -> Result<[u8; NONCE]> {
        let mut nonce = [0; NONCE];
        nonce[7..11].copy_from_slice(&self.0.to_be_bytes());
        nonce[11] = u8::from(last);
        self.0 = self
            .0
            .checked_add(1)
            .ok_or_else(|| Error::new(ErrorCode::PlaintextTooLong, "a stream has at most 2^32 - 1 chunks of 64 KiB"))?;
        Ok(nonce)
    }
}

/// Encrypts a stream chunk by chunk, in constant memory.
pub struct Encryptor {
    aead: Box<dyn Aead>,
    counter: Counter,
    pending: Zeroizing<Vec<u8>>,
}

impl Encryptor {
    /// An encryptor for the stream with this header. The caller writes the header before the encryptor's output.
    pub fn new(provider: &dyn Provider, header: &Header, data_key: &[u8]) -> Result<Self> {
        Ok(Self {
            aead: header.chunk_key(provider, data_key)?,
            counter: Counter(0),
            pending: Zeroizing::new(Vec::with_capacity(CHUNK)),
        })
    }
    /// Takes plaintext of any length, and appends the ciphertext of complete chunks to `out`.
    pub fn update(&mut self, mut plaintext: &[u8], out: &mut Vec<u8>) -> Result<()> {
        while !plaintext.is_empty() {
            // A full chunk is encrypted only when more follows, because the last one has another nonce.
            if self.pending.len() == CHUNK {
                self.seal(false, out)?;
            }
            let taken = plaintext.len().min(CHUNK - self.pending.len());
            self.pending.extend_from_slice(&plaintext[..taken]);
            plaintext = &plaintext[taken..];
        }
        Ok(())
    }
    /// Ends the stream: appends the last chunk, without which the stream is refused as truncated.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<()> {
        self.seal(true, out)
    }
    fn seal(&mut self, last: bool, out: &mut Vec<u8>) -> Result<()> {
        let nonce = self.counter.next(last)?;
        let offset = out.len();
        // Reserved with the tag, because growing would leave a copy of the plaintext.
        out.reserve(self.pending.len() + TAG);
        out.extend_from_slice(&self.pending);
        self.pending.clear();
        self.aead.seal(&nonce, &[], out, offset).inspect_err(|_| {
            if let Some(plaintext) = out.get_mut(offset..) {
                plaintext.zeroize();
            }
            out.truncate(offset);
        })
    }
}

/// Decrypts a stream chunk by chunk, in constant memory.
pub struct Decryptor {
    aead: Box<dyn Aead>,
    counter: Counter,
    pending: Vec<u8>,
    failed: bool,
}

impl Decryptor {
    /// A decryptor for the stream with this header. Its input begins after the header.
    pub fn new(provider: &dyn Provider, header: &Header, data_key: &[u8]) -> Result<Self> {
        Ok(Self {
            aead: header.chunk_key(provider, data_key)?,
            counter: Counter(0),
            pending: Vec::with_capacity(CHUNK + TAG),
            failed: false,
        })
    }
    /// Takes ciphertext of any length, and appends the plaintext of complete, verified chunks to `out`. After an error,
    /// no more plaintext is released.
    pub fn update(&mut self, mut ciphertext: &[u8], out: &mut Zeroizing<Vec<u8>>) -> Result<()> {
        while !ciphertext.is_empty() {
            if self.pending.len() == CHUNK + TAG {
                self.open(false, out)?;
            }
            let taken = ciphertext.len().min(CHUNK + TAG - self.pending.len());
            self.pending.extend_from_slice(&ciphertext[..taken]);
            ciphertext = &ciphertext[taken..];
        }
        Ok(())
    }
    /// Ends the stream: verifies that the rest is the last chunk, and appends its plaintext. Only then is the plaintext
    /// known to be complete.
    pub fn finish(mut self, out: &mut Zeroizing<Vec<u8>>) -> Result<()> {
        if self.pending.len() == TAG && self.counter.0 > 0 {
            return Err(failure());
        }
        self.open(true, out)
    }
    fn open(&mut self, last: bool, out: &mut Zeroizing<Vec<u8>>) -> Result<()> {
        if self.failed {
            return Err(failure());
        }
        let nonce = self.counter.next(last)?;
        let opened = self.aead.open(&nonce, &[], &self.pending);
        self.pending.clear();
        match opened {
            Ok(plaintext) => {
                append(out, &plaintext);
                Ok(())
            }
            Err(_) => {
                self.failed = true;
                Err(failure())
            }
        }
    }
}

fn failure() -> Error {
    Error::new(ErrorCode::DecryptionFailed, "the stream was truncated, altered or combined from parts of streams")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::crypto::{CryptoProvider, provider};

    fn seal(plaintext: &[u8], step: usize) -> (Header, Vec<u8>) {
        let provider = provider(CryptoProvider::default()).unwrap();
        let header = Header::new(provider.as_ref(), vec![9; 100]).unwrap();
        let mut out = Vec::new();
        let mut encryptor = Encryptor::new(provider.as_ref(), &header, &[1; 32]).unwrap();
        plaintext.chunks(step).for_each(|part| encryptor.update(part, &mut out).unwrap());
        encryptor.finish(&mut out).unwrap();
        (header, out)
    }

    type Opened = std::result::Result<Zeroizing<Vec<u8>>, Zeroizing<Vec<u8>>>;

    fn open(header: &Header, ciphertext: &[u8], step: usize) -> Opened {
        // Decrypts with the other provider.
        let provider = provider(CryptoProvider::RustCrypto).unwrap();
        let mut out = Zeroizing::default();
        let mut decryptor = Decryptor::new(provider.as_ref(), header, &[1; 32]).unwrap();
        for part in ciphertext.chunks(step) {
            if decryptor.update(part, &mut out).is_err() {
                return Err(out);
            }
        }
        match decryptor.finish(&mut out) {
            Ok(()) => Ok(out),
            Err(_) => Err(out),
        }
    }

    fn text(len: usize) -> Vec<u8> {
        (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect()
    }

    #[test]
    fn gives_back_what_went_in_at_every_edge() {
        for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 17] {
            for step in [CHUNK / 3, CHUNK, CHUNK + TAG, 10 * CHUNK] {
                let plaintext = text(len);
                let (header, sealed) = seal(&plaintext, step);
                let chunks = len.div_ceil(CHUNK).max(1);
                assert_eq!(sealed.len(), len + chunks * TAG);
                assert_eq!(*open(&header, &sealed, step.div_ceil(2)).unwrap(), plaintext);
            }
        }
    }

    #[test]
    fn cutting_reordering_and_splicing_release_nothing_of_the_bad_chunk() {
        let plaintext = text(3 * CHUNK + 100);
        let (header, sealed) = seal(&plaintext, CHUNK);
        let whole = CHUNK + TAG;
        // Truncated at the end of a chunk, within a chunk and by a byte.
        for cut in [0, 1, TAG, whole, whole + 5, 2 * whole, 3 * whole, sealed.len() - 1] {
            let released = open(&header, &sealed[..cut], CHUNK).unwrap_err();
            assert!(plaintext.starts_with(&released) && released.len() <= cut / whole * CHUNK, "cut at {cut}");
        }
        let mut swapped = sealed[whole..2 * whole].to_vec();
        swapped.extend_from_slice(&sealed[..whole]);
        swapped.extend_from_slice(&sealed[2 * whole..]);
        assert!(open(&header, &swapped, CHUNK).unwrap_err().is_empty());
        let mut doubled = sealed[..whole].to_vec();
        doubled.extend_from_slice(&sealed);
        assert_eq!(*open(&header, &doubled, CHUNK).unwrap_err(), &plaintext[..CHUNK]);
        // The rest of another stream under the same data key.
        let (_, other) = seal(&plaintext, CHUNK);
        let mut spliced = sealed[..whole].to_vec();
        spliced.extend_from_slice(&other[whole..]);
        assert_eq!(*open(&header, &spliced, CHUNK).unwrap_err(), &plaintext[..CHUNK]);
        let mut longer = sealed.clone();
        longer.push(0);
        assert!(open(&header, &longer, CHUNK).is_err());
        for at in (0..sealed.len()).step_by(4_093) {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            let released = open(&header, &altered, CHUNK).unwrap_err();
            assert!(released.len() <= at / whole * CHUNK, "flipped at {at}");
        }
    }

    #[test]
    fn a_header_is_read_as_it_comes_and_bound_to_the_chunks() {
        let (header, sealed) = seal(b"x", 1);
        let bytes = header.to_bytes();
        for cut in 0..bytes.len() {
            assert_eq!(Header::parse(&bytes[..cut]).unwrap(), None);
        }
        assert_eq!(Header::parse(&bytes).unwrap(), Some((header.clone(), bytes.len())));
        for (at, code) in [(0, 3), (0, 1), (1, 255), (4, 0)] {
            let mut bad = bytes.clone();
            bad[at] = code;
            assert_eq!(Header::parse(&bad).unwrap_err().code(), ErrorCode::InvalidCiphertext);
        }
        let other = Header { salt: [0; SALT], ..header.clone() };
        assert!(open(&other, &sealed, 100).is_err());
        let other = Header { data_key: vec![8; 100], ..header };
        assert!(open(&other, &sealed, 100).is_err());
    }

    /// Chunks far into a stream, up to the last possible one, without encrypting all those before.
    #[test]
    fn a_chunk_is_bound_to_its_number_however_large() {
        let provider = provider(CryptoProvider::default()).unwrap();
        let header = Header::new(provider.as_ref(), vec![9; 100]).unwrap();
        let encryptor = |number| {
            let mut encryptor = Encryptor::new(provider.as_ref(), &header, &[1; 32]).unwrap();
            encryptor.counter = Counter(number);
            encryptor
        };
        let opens = |number, sealed: &[u8]| {
            let mut decryptor = Decryptor::new(provider.as_ref(), &header, &[1; 32]).unwrap();
            decryptor.counter = Counter(number);
            let mut out = Zeroizing::default();
            let opened = decryptor.update(sealed, &mut out).and_then(|()| decryptor.finish(&mut out));
            // Nothing of a bad chunk is released.
            assert!(opened.is_ok() || out.len() % CHUNK == 0);
            opened.map(|()| out)
        };
        let plaintext = text(2 * CHUNK + 5);
        for number in [255, 65_535, (1 << 20) - 2, 1 << 20, (1 << 24) - 1, u32::MAX - 3] {
            let mut sealed = Vec::new();
            let mut encryptor = encryptor(number);
            encryptor.update(&plaintext, &mut sealed).unwrap();
            encryptor.finish(&mut sealed).unwrap();
            assert_eq!(*opens(number, &sealed).unwrap(), plaintext);
            for other in [0, number - 1, number.wrapping_add(1), number ^ (1 << 16)] {
                assert_eq!(opens(other, &sealed).unwrap_err().code(), ErrorCode::DecryptionFailed);
            }
        }
        // A number is never used twice: a stream that needs more chunks fails before.
        let mut sealed = Vec::new();
        let mut last = encryptor(u32::MAX - 1);
        last.update(&plaintext, &mut sealed).unwrap_err();
        assert_eq!(sealed.len(), CHUNK + TAG);
        let error = encryptor(u32::MAX).finish(&mut sealed).unwrap_err();
        assert_eq!((error.code(), sealed.len()), (ErrorCode::PlaintextTooLong, CHUNK + TAG));
        assert_eq!(opens(u32::MAX, &sealed).unwrap_err().code(), ErrorCode::PlaintextTooLong);
    }
}

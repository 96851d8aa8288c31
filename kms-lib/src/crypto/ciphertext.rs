//! The ciphertext format: a self-describing blob.
//!
//! | bytes | content |
//! |---|---|
//! | 1 | format, 1 |
//! | 1 | algorithm: 1 is AES-256-GCM, 2 is RSA-OAEP with SHA-256 |
//! | 16 | key id |
//! | 4 | version of the key, big-endian |
//! | 8 | the first bytes of the fingerprint of the version's material |
//! | rest | AES: nonce (12), ciphertext, tag (16). RSA: ciphertext (256) |

use zeroize::{Zeroize, Zeroizing};

pub use super::additional_data::EncryptionAlgorithm;
use super::additional_data::additional_data;
use super::nonces::Nonce;
#[cfg(test)]
use super::nonces::Nonces;
#[cfg(test)]
use super::provider::Provider;
use super::provider::{Aead, NONCE, RSA_BYTES, RsaPrivate, RsaPublic, TAG};
use crate::types::context::Context;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::key::MaterialId;
use crate::types::limits::RSA_PLAINTEXT_BYTES;

/// The only format that is written and read.
const FORMAT: u8 = 1;
/// Bytes of the fingerprint in a ciphertext. The whole fingerprint is part of the additional data.
const FINGERPRINT: usize = 8;
/// Bytes before the body.
pub const HEADER: usize = 1 + 1 + 16 + 4 + FINGERPRINT;

impl EncryptionAlgorithm {
    const fn byte(self) -> u8 {
        match self {
            Self::Aes256Gcm => 1,
            Self::RsaOaepSha256 => 2,
        }
    }
}

/// A parsed ciphertext of this service. Its fields are not authenticated before it is decrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ciphertext<'a> {
    /// The algorithm that made the ciphertext.
    pub algorithm: EncryptionAlgorithm,
    /// The key that made the ciphertext.
    pub key: KeyId,
    /// The version of the key that made the ciphertext.
    pub version: u32,
    /// The first bytes of the fingerprint of the version's material.
    pub(crate) fingerprint: [u8; FINGERPRINT],
    /// The bytes after the header: nonce, ciphertext and tag for AES, the ciphertext for RSA.
    pub body: &'a [u8],
}

impl Ciphertext<'_> {
    /// Parses a ciphertext. Fails with `InvalidCiphertext` and the reason if it is malformed.
    pub fn parse(bytes: &[u8]) -> Result<Ciphertext<'_>> {
        // Checked first, because the header depends on the format.
        match bytes.first() {
            None => return Err(invalid("the ciphertext is empty")),
            Some(&FORMAT) => {}
            Some(0) => return Err(invalid("not a ciphertext of this service: format 0 does not exist")),
            Some(newer) => {
                return Err(invalid(format!(
                    "the ciphertext's format {newer} is newer than this software, or it is not a ciphertext"
                )));
            }
        }
        let cut = || invalid(format!("the ciphertext is truncated: it has only {} bytes", bytes.len()));
        let (header, body) = bytes.split_first_chunk::<HEADER>().ok_or_else(cut)?;
        let [_, algorithm, rest @ ..] = header;
        let (id, rest) = rest.split_first_chunk::<16>().ok_or_else(cut)?;
        let (version, fingerprint) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        let version = u32::from_be_bytes(*version);
        let fingerprint = *fingerprint.first_chunk().ok_or_else(cut)?;
        if version == 0 {
            return Err(invalid("the ciphertext names version 0, which no key has"));
        }
        let algorithm = match algorithm {
            1 if body.len() < NONCE + TAG => return Err(cut()),
            1 => EncryptionAlgorithm::Aes256Gcm,
            2 if body.len() != RSA_BYTES => {
                return Err(invalid(format!(
                    "the RSA ciphertext has {} bytes; {} are expected",
                    bytes.len(),
                    HEADER + RSA_BYTES
                )));
            }
            2 => EncryptionAlgorithm::RsaOaepSha256,
            unknown => return Err(invalid(format!("the ciphertext's algorithm {unknown} is unknown"))),
        };
        Ok(Ciphertext { algorithm, key: KeyId::from_bytes(*id), version, fingerprint, body })
    }

    /// The maximum length in bytes of a ciphertext of `plaintext` bytes, for any type of key.
    pub const fn max_len(plaintext: usize) -> usize {
        let aes = plaintext.saturating_add(HEADER + NONCE + TAG);
        if plaintext <= RSA_PLAINTEXT_BYTES && aes < HEADER + RSA_BYTES { HEADER + RSA_BYTES } else { aes }
    }

    /// The most bytes that the plaintext of a ciphertext can have: the exact number for AES, 190 for RSA. Fails with
    /// `InvalidCiphertext` if the ciphertext is malformed.
    pub fn max_plaintext_len(ciphertext: &[u8]) -> Result<usize> {
        let blob = Ciphertext::parse(ciphertext)?;
        Ok(match blob.algorithm {
            EncryptionAlgorithm::Aes256Gcm => blob.body.len().saturating_sub(NONCE + TAG),
            EncryptionAlgorithm::RsaOaepSha256 => RSA_PLAINTEXT_BYTES,
        })
    }

    /// The nonce (96 bits), for callers that also store it separately; empty for RSA.
    pub fn iv(&self) -> &[u8] {
        self.iv_and_tag().0
    }
    /// The authentication tag (128 bits), for callers that also store it separately; empty for RSA.
    pub fn auth_tag(&self) -> &[u8] {
        self.iv_and_tag().1
    }

    fn iv_and_tag(&self) -> (&[u8], &[u8]) {
        match (self.algorithm, self.body.split_first_chunk::<NONCE>(), self.body.split_last_chunk::<TAG>()) {
            (EncryptionAlgorithm::Aes256Gcm, Some((nonce, _)), Some((_, tag))) => (nonce, tag),
            _ => (&[], &[]),
        }
    }

    /// Checks that the ciphertext was made with this algorithm and this material.
    fn expect(&self, algorithm: EncryptionAlgorithm, id: &MaterialId) -> Result<()> {
        if self.algorithm != algorithm {
            let text = format!("the ciphertext is for {}, the key for {}", self.algorithm.as_str(), algorithm.as_str());
            return Err(invalid(text));
        }
        if (self.key, self.version) != (id.key, id.version) {
            return Err(invalid("the ciphertext was made with another version"));
        }
        if !id.fingerprint.starts_with(&self.fingerprint) {
            let text = format!(
                "version {} of the key has other material than the version with this number that made the ciphertext; \
                after a restore of an older backup, only a later backup has that material",
                self.version
            );
            return Err(Error::new(ErrorCode::DecryptionFailed, text));
        }
        Ok(())
    }
}

/// Encrypts with AES-256-GCM under a random nonce.
#[cfg(test)]
pub fn seal(
    provider: &dyn Provider,
    aead: &dyn Aead,
    id: &MaterialId,
    context: &Context,
    plaintext: &[u8],
) -> Result<Vec<u8>> {
    seal_with(Nonces::new(provider, 1).next()?, aead, id, context, plaintext)
}

/// Encrypts with AES-256-GCM under this nonce, which is consumed.
pub(crate) fn seal_with(
    nonce: Nonce,
    aead: &dyn Aead,
    id: &MaterialId,
    context: &Context,
    plaintext: &[u8],
) -> Result<Vec<u8>> {
    let nonce = nonce.into_bytes();
    // Allocated with the exact size, because growing would leave copies of the plaintext.
    let mut blob = Vec::with_capacity(HEADER + NONCE + plaintext.len() + TAG);
    write_header(&mut blob, EncryptionAlgorithm::Aes256Gcm, id);
    blob.extend_from_slice(&nonce);
    blob.extend_from_slice(plaintext);
    let aad = additional_data(EncryptionAlgorithm::Aes256Gcm, id, context);
    if let Err(error) = aead.seal(&nonce, &aad, &mut blob, HEADER + NONCE) {
        blob.zeroize();
        return Err(error);
    }
    Ok(blob)
}

/// Decrypts an AES ciphertext. Fails with `DecryptionFailed` if it was altered or the context differs.
pub fn open(aead: &dyn Aead, id: &MaterialId, blob: &Ciphertext<'_>, context: &Context) -> Result<Zeroizing<Vec<u8>>> {
    blob.expect(EncryptionAlgorithm::Aes256Gcm, id)?;
    let (nonce, body) = blob
        .body
        .split_first_chunk::<NONCE>()
        .ok_or_else(|| invalid("the ciphertext is truncated: its nonce is missing"))?;
    aead.open(nonce, &additional_data(blob.algorithm, id, context), body)
}

/// Encrypts with RSA-OAEP. Fails with `PlaintextTooLong` above 190 bytes.
pub fn rsa_seal(public: &dyn RsaPublic, id: &MaterialId, context: &Context, plaintext: &[u8]) -> Result<Vec<u8>> {
    let label = additional_data(EncryptionAlgorithm::RsaOaepSha256, id, context);
    let body = public.oaep_encrypt(&label, plaintext)?;
    let mut blob = Vec::with_capacity(HEADER + body.len());
    write_header(&mut blob, EncryptionAlgorithm::RsaOaepSha256, id);
    blob.extend_from_slice(&body);
    Ok(blob)
}

/// Decrypts a result of [`rsa_seal`]. Fails with `DecryptionFailed` if it was altered or the context differs.
pub fn rsa_open(
    private: &dyn RsaPrivate,
    id: &MaterialId,
    blob: &Ciphertext<'_>,
    context: &Context,
) -> Result<Zeroizing<Vec<u8>>> {
    blob.expect(EncryptionAlgorithm::RsaOaepSha256, id)?;
    private.oaep_decrypt(&additional_data(blob.algorithm, id, context), blob.body)
}

fn write_header(blob: &mut Vec<u8>, algorithm: EncryptionAlgorithm, id: &MaterialId) {
    blob.extend_from_slice(&[FORMAT, algorithm.byte()]);
    blob.extend_from_slice(id.key.as_bytes());
    blob.extend_from_slice(&id.version.to_be_bytes());
    blob.extend_from_slice(&id.fingerprint[..FINGERPRINT]);
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidCiphertext, message)
}

//! The traits of cryptography providers and of the keys that they load.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::types::error::{Error, ErrorCode, Result};
use crate::types::limits::{AES_GCM_IV_BYTES, AES_GCM_TAG_BYTES, RSA_2048_BYTES, RSA_PLAINTEXT_BYTES};
use crate::types::named::named;

/// Bytes of an AES-GCM nonce.
pub const NONCE: usize = AES_GCM_IV_BYTES;
/// Bytes of an AES-GCM tag.
pub const TAG: usize = AES_GCM_TAG_BYTES;
/// Bits of the RSA keys.
pub const RSA_BITS: usize = 2048;
/// Bytes of an RSA ciphertext or signature.
pub const RSA_BYTES: usize = RSA_2048_BYTES;

/// The name of a cryptography provider in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CryptoProvider {
    /// AWS-LC: constant time, with assembly for common processors; its build needs a C compiler.
    #[serde(rename = "aws-lc")]
    AwsLc,
    /// The RustCrypto crates, written in Rust.
    #[serde(rename = "rust-crypto")]
    RustCrypto,
}

impl CryptoProvider {
    /// The provider's name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AwsLc => "aws-lc",
            Self::RustCrypto => "rust-crypto",
        }
    }
    /// Parses a name, whether the provider is compiled in or not. Fails with `InvalidConfiguration`.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "aws-lc" => Ok(Self::AwsLc),
            "rust-crypto" => Ok(Self::RustCrypto),
            _ => Err(Error::new(
                ErrorCode::InvalidConfiguration,
                format!("unknown cryptography provider {text:?}; use aws-lc or rust-crypto"),
            )),
        }
    }
}

impl Default for CryptoProvider {
    fn default() -> Self {
        if cfg!(feature = "aws-lc") { Self::AwsLc } else { Self::RustCrypto }
    }
}

impl fmt::Display for CryptoProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

named!(
    /// The algorithm of a signature.
    SignatureAlgorithm {
        /// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017, 8.2).
        RsaPkcs1Sha256 = "RSASSA_PKCS1_V1_5_SHA_256",
        /// RSASSA-PSS with SHA-256, MGF1-SHA256 and a salt of 32 bytes (RFC 8017, 8.1).
        RsaPssSha256 = "RSASSA_PSS_SHA_256",
    }
);

/// A cryptography provider: random numbers, key generation and loading of keys.
pub trait Provider: Send + Sync + fmt::Debug {
    /// The provider's name.
    fn name(&self) -> CryptoProvider;
    /// Fills `out` from the provider's generator, which is safe to use after a fork.
    fn random(&self, out: &mut [u8]) -> Result<()>;
    /// Loads an AES-256-GCM key.
    fn aes(&self, key: &[u8; 32]) -> Result<Box<dyn Aead>>;
    /// Generates an RSA key with 2048 bits and the public exponent 65537.
    fn rsa_generate(&self) -> Result<RsaMaterial>;
    /// Loads an RSA private key. Accepts only PKCS#8 (RFC 5208) with a modulus of 2048 bits.
    fn rsa_private(&self, pkcs8_der: &[u8]) -> Result<Box<dyn RsaPrivate>>;
    /// Loads an RSA public key. Accepts only SubjectPublicKeyInfo as PEM (`BEGIN PUBLIC KEY`) with a modulus of 2048
    /// bits.
    fn rsa_public(&self, spki_pem: &str) -> Result<Box<dyn RsaPublic>>;
    /// Loads an Ed25519 key (RFC 8032) from its seed.
    fn ed25519(&self, seed: &[u8; 32]) -> Result<Box<dyn Ed25519>>;
    /// Whether the signature is valid for this message and public key.
    fn ed25519_verify(&self, public_key: &[u8; 32], message: &[u8], signature: &[u8]) -> bool;
}

/// An AES-256-GCM key ready for use.
pub trait Aead: Send + Sync {
    /// Encrypts `buffer[offset..]` in place and appends the 16-byte tag. The nonce must never have been used with this
    /// key before.
    fn seal(&self, nonce: &[u8; NONCE], aad: &[u8], buffer: &mut Vec<u8>, offset: usize) -> Result<()>;
    /// Decrypts ciphertext and tag. Fails with `DecryptionFailed` if they do not authenticate.
    fn open(&self, nonce: &[u8; NONCE], aad: &[u8], ciphertext_and_tag: &[u8]) -> Result<Zeroizing<Vec<u8>>>;
}

/// A new RSA key.
pub struct RsaMaterial {
    /// The private key: PKCS#8, DER.
    pub pkcs8: Zeroizing<Vec<u8>>,
    /// The public key: SubjectPublicKeyInfo, PEM.
    pub public_pem: String,
}

impl fmt::Debug for RsaMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RsaMaterial").field("public_pem", &self.public_pem).finish_non_exhaustive()
    }
}

/// An RSA private key ready for use.
pub trait RsaPrivate: Send + Sync {
    /// Decrypts OAEP with SHA-256 and MGF1-SHA256. Every failure is the same `DecryptionFailed`, because different
    /// errors would help an attacker.
    fn oaep_decrypt(&self, label: &[u8], ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>>;
    /// Signs the message with this SHA-256 hash.
    fn sign_digest(&self, algorithm: SignatureAlgorithm, digest: &[u8; 32]) -> Result<Vec<u8>>;
    /// Hashes and signs the message.
    fn sign(&self, algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>> {
        self.sign_digest(algorithm, &Sha256::digest(message).into())
    }
    /// The public key: SubjectPublicKeyInfo, PEM.
    fn public_pem(&self) -> Result<String>;
}

/// An RSA public key ready for use.
pub trait RsaPublic: Send + Sync {
    /// Encrypts with OAEP, SHA-256 and MGF1-SHA256. Fails with `PlaintextTooLong` above 190 bytes.
    fn oaep_encrypt(&self, label: &[u8], plaintext: &[u8]) -> Result<Vec<u8>>;
    /// Whether the signature is valid for the message with this SHA-256 hash, this algorithm and this key.
    fn verify_digest(&self, algorithm: SignatureAlgorithm, digest: &[u8; 32], signature: &[u8]) -> bool;
    /// Hashes the message; returns whether the signature is valid for it, this algorithm and this key.
    fn verify(&self, algorithm: SignatureAlgorithm, message: &[u8], signature: &[u8]) -> bool {
        self.verify_digest(algorithm, &Sha256::digest(message).into(), signature)
    }
}

/// An Ed25519 key ready for use.
pub trait Ed25519: Send + Sync {
    /// The public key.
    fn public_key(&self) -> [u8; 32];
    /// Signs the message.
    fn sign(&self, message: &[u8]) -> [u8; 64];
}

/// The error for a failure of the provider in `what`. The providers' own errors deliberately have no details.
pub(super) fn failure(what: &'static str) -> Error {
    Error::new(ErrorCode::CryptoFailure, format!("the cryptography provider failed: {what}"))
}

pub(super) fn decryption_failed() -> Error {
    Error::new(
        ErrorCode::DecryptionFailed,
        "the ciphertext does not authenticate: it was altered, or the context or key differs",
    )
}

pub(super) fn check_rsa_plaintext(plaintext: &[u8]) -> Result<()> {
    if plaintext.len() > RSA_PLAINTEXT_BYTES {
        return Err(Error::new(
            ErrorCode::PlaintextTooLong,
            format!("the plaintext has {} bytes; RSA-2048 takes at most {RSA_PLAINTEXT_BYTES}", plaintext.len()),
        ));
    }
    Ok(())
}

//! The provider over the RustCrypto crates. Private RSA operations are blinded with random numbers of the system.

use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{Aes256Gcm, KeyInit};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use rand::TryRng;
use rand::rngs::SysRng;
use rsa::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey};
use rsa::{Oaep, Pkcs1v15Sign, Pss};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::provider::{
    Aead, CryptoProvider, Ed25519, NONCE, Provider, RSA_BITS, RsaMaterial, RsaPrivate, RsaPublic, SignatureAlgorithm,
    TAG, check_rsa_plaintext, decryption_failed, failure,
};
use super::rsa_key;
use crate::types::error::Result;

/// Bytes of salt in a PSS signature, the length of a SHA-256 hash.
const SALT: usize = 32;

/// The provider over the RustCrypto crates.
#[derive(Clone, Copy, Debug)]
pub struct RustCrypto;

impl Provider for RustCrypto {
    fn name(&self) -> CryptoProvider {
        CryptoProvider::RustCrypto
    }
    fn random(&self, out: &mut [u8]) -> Result<()> {
        // Not the faster generator of the thread, which would return the same nonces in a forked process.
        SysRng.try_fill_bytes(out).map_err(|_| failure("random bytes"))
    }
    fn aes(&self, key: &[u8; 32]) -> Result<Box<dyn Aead>> {
        Ok(Box::new(AesKey(Aes256Gcm::new(key.into()))))
    }
    fn rsa_generate(&self) -> Result<RsaMaterial> {
        let key = rsa::PrivateKey::new(&mut SysRng, RSA_BITS).map_err(|_| failure("generating an RSA key"))?;
        let pkcs8 = key.to_pkcs8_der().map_err(|_| failure("encoding an RSA key"))?.to_bytes();
        Ok(RsaMaterial { pkcs8, public_pem: public_pem(key.as_public_key())? })
    }
    fn rsa_private(&self, pkcs8_der: &[u8]) -> Result<Box<dyn RsaPrivate>> {
        rsa_key::check_private(pkcs8_der)?;
        let key = rsa::PrivateKey::from_pkcs8_der(pkcs8_der).map_err(|_| rsa_key::private_malformed())?;
        Ok(Box::new(PrivateKey(key)))
    }
    fn rsa_public(&self, spki_pem: &str) -> Result<Box<dyn RsaPublic>> {
        let der = rsa_key::public_der(spki_pem)?;
        let key = rsa::PublicKey::from_public_key_der(&der).map_err(|_| rsa_key::public_refused())?;
        Ok(Box::new(PublicKey(key)))
    }
    fn ed25519(&self, seed: &[u8; 32]) -> Result<Box<dyn Ed25519>> {
        Ok(Box::new(EdKey(SigningKey::from_bytes(seed))))
    }
    fn ed25519_verify(&self, public_key: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
        let Ok(signature) = Signature::from_slice(signature) else { return false };
        // Strict, because with a public key of small order one signature could be valid for many messages.
        VerifyingKey::from_bytes(public_key).is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
    }
}

struct AesKey(Aes256Gcm);

impl Aead for AesKey {
    fn seal(&self, nonce: &[u8; NONCE], aad: &[u8], buffer: &mut Vec<u8>, offset: usize) -> Result<()> {
        let plaintext = buffer.get_mut(offset..).ok_or_else(|| failure("the offset is outside of the buffer"))?;
        let tag = self
            .0
            .encrypt_inout_detached(nonce.into(), aad, plaintext.into())
            .map_err(|_| failure("AES-GCM encryption"))?;
        // Appended after the encryption, so that a buffer that grows leaves a copy of ciphertext, not of plaintext.
        buffer.extend_from_slice(&tag);
        Ok(())
    }
    fn open(&self, nonce: &[u8; NONCE], aad: &[u8], ciphertext_and_tag: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let (ciphertext, tag) = ciphertext_and_tag.split_last_chunk::<TAG>().ok_or_else(decryption_failed)?;
        let mut plaintext = Zeroizing::new(vec![0; ciphertext.len()]);
        let buffer = InOutBuf::new(ciphertext, &mut plaintext).map_err(|_| failure("AES-GCM decryption"))?;
        self.0.decrypt_inout_detached(nonce.into(), aad, buffer, tag.into()).map_err(|_| decryption_failed())?;
        Ok(plaintext)
    }
}

struct PrivateKey(rsa::PrivateKey);

impl RsaPrivate for PrivateKey {
    fn oaep_decrypt(&self, label: &[u8], ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        // The crate ignores the first byte of the padding, as draft-irtf-cfrg-rsa-guidance (section 7) recommends,
        // because checking it enables Manger's attack. AWS-LC checks it, as in RFC 8017.
        self.0
            .decrypt_blinded(&mut SysRng, Oaep::<Sha256>::new_with_label(label), ciphertext)
            .map(Zeroizing::new)
            .map_err(|_| decryption_failed())
    }
    fn sign_digest(&self, algorithm: SignatureAlgorithm, digest: &[u8; 32]) -> Result<Vec<u8>> {
        match algorithm {
            SignatureAlgorithm::RsaPkcs1Sha256 => {
                self.0.sign_with_rng(&mut SysRng, Pkcs1v15Sign::new::<Sha256>(), digest)
            }
            SignatureAlgorithm::RsaPssSha256 => {
                self.0.sign_with_rng(&mut SysRng, Pss::<Sha256>::new_blinded_with_salt(SALT), digest)
            }
        }
        .map_err(|_| failure("RSA signature"))
    }
    fn public_pem(&self) -> Result<String> {
        public_pem(self.0.as_public_key())
    }
}

fn public_pem(key: &rsa::PublicKey) -> Result<String> {
    let der = key.to_public_key_der().map_err(|_| failure("encoding a public key"))?;
    rsa_key::public_pem(der.as_bytes())
}

struct PublicKey(rsa::PublicKey);

impl RsaPublic for PublicKey {
    fn oaep_encrypt(&self, label: &[u8], plaintext: &[u8]) -> Result<Vec<u8>> {
        check_rsa_plaintext(plaintext)?;
        self.0
            .encrypt(&mut SysRng, Oaep::<Sha256>::new_with_label(label), plaintext)
            .map_err(|_| failure("RSA encryption"))
    }
    fn verify_digest(&self, algorithm: SignatureAlgorithm, digest: &[u8; 32], signature: &[u8]) -> bool {
        match algorithm {
            SignatureAlgorithm::RsaPkcs1Sha256 => self.0.verify(Pkcs1v15Sign::new::<Sha256>(), digest, signature),
            SignatureAlgorithm::RsaPssSha256 => self.0.verify(Pss::<Sha256>::new_with_salt(SALT), digest, signature),
        }
        .is_ok()
    }
}

struct EdKey(SigningKey);

impl Ed25519 for EdKey {
    fn public_key(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }
    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

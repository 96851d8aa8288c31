//! The provider over AWS-LC, whose private operations are constant time and blinded.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest::{Digest, SHA256};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{
    KeyPair, KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey,
    PublicEncryptingKey,
};
use aws_lc_rs::signature::{
    ED25519, Ed25519KeyPair, KeyPair as _, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_SHA256, UnparsedPublicKey,
};
use zeroize::Zeroizing;

use super::provider::{
    Aead, CryptoProvider, Ed25519, NONCE, Provider, RSA_BYTES, RsaMaterial, RsaPrivate, RsaPublic, SignatureAlgorithm,
    TAG, check_rsa_plaintext, decryption_failed, failure,
};
use super::rsa_key;
use crate::types::error::Result;

/// The provider over AWS-LC.
#[derive(Clone, Copy, Debug)]
pub struct AwsLc;

impl Provider for AwsLc {
    fn name(&self) -> CryptoProvider {
        CryptoProvider::AwsLc
    }
    fn random(&self, out: &mut [u8]) -> Result<()> {
        aws_lc_rs::rand::fill(out).map_err(|_| failure("random bytes"))
    }
    fn aes(&self, key: &[u8; 32]) -> Result<Box<dyn Aead>> {
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| failure("loading an AES key"))?;
        Ok(Box::new(AesKey(LessSafeKey::new(key))))
    }
    fn rsa_generate(&self) -> Result<RsaMaterial> {
        let key = KeyPair::generate(KeySize::Rsa2048).map_err(|_| failure("generating an RSA key"))?;
        let pkcs8 = key.as_der().map_err(|_| failure("encoding an RSA key"))?;
        Ok(RsaMaterial { pkcs8: Zeroizing::new(pkcs8.as_ref().to_vec()), public_pem: public_pem(&key)? })
    }
    fn rsa_private(&self, pkcs8_der: &[u8]) -> Result<Box<dyn RsaPrivate>> {
        rsa_key::check_private(pkcs8_der)?;
        let signing = KeyPair::from_pkcs8(pkcs8_der).map_err(|_| rsa_key::private_malformed())?;
        let decrypting = PrivateDecryptingKey::from_pkcs8(pkcs8_der).map_err(|_| rsa_key::private_malformed())?;
        let decrypting = OaepPrivateDecryptingKey::new(decrypting).map_err(|_| failure("loading an RSA key"))?;
        Ok(Box::new(PrivateKey { signing, decrypting }))
    }
    fn rsa_public(&self, spki_pem: &str) -> Result<Box<dyn RsaPublic>> {
        let der = rsa_key::public_der(spki_pem)?;
        let encrypting = PublicEncryptingKey::from_der(&der).map_err(|_| rsa_key::public_refused())?;
        let encrypting = OaepPublicEncryptingKey::new(encrypting).map_err(|_| rsa_key::public_refused())?;
        let pkcs1 = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &der).map_err(|_| rsa_key::public_refused())?;
        let pss = ParsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, &der).map_err(|_| rsa_key::public_refused())?;
        Ok(Box::new(PublicKey { encrypting, pkcs1, pss }))
    }
    fn ed25519(&self, seed: &[u8; 32]) -> Result<Box<dyn Ed25519>> {
        let key = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| failure("loading an Ed25519 key"))?;
        let mut public = [0; 32];
        public.copy_from_slice(key.public_key().as_ref());
        Ok(Box::new(EdKey { key, public }))
    }
    fn ed25519_verify(&self, public_key: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, public_key).verify(message, signature).is_ok()
    }
}

struct AesKey(LessSafeKey);

impl Aead for AesKey {
    fn seal(&self, nonce: &[u8; NONCE], aad: &[u8], buffer: &mut Vec<u8>, offset: usize) -> Result<()> {
        let plaintext = buffer.get_mut(offset..).ok_or_else(|| failure("the offset is outside of the buffer"))?;
        let tag = self
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), plaintext)
            .map_err(|_| failure("AES-GCM encryption"))?;
        // Appended after the encryption, so that a buffer that grows leaves a copy of ciphertext, not of plaintext.
        buffer.extend_from_slice(tag.as_ref());
        Ok(())
    }
    fn open(&self, nonce: &[u8; NONCE], aad: &[u8], ciphertext_and_tag: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let (ciphertext, tag) = ciphertext_and_tag.split_last_chunk::<TAG>().ok_or_else(decryption_failed)?;
        let mut plaintext = Zeroizing::new(vec![0; ciphertext.len()]);
        self.0
            .open_separate_gather(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), ciphertext, tag, &mut plaintext)
            .map_err(|_| decryption_failed())?;
        Ok(plaintext)
    }
}

/// An RSA private key, loaded twice because AWS-LC's bindings have a separate type for each use.
struct PrivateKey {
    signing: KeyPair,
    decrypting: OaepPrivateDecryptingKey,
}

impl RsaPrivate for PrivateKey {
    fn oaep_decrypt(&self, label: &[u8], ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        if ciphertext.len() != RSA_BYTES {
            return Err(decryption_failed());
        }
        let mut plaintext = Zeroizing::new(vec![0; RSA_BYTES]);
        let length = self
            .decrypting
            .decrypt(&OAEP_SHA256_MGF1SHA256, ciphertext, &mut plaintext, Some(label))
            .map_err(|_| decryption_failed())?
            .len();
        plaintext.truncate(length);
        Ok(plaintext)
    }
    fn sign_digest(&self, algorithm: SignatureAlgorithm, digest: &[u8; 32]) -> Result<Vec<u8>> {
        let encoding = match algorithm {
            SignatureAlgorithm::RsaPkcs1Sha256 => &RSA_PKCS1_SHA256,
            SignatureAlgorithm::RsaPssSha256 => &RSA_PSS_SHA256,
        };
        let mut signature = vec![0; RSA_BYTES];
        let digest = Digest::import_less_safe(digest, &SHA256).map_err(|_| failure("RSA signature"))?;
        self.signing.sign_digest(encoding, &digest, &mut signature).map_err(|_| failure("RSA signature"))?;
        Ok(signature)
    }
    fn public_pem(&self) -> Result<String> {
        public_pem(&self.signing)
    }
}

fn public_pem(key: &KeyPair) -> Result<String> {
    let der = key.public_key().as_der().map_err(|_| failure("encoding a public key"))?;
    rsa_key::public_pem(der.as_ref())
}

struct PublicKey {
    encrypting: OaepPublicEncryptingKey,
    pkcs1: ParsedPublicKey,
    pss: ParsedPublicKey,
}

impl RsaPublic for PublicKey {
    fn oaep_encrypt(&self, label: &[u8], plaintext: &[u8]) -> Result<Vec<u8>> {
        check_rsa_plaintext(plaintext)?;
        let mut ciphertext = vec![0; RSA_BYTES];
        self.encrypting
            .encrypt(&OAEP_SHA256_MGF1SHA256, plaintext, &mut ciphertext, Some(label))
            .map_err(|_| failure("RSA encryption"))?;
        Ok(ciphertext)
    }
    fn verify_digest(&self, algorithm: SignatureAlgorithm, digest: &[u8; 32], signature: &[u8]) -> bool {
        let key = match algorithm {
            SignatureAlgorithm::RsaPkcs1Sha256 => &self.pkcs1,
            SignatureAlgorithm::RsaPssSha256 => &self.pss,
        };
        Digest::import_less_safe(digest, &SHA256).is_ok_and(|digest| key.verify_digest_sig(&digest, signature).is_ok())
    }
}

struct EdKey {
    key: Ed25519KeyPair,
    public: [u8; 32],
}

impl Ed25519 for EdKey {
    fn public_key(&self) -> [u8; 32] {
        self.public
    }
    fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.key.sign(message).as_ref());
        signature
    }
}

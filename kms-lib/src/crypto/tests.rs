//! Compatibility of the providers with each other, and rejection of damaged ciphertexts.

#![allow(clippy::unwrap_used)]

use std::sync::OnceLock;

use super::ciphertext::{Ciphertext, EncryptionAlgorithm, HEADER, open, rsa_open, rsa_seal, seal};
use super::provider::{NONCE, RSA_BYTES, RsaMaterial, SignatureAlgorithm, TAG};
use super::*;
use crate::types::context::Context;
use crate::types::error::ErrorCode;
use crate::types::ids::KeyId;
use crate::types::key::MaterialId;

fn providers() -> Vec<Arc<dyn Provider>> {
    [CryptoProvider::AwsLc, CryptoProvider::RustCrypto].into_iter().filter_map(|name| provider(name).ok()).collect()
}

/// A key of each provider, generated once because that is slow.
fn materials() -> &'static [RsaMaterial] {
    static MATERIALS: OnceLock<Vec<RsaMaterial>> = OnceLock::new();
    MATERIALS.get_or_init(|| providers().iter().map(|provider| provider.rsa_generate().unwrap()).collect())
}

/// The material id of version 3 of a key.
fn material_id() -> MaterialId {
    MaterialId { key: KeyId::from_bytes([5; 16]), version: 3, fingerprint: [6; 32] }
}

fn context() -> Context {
    Context::from([("tenant", "acme"), ("table", "users")])
}

#[test]
fn names_and_defaults() {
    for name in [CryptoProvider::AwsLc, CryptoProvider::RustCrypto] {
        assert_eq!(CryptoProvider::parse(name.as_str()).unwrap(), name);
        match provider(name) {
            Ok(provider) => assert_eq!(provider.name(), name),
            Err(error) => assert_eq!(error.code(), ErrorCode::InvalidConfiguration),
        }
    }
    assert_eq!(CryptoProvider::parse("openssl").unwrap_err().code(), ErrorCode::InvalidConfiguration);
    assert!(provider(CryptoProvider::default()).is_ok());
    assert_eq!(CryptoProvider::default() == CryptoProvider::AwsLc, cfg!(feature = "aws-lc"));
}

#[test]
fn random_fills() {
    for provider in providers() {
        let (mut a, mut b) = ([0; 32], [0; 32]);
        provider.random(&mut a).unwrap();
        provider.random(&mut b).unwrap();
        assert_ne!(a, b);
        assert_ne!(a[16..], [0; 16]);
        provider.random(&mut []).unwrap();
    }
}

#[test]
fn aes_is_the_same_in_both() {
    let (key, id) = ([7; 32], material_id());
    for maker in providers() {
        for length in [0, 1, 15, 16, 17, 1000, 65_537] {
            let plaintext: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let blob = seal(&*maker, &*maker.aes(&key).unwrap(), &id, &context(), &plaintext).unwrap();
            assert_eq!(blob.len(), HEADER + NONCE + length + TAG);
            assert_eq!(blob.capacity(), blob.len());
            let parsed = Ciphertext::parse(&blob).unwrap();
            assert_eq!((parsed.algorithm, parsed.key, parsed.version), (EncryptionAlgorithm::Aes256Gcm, id.key, 3));
            for reader in providers() {
                let aead = reader.aes(&key).unwrap();
                assert_eq!(*open(&*aead, &id, &parsed, &context()).unwrap(), plaintext);
                let error = open(&*aead, &id, &parsed, &Context::new()).unwrap_err();
                assert_eq!(error.code(), ErrorCode::DecryptionFailed);
                let wrong = reader.aes(&[8; 32]).unwrap();
                assert_eq!(open(&*wrong, &id, &parsed, &context()).unwrap_err().code(), ErrorCode::DecryptionFailed);
            }
        }
    }
}

#[test]
fn nonces_differ() {
    for provider in providers() {
        let aead = provider.aes(&[1; 32]).unwrap();
        let blob = || seal(&*provider, &*aead, &material_id(), &context(), b"x").unwrap()[HEADER..][..NONCE].to_vec();
        assert_ne!(blob(), blob());
    }
}

#[test]
fn an_offset_outside_of_the_buffer_is_an_error() {
    for provider in providers() {
        let aead = provider.aes(&[1; 32]).unwrap();
        let mut buffer = vec![1, 2, 3];
        assert!(aead.seal(&[0; NONCE], b"", &mut buffer, 4).is_err());
        assert_eq!(buffer, [1, 2, 3]);
        for length in 0..TAG {
            let error = aead.open(&[0; NONCE], b"", &vec![0; length]).unwrap_err();
            assert_eq!(error.code(), ErrorCode::DecryptionFailed);
        }
    }
}

#[test]
fn rsa_keys_of_one_load_in_the_other() {
    for material in materials() {
        for loader in providers() {
            let private = loader.rsa_private(&material.pkcs8).unwrap();
            assert_eq!(private.public_pem().unwrap(), material.public_pem);
            assert!(material.public_pem.starts_with("-----BEGIN PUBLIC KEY-----\n"));
            assert!(material.public_pem.ends_with("\n-----END PUBLIC KEY-----\n"));
            loader.rsa_public(&material.public_pem).unwrap();
        }
        let shown = format!("{material:?}");
        assert!(shown.contains("BEGIN PUBLIC KEY") && !shown.contains("pkcs8"));
    }
}

#[test]
fn rsa_ciphertexts_and_signatures_of_one_are_good_in_the_other() {
    let id = material_id();
    for material in materials() {
        for maker in providers() {
            let public = maker.rsa_public(&material.public_pem).unwrap();
            let private = maker.rsa_private(&material.pkcs8).unwrap();
            for reader in providers() {
                let other_public = reader.rsa_public(&material.public_pem).unwrap();
                let other_private = reader.rsa_private(&material.pkcs8).unwrap();
                for length in [0, 1, 190] {
                    let plaintext = vec![0x5A; length];
                    let blob = rsa_seal(&*public, &id, &context(), &plaintext).unwrap();
                    let parsed = Ciphertext::parse(&blob).unwrap();
                    assert_eq!(
                        (parsed.algorithm, parsed.key, parsed.version),
                        (EncryptionAlgorithm::RsaOaepSha256, id.key, 3)
                    );
                    assert_eq!(*rsa_open(&*other_private, &id, &parsed, &context()).unwrap(), plaintext);
                    let error = rsa_open(&*other_private, &id, &parsed, &Context::new()).unwrap_err();
                    assert_eq!(error.code(), ErrorCode::DecryptionFailed);
                    // Without a label, as other tools encrypt with the public key.
                    let raw = public.oaep_encrypt(b"", &plaintext).unwrap();
                    assert_eq!(*other_private.oaep_decrypt(b"", &raw).unwrap(), plaintext);
                }
                for algorithm in SignatureAlgorithm::ALL {
                    let signature = private.sign(*algorithm, b"message").unwrap();
                    assert_eq!(signature.len(), RSA_BYTES);
                    for candidate in SignatureAlgorithm::ALL {
                        let good = other_public.verify(*candidate, b"message", &signature);
                        assert_eq!(good, candidate == algorithm);
                    }
                    assert!(!other_public.verify(*algorithm, b"another", &signature));
                    assert!(!other_public.verify(*algorithm, b"message", &signature[1..]));
                    assert!(!other_public.verify(*algorithm, b"message", &[&signature[..], &[0]].concat()));
                    assert!(!other_public.verify(*algorithm, b"message", &[]));
                }
            }
        }
    }
}

#[test]
fn rsa_refuses_long_plaintexts_and_odd_ciphertexts() {
    let material = &materials()[0];
    for provider in providers() {
        let public = provider.rsa_public(&material.public_pem).unwrap();
        let private = provider.rsa_private(&material.pkcs8).unwrap();
        let error = public.oaep_encrypt(b"", &[0; 191]).unwrap_err();
        assert_eq!(error.code(), ErrorCode::PlaintextTooLong);
        for ciphertext in [vec![], vec![0; 255], vec![0; 256], vec![0xFF; 256], vec![0; 257]] {
            let error = private.oaep_decrypt(b"", &ciphertext).unwrap_err();
            assert_eq!(error.code(), ErrorCode::DecryptionFailed);
        }
    }
}

#[test]
fn rsa_keys_are_read_strictly() {
    let material = &materials()[0];
    let pem = &material.public_pem;
    let der = rsa_key::public_der(pem).unwrap();
    let pkcs1 = pem.replace("PUBLIC KEY", "RSA PUBLIC KEY");
    let trailing = rsa_key::public_pem(&[&der[..], &[0]].concat()).unwrap();
    // The last byte of the object identifier: rsaEncryption becomes id-RSASSA-PSS or an unknown one.
    let oid = der.windows(3).position(|w| w == [0x01, 0x01, 0x01]).unwrap() + 2;
    let mut pss = der.clone();
    pss[oid] = 10;
    let pss = rsa_key::public_pem(&pss).unwrap();
    for provider in providers() {
        let bad = ["", "PUBLIC KEY", &pem[..pem.len() / 2], &pkcs1, &trailing, &pss];
        for (index, text) in bad.into_iter().enumerate() {
            let Err(error) = provider.rsa_public(text) else { panic!("public key {index} was accepted") };
            assert_eq!(error.code(), ErrorCode::InvalidArgument);
        }
        let long = [&material.pkcs8[..], &[0]].concat();
        for (index, key) in [&[][..], &material.pkcs8[1..], &material.pkcs8[..100], &long, &der].into_iter().enumerate()
        {
            let Err(error) = provider.rsa_private(key) else { panic!("private key {index} was accepted") };
            assert_eq!(error.code(), ErrorCode::InvalidArgument);
        }
    }
}

/// Loading a damaged private key returns an error or a key that still works, but never panics.
#[test]
fn damaged_private_keys_do_not_panic() {
    let material = &materials()[0];
    for provider in providers() {
        for index in (0..material.pkcs8.len()).step_by(7) {
            let mut key = material.pkcs8.to_vec();
            key[index] ^= 0x10;
            if let Ok(private) = provider.rsa_private(&key) {
                let _ = private.sign(SignatureAlgorithm::RsaPkcs1Sha256, b"message");
            }
        }
    }
}

#[test]
fn ed25519_is_the_same_in_both() {
    // RFC 8032, 7.1, test 1.
    let seed: [u8; 32] = std::array::from_fn(|i| {
        let hex = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        u8::from_str_radix(&hex[2 * i..][..2], 16).unwrap()
    });
    let mut made = Vec::new();
    for maker in providers() {
        let key = maker.ed25519(&seed).unwrap();
        assert_eq!(key.public_key()[..4], [0xd7, 0x5a, 0x98, 0x01]);
        assert_eq!(key.sign(b"")[..4], [0xe5, 0x56, 0x43, 0x00]);
        let signature = key.sign(b"message");
        for reader in providers() {
            assert!(reader.ed25519_verify(&key.public_key(), b"message", &signature));
            assert!(!reader.ed25519_verify(&key.public_key(), b"another", &signature));
            assert!(!reader.ed25519_verify(&[1; 32], b"message", &signature));
            assert!(!reader.ed25519_verify(&key.public_key(), b"message", &signature[..63]));
            assert!(!reader.ed25519_verify(&key.public_key(), b"message", &[]));
        }
        made.push(signature);
    }
    assert!(made.windows(2).all(|pair| pair[0] == pair[1]));
}

/// Damages a blob by one byte in every way: all bits or one bit of a byte flipped, a byte removed or added.
fn damaged(blob: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let flipped = (0..blob.len()).flat_map(move |index| {
        [0x01, 0x03, 0x80, 0xFF].into_iter().map(move |mask| {
            let mut copy = blob.to_vec();
            copy[index] ^= mask;
            copy
        })
    });
    let cut = (0..blob.len()).map(|length| blob[..length].to_vec());
    let removed = (0..blob.len()).map(|index| [&blob[..index], &blob[index + 1..]].concat());
    flipped.chain(cut).chain(removed).chain([[blob, &[0]].concat(), [&[1], blob].concat()])
}

fn expected(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::InvalidCiphertext | ErrorCode::DecryptionFailed)
}

#[test]
fn a_damaged_aes_blob_is_an_error() {
    for provider in providers() {
        let aead = provider.aes(&[9; 32]).unwrap();
        for length in [0, 40, RSA_BYTES - NONCE - TAG] {
            let blob = seal(&*provider, &*aead, &material_id(), &context(), &vec![0x42; length]).unwrap();
            for bad in damaged(&blob) {
                if bad == blob {
                    continue;
                }
                let result = Ciphertext::parse(&bad).and_then(|blob| open(&*aead, &material_id(), &blob, &context()));
                assert!(expected(result.unwrap_err().code()));
            }
        }
    }
}

#[test]
fn a_damaged_rsa_blob_is_an_error() {
    let material = &materials()[0];
    for provider in providers() {
        let public = provider.rsa_public(&material.public_pem).unwrap();
        let private = provider.rsa_private(&material.pkcs8).unwrap();
        let blob = rsa_seal(&*public, &material_id(), &context(), b"secret").unwrap();
        for bad in damaged(&blob) {
            if bad == blob {
                continue;
            }
            let result =
                Ciphertext::parse(&bad).and_then(|blob| rsa_open(&*private, &material_id(), &blob, &context()));
            assert!(expected(result.unwrap_err().code()));
        }
    }
}

#[test]
fn parsing_says_what_is_wrong() {
    let message = |bytes: &[u8]| {
        let error = Ciphertext::parse(bytes).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidCiphertext);
        error.message().to_owned()
    };
    let blob = |format: u8, algorithm: u8, version: u32, body: usize| {
        [&[format, algorithm][..], &[5; 16], &version.to_be_bytes(), &[6; 8], &vec![0; body]].concat()
    };
    assert!(message(&[]).contains("empty"));
    assert!(message(&[1]).contains("truncated"));
    assert!(message(&blob(1, 1, 1, NONCE + TAG - 1)).contains("truncated"));
    assert!(message(&blob(2, 1, 1, 100)).contains("format 2 is newer than this software"));
    assert!(message(&[200]).contains("format 200"));
    assert!(message(&blob(0, 1, 1, 100)).contains("format 0"));
    assert!(message(&blob(1, 3, 1, 100)).contains("algorithm 3 is unknown"));
    assert!(message(&blob(1, 1, 0, 100)).contains("version 0"));
    assert!(message(&blob(1, 2, 1, 255)).contains("285 bytes; 286 are expected"));
    let good = blob(1, 1, u32::MAX, NONCE + TAG);
    let parsed = Ciphertext::parse(&good).unwrap();
    assert_eq!((parsed.key, parsed.version), (KeyId::from_bytes([5; 16]), u32::MAX));
    assert_eq!(parsed.body.len(), NONCE + TAG);
}

#[test]
fn other_material_of_the_same_version_is_told_apart() {
    let provider = provider(CryptoProvider::RustCrypto).unwrap();
    let aead = provider.aes(&[1; 32]).unwrap();
    let blob = seal(&*provider, &*aead, &material_id(), &context(), b"x").unwrap();
    let parsed = Ciphertext::parse(&blob).unwrap();
    let restored = MaterialId { fingerprint: [7; 32], ..material_id() };
    let error = open(&*aead, &restored, &parsed, &context()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::DecryptionFailed);
    assert!(error.message().contains("version 3 of the key has other material"), "{error}");
    // The bytes of the fingerprint that are not in the ciphertext are bound too.
    let mut similar = material_id();
    similar.fingerprint[31] ^= 1;
    let error = open(&*aead, &similar, &parsed, &context()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::DecryptionFailed);
    for other in [MaterialId { version: 4, ..material_id() }, MaterialId { key: KeyId::random(), ..material_id() }] {
        let error = open(&*aead, &other, &parsed, &context()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidCiphertext);
    }
}

#[test]
fn a_blob_of_another_algorithm_is_refused() {
    let provider = provider(CryptoProvider::RustCrypto).unwrap();
    let material = &materials()[0];
    let aead = provider.aes(&[1; 32]).unwrap();
    let blob = seal(&*provider, &*aead, &material_id(), &context(), b"x").unwrap();
    let private = provider.rsa_private(&material.pkcs8).unwrap();
    let error = rsa_open(&*private, &material_id(), &Ciphertext::parse(&blob).unwrap(), &context()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidCiphertext);
    let public = provider.rsa_public(&material.public_pem).unwrap();
    let blob = rsa_seal(&*public, &material_id(), &context(), b"x").unwrap();
    let error = open(&*aead, &material_id(), &Ciphertext::parse(&blob).unwrap(), &context()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidCiphertext);
}

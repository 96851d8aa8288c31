//! Tests of imported keys with the ciphertexts and signatures of the original.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kms_lib::{Context, DecryptItem, ErrorCode, ImportJob, KeyId, KeyState, Kms, SignatureAlgorithm, VersionState};
use serde_json::Value;

use crate::common::{admin, code};
use crate::{Original, import, original, place};

fn bytes(value: &Value) -> Option<Vec<u8>> {
    value.as_str().map(|text| STANDARD.decode(text).unwrap())
}

fn key(value: &Value) -> KeyId {
    value["keyId"].as_str().unwrap().parse().unwrap()
}

/// Decrypts every ciphertext and verifies every signature that the original's API returned, except those of revoked
/// versions.
async fn check_all(kms: &Kms, original: &Original) {
    let session = admin(kms);
    let (mut decrypted, mut revoked) = (0, 0);
    for (it, aad) in original.list("ciphertexts").iter().zip(&original.aads) {
        let (ciphertext, iv, tag) = (bytes(&it["ciphertext"]).unwrap(), bytes(&it["iv"]), bytes(&it["authTag"]));
        let version = u32::try_from(it["version"].as_u64().unwrap()).unwrap();
        let item = || {
            let mut item = DecryptItem::imported(key(it), &ciphertext, aad.as_deref()).version(version);
            item.iv = iv.as_deref();
            item.auth_tag = tag.as_deref();
            item
        };
        let state = session.get_version(key(it), version).await.unwrap().state;
        if state == VersionState::Revoked {
            assert_eq!(code(session.decrypt_item(item()).await), ErrorCode::VersionRevoked);
            revoked += 1;
            continue;
        }
        let opened = session.decrypt_item(item()).await.unwrap();
        assert_eq!(opened.plaintext.as_slice(), it["plaintext"].as_str().unwrap().as_bytes(), "{it}");
        assert_eq!(opened.version, version);
        let batch = session.decrypt_batch(&[item(), item()]).await.unwrap();
        assert!(batch.iter().all(|one| one.as_ref().unwrap().plaintext == opened.plaintext));
        // With another context, authentication fails.
        if iv.is_some() {
            let mut other = item();
            other.imported_aad = Some("{\"tenant\":\"other\"}");
            assert_eq!(code(session.decrypt_item(other).await), ErrorCode::DecryptionFailed);
        }
        decrypted += 1;
    }
    assert!(decrypted >= 6 && decrypted + revoked == original.list("ciphertexts").len(), "{decrypted} {revoked}");
    for it in original.list("signatures") {
        let (payload, signature) = (it["payload"].as_str().unwrap().as_bytes(), bytes(&it["signature"]).unwrap());
        let version = u32::try_from(it["version"].as_u64().unwrap()).ok();
        let algorithm = SignatureAlgorithm::RsaPkcs1Sha256;
        for version in [version, None] {
            let found = session.verify(key(it), payload, &signature, algorithm, version).await.unwrap();
            assert!(found.valid, "{it}");
        }
        let altered = session.verify(key(it), b"altered", &signature, algorithm, version).await.unwrap();
        assert!(!altered.valid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_from_the_original_can_be_decrypted_and_verified() {
    for name in ["clean", "forked"] {
        let original = original!(name);
        let place = place();
        let kms = place.open().await;
        let report = import(&kms, &original, &ImportJob::default()).await;
        assert!(report.is_complete(), "{report:?}");
        assert_eq!((report.keys.imported, report.versions.imported, report.grants.imported), (5, 8, 4));
        check_all(&kms, &original).await;
        let session = admin(&kms);
        assert!(session.verify_audit().await.unwrap().ok);
        kms.close().await.unwrap();
        // Another process has the same results.
        let kms = place.open().await;
        check_all(&kms, &original).await;
        kms.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_described_as_the_original_described_them() {
    let original = original!("clean");
    let place = place();
    let kms = place.open().await;
    import(&kms, &original, &ImportJob::default()).await;
    let session = admin(&kms);
    for it in original.list("keys") {
        let described = session.get_key(it["id"].as_str().unwrap()).await.unwrap();
        let mut here = serde_json::to_value(&described).unwrap();
        let versions = here["versions"].take();
        for name in [
            "id",
            "name",
            "type",
            "purpose",
            "state",
            "rotationPeriodDays",
            "gracePeriodDays",
            "metadata",
            "currentVersion",
        ] {
            assert_eq!(here[name], it[name], "{name} of {it}");
        }
        let versions = versions.as_array().unwrap();
        for there in it["versions"].as_array().unwrap() {
            let here = versions.iter().find(|here| here["version"] == there["version"]).unwrap();
            for name in ["id", "keyId", "version", "state", "gracePeriodDays", "publicKeyPem"] {
                assert_eq!(here[name], there[name], "{name} of {there}");
            }
            for name in ["createdAt", "notAfter", "notBefore"] {
                let time = |value: &Value| value.as_str().map(|text| text.parse::<kms_lib::Timestamp>().unwrap());
                assert_eq!(time(&here[name]), time(&there[name]), "{name} of {there}");
            }
        }
    }
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn imported_versions_neither_encrypt_nor_sign_until_the_keys_are_rotated() {
    let original = original!("clean");
    let place = place();
    let kms = place.open().await;
    let report = import(&kms, &original, &ImportJob::default()).await;
    assert_eq!(report.keys_to_rotate, 4);
    let session = admin(&kms);
    let context = Context::new();
    assert_eq!(code(session.encrypt("aes256_gcm-1-0", b"x", &context).await), ErrorCode::WrongState);
    let algorithm = SignatureAlgorithm::RsaPkcs1Sha256;
    assert_eq!(code(session.sign("rsa_2048-1-1", b"x", algorithm).await), ErrorCode::WrongState);
    // Until the import is finalized, the source controls the keys.
    assert_eq!(code(session.rotate_key("aes256_gcm-1-0", None).await), ErrorCode::ImportOpen);
    let report = import(&kms, &original, &ImportJob::default().rotate(true)).await;
    assert_eq!((report.keys_rotated, report.keys_to_rotate), (4, 0));
    let sealed = session.encrypt("aes256_gcm-1-0", b"x", &context).await.unwrap();
    assert_eq!(session.decrypt(&sealed.ciphertext, &context).await.unwrap().plaintext.as_slice(), b"x");
    session.sign("rsa_2048-1-1", b"x", algorithm).await.unwrap();
    // The original's ciphertexts decrypt as before, and the rotation set no end for the imported versions.
    check_all(&kms, &original).await;
    let former = session.get_version("aes256_gcm-1-0", 2).await.unwrap();
    assert_eq!((former.state, former.not_after), (VersionState::Disabled, None));
    // A ciphertext without a version number decrypts with the newest imported version.
    let (raw, aad) =
        original.list("ciphertexts").iter().zip(&original.aads).find(|(it, _)| it["version"] == 2).unwrap();
    let (ciphertext, iv, tag) = (bytes(&raw["ciphertext"]).unwrap(), bytes(&raw["iv"]), bytes(&raw["authTag"]));
    let mut item = DecryptItem::imported(key(raw), &ciphertext, aad.as_deref());
    (item.iv, item.auth_tag) = (iv.as_deref(), tag.as_deref());
    assert_eq!(session.decrypt_item(item.clone()).await.unwrap().version, 2);
    // A version created in this store is not tried for such a ciphertext.
    let own = sealed.version;
    assert_eq!(code(session.decrypt_item(item.clone().version(own)).await), ErrorCode::InvalidCiphertext);
    assert_eq!(code(session.decrypt_item(item.version(77)).await), ErrorCode::VersionNotFound);
    assert!(session.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_purpose_of_an_imported_key_is_not_enforced_for_old_data() {
    let original = original!("clean");
    // The original did not enforce the purpose: the signing keys encrypted, and the encryption key signed.
    original.sql("UPDATE `keys` SET purpose = IF(purpose = 'SIGNING', 'ENCRYPTION', 'SIGNING')");
    let place = place();
    let kms = place.open().await;
    let report = import(&kms, &original, &ImportJob::default().rotate(true)).await;
    assert!(report.is_complete(), "{report:?}");
    check_all(&kms, &original).await;
    let session = admin(&kms);
    let aes = session.get_key("aes256_gcm-1-0").await.unwrap();
    assert_eq!((aes.state, aes.current_version), (KeyState::Enabled, 2), "it cannot be rotated to any use");
    assert!(session.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

//! The import of material that AWS KMS wrapped for Mini KMS on Node.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kms_lib::internals::{Provider, RustCrypto};
use kms_lib::{DecryptItem, ErrorCode, ImportFindingKind, ImportJob, ImportSource};
use kms_test_support::aws::Aws;
use kms_test_support::{AwsKey, REGION, test_name};
use serde_json::json;

use crate::common::{Place, admin, code};
use crate::{calls, count, root, with_aws};

const KEY: &str = "26bf24cd-1537-4183-9100-e3585fe82a01";
const MATERIAL: [u8; 32] = [0x5A; 32];

/// Writes a key of an older version of the original, whose material is wrapped by a key in AWS KMS under this context.
fn write_source(folder: &Path, aws: &Aws, key: &AwsKey, version_in_context: &str) {
    let context = json!({"keyId": KEY, "version": version_in_context, "type": "AES256_GCM"});
    let sealed = aws.admin.call(
        REGION,
        "Encrypt",
        &json!({"KeyId": key.id, "Plaintext": STANDARD.encode(MATERIAL), "EncryptionContext": context}),
    );
    let keys = json!([{
        "id": KEY, "name": "payments", "type": "AES256_GCM", "purpose": "ENCRYPTION", "state": "ENABLED",
        "createdAt": "2025-10-06T13:10:50.484Z", "currentVersion": 1,
    }]);
    let versions = json!([{
        "id": "52683160-80a8-450c-b062-051e4675c168", "keyId": KEY, "version": 1, "state": "ENABLED",
        "createdAt": "2025-10-06T13:10:50.484Z",
        "wrappedMaterial": {
            "algorithm": "AWS-KMS", "ciphertext": sealed["CiphertextBlob"],
            "encryptionContext": {"keyId": KEY, "version": "1", "type": "AES256_GCM"}, "metadata": {"keyId": key.arn},
        },
    }]);
    std::fs::write(folder.join("keys.json"), keys.to_string()).unwrap();
    std::fs::write(folder.join("key_versions.json"), versions.to_string()).unwrap();
}

#[test]
fn material_that_aws_wrapped_comes_over() {
    with_aws(test_name!(), |aws| async move {
        let key = aws.admin.create_key();
        let folder = tempfile::tempdir().unwrap();
        write_source(folder.path(), &aws, &key, "1");
        // No master secret: there is nothing that one opens.
        let from = ImportSource::parse(folder.path().to_str().unwrap()).unwrap().aws(root(&aws, "alias/unused"));
        let place = Place::in_a_file();
        let kms = place.open().await;
        let session = admin(&kms);
        calls(&aws);
        let dry = session.import_mini_kms(&from, &ImportJob::default().dry_run(true)).await.unwrap();
        let report = session.import_mini_kms(&from, &ImportJob::default()).await.unwrap();
        assert!(dry.keys == report.keys && report.is_complete() && report.versions.imported == 1, "{report:?}");
        assert_eq!(count(&calls(&aws), "Decrypt"), 2, "each run opens it once");
        session.import_mini_kms(&from, &ImportJob::default()).await.unwrap();
        assert_eq!(count(&calls(&aws), "Decrypt"), 0, "what is here is not paid for again");

        let aad = format!("{{\"keyId\":\"{KEY}\",\"version\":1,\"tenant\":\"acme\"}}");
        let (nonce, mut sealed) = ([7; 12], b"4711".to_vec());
        RustCrypto.aes(&MATERIAL).unwrap().seal(&nonce, aad.as_bytes(), &mut sealed, 0).unwrap();
        let (ciphertext, tag) = sealed.split_at(4);
        let item =
            DecryptItem::imported("payments", ciphertext, Some("{\"tenant\":\"acme\"}")).iv(&nonce).auth_tag(tag);
        assert_eq!(session.decrypt_item(item).await.unwrap().plaintext.as_slice(), b"4711");
        assert!(session.verify_audit().await.unwrap().ok);
        kms.close().await.unwrap();
    });
}

#[test]
fn another_context_or_key_is_refused_and_named() {
    with_aws(test_name!(), |aws| async move {
        let key = aws.admin.create_key();
        let folder = tempfile::tempdir().unwrap();
        write_source(folder.path(), &aws, &key, "2");
        let from = ImportSource::parse(folder.path().to_str().unwrap()).unwrap().aws(root(&aws, "alias/unused"));
        let place = Place::in_a_file();
        let kms = place.open().await;
        let session = admin(&kms);
        let report = session.import_mini_kms(&from, &ImportJob::default()).await.unwrap();
        assert!(!report.is_complete() && report.keys.refused == 1, "{report:?}");
        assert_eq!(report.findings[0].kind, ImportFindingKind::KeyRefused);
        assert_eq!(report.findings[0].code, Some(ErrorCode::IntegrityFailure));
        assert_eq!(code(session.get_key("payments").await), ErrorCode::KeyNotFound);
        kms.close().await.unwrap();
    });
}

//! Tests of importing material that AWS KMS wrapped for Mini KMS on Node.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kms_lib::internals::{Provider, RustCrypto};
use kms_lib::{DecryptItem, ErrorCode, ImportFindingKind, ImportJob, ImportSource};
use kms_test_support::aws::Aws;
use kms_test_support::{AwsKey, Fault, REGION, test_name};
use serde_json::{Value, json};

use crate::common::{self, Place, admin, code};
use crate::{calls, count, root, with_aws};

const KEY: &str = "26bf24cd-1537-4183-9100-e3585fe82a01";
const RSA: &str = "7b0f6a51-3b0c-4d6d-8f0a-5d1f9f3a2c44";
const MATERIAL: [u8; 32] = [0x5A; 32];

/// Writes the files of an older version of the original with an AES key and an RSA key. These keys in AWS KMS wrap
/// their material, under a context with this version. Returns the public key of the RSA key.
fn write_source(folder: &Path, aws: &Aws, [aes, other]: [&AwsKey; 2], version_in_context: &str) -> String {
    let rsa = RustCrypto.rsa_generate().unwrap();
    let pem = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        STANDARD.encode(&rsa.pkcs8).as_bytes().chunks(64).map(String::from_utf8_lossy).collect::<Vec<_>>().join("\n")
    );
    common::output::secret(pem.as_bytes());
    let (mut keys, mut versions) = (Vec::new(), Vec::new());
    for (key, id, name, key_type, purpose, material, public_key) in [
        (aes, KEY, "payments", "AES256_GCM", "ENCRYPTION", &MATERIAL[..], None),
        (other, RSA, "receipts", "RSA_2048", "SIGNING", pem.as_bytes(), Some(&rsa.public_pem)),
    ] {
        let context = json!({"keyId": id, "version": version_in_context, "type": key_type});
        let sealed = aws.admin.call(
            REGION,
            "Encrypt",
            &json!({"KeyId": key.id, "Plaintext": STANDARD.encode(material), "EncryptionContext": context}),
        );
        keys.push(json!({
            "id": id, "name": name, "type": key_type, "purpose": purpose, "state": "ENABLED",
            "createdAt": "2025-10-06T13:10:50.484Z", "currentVersion": 1,
        }));
        versions.push(json!({
            "id": format!("5{}", &id[1..]), "keyId": id, "version": 1, "state": "ENABLED",
            "createdAt": "2025-10-06T13:10:50.484Z", "publicKeyPem": public_key,
            "wrappedMaterial": {
                "algorithm": "AWS-KMS", "ciphertext": sealed["CiphertextBlob"],
                "encryptionContext": {"keyId": id, "version": "1", "type": key_type}, "metadata": {"keyId": key.arn},
            },
        }));
    }
    let write = |name: &str, rows: Vec<Value>| std::fs::write(folder.join(name), json!(rows).to_string()).unwrap();
    write("keys.json", keys);
    write("key_versions.json", versions);
    write("grants.json", Vec::new());
    write("audit_logs.json", Vec::new());
    rsa.public_pem
}

/// The source in a folder, without an AWS key that may be used.
fn source(folder: &Path, aws: &Aws) -> ImportSource {
    ImportSource::parse(folder.to_str().unwrap()).unwrap().aws(root(aws, "alias/unused"))
}

/// Adds so many keys to a source, each a copy of the RSA key with an id of its own, so that its material does not open.
fn add_keys(folder: &Path, count: usize) {
    for name in ["keys.json", "key_versions.json"] {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        let mut rows: Vec<Value> = serde_json::from_str(&text).unwrap();
        let last = rows.last().unwrap().to_string();
        for n in 0..count {
            let copy = last.replace(&RSA[1..8], &format!("{n:07x}")).replace("receipts", &format!("copy-{n}"));
            rows.push(serde_json::from_str(&copy).unwrap());
        }
        std::fs::write(folder.join(name), json!(rows).to_string()).unwrap();
    }
}

#[test]
fn material_that_aws_wrapped_is_imported() {
    with_aws(test_name!(), |aws| async move {
        let key = aws.admin.create_key();
        let folder = tempfile::tempdir().unwrap();
        let public_key = write_source(folder.path(), &aws, [&key, &key], "1");
        // No master secret is needed, because it wraps nothing.
        let from = source(folder.path(), &aws).aws_key(&key.arn).unwrap();
        let place = Place::in_a_file();
        let kms = place.open().await;
        let session = admin(&kms);
        calls(&aws);
        let dry = session.import_mini_kms(&from, &ImportJob::default().dry_run(true)).await.unwrap();
        let report = session.import_mini_kms(&from, &ImportJob::default()).await.unwrap();
        assert!(dry.keys == report.keys && report.is_complete() && report.versions.imported == 2, "{report:?}");
        assert_eq!(count(&calls(&aws), "Decrypt"), 4, "each run unwraps each material once");
        session.import_mini_kms(&from, &ImportJob::default()).await.unwrap();
        assert_eq!(count(&calls(&aws), "Decrypt"), 0, "material that was imported causes no further call");

        let aad = format!("{{\"keyId\":\"{KEY}\",\"version\":1,\"tenant\":\"acme\"}}");
        let (nonce, mut sealed) = ([7; 12], b"4711".to_vec());
        RustCrypto.aes(&MATERIAL).unwrap().seal(&nonce, aad.as_bytes(), &mut sealed, 0).unwrap();
        let (ciphertext, tag) = sealed.split_at(4);
        let item =
            DecryptItem::imported("payments", ciphertext, Some("{\"tenant\":\"acme\"}")).iv(&nonce).auth_tag(tag);
        assert_eq!(session.decrypt_item(item).await.unwrap().plaintext.as_slice(), b"4711");
        let version = session.get_version("receipts", 1).await.unwrap();
        assert_eq!(version.public_key_pem, Some(public_key));
        // The imported private key decrypts a ciphertext of the original public key.
        let sealed = RustCrypto.rsa_public(version.public_key_pem.as_deref().unwrap()).unwrap();
        let sealed = sealed.oaep_encrypt(b"", b"4711").unwrap();
        let item = DecryptItem::imported("receipts", &sealed, None);
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
        write_source(folder.path(), &aws, [&key, &key], "2");
        let from = source(folder.path(), &aws).aws_key(&key.arn).unwrap();
        let place = Place::in_a_file();
        let kms = place.open().await;
        let session = admin(&kms);
        let report = session.import_mini_kms(&from, &ImportJob::default()).await.unwrap();
        assert!(!report.is_complete() && report.keys.refused == 2, "{report:?}");
        for finding in &report.findings {
            assert_eq!(finding.kind, ImportFindingKind::KeyRefused);
            assert_eq!(finding.code, Some(ErrorCode::IntegrityFailure));
        }
        assert_eq!(code(session.get_key("payments").await), ErrorCode::KeyNotFound);
        kms.close().await.unwrap();
    });
}

/// The source does not choose the keys that are called: only those that the caller names are.
#[test]
fn no_key_is_called_that_was_not_allowed() {
    with_aws(test_name!(), |aws| async move {
        let (mine, other) = (aws.admin.create_key(), aws.admin.create_key());
        let folder = tempfile::tempdir().unwrap();
        write_source(folder.path(), &aws, [&mine, &other], "1");
        let from = source(folder.path(), &aws);
        let place = Place::in_a_file();
        let kms = place.open().await;
        let session = admin(&kms);
        calls(&aws);
        let report = session.import_mini_kms(&from, &ImportJob::default()).await.unwrap();
        assert_eq!((report.keys.refused, report.keys.imported, report.findings.len()), (2, 0, 2), "{report:?}");
        for finding in &report.findings {
            assert_eq!(finding.code, Some(ErrorCode::RootKeyRefused));
            assert!(finding.text.contains("--aws-key") && finding.text.contains("arn:aws:kms:"), "{finding:?}");
        }
        assert_eq!(calls(&aws), Vec::<String>::new());
        let from = from.aws_key(&mine.arn).unwrap();
        let report = session.import_mini_kms(&from, &ImportJob::default()).await.unwrap();
        assert_eq!((report.keys.refused, report.keys.imported), (1, 1), "{report:?}");
        let seen = aws.proxy.take();
        assert!(!seen.is_empty() && seen.iter().all(|call| call.key() == mine.arn), "{seen:?}");
        // The import does not end while keys are missing, and a later run completes it.
        let end = ImportJob::default().finalize(true);
        assert_eq!(code(session.import_mini_kms(&from, &end).await), ErrorCode::WrongState);
        let from = from.aws_key(&other.id).unwrap();
        let report = session.import_mini_kms(&from, &end).await.unwrap();
        assert!(report.is_complete() && report.finalized && report.keys.imported == 1, "{report:?}");
        calls(&aws);
        assert!(session.verify_audit().await.unwrap().ok);
        assert_eq!(source(folder.path(), &aws).aws_key("my key").unwrap_err().code(), ErrorCode::InvalidConfiguration);
        kms.close().await.unwrap();
    });
}

/// A key in AWS KMS that is denied or does not respond costs what it wrapped, and nothing else.
#[test]
fn keys_that_aws_does_not_open_are_left_out() {
    with_aws(test_name!(), |aws| async move {
        let (good, bad) = (aws.admin.create_key(), aws.admin.create_key());
        let folder = tempfile::tempdir().unwrap();
        write_source(folder.path(), &aws, [&good, &bad], "1");
        let from = source(folder.path(), &aws).aws_key(&good.arn).unwrap().aws_key(&bad.arn).unwrap();
        for (fault, expected) in [
            (Fault::Aws("AccessDeniedException"), ErrorCode::RootKeyRefused),
            (Fault::Cut, ErrorCode::RootKeyUnavailable),
        ] {
            let place = Place::in_a_file();
            let kms = place.open().await;
            let session = admin(&kms);
            let (arn, of_bad) = (bad.arn.clone(), fault.clone());
            aws.proxy.rule(move |seen| if seen.key() == arn { of_bad.clone() } else { Fault::Pass });
            let report = session.import_mini_kms(&from, &ImportJob::default()).await.unwrap();
            assert_eq!((report.keys.refused, report.keys.imported, report.findings.len()), (1, 1, 1), "{report:?}");
            assert_eq!(report.findings[0].code, Some(expected), "{fault:?}");
            assert!(report.findings[0].id == RSA && report.findings[0].text.contains(&bad.arn), "{report:?}");
            session.get_key("payments").await.unwrap();
            assert_eq!(code(session.get_key("receipts").await), ErrorCode::KeyNotFound);
            if expected == ErrorCode::RootKeyRefused {
                aws.proxy.always(Fault::Pass);
                let report = session.import_mini_kms(&from, &ImportJob::default()).await.unwrap();
                assert!(report.is_complete() && report.keys.imported == 1, "{report:?}");
            } else {
                // Lost for good: the import ends without it only if the caller says so.
                let end = ImportJob::default().finalize(true);
                assert_eq!(code(session.import_mini_kms(&from, &end).await), ErrorCode::WrongState);
                let report = session.import_mini_kms(&from, &end.clone().allow_incomplete(true)).await.unwrap();
                assert!(report.finalized && !report.is_complete(), "{report:?}");
                assert_eq!(code(session.import_mini_kms(&from, &end).await), ErrorCode::WrongState);
            }
            calls(&aws);
            assert!(session.verify_audit().await.unwrap().ok);
            kms.close().await.unwrap();
        }
    });
}

/// A key that does not respond is not waited for again and again.
#[test]
fn a_key_that_does_not_respond_is_not_called_for_every_version() {
    with_aws(test_name!(), |aws| async move {
        let key = aws.admin.create_key();
        let folder = tempfile::tempdir().unwrap();
        write_source(folder.path(), &aws, [&key, &key], "1");
        add_keys(folder.path(), 60);
        let from = source(folder.path(), &aws).aws_key(&key.arn).unwrap();
        let place = Place::in_a_file();
        let kms = place.open().await;
        calls(&aws);
        aws.proxy.always(Fault::Cut);
        let report = admin(&kms).import_mini_kms(&from, &ImportJob::default()).await.unwrap();
        assert_eq!((report.keys.refused, report.keys.imported), (62, 0), "{report:?}");
        assert!(report.findings.iter().all(|it| it.code == Some(ErrorCode::RootKeyUnavailable)), "{report:?}");
        let made = count(&calls(&aws), "Decrypt");
        assert!(made < 62, "{made} attempts");
        kms.close().await.unwrap();
    });
}

//! The names of keys, the requests to AWS KMS, and the stored values.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kms_test_support::{Fault, test_name};
use serde_json::json;

use super::*;
use crate::envelope::aws::client::AwsKms;
use crate::envelope::{RootKey, check, generation_of, make_check_value};
use crate::types::error::ErrorCode;

#[test]
fn wraps_with_the_arn_and_the_context() {
    with_aws(test_name!(), &[], async |aws| {
        let key = aws.admin.create_key();
        let root = AwsKmsRootKey::create(&settings(&aws, &key.id), 3).await.unwrap();
        assert_eq!(root.arn(), key.arn);
        aws.proxy.take();
        let wrapped = root.wrap(&binding(7), MATERIAL).await.unwrap();
        assert_eq!(wrapped[..6], [1, 2, 0, 0, 0, 3]);
        assert_eq!(generation_of(&wrapped).unwrap(), 3);
        assert_eq!(root.unwrap(&binding(7), &wrapped).await.unwrap().as_slice(), MATERIAL);

        let context = json!({
            "keyId": "11111111-1111-1111-1111-111111111111", "version": "7", "type": "AES256_GCM",
        });
        let seen = aws.proxy.take();
        assert_eq!(seen.iter().map(|call| call.operation.as_str()).collect::<Vec<_>>(), ["Encrypt", "Decrypt"]);
        for call in &seen {
            assert_eq!((call.key(), &call.body["EncryptionContext"]), (key.arn.as_str(), &context));
        }
        assert_eq!(seen[0].body["Plaintext"], STANDARD.encode(MATERIAL));
        assert_eq!(seen[1].body["CiphertextBlob"], STANDARD.encode(&wrapped[6..]));
    });
}

#[test]
fn material_opens_only_where_it_belongs() {
    with_aws(test_name!(), &[], async |aws| {
        let (key, other) = (aws.admin.create_key(), aws.admin.create_key());
        let root = AwsKmsRootKey::create(&settings(&aws, &key.arn), 1).await.unwrap();
        let another = AwsKmsRootKey::create(&settings(&aws, &other.arn), 1).await.unwrap();
        let wrapped = root.wrap(&binding(1), MATERIAL).await.unwrap();
        let refused = async |root: &AwsKmsRootKey, binding: Binding, wrapped: &[u8]| {
            root.unwrap(&binding, wrapped).await.unwrap_err().code()
        };
        assert_eq!(refused(&root, binding(2), &wrapped).await, ErrorCode::IntegrityFailure);
        let mut altered = wrapped.clone();
        *altered.last_mut().unwrap() ^= 1;
        assert_eq!(refused(&root, binding(1), &altered).await, ErrorCode::IntegrityFailure);
        // moto responds with AccessDenied; this is the response of AWS KMS.
        assert_eq!(refused(&another, binding(1), &wrapped).await, ErrorCode::RootKeyRefused);
        let arn = other.arn.clone();
        aws.proxy.rule(move |call| match call.operation == "Decrypt" && call.key() == arn {
            true => Fault::Aws("IncorrectKeyException"),
            false => Fault::Pass,
        });
        assert_eq!(refused(&another, binding(1), &wrapped).await, ErrorCode::IntegrityFailure);
        // Material that was not wrapped by AWS KMS is not sent to it.
        aws.proxy.take();
        for wrapped in [&[1, 1, 0, 0, 0, 1, 9][..], &[2, 2, 0, 0, 0, 1, 9], &[1, 2, 0, 0, 0, 1], &[]] {
            assert_eq!(refused(&root, binding(1), wrapped).await, ErrorCode::IntegrityFailure);
        }
        assert_eq!(aws.proxy.take().len(), 0);

        let value = make_check_value(&root).await.unwrap();
        check(&root, &value).await.unwrap();
        assert_eq!(check(&another, &value).await.unwrap_err().code(), ErrorCode::WrongRootKey);
        // Not reported as a wrong root key, because the key may be the right one.
        for (name, code) in
            [("ThrottlingException", ErrorCode::RootKeyUnavailable), ("DisabledException", ErrorCode::RootKeyRefused)]
        {
            aws.proxy.always(Fault::Aws(name));
            assert_eq!(check(&root, &value).await.unwrap_err().code(), code);
        }
    });
}

#[test]
fn an_alias_is_resolved_and_then_held_to_its_key() {
    with_aws(test_name!(), &[], async |aws| {
        let (key, other) = (aws.admin.create_key(), aws.admin.create_key());
        aws.admin.create_alias("alias/mini-kms", &key);
        let alias = settings(&aws, "alias/mini-kms");
        let root = AwsKmsRootKey::create(&alias, 1).await.unwrap();
        assert_eq!(root.arn(), key.arn);
        let wrapped = root.wrap(&binding(1), MATERIAL).await.unwrap();
        let calls = aws.proxy.take();
        assert_eq!(calls.iter().map(|call| call.key()).collect::<Vec<_>>(), ["alias/mini-kms", key.arn.as_str()]);

        let again = AwsKmsRootKey::open(&alias, &key.arn, 1).await.unwrap();
        assert_eq!(again.unwrap(&binding(1), &wrapped).await.unwrap().as_slice(), MATERIAL);
        // The running service continues with its key; the next opening fails.
        aws.admin.update_alias("alias/mini-kms", &other);
        root.wrap(&binding(2), MATERIAL).await.unwrap();
        let error = AwsKmsRootKey::open(&alias, &key.arn, 1).await.err().unwrap();
        assert_eq!(error.code(), ErrorCode::WrongRootKey);
        for name in ["alias/mini-kms", &key.arn, &other.arn] {
            assert!(error.message().contains(name), "{error}");
        }
        // The same with the ARN of the alias.
        let arn = key.arn.replace(&format!("key/{}", key.id), "alias/mini-kms");
        let error = AwsKmsRootKey::open(&settings(&aws, &arn), &key.arn, 1).await.err().unwrap();
        assert_eq!(error.code(), ErrorCode::WrongRootKey);
        AwsKmsRootKey::open(&settings(&aws, &arn), &other.arn, 1).await.unwrap();
    });
}

#[test]
fn a_key_by_id_or_arn_is_recognized_without_a_call() {
    with_aws(test_name!(), &[], async |aws| {
        let (key, other) = (aws.admin.create_key(), aws.admin.create_key());
        for name in [&key.id, &key.arn] {
            AwsKmsRootKey::open(&settings(&aws, name), &key.arn, 1).await.unwrap();
            let error = AwsKmsRootKey::open(&settings(&aws, name), &other.arn, 1).await.err().unwrap();
            assert_eq!(error.code(), ErrorCode::WrongRootKey);
        }
        let error = AwsKmsRootKey::open(&settings(&aws, &key.id), "alias/a", 1).await.err().unwrap();
        assert_eq!(error.code(), ErrorCode::StoreCorrupt);
        assert_eq!(aws.proxy.take().len(), 0);
    });
}

#[test]
fn only_symmetric_encryption_keys_of_this_region_are_root_keys() {
    with_aws(test_name!(), &[], async |aws| {
        let rsa = json!({"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"});
        let mac = json!({"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"});
        for parameters in [rsa, mac] {
            let key = aws.admin.create_key_in(REGION, &parameters);
            // moto encrypts with any key; AWS KMS responds with this error.
            aws.proxy.always(Fault::Aws("InvalidKeyUsageException"));
            let error = AwsKmsRootKey::create(&settings(&aws, &key.id), 1).await.err().unwrap();
            assert_eq!(error.code(), ErrorCode::RootKeyRefused);
            assert!(error.message().contains("symmetric"), "{error}");
        }
        aws.proxy.always(Fault::Pass);
        let elsewhere = aws.admin.create_key_in("eu-west-1", &json!({}));
        // The ARN contains the region; the id alone does not.
        let by_arn = AwsRootKey::new(&elsewhere.arn).endpoint(aws.proxy.url());
        let root = AwsKmsRootKey::create(&by_arn, 1).await.unwrap();
        root.wrap(&binding(1), MATERIAL).await.unwrap();
        let error = AwsKmsRootKey::create(&settings(&aws, &elsewhere.id), 1).await.err().unwrap();
        assert_eq!(error.code(), ErrorCode::RootKeyRefused, "{error}");
        assert!(error.message().contains("NotFoundException") && error.message().contains(&elsewhere.id), "{error}");
        // A region that contradicts the ARN is not tried either.
        aws.proxy.take();
        let error = AwsKmsRootKey::create(&settings(&aws, &elsewhere.arn), 1).await.err().unwrap();
        assert_eq!((error.code(), aws.proxy.take().len()), (ErrorCode::InvalidConfiguration, 0));
    });
}

#[test]
fn material_of_mini_kms_on_node_opens() {
    with_aws(test_name!(), &[], async |aws| {
        let key = aws.admin.create_key();
        // The value that Mini KMS on Node stored for a version:
        // `{"algorithm":"AWS-KMS","ciphertext","encryptionContext","metadata"}`.
        let context = json!({"keyId": "0190f3a2-0000-4000-8000-000000000001", "version": "1", "type": "RSA_2048"});
        let pem = "-----BEGIN PRIVATE KEY-----\nnot a real one\n-----END PRIVATE KEY-----\n";
        let parameters = json!({"KeyId": key.id, "Plaintext": STANDARD.encode(pem), "EncryptionContext": context});
        let answer = aws.admin.call(REGION, "Encrypt", &parameters);
        let ciphertext = STANDARD.decode(answer["CiphertextBlob"].as_str().unwrap()).unwrap();

        let kms = AwsKms::new(&settings(&aws, &key.id)).await.unwrap();
        let pairs = |context: &serde_json::Value| -> Vec<(String, String)> {
            let entries = context.as_object().unwrap().iter();
            entries.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect()
        };
        for name in [&key.id, &key.arn] {
            let opened = kms.decrypt(name, pairs(&context), &ciphertext).await.unwrap();
            assert_eq!(opened.as_slice(), pem.as_bytes());
        }
        let mut other = context.clone();
        other["version"] = json!("2");
        let error = kms.decrypt(&key.id, pairs(&other), &ciphertext).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::IntegrityFailure);
    });
}

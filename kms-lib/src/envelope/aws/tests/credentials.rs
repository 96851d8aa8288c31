//! The sources of credentials, region and endpoint.

use std::time::{Duration, Instant};

use kms_test_support::aws::{ACCESS_KEY, SECRET_KEY};
use kms_test_support::{Metadata, test_name};

use super::*;
use crate::envelope::RootKey;
use crate::types::error::ErrorCode;

/// Wraps once, and returns the access key that signed the request.
async fn access_key_used(aws: &Aws) -> String {
    let key = aws.admin.create_key();
    let root = AwsKmsRootKey::create(&settings(aws, &key.arn), 1).await.unwrap();
    root.wrap(&binding(1), MATERIAL).await.unwrap();
    aws.proxy.take().pop().unwrap().access_key
}

/// No credentials in the environment.
const UNSET: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", "")];

#[test]
fn credentials_of_the_environment() {
    with_aws(test_name!(), &[], async |aws| assert_eq!(access_key_used(&aws).await, ACCESS_KEY));
}

#[test]
fn credentials_of_a_profile() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials");
    let profile = format!("[work]\naws_access_key_id = AKIAOFAPROFILE000000\naws_secret_access_key = {SECRET_KEY}\n");
    std::fs::write(&file, profile).unwrap();
    let file = file.display().to_string();
    let variables = [UNSET.as_slice(), &[("AWS_PROFILE", "work"), ("AWS_SHARED_CREDENTIALS_FILE", &file)]].concat();
    with_aws(test_name!(), &variables, async |aws| {
        assert_eq!(access_key_used(&aws).await, "AKIAOFAPROFILE000000");
    });
}

#[test]
fn credentials_of_a_program() {
    let folder = tempfile::tempdir().unwrap();
    let (answer, config) = (folder.path().join("answer.json"), folder.path().join("config"));
    let credentials =
        r#"{"Version": 1, "AccessKeyId": "AKIAOFAPROGRAM000000", "SecretAccessKey": "the secret of a program"}"#;
    std::fs::write(&answer, credentials).unwrap();
    std::fs::write(&config, format!("[default]\ncredential_process = cat {}\n", answer.display())).unwrap();
    let config = config.display().to_string();
    let variables = [UNSET.as_slice(), &[("AWS_CONFIG_FILE", &config)]].concat();
    with_aws(test_name!(), &variables, async |aws| {
        assert_eq!(access_key_used(&aws).await, "AKIAOFAPROGRAM000000");
    });
}

#[test]
fn credentials_of_a_web_identity() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "header.payload.signature").unwrap();
    let file = file.display().to_string();
    let own = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", file.as_str()),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/mini-kms"),
        ("AWS_REGION", REGION),
        ("AWS_ENDPOINT_URL_STS", "{moto}"),
    ];
    with_aws(test_name!(), &[UNSET.as_slice(), &own].concat(), async |aws| {
        // A temporary access key of AWS begins with ASIA.
        let used = access_key_used(&aws).await;
        assert!(used.starts_with("ASIA"), "{used}");
    });
}

#[test]
fn credentials_of_the_instance() {
    let metadata = Metadata::new("ASIAOFANINSTANCE0000", "the secret of an instance");
    let url = metadata.url();
    let own = [("AWS_EC2_METADATA_DISABLED", ""), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", url.as_str())];
    with_aws(test_name!(), &[UNSET.as_slice(), &own].concat(), async |aws| {
        assert_eq!(access_key_used(&aws).await, "ASIAOFANINSTANCE0000");
    });
    // The child called only this service on the link.
    if std::env::var_os("KMS_TEST_MOTO_PORT").is_none() && !metadata.asked().is_empty() {
        assert!(metadata.asked()[0].starts_with("PUT /latest/api/token"), "{:?}", metadata.asked());
    }
}

#[test]
fn no_credentials_at_all() {
    with_aws(test_name!(), &UNSET, async |aws| {
        let key = aws.admin.create_key();
        let begun = Instant::now();
        let error = AwsKmsRootKey::create(&settings(&aws, &key.id), 1).await.err().unwrap();
        assert_eq!(error.code(), ErrorCode::RootKeyUnavailable);
        assert!(error.message().contains("no AWS credentials were found"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(15) && aws.proxy.take().is_empty());
    });
}

#[test]
fn a_profile_that_is_wrong_is_not_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config");
    std::fs::write(&config, "[default]\ncredential_process = echo the-secret-of-a-program; exit 1\n").unwrap();
    let config = config.display().to_string();
    with_aws(test_name!(), &[UNSET.as_slice(), &[("AWS_CONFIG_FILE", &config)]].concat(), async |aws| {
        let key = aws.admin.create_key();
        let error = AwsKmsRootKey::create(&settings(&aws, &key.id), 1).await.err().unwrap();
        assert_eq!(error.code(), ErrorCode::RootKeyUnavailable, "{error}");
        assert!(error.message().contains("credentials") && !error.message().contains("the-secret"), "{error}");
    });
}

#[test]
fn a_region_is_needed_unless_the_key_names_one() {
    with_aws(test_name!(), &[], async |aws| {
        let key = aws.admin.create_key();
        aws.admin.create_alias("alias/somewhere", &key);
        for name in ["alias/somewhere", &key.id] {
            let settings = AwsRootKey::new(name).endpoint(aws.proxy.url());
            let error = AwsKmsRootKey::create(&settings, 1).await.err().unwrap();
            assert_eq!(error.code(), ErrorCode::InvalidConfiguration);
            assert!(error.message().contains("KMS_AWS_REGION"), "{error}");
        }
        assert!(aws.proxy.take().is_empty());
        let settings = AwsRootKey::new(&key.arn).endpoint(aws.proxy.url());
        AwsKmsRootKey::create(&settings, 1).await.unwrap().wrap(&binding(1), MATERIAL).await.unwrap();
    });
}

#[test]
fn region_and_endpoint_of_the_environment() {
    let variables = [("AWS_REGION", "eu-west-1"), ("AWS_ENDPOINT_URL_KMS", "{moto}")];
    with_aws(test_name!(), &variables, async |aws| {
        let key = aws.admin.create_key_in("eu-west-1", &serde_json::json!({}));
        let root = AwsKmsRootKey::create(&AwsRootKey::new(&key.id), 1).await.unwrap();
        assert_eq!(root.arn(), key.arn);
    });
}

#[test]
fn no_request_goes_in_plaintext_to_another_machine() {
    // An address for documentation (RFC 5737): a request to it would time out.
    let variables = [("AWS_REGION", REGION), ("AWS_ENDPOINT_URL_KMS", "http://192.0.2.1:4566")];
    with_aws(test_name!(), &variables, async |aws| {
        let key = aws.admin.create_key();
        let begun = Instant::now();
        let error = AwsKmsRootKey::create(&AwsRootKey::new(&key.id), 1).await.err().unwrap();
        assert_eq!(error.code(), ErrorCode::InvalidConfiguration);
        assert!(error.message().contains("use https:"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(2));
    });
}

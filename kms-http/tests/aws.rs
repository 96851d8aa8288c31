//! Tests of the service with its root key in AWS KMS, against a server that emulates AWS KMS.

#![cfg(feature = "aws-kms")]
#![allow(clippy::unwrap_used)]

mod common;

use std::process::Command;

use common::{Server, program};
use kms_test_support::aws::environment;
use kms_test_support::{AwsProxy, Fault, Moto, MotoAdmin, REGION};
use serde_json::json;
use tempfile::TempDir;

/// An emulation of AWS KMS, a proxy in front of it, and the settings to use it.
struct Aws {
    moto: Moto,
    proxy: AwsProxy,
    key: String,
}

impl Aws {
    /// Starts the emulation if moto is installed.
    fn try_new() -> Option<Self> {
        let Some(moto) = Moto::try_new() else {
            eprintln!("SKIPPED: moto is not installed (tests/run installs it)");
            return None;
        };
        let proxy = AwsProxy::new(moto.port());
        let key = MotoAdmin(moto.port()).create_key().arn;
        Some(Self { moto, proxy, key })
    }

    fn variables(&self) -> Vec<(String, String)> {
        let own = [
            ("KMS_USE_AWS", "true"),
            ("KMS_AWS_KEY_ID", &self.key),
            ("KMS_AWS_REGION", REGION),
            ("KMS_AWS_ENDPOINT", &self.proxy.url()),
            ("KMS_AWS_ATTEMPT_TIMEOUT_SECONDS", "1"),
            ("KMS_AWS_TIMEOUT_SECONDS", "10"),
        ];
        let own = own.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        own.chain(environment().into_iter().map(|(name, value)| (name.to_owned(), value))).collect()
    }

    fn start(&self) -> Server {
        let variables = self.variables();
        let variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Server::start_on_file(&variables)
    }
}

#[tokio::test]
async fn the_service_says_when_its_root_key_does_not_answer() {
    let Some(aws) = Aws::try_new() else { return };
    let server = aws.start();
    // No local root key is created in addition.
    assert!(!server.home.path().join(".config/mini-kms/root.key").exists());
    let client = server.client();
    for name in ["warm", "cold"] {
        client.aes_key(name).await;
    }
    let encrypt = async |key: &str| client.post("/v1/crypto/encrypt", json!({"keyId": key, "plaintext": "x"})).await;
    encrypt("warm").await.expect(200);
    let nobody = server.client_with(None);
    assert_eq!(nobody.get("/v1/readyz").await.expect(200)["rootKey"], "ok");
    for (name, code, status) in
        [("DisabledException", "RootKeyRefused", 503), ("ThrottlingException", "RootKeyUnavailable", 503)]
    {
        aws.proxy.always(Fault::Aws(name));
        let answer = encrypt("cold").await;
        assert_eq!(answer.expect(status)["code"], code, "{name}");
        assert!(answer.text.contains(&aws.key) && answer.text.contains(name), "{}", answer.text);
        let is_retryable = answer.headers.contains_key("retry-after");
        assert_eq!(is_retryable, code == "RootKeyUnavailable", "{name}");
        encrypt("warm").await.expect(200);
        // The result of a readiness check is cached for a second.
        tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
        aws.proxy.take();
        let ready = nobody.get("/v1/readyz").await.expect(200);
        assert_eq!((&ready["status"], &ready["rootKey"]), (&"ok".into(), &"degraded".into()), "{name}");
        assert!(aws.proxy.take().is_empty(), "readiness needs no call");
    }
    aws.proxy.always(Fault::Pass);
    encrypt("cold").await.expect(200);
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    assert_eq!(nobody.get("/v1/readyz").await.expect(200)["rootKey"], "ok");
    let metrics = client.get("/metrics").await.text;
    for line in [
        r#"kms_root_key_calls_total{provider="aws-kms",operation="unwrap",outcome="RootKeyRefused"} 1"#,
        r#"kms_root_key_calls_total{provider="aws-kms",operation="unwrap",outcome="RootKeyUnavailable"} 1"#,
        r#"kms_root_key_calls_total{provider="aws-kms",operation="wrap",outcome="ok"} 2"#,
        r#"kms_root_key_call_seconds_count{provider="aws-kms",operation="wrap"} 2"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    drop(aws.moto);
}

#[tokio::test]
async fn a_first_start_that_fails_can_be_repeated() {
    let Some(aws) = Aws::try_new() else { return };
    let home = TempDir::new().unwrap();
    let init = |home: &TempDir| -> std::process::Output {
        let mut command: Command = program(home);
        command.envs(aws.variables()).arg("init").output().unwrap()
    };
    aws.proxy.always(Fault::Aws("AccessDeniedException"));
    let refused = init(&home);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("RootKeyRefused") || said.contains("AccessDeniedException"), "{said}");
    aws.proxy.always(Fault::Pass);
    let made = init(&home);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut check = program(&home);
    let check = check.envs(aws.variables()).args(["audit", "verify"]).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}

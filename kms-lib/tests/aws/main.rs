//! Tests of stores whose root key is in AWS KMS, with the real SDK and a server that implements AWS KMS (moto). Each
//! test runs in its own process, because the SDK reads its settings from the environment (`kms_test_support::aws`).

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod example;
mod failures;
mod figures;
#[cfg(feature = "import")]
mod import;
mod moves;
mod store;

use std::future::Future;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::Place;
use kms_lib::AwsRootKey;
use kms_lib::Config;
use kms_test_support::REGION;
use kms_test_support::aws::{Aws, run};

/// Runs the body of a test with a server. The test is skipped if moto is not installed.
fn with_aws<Body: Future<Output = ()>>(test: &str, body: impl FnOnce(Aws) -> Body) {
    run(test, &[], |aws| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(body(aws));
    });
}

/// The settings of this key, with the proxy as the endpoint.
fn root(aws: &Aws, key: &str) -> AwsRootKey {
    AwsRootKey::new(key).region(REGION).endpoint(aws.proxy.url())
}

/// The configuration of a store under this key.
fn config(place: &Place, aws: &Aws, key: &str) -> Config {
    place.config().aws_root_key(root(aws, key))
}

/// The operations that the proxy received since the last call. Wrapped plaintexts are registered as secrets.
fn calls(aws: &Aws) -> Vec<String> {
    let seen = aws.proxy.take();
    for call in &seen {
        if let Some(plaintext) = call.body["Plaintext"].as_str() {
            common::output::secret(&STANDARD.decode(plaintext).unwrap());
        }
    }
    seen.into_iter().map(|call| call.operation).collect()
}

/// The number of calls of this operation.
fn count(calls: &[String], operation: &str) -> usize {
    calls.iter().filter(|call| *call == operation).count()
}

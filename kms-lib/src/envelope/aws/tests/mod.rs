//! The provider against moto, through the real SDK. Each test runs in a process of its own (`kms_test_support::aws`).

#![allow(clippy::unwrap_used)]

mod credentials;
mod failures;
mod keys;

use std::future::Future;

use kms_test_support::REGION;
use kms_test_support::aws::{Aws, run};

use super::*;
use crate::envelope::Binding;
use crate::types::ids::KeyId;
use crate::types::key::KeyType;

/// Material that must not appear in errors or logs.
const MATERIAL: &[u8; 32] = b"material which nobody may see...";

/// Runs a test with a server.
fn with_aws<Body: Future<Output = ()>>(test: &str, variables: &[(&str, &str)], body: impl FnOnce(Aws) -> Body) {
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    run(test, &variables, |aws| {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(body(aws));
    });
}

/// Settings with the proxy as the endpoint.
fn settings(aws: &Aws, key: &str) -> AwsRootKey {
    AwsRootKey::new(key).region(REGION).endpoint(aws.proxy.url())
}

/// The binding of version `version` of a key.
fn binding(version: u32) -> Binding {
    Binding::Version { key: KeyId::from_bytes([0x11; 16]), version, key_type: KeyType::Aes256Gcm }
}

//! A client of AWS KMS over the AWS SDK.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_kms::Client;
use aws_sdk_kms::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_kms::config::retry::{RetryConfig, RetryPartition};
use aws_sdk_kms::config::timeout::TimeoutConfig;
use aws_sdk_kms::config::{BehaviorVersion, ConfigBag, Intercept, Region, RuntimeComponents};
use aws_sdk_kms::error::BoxError;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::EncryptionAlgorithmSpec;
use zeroize::Zeroizing;

use super::context::EncryptionContext;
use super::failure::{Call, UnsafeEndpoint, error_of};
use super::key_name::KeyArn;
use super::settings::{AwsRootKey, check_endpoint, invalid};
use crate::envelope::calls::{Calls, RootKeyOperation};
use crate::types::error::{Error, ErrorCode, Result};

/// Attempts per call. The SDK waits between them with exponential backoff and jitter.
const ATTEMPTS: u32 = 3;
/// The time limit for opening a connection.
const CONNECT: Duration = Duration::from_secs(3);

/// A client of AWS KMS with its own connections, credentials and counters.
pub struct AwsKms {
    client: Client,
    attempt: Duration,
    whole: Duration,
    calls: Calls,
}

impl AwsKms {
    /// A client for the region and the endpoint of these settings. If no region is set, the SDK's own chain is searched
    /// for one. Credentials are loaded with the first call.
    pub async fn new(settings: &AwsRootKey) -> Result<Self> {
        settings.check()?;
        let (attempt, whole) = settings.timeouts();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT.min(attempt))
            .operation_attempt_timeout(attempt)
            .operation_timeout(whole);
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .timeout_config(timeouts.build());
        if let Some(region) = settings.known_region()? {
            loader = loader.region(Region::new(region));
        }
        let loaded = tokio::time::timeout(whole, Box::pin(loader.load())).await;
        let shared = loaded.map_err(|_| no_region())?;
        shared.region().ok_or_else(no_region)?;
        // A throttled root key must not use up the retries of another one.
        static CLIENTS: AtomicU64 = AtomicU64::new(0);
        let partition = format!("mini-kms-{}", CLIENTS.fetch_add(1, Ordering::Relaxed));
        let mut config = aws_sdk_kms::config::Builder::from(&shared)
            .retry_partition(RetryPartition::new(partition))
            .interceptor(SafeEndpoint);
        if let Some(endpoint) = settings.endpoint_url() {
            config = config.endpoint_url(endpoint);
        }
        Ok(Self { client: Client::from_conf(config.build()), attempt, whole, calls: Calls::default() })
    }

    /// Encrypts at most 4,096 bytes under the key with this name. Returns the key's ARN and the ciphertext.
    #[tracing::instrument(level = "debug", name = "kms.root_key", skip_all,
        fields(otel.kind = "client", provider = "aws-kms", operation = "encrypt"))]
    pub async fn encrypt(&self, key: &str, context: EncryptionContext, plaintext: &[u8]) -> Result<(KeyArn, Vec<u8>)> {
        let began = Instant::now();
        let sent = self
            .client
            .encrypt()
            .key_id(key)
            .set_encryption_context(Some(HashMap::from_iter(context)))
            .plaintext(Blob::new(plaintext))
            .send()
            .await;
        let answer = sent.map_err(|failure| error_of(&self.call(key, "kms:Encrypt"), &failure)).and_then(|answer| {
            let is_symmetric =
                answer.encryption_algorithm().is_none_or(|it| *it == EncryptionAlgorithmSpec::SymmetricDefault);
            if !is_symmetric {
                let why = "the key is not a symmetric encryption key (SYMMETRIC_DEFAULT), which a root key must be";
                return Err(refused(key, why));
            }
            let arn = answer.key_id().and_then(KeyArn::read).ok_or_else(|| malformed(key, "has no key id"))?;
            let ciphertext = answer.ciphertext_blob.ok_or_else(|| malformed(key, "has no ciphertext"))?;
            Ok((arn, ciphertext.into_inner()))
        });
        self.calls.count(RootKeyOperation::Wrap, began, &answer);
        answer
    }

    /// Decrypts a ciphertext of the key with this ARN or id and this context. Fails with `IntegrityFailure` if it was
    /// altered, or has another key or context.
    #[tracing::instrument(level = "debug", name = "kms.root_key", skip_all,
        fields(otel.kind = "client", provider = "aws-kms", operation = "decrypt"))]
    pub async fn decrypt(
        &self,
        key: &str,
        context: EncryptionContext,
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        let began = Instant::now();
        let sent = self
            .client
            .decrypt()
            .key_id(key)
            .set_encryption_context(Some(HashMap::from_iter(context)))
            .ciphertext_blob(Blob::new(ciphertext))
            .send()
            .await;
        let answer = sent.map_err(|failure| error_of(&self.call(key, "kms:Decrypt"), &failure)).and_then(|answer| {
            let plaintext = answer.plaintext.map(|plaintext| Zeroizing::new(plaintext.into_inner()));
            plaintext.ok_or_else(|| malformed(key, "has no plaintext"))
        });
        self.calls.count(RootKeyOperation::Unwrap, began, &answer);
        answer
    }

    /// The counters of the client's calls.
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    fn call<'a>(&self, key: &'a str, right: &'static str) -> Call<'a> {
        Call { key, right, attempt: self.attempt, whole: self.whole }
    }
}

/// Refuses to send requests in plaintext to another machine, also if the endpoint comes from the SDK's own chain
/// (`AWS_ENDPOINT_URL_KMS`, a profile).
#[derive(Debug)]
struct SafeEndpoint;

impl Intercept for SafeEndpoint {
    fn name(&self) -> &'static str {
        "SafeEndpoint"
    }
    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        check_endpoint(context.request().uri()).map_err(|why| UnsafeEndpoint(why).into())
    }
}

fn no_region() -> Error {
    invalid("no AWS region is known; set aws.region (KMS_AWS_REGION) or AWS_REGION, or give the key as an ARN")
}

fn malformed(key: &str, what: &str) -> Error {
    let text = format!("AWS KMS key {key}: the response {what}; check the endpoint");
    Error::new(ErrorCode::RootKeyUnavailable, text)
}

pub(super) fn refused(key: &str, why: &str) -> Error {
    Error::new(ErrorCode::RootKeyRefused, format!("AWS KMS key {key}: {why}"))
}

//! The settings of a root key in AWS KMS.

use std::net::IpAddr;
use std::time::Duration;

use super::key_name::{KeyName, is_region};
use crate::types::error::{Error, ErrorCode, Result};

/// Longest timeout that can be set.
const TIMEOUT_MAX: Duration = Duration::from_secs(300);

/// A key in AWS KMS as the root key.
///
/// Every wrapping is one Encrypt call and every unwrapping one Decrypt call; the root key never leaves AWS KMS.
/// Credentials come from the AWS SDK's own chain: environment, profile, web identity, container and instance metadata.
/// Needs the feature `aws-kms`.
///
/// ```
/// use kms_lib::AwsRootKey;
/// let root = AwsRootKey::new("alias/mini-kms").region("eu-central-1");
/// let config = kms_lib::Config::new("sqlite:kms.db").aws_root_key(root);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsRootKey {
    key_id: String,
    region: Option<String>,
    endpoint: Option<String>,
    attempt_timeout: Duration,
    timeout: Duration,
}

impl AwsRootKey {
    /// The key with this id, ARN or alias. It must be a symmetric encryption key (`SYMMETRIC_DEFAULT`).
    ///
    /// The key's ARN is stored. If an alias later points to another key, it is refused until that key is added as a
    /// root key of its own.
    pub fn new(key_id: impl Into<String>) -> Self {
        Self {
            key_id: key_id.into(),
            region: None,
            endpoint: None,
            attempt_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(15),
        }
    }

    /// Sets the region of the key. By default, it is that in the ARN, else that of the SDK's own chain (`AWS_REGION`,
    /// profile, instance metadata).
    #[must_use]
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// Sets an endpoint other than the region's public one, such as that of a VPC. `http:` is accepted for this machine
    /// only, because requests and responses contain key material.
    #[must_use]
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// Sets the timeout of a whole call, including retries and the waits between them. Default 15 seconds, at most 300.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the timeout of one attempt. Default 5 seconds; limited to the timeout of the whole call.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// The same settings for another key.
    #[cfg(all(feature = "aws-kms", feature = "import"))]
    pub(crate) fn with_key_id(self, key_id: &str) -> Self {
        Self { key_id: key_id.to_owned(), ..self }
    }

    /// The name of the key, as configured.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The endpoint, if one was set.
    pub fn endpoint_url(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// The timeouts of one attempt and of a whole call.
    pub(crate) fn timeouts(&self) -> (Duration, Duration) {
        (self.attempt_timeout.min(self.timeout), self.timeout)
    }

    /// The parsed name of the key. Fails with `InvalidConfiguration` if it is malformed.
    pub(crate) fn key_name(&self) -> Result<KeyName> {
        KeyName::parse(&self.key_id)
    }

    /// The region, if it is known without the SDK's own chain. Fails with `InvalidConfiguration` if it contradicts the
    /// ARN.
    pub(crate) fn known_region(&self) -> Result<Option<String>> {
        let name = self.key_name()?;
        match (&self.region, name.region()) {
            (Some(region), Some(of_key)) if region != of_key => {
                Err(invalid(format!("the AWS region is {region}, but the key {} is in {of_key}", name.as_str())))
            }
            (Some(region), _) => Ok(Some(region.clone())),
            (None, of_key) => Ok(of_key.map(str::to_owned)),
        }
    }

    /// Checks all settings without calling AWS. Fails with `InvalidConfiguration`.
    pub(crate) fn check(&self) -> Result<()> {
        self.known_region()?;
        if let Some(region) = self.region.as_ref().filter(|region| !is_region(region)) {
            return Err(invalid(format!("{region:?} is not the name of an AWS region, such as eu-central-1")));
        }
        if let Some(endpoint) = &self.endpoint {
            check_endpoint(endpoint).map_err(|why| invalid(format!("the endpoint of AWS KMS {why}")))?;
        }
        for (what, timeout) in [("an attempt", self.attempt_timeout), ("a call", self.timeout)] {
            if timeout.is_zero() || timeout > TIMEOUT_MAX {
                let most = TIMEOUT_MAX.as_secs();
                return Err(invalid(format!("the timeout of {what} to AWS KMS must be from 1 to {most} seconds")));
            }
        }
        Ok(())
    }
}

/// Checks that key material may be sent to this URL: `https:` to any machine, `http:` to this machine only.
pub fn check_endpoint(url: &str) -> std::result::Result<(), &'static str> {
    const MALFORMED: &str = "is not a URL such as https://kms.eu-central-1.amazonaws.com";
    let (is_plaintext, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (false, rest),
        (None, Some(rest)) => (true, rest),
        (None, None) => return Err(MALFORMED),
    };
    if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(MALFORMED);
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("must not contain a user name or password");
    }
    // An IPv6 address is in brackets and contains colons.
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => (address, port.strip_prefix(':').or(port.is_empty().then_some("443"))),
        None => authority.split_once(':').map_or((authority, Some("443")), |(host, port)| (host, Some(port))),
    };
    let is_port = port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    let is_host = host.parse::<IpAddr>().is_ok()
        || (!host.is_empty() && host.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_')));
    if !is_port || !is_host {
        return Err(MALFORMED);
    }
    let is_loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match is_plaintext && !is_loopback {
        true => Err("is http: to another machine, so key material would be sent in plaintext; use https:"),
        false => Ok(()),
    }
}

pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidConfiguration, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ARN: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

    #[test]
    fn plaintext_endpoints_are_for_this_machine_only() {
        for good in [
            "https://kms.eu-central-1.amazonaws.com",
            "https://vpce-1234.kms.eu-central-1.vpce.amazonaws.com:8443/",
            "https://[2001:db8::1]:443",
            "http://127.0.0.1:4566",
            "http://127.9.9.9",
            "http://localhost:4566/path",
            "http://[::1]:4566",
        ] {
            assert_eq!(check_endpoint(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "kms.eu-central-1.amazonaws.com",
            "ftp://host",
            "https://",
            "https://user:secret@host",
            "https://host:0",
            "https://host:port",
            "https://host:99999",
            "https://[::1",
            "https://[::1]x",
            "https://ho st",
            "https://host\n",
            "http://kms.internal",
            "http://192.0.2.1:4566",
            "http://localhost.example.com",
            "http://127.0.0.1.example.com",
        ] {
            assert!(check_endpoint(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_region_that_contradicts_the_arn_is_refused() {
        assert_eq!(AwsRootKey::new(ARN).known_region().unwrap().as_deref(), Some("eu-central-1"));
        assert_eq!(AwsRootKey::new("alias/a").known_region().unwrap(), None);
        AwsRootKey::new(ARN).region("eu-central-1").check().unwrap();
        let error = AwsRootKey::new(ARN).region("us-east-1").check().unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidConfiguration);
        assert!(error.message().contains("us-east-1") && error.message().contains("eu-central-1"), "{error}");
        assert!(AwsRootKey::new("alias/a").region("Frankfurt").check().is_err());
    }

    #[test]
    fn times_are_bounded() {
        let root = || AwsRootKey::new("alias/a");
        root().check().unwrap();
        assert!(root().timeout(Duration::ZERO).check().is_err());
        assert!(root().timeout(Duration::from_secs(301)).check().is_err());
        assert!(root().attempt_timeout(Duration::ZERO).check().is_err());
        let (attempt, whole) = root().timeout(Duration::from_secs(2)).timeouts();
        assert_eq!((attempt, whole), (Duration::from_secs(2), Duration::from_secs(2)));
    }
}

//! The settings of the section `http.anchors`: signed checkpoints of the audit log, kept outside the database.

use std::path::PathBuf;

use kms_lib::Result;

use super::{forms, invalid};

section! {
    /// The section `http.anchors`. Every configured place receives every anchor.
    pub struct AnchorSettings {
        /// File that anchors are appended to, preferably on another machine's disk.
        #[serde(deserialize_with = "forms::maybe")]
        pub file: Option<PathBuf> = None,
        /// URL of an endpoint that accepts an anchor by POST and lists anchors by GET, as JSON lines: https, or http on
        /// a loopback address.
        #[serde(deserialize_with = "forms::maybe")]
        pub url: Option<String> = None,
        /// File with the bearer token for the endpoint `url`.
        #[serde(deserialize_with = "forms::maybe")]
        pub token_file: Option<PathBuf> = None,
        /// Certificate authorities (PEM) to trust for the endpoint and the bucket, instead of the system's.
        #[serde(deserialize_with = "forms::maybe")]
        pub ca_file: Option<PathBuf> = None,
        /// Bucket with object lock, in S3 or on a compatible server. Credentials come from the AWS SDK's default chain.
        #[serde(deserialize_with = "forms::maybe")]
        pub bucket: Option<String> = None,
        /// Prefix of the names of objects in the bucket: letters, digits and `/_.-`.
        pub prefix: String = "mini-kms/".into(),
        /// Region of the bucket; by default that of the AWS SDK's default chain.
        #[serde(deserialize_with = "forms::maybe")]
        pub region: Option<String> = None,
        /// URL of an S3-compatible server, instead of AWS.
        #[serde(deserialize_with = "forms::maybe")]
        pub endpoint: Option<String> = None,
        /// Days for which an anchor cannot be deleted (compliance mode); 0 for the bucket's default retention.
        #[serde(deserialize_with = "forms::count::<0, 36_500, _, _>")]
        pub retain_days: u32 = 0,
        /// Interval between two anchors. No anchor is written if there are no new records.
        #[serde(deserialize_with = "forms::count::<1, 86_400, _, _>")]
        pub every_seconds: u64 = 300,
        /// Maximum time to write an anchor to a place.
        #[serde(deserialize_with = "forms::count::<1, 600, _, _>")]
        pub timeout_seconds: u64 = 10,
    }
}

impl AnchorSettings {
    /// Whether at least one place for anchors is configured.
    pub fn is_on(&self) -> bool {
        self.file.is_some() || self.url.is_some() || self.bucket.is_some()
    }

    /// Checks that the settings are consistent with each other.
    pub(super) fn check(&self) -> Result<()> {
        if self.token_file.is_some() && self.url.is_none() {
            return Err(invalid("http.anchors.token_file needs http.anchors.url, which is not set"));
        }
        if self.bucket.is_none() && (self.endpoint.is_some() || self.retain_days > 0) {
            return Err(invalid(
                "http.anchors.endpoint and http.anchors.retain_days need http.anchors.bucket, which is not set",
            ));
        }
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_.-".contains(&byte));
        if !is_plain(&self.prefix) || !self.bucket.as_deref().is_none_or(is_plain) {
            return Err(invalid(
                "http.anchors.bucket and http.anchors.prefix may contain only letters, digits and /_.-",
            ));
        }
        Ok(())
    }
}

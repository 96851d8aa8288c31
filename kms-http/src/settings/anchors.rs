//! The settings of the section `http.anchors`: where signed states of the log are kept outside of the database.

use std::path::PathBuf;

use kms_lib::Result;

use super::{forms, invalid};

section! {
    /// Places for anchors. Each that is named gets every one.
    pub struct AnchorSettings {
        /// A file that is only appended to. Best on another machine's disk.
        #[serde(deserialize_with = "forms::maybe")]
        pub file: Option<PathBuf> = None,
        /// An endpoint that takes an anchor by POST and lists them by GET, as JSON lines. https, or http on a loopback
        /// address.
        #[serde(deserialize_with = "forms::maybe")]
        pub url: Option<String> = None,
        /// A file with the bearer token for the endpoint.
        #[serde(deserialize_with = "forms::maybe")]
        pub token_file: Option<PathBuf> = None,
        /// Certificate authorities (PEM) to trust for endpoint and bucket, instead of the system's.
        #[serde(deserialize_with = "forms::maybe")]
        pub ca_file: Option<PathBuf> = None,
        /// A bucket of S3 or of a server that speaks its protocol, made with object lock. Credentials are found as the
        /// AWS SDK finds them.
        #[serde(deserialize_with = "forms::maybe")]
        pub bucket: Option<String> = None,
        /// What the names of its objects begin with: letters, digits and `/_.-`.
        pub prefix: String = "mini-kms/".into(),
        /// Its region; without, the one that the AWS SDK finds.
        #[serde(deserialize_with = "forms::maybe")]
        pub region: Option<String> = None,
        /// Another server than AWS's.
        #[serde(deserialize_with = "forms::maybe")]
        pub endpoint: Option<String> = None,
        /// Days for which nobody can delete an anchor (compliance mode); 0: what the bucket's own default says.
        #[serde(deserialize_with = "forms::count::<0, 36_500, _, _>")]
        pub retain_days: u32 = 0,
        /// The time between two anchors. Without new records there is none.
        #[serde(deserialize_with = "forms::count::<1, 86_400, _, _>")]
        pub every_seconds: u64 = 300,
        /// How long a place may take to answer.
        #[serde(deserialize_with = "forms::count::<1, 600, _, _>")]
        pub timeout_seconds: u64 = 10,
    }
}

impl AnchorSettings {
    /// Whether a place is named.
    pub fn is_on(&self) -> bool {
        self.file.is_some() || self.url.is_some() || self.bucket.is_some()
    }

    /// Whether the settings make sense together.
    pub(super) fn check(&self) -> Result<()> {
        if self.token_file.is_some() && self.url.is_none() {
            return Err(invalid("http.anchors.token_file is for http.anchors.url, which is not set"));
        }
        if self.bucket.is_none() && (self.endpoint.is_some() || self.retain_days > 0) {
            return Err(invalid(
                "http.anchors.endpoint and http.anchors.retain_days are for http.anchors.bucket, which is not set",
            ));
        }
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_.-".contains(&byte));
        if !is_plain(&self.prefix) || !self.bucket.as_deref().is_none_or(is_plain) {
            return Err(invalid("http.anchors.bucket and http.anchors.prefix have letters, digits and /_.- only"));
        }
        Ok(())
    }
}

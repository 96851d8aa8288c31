//! The settings of the section `http.otlp`: where traces are sent.

use std::path::PathBuf;

use kms_lib::Result;

use super::{forms, invalid};

section! {
    /// A collector of OpenTelemetry traces (OTLP over HTTP, protobuf). Needs the feature `otlp`.
    pub struct OtlpSettings {
        /// The collector, such as `https://collector.example:4318`. Without a path, `/v1/traces` is added. https, or
        /// http on a loopback address. Traces are on when it is set.
        #[serde(deserialize_with = "forms::maybe")]
        pub endpoint: Option<String> = None,
        /// A file with headers for the collector, `Name: value` on each line. Read for every export, so that a token
        /// in it can be replaced.
        #[serde(deserialize_with = "forms::maybe")]
        pub headers_file: Option<PathBuf> = None,
        /// Certificate authorities (PEM) to trust for the collector, instead of the system's.
        #[serde(deserialize_with = "forms::maybe")]
        pub ca_file: Option<PathBuf> = None,
        /// How many of the traces that begin here are recorded, in percent. For a trace that a caller began, the flag
        /// in its `traceparent` decides.
        #[serde(deserialize_with = "forms::count::<0, 100, _, _>")]
        pub sample_percent: u32 = 100,
        /// How long an export may take, attempts after the first included.
        #[serde(deserialize_with = "forms::count::<1, 600, _, _>")]
        pub timeout_seconds: u64 = 10,
    }
}

impl OtlpSettings {
    /// Whether traces are sent.
    pub fn is_on(&self) -> bool {
        self.endpoint.is_some()
    }

    /// Whether the settings make sense together.
    pub(super) fn check(&self) -> Result<()> {
        if !self.is_on() && (self.headers_file.is_some() || self.ca_file.is_some()) {
            return Err(invalid(
                "http.otlp.headers_file and http.otlp.ca_file are for http.otlp.endpoint, which is not set",
            ));
        }
        Ok(())
    }
}

//! The settings of the section `http.otlp`: the export of traces.

use std::path::PathBuf;

use kms_lib::Result;

use super::{forms, invalid};

section! {
    /// The section `http.otlp`: a collector of OpenTelemetry traces (OTLP over HTTP, protobuf). Needs the feature
    /// `otlp`.
    pub struct OtlpSettings {
        /// URL of the collector, such as `https://collector.example:4318`: https, or http on a loopback address.
        /// Without a path, `/v1/traces` is added. Setting it enables traces.
        #[serde(deserialize_with = "forms::maybe")]
        pub endpoint: Option<String> = None,
        /// File with headers for the collector, one `Name: value` per line. It is read for every export, so a token in
        /// it can be replaced.
        #[serde(deserialize_with = "forms::maybe")]
        pub headers_file: Option<PathBuf> = None,
        /// Certificate authorities (PEM) to trust for the collector, instead of the system's.
        #[serde(deserialize_with = "forms::maybe")]
        pub ca_file: Option<PathBuf> = None,
        /// Percentage of the traces started here that are recorded. For a trace started by a caller, the flag in its
        /// `traceparent` decides.
        #[serde(deserialize_with = "forms::count::<0, 100, _, _>")]
        pub sample_percent: u32 = 100,
        /// Maximum duration of an export, including retries.
        #[serde(deserialize_with = "forms::count::<1, 600, _, _>")]
        pub timeout_seconds: u64 = 10,
    }
}

impl OtlpSettings {
    /// Whether traces are exported.
    pub fn is_on(&self) -> bool {
        self.endpoint.is_some()
    }

    /// Checks that the settings are consistent with each other.
    pub(super) fn check(&self) -> Result<()> {
        if !self.is_on() && (self.headers_file.is_some() || self.ca_file.is_some()) {
            return Err(invalid(
                "http.otlp.headers_file and http.otlp.ca_file need http.otlp.endpoint, which is not set",
            ));
        }
        Ok(())
    }
}

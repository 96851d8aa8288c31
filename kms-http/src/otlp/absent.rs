//! What stands in the place of traces in a program that is built without the feature `otlp`: nothing is recorded, and
//! an endpoint is refused.

use std::sync::Arc;

use kms_lib::Result;
use reqwest::RequestBuilder;
use tracing::Span;
use tracing_subscriber::layer::Identity;

use super::{Begun, Ended, Status};
use crate::settings::{OtlpSettings, invalid};

/// Traces, of which there are none.
pub enum Traces {}

/// An exporter, of which there is none.
pub enum Running {}

impl Traces {
    /// None. An endpoint is refused.
    pub fn new(settings: &OtlpSettings) -> Result<Option<Self>> {
        if settings.is_on() {
            return Err(invalid("http.otlp.endpoint needs the feature otlp, which this program was built without"));
        }
        Ok(None)
    }
    /// How exporting goes.
    pub fn status(&self) -> Arc<Status> {
        match *self {}
    }
    /// The layer that makes spans of tracing into those of OpenTelemetry.
    pub fn layer(&self) -> Identity {
        match *self {}
    }
    /// Starts the export.
    pub fn start(self) -> Running {
        match self {}
    }
}

impl Running {
    /// Exports what is left, within a bounded time.
    pub async fn stop(self) {
        match self {}
    }
}

/// No span.
pub fn begin(_: &Begun<'_>) -> Span {
    Span::none()
}

/// Records nothing.
pub fn end(_: &Span, _: &Ended<'_>) {}

/// No trace.
pub fn trace_id(_: &Span) -> Option<String> {
    None
}

/// The request as it is.
pub fn give_on(request: RequestBuilder) -> RequestBuilder {
    request
}

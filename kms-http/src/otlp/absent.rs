//! Replaces `traces.rs` in a build without the feature `otlp`: nothing is recorded, and a configured endpoint is
//! refused.

use std::sync::Arc;

use kms_lib::Result;
use reqwest::RequestBuilder;
use tracing::Span;
use tracing_subscriber::layer::Identity;

use super::{Begun, Ended, Status};
use crate::settings::{OtlpSettings, invalid};

/// Uninhabited: without the feature there are no traces.
pub enum Traces {}

/// Uninhabited: without the feature there is no export.
pub enum Running {}

impl Traces {
    /// Always None; fails if an endpoint is configured.
    pub fn new(settings: &OtlpSettings) -> Result<Option<Self>> {
        if settings.is_on() {
            return Err(invalid("http.otlp.endpoint needs the feature otlp, which is not in this build"));
        }
        Ok(None)
    }
    /// The status of the export.
    pub fn status(&self) -> Arc<Status> {
        match *self {}
    }
    /// A layer that does nothing.
    pub fn layer(&self) -> Identity {
        match *self {}
    }
    /// Never called: without the feature `otlp`, there are no traces.
    pub fn start(self) -> Running {
        match self {}
    }
}

impl Running {
    /// Never called: without the feature `otlp`, no export runs.
    pub async fn stop(self) {
        match self {}
    }
}

/// Returns a disabled span.
pub fn begin(_: &Begun<'_>) -> Span {
    Span::none()
}

/// Does nothing, because the span is disabled.
pub fn end(_: &Span, _: &Ended<'_>) {}

/// Always None, because the span is disabled.
pub fn trace_id(_: &Span) -> Option<String> {
    None
}

/// Returns the request unchanged.
pub fn give_on(request: RequestBuilder) -> RequestBuilder {
    request
}

//! Begins and ends the spans of requests, and connects `tracing` to OpenTelemetry.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use kms_lib::{RecordId, Result};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::HeaderInjector;
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanExporter};
use reqwest::RequestBuilder;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::{Span, Subscriber, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use super::client::Client;
use super::export::{self, Exporter};
use super::{Begun, Ended, Status};
use crate::request::trace_context;
use crate::settings::{OtlpSettings, invalid};

/// The instrumentation scope of the spans, and the service name unless `OTEL_SERVICE_NAME` is set.
const NAME: &str = "kms-http";
/// Maximum length of a `tracestate` that is propagated; W3C Trace Context requires at least 512 characters.
const TRACE_STATE: usize = 512;
/// Maximum time to export the remaining spans when the service stops.
const LAST: Duration = Duration::from_secs(3);

/// The recording of traces. [`Traces::start`] starts their export.
pub struct Traces {
    provider: SdkTracerProvider,
    exporter: Exporter,
    status: Arc<Status>,
}

/// The task that exports spans, until it is stopped.
pub struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Traces {
    /// Sets up traces according to the settings; None if they are disabled.
    pub fn new(settings: &OtlpSettings) -> Result<Option<Self>> {
        let Some(endpoint) = &settings.endpoint else { return Ok(None) };
        let client = Client::new(settings, endpoint)?;
        let problem = client.problem();
        let mut exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_endpoint(client.url())
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(Duration::from_secs(settings.timeout_seconds))
            .with_http_client(client)
            .build()
            .map_err(|e| invalid(format!("http.otlp: {e}")))?;
        // Resource::builder applies OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
        let is_named = std::env::var_os("OTEL_SERVICE_NAME").is_some();
        let mut resource = Resource::builder();
        if !is_named {
            resource = resource.with_service_name(NAME);
        }
        let resource = resource
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", RecordId::random().to_string()),
            ])
            .build();
        exporter.set_resource(&resource);
        let status = Arc::<Status>::default();
        let (queue, exporter) = export::queue(exporter, problem, Arc::clone(&status));
        let ratio = f64::from(settings.sample_percent) / 100.0;
        let provider = SdkTracerProvider::builder()
            .with_span_processor(queue)
            .with_resource(resource)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))))
            .build();
        Ok(Some(Self { provider, exporter, status }))
    }

    /// The status of the export.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    /// The layer that converts the `tracing` spans of this service and the library to OpenTelemetry spans. Events go to
    /// the process log only.
    pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> + use<S> {
        let is_ours = filter_fn(|metadata| metadata.is_span() && metadata.target().starts_with("kms_"));
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(NAME))
            .with_context_activation(false)
            .with_tracked_inactivity(false)
            .with_location(false)
            .with_threads(false)
            .with_level(false)
            .with_target(false)
            .with_filter(is_ours)
    }

    /// Starts the export on the current runtime.
    pub fn start(self) -> Running {
        let (stop, stopping) = oneshot::channel();
        // Keep the provider alive until the last spans are exported.
        let Self { provider, exporter, .. } = self;
        let task = tokio::spawn(async move {
            exporter.run(stopping).await;
            drop(provider);
        });
        Running { stop, task }
    }
}

impl Running {
    /// Exports the remaining spans, within 3 seconds.
    pub async fn stop(self) {
        let Self { stop, task } = self;
        let abort = task.abort_handle();
        let _ = stop.send(());
        if tokio::time::timeout(LAST, task).await.is_err() {
            abort.abort();
            tracing::warn!("the last traces were not exported in time");
        }
    }
}

/// Begins the span of a request, as a child of the caller's span if the request names one.
pub fn begin(begun: &Begun<'_>) -> Span {
    let Begun { method, route, operation, request_id, headers } = begun;
    let name = route.map(|route| format!("{method} {route}"));
    let span = tracing::debug_span!(
        "request",
        otel.name = name.as_deref().unwrap_or(method),
        otel.kind = "server",
        otel.status_code = field::Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = field::Empty,
        error.type = field::Empty,
        client.address = field::Empty,
        principal = field::Empty,
        operation,
        request_id,
    );
    if let Some(parent) = parent(headers) {
        // Fails only if no layer records spans.
        let _ = span.set_parent(parent);
    }
    span
}

/// Records the result of a request in its span.
pub fn end(span: &Span, ended: &Ended<'_>) {
    if span.is_disabled() {
        return;
    }
    // The layer supports signed numbers only.
    span.record("http.response.status_code", i64::from(ended.status.as_u16()));
    if let Some(source) = ended.source {
        span.record("client.address", field::display(source));
    }
    if let Some(principal) = ended.principal {
        span.record("principal", principal);
    }
    if let Some(code) = ended.code {
        span.record("error.type", code);
    }
    // A client error (4xx) is not an error of a server span (semantic conventions for HTTP spans).
    if ended.status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
}

/// The id of the trace that a span belongs to.
pub fn trace_id(span: &Span) -> Option<String> {
    let context = span.context();
    let of_span = context.span();
    let of_span = of_span.span_context();
    of_span.is_valid().then(|| of_span.trace_id().to_string())
}

/// Adds the trace context of the current span to an outgoing request.
pub fn give_on(request: RequestBuilder) -> RequestBuilder {
    let context = Span::current().context();
    let mut headers = HeaderMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut HeaderInjector(&mut headers));
    if headers.get("tracestate").is_some_and(|state| state.is_empty()) {
        headers.remove("tracestate");
    }
    request.headers(headers)
}

/// The trace context headers of a request.
struct Incoming<'a> {
    parent: &'a str,
    state: Option<String>,
}

impl Extractor for Incoming<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(self.parent),
            "tracestate" => self.state.as_deref(),
            _ => None,
        }
    }
    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

/// The parent span of a request. An invalid `traceparent` is ignored together with its `tracestate`.
fn parent(headers: &HeaderMap) -> Option<Context> {
    trace_context::trace_id(headers)?;
    let parent = headers.get("traceparent")?.to_str().ok()?;
    let states: Option<Vec<&str>> = headers.get_all("tracestate").iter().map(|value| value.to_str().ok()).collect();
    let state = states.map(|states| states.join(",")).filter(|state| state.len() <= TRACE_STATE);
    Some(TraceContextPropagator::new().extract_with_context(&Context::new(), &Incoming { parent, state }))
}

//! The routes. They translate between HTTP and [`kms_lib`], which makes all decisions.

mod access;
mod audit;
mod call;
mod crypto;
mod grants;
mod key_list;
mod keys;
pub mod ops;
mod reply;
mod route;
mod scrape;
mod strict_json;
mod tokens;

pub use call::Call;
pub use reply::Reply;
pub use route::Route;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use kms_lib::{Kms, Result};

use crate::anchors;
use crate::auth::Authenticator;
use crate::error::ApiError;
use crate::metrics::{Metrics, Standing};
use crate::openapi::{self, Doc, Operation, page};
use crate::otlp;
use crate::request::RequestContext;
use crate::request::body::Bodies;
use crate::request::fair_queue::FairQueue;
use crate::request::memory::RequestMemory;
use crate::request::origins::Origins;
use crate::request::rate::Rate;
use crate::settings::Http;
use crate::tls::TlsServer;

/// Maximum number of lists and large requests in progress.
const HEAVY: usize = 4;

/// The state shared by all requests.
pub struct App {
    /// The key management service.
    pub kms: Kms,
    /// The section `http` of the settings.
    pub http: Http,
    /// Authenticates callers.
    pub auth: Authenticator,
    /// Limits the requests in progress; waiting principals take turns.
    pub gate: Arc<FairQueue>,
    /// The rate limit per principal, if there is one.
    pub rate: Option<Rate>,
    /// Limits lists and large requests in progress, before they enter `gate`.
    pub heavy: Arc<FairQueue>,
    /// Reads request bodies, within the memory for requests and responses.
    pub bodies: Bodies,
    /// The origins whose web pages may call the service.
    pub origins: Origins,
    /// The metrics of the HTTP service.
    pub metrics: Metrics,
    /// Number of open connections.
    pub connections: AtomicUsize,
    /// The TLS configuration, once the service listens with TLS.
    pub tls: OnceLock<Arc<TlsServer>>,
    /// Whether the service is about to stop and reports that it is not ready.
    pub draining: AtomicBool,
    /// The cached result of the last readiness check.
    pub readiness: ops::Readiness,
    /// The status of anchoring.
    pub anchoring: Arc<anchors::Status>,
    /// The status of the trace export, once it runs.
    pub traces: OnceLock<Arc<otlp::Status>>,
    /// Logs requests without a valid credential.
    pub unknown_callers: access::Unknown,
    /// The cached result of the last scrape.
    pub scrape: scrape::Scrape,
    /// The OpenAPI document as JSON, rendered once.
    pub openapi: Bytes,
}

impl App {
    /// Creates the state of a service with these settings.
    pub fn new(kms: Kms, http: Http) -> Result<Self> {
        Ok(Self {
            kms,
            auth: Authenticator::new(&http)?,
            gate: Arc::new(FairQueue::new(http.concurrency, http.queue)),
            rate: Rate::new(http.rate_per_second, http.rate_burst),
            heavy: Arc::new(FairQueue::new(HEAVY, http.queue)),
            bodies: Bodies::new(
                Arc::new(RequestMemory::new(http.body_memory())),
                Duration::from_secs(http.body_timeout_seconds),
                http.request_timeout(),
            ),
            origins: Origins::new(&http.cors_origins, &http.public_origins, http.tls.is_on()),
            metrics: Metrics::default(),
            connections: AtomicUsize::new(0),
            tls: OnceLock::new(),
            draining: AtomicBool::new(false),
            readiness: ops::Readiness::default(),
            anchoring: Arc::default(),
            traces: OnceLock::new(),
            unknown_callers: access::Unknown::default(),
            scrape: scrape::Scrape::default(),
            openapi: openapi::document(&operations(&http), &http).into(),
            http,
        })
    }

    /// The state of the server, for the metrics.
    fn standing(&self) -> Standing {
        let (active, waiting) = self.gate.load();
        Standing {
            active,
            waiting,
            connections: self.connections.load(Ordering::Relaxed),
            anchoring: self.http.anchors.is_on().then(|| Arc::clone(&self.anchoring)),
            traces: self.traces.get().cloned(),
            dropped_lines: self.metrics.dropped_lines(),
            reload_failures: self.tls.get().map_or(0, |tls| tls.reload_failures()),
            certificate_expires: self.tls.get().and_then(|tls| tls.certificate_expires()),
        }
    }
}

/// All routes of the service.
pub fn routes(http: &Http) -> Vec<Route> {
    let of_keys = [keys::routes(), crypto::routes(), grants::routes()];
    of_keys
        .into_iter()
        .chain([tokens::routes(), audit::routes(), ops::routes(http), vec![scrape::route(http)]])
        .flatten()
        .collect()
}

/// The descriptions of all routes.
fn operations(http: &Http) -> Vec<Operation> {
    routes(http).into_iter().map(|route| route.operation).collect()
}

/// The router over all routes.
pub fn router(app: &Arc<App>) -> Router {
    let mut router = Router::new();
    let (is_logged, is_traced) = (app.http.log_requests, app.http.otlp.is_on());
    let refuse = move |request: Request, error: ApiError| async move { refuse(&request, &error, is_logged, is_traced) };
    for route in routes(&app.http) {
        let Operation { id, method, path, .. } = &route.operation;
        let meter = app.metrics.meter(id, method.clone(), path);
        let (path, handler) = route.mount(meter);
        router = router.route(path, handler);
    }
    if app.http.docs {
        router = page::files().into_iter().fold(router, |router, file| router.route(file.path, get(serve_file(file))));
    }
    router
        .fallback(move |request: Request| refuse(request, ApiError::no_route()))
        .method_not_allowed_fallback(move |request: Request| refuse(request, ApiError::no_method()))
        .with_state(Arc::clone(app))
}

/// Serves a file of the documentation page `/docs`.
fn serve_file(file: page::File) -> impl Fn() -> std::future::Ready<Response> + Clone + Send + Sync + 'static {
    let page::File { content_type, content, .. } = file;
    move || {
        let mut response = Response::new(Body::from(content()));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::PAGE_POLICY));
        std::future::ready(response)
    }
}

fn refuse(request: &Request, error: &ApiError, is_logged: bool, is_traced: bool) -> Response {
    let Some(context) = request.extensions().get::<RequestContext>() else { return error.respond("") };
    if is_logged {
        access::log_refused(context, request, error);
    }
    if is_traced {
        access::trace_refused(context, request, error);
    }
    error.respond(&context.id)
}

//! The routes: they translate, [`kms_lib`] decides.

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
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use kms_lib::{Kms, Result};

use crate::auth::Authenticator;
use crate::error::ApiError;
use crate::metrics::{Metrics, Standing};
use crate::openapi::{self, Doc, Operation};
use crate::request::RequestContext;
use crate::request::body::Bodies;
use crate::request::fair_queue::FairQueue;
use crate::request::memory::RequestMemory;
use crate::request::origins::Origins;
use crate::request::rate::Rate;
use crate::settings::Http;
use crate::tls::TlsServer;

/// How many lists and large requests are worked on at a time.
const HEAVY: usize = 4;

/// What all requests share.
pub struct App {
    /// The service.
    pub kms: Kms,
    /// The settings.
    pub http: Http,
    /// Recognises callers.
    pub auth: Authenticator,
    /// Lets requests in by turns.
    pub gate: Arc<FairQueue>,
    /// The rate of each principal, if it is limited.
    pub rate: Option<Rate>,
    /// Lets lists and large requests in by turns, before they take a place among all requests.
    pub heavy: Arc<FairQueue>,
    /// Bodies, and the memory that requests and answers take.
    pub bodies: Bodies,
    /// Pages of which origins may call.
    pub origins: Origins,
    /// What is counted.
    pub metrics: Metrics,
    /// Connections that are open.
    pub connections: AtomicUsize,
    /// The certificates, once it listens with TLS.
    pub tls: OnceLock<Arc<TlsServer>>,
    /// Whether the service is about to stop, so that no work should be sent to it.
    pub draining: AtomicBool,
    /// Whether the service can be sent work, as of a moment ago.
    pub readiness: ops::Readiness,
    /// The metrics, as of a moment ago.
    pub scrape: scrape::Scrape,
    /// The contract.
    pub openapi: Bytes,
}

impl App {
    /// The service with these settings.
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
            ),
            origins: Origins::new(&http.cors_origins, &http.public_origins, http.tls.is_on()),
            metrics: Metrics::default(),
            connections: AtomicUsize::new(0),
            tls: OnceLock::new(),
            draining: AtomicBool::new(false),
            readiness: ops::Readiness::default(),
            scrape: scrape::Scrape::default(),
            openapi: openapi::document(&operations(&http)).into(),
            http,
        })
    }

    /// How the server stands, for the metrics.
    fn standing(&self) -> Standing {
        let (active, waiting) = self.gate.load();
        Standing {
            active,
            waiting,
            connections: self.connections.load(Ordering::Relaxed),
            reload_failures: self.tls.get().map_or(0, |tls| tls.reload_failures()),
            certificate_expires: self.tls.get().and_then(|tls| tls.certificate_expires()),
        }
    }
}

/// Every route there is.
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
    for route in routes(&app.http) {
        let meter = app.metrics.meter(route.operation.id);
        let (path, handler) = route.mount(meter);
        router = router.route(path, handler);
    }
    router
        .fallback(|request: Request| async move { refuse(&request, &ApiError::no_route()) })
        .method_not_allowed_fallback(|request: Request| async move { refuse(&request, &ApiError::no_method()) })
        .with_state(Arc::clone(app))
}

fn refuse(request: &Request, error: &ApiError) -> Response {
    let id = request.extensions().get::<RequestContext>().map(|context| Arc::clone(&context.id));
    error.respond(id.as_deref().unwrap_or_default())
}

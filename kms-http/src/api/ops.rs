//! What those need who run the service: probes, metrics, the contract.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::header::{CONTENT_SECURITY_POLICY, HeaderValue};
use axum::http::{Method, StatusCode};
use kms_lib::{Error, Result, Role, Timestamp};
use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::ToSchema;

use super::call::Call;
use super::reply::{self, Reply};
use super::{ApiError, App, Doc, Route, models};
use crate::metrics;
use crate::settings::Http;

/// How long what was found about readiness is told again: asking costs the store a lock.
const READINESS: Duration = Duration::from_secs(1);
/// The text format of Prometheus.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// That the service answers.
#[derive(Serialize, ToSchema)]
struct Health {
    /// `ok`.
    status: &'static str,
    #[schema(value_type = String, format = "date-time")]
    timestamp: Timestamp,
}

/// What was found when somebody last looked.
#[derive(Default)]
pub struct Readiness(Mutex<Option<(Instant, Result<()>)>>);

impl Readiness {
    /// Whether the service can be sent work, as of a second ago at most.
    async fn look(&self, app: &App) -> Result<()> {
        let mut last = self.0.lock().await;
        if let Some((when, found)) = &*last
            && when.elapsed() < READINESS
        {
            return found.clone();
        }
        let found = app.kms.ready().await;
        *last = Some((Instant::now(), found.clone()));
        found
    }
}

/// The routes.
pub(super) fn routes(http: &Http) -> Vec<Route> {
    let doc = |summary| Doc::new("Operations", summary);
    let scrape = doc("Counters for Prometheus").sends(OPENMETRICS);
    let mut routes = vec![
        Route::open(
            Method::GET,
            "/v1/healthz",
            "healthz",
            doc("Whether the service answers").gives::<Health>(),
            |_| async { reply::ok(&Health { status: "ok", timestamp: Timestamp::now() }) },
        ),
        Route::open(
            Method::GET,
            "/v1/readyz",
            "readyz",
            doc("Whether the service can be sent work: the store is writable, the root key usable, the ledger running")
                .gives::<Health>()
                .errors(&[503]),
            ready,
        ),
        Route::new(
            Method::GET,
            "/v1/ops/metrics",
            "getMetrics",
            doc("What people who run the service want to see").gives::<models::Metrics>(),
            |call: Call| async move { reply::ok(&call.session.metrics().await?) },
        ),
    ];
    if http.metrics_public {
        routes.push(Route::open(Method::GET, "/metrics", "scrape", scrape, |app| async move { scraped(&app).await }));
    } else {
        routes.push(Route::new(Method::GET, "/metrics", "scrape", scrape, scrape_known));
    }
    if http.docs {
        let contract = doc("This contract").sends("application/json");
        routes.push(Route::open(Method::GET, "/openapi.json", "getOpenApi", contract, |app| async move {
            reply::text("application/json", app.openapi.clone())
        }));
        let page = doc("A page to try it").sends("text/html; charset=utf-8");
        routes.push(Route::open(Method::GET, "/docs", "getDocs", page, |_| async { docs() }));
    }
    routes
}

async fn ready(app: Arc<App>) -> Reply {
    match app.readiness.look(&app).await {
        Ok(()) => reply::ok(&Health { status: "ok", timestamp: Timestamp::now() }),
        Err(error) => Err(unready(&error)),
    }
}

/// Everybody may ask, so the code is all that is told.
fn unready(error: &Error) -> ApiError {
    tracing::warn!(%error, "not ready");
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error.code().as_str(), "not ready; the log of the process says why")
}

async fn scrape_known(call: Call) -> Reply {
    // Whoever is no auditor is refused by the library, which records it.
    if !matches!(call.session.actor().role(), Role::Admin | Role::Auditor) {
        call.session.metrics().await?;
    }
    scraped(&call.app).await
}

async fn scraped(app: &App) -> Reply {
    let telemetry = app.kms.telemetry().await?;
    let mut text = String::with_capacity(16 * 1024);
    let written = app.metrics.encode(&mut text).and_then(|()| {
        // Each part ends the exposition; there is one end.
        text.truncate(text.trim_end_matches("# EOF\n").len());
        metrics::gauges(&telemetry, app.gate.load(), app.open_connections(), &mut text)
    });
    written
        .map_err(|_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal", "metrics could not be written"))?;
    reply::text(OPENMETRICS, text)
}

fn docs() -> Reply {
    let mut response = reply::text("text/html; charset=utf-8", crate::openapi::PAGE.to_owned())?;
    let policy = HeaderValue::from_static(crate::openapi::PAGE_POLICY);
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

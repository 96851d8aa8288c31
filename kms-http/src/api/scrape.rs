//! `/metrics`. Available even if the store is not, and computed at most once a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kms_lib::metrics::LastVerification;
use tokio::sync::Mutex;

use super::call::Call;
use super::reply::{self, Reply};
use super::{ApiError, App, Doc, Route};
use crate::metrics;
use crate::settings::Http;

/// How long a result is cached, because computing one queries the store.
const FRESH: Duration = Duration::from_secs(1);
/// The content type of OpenMetrics text.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The result of the last scrape.
#[derive(Clone, Default)]
pub struct Scrape(Arc<Mutex<Last>>);

#[derive(Default)]
struct Last {
    exposition: Option<(Instant, Bytes)>,
    /// Remembered for when the store is unavailable.
    verification: Option<LastVerification>,
}

/// The route `/metrics`, with or without authentication as configured.
pub(super) fn route(http: &Http) -> Route {
    let doc = Doc::new("Operations", "Metrics for Prometheus, available even if the store is not").sends(OPENMETRICS);
    match http.metrics_public {
        true => Route::open("/metrics", "scrape", |app| async move { scraped(app).await }).doc(doc),
        false => Route::get("/metrics", "scrape", scrape_known).doc(doc),
    }
}

async fn scrape_known(call: Call) -> Reply {
    // The library checks the permission, including tokens revoked by other nodes, and records a denial.
    call.session.permit_telemetry().await?;
    scraped(call.app).await
}

/// Returns the cached metrics, or computes them once for all concurrent callers, even if the first one disconnects.
async fn scraped(app: Arc<App>) -> Reply {
    let mut last = Arc::clone(&app.scrape.0).lock_owned().await;
    if let Some((when, text)) = &last.exposition
        && when.elapsed() < FRESH
    {
        return reply::text(OPENMETRICS, text.clone());
    }
    let looking = tokio::spawn(async move {
        let text = exposition(&app, &mut last.verification).await?;
        last.exposition = Some((Instant::now(), text.clone()));
        Ok::<_, ApiError>(text)
    });
    let text = looking.await.map_err(|_| ApiError::internal("collecting the metrics ended unexpectedly"))??;
    reply::text(OPENMETRICS, text)
}

async fn exposition(app: &App, verification: &mut Option<LastVerification>) -> Result<Bytes, ApiError> {
    let mut telemetry = app.kms.telemetry().await?;
    if telemetry.store_up {
        *verification = telemetry.last_verification;
    } else {
        telemetry.last_verification = *verification;
    }
    let mut text = String::with_capacity(16 * 1024);
    let written = app.metrics.encode(&mut text).and_then(|()| {
        // Both parts end with an EOF marker; keep only the last.
        text.truncate(text.trim_end_matches("# EOF\n").len());
        metrics::gauges(&telemetry, &app.standing(), &mut text)
    });
    written.map_err(|_| ApiError::internal("the metrics could not be serialized"))?;
    Ok(text.into())
}

//! `/metrics`: also when the store does not answer, and never more often than once a second.

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

/// How long an exposition is sent again: making one asks the store.
const FRESH: Duration = Duration::from_secs(1);
/// The text format of Prometheus.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What was found when somebody last scraped.
#[derive(Clone, Default)]
pub struct Scrape(Arc<Mutex<Last>>);

#[derive(Default)]
struct Last {
    exposition: Option<(Instant, Bytes)>,
    /// Kept for the time when the store cannot be asked.
    verification: Option<LastVerification>,
}

/// The route.
pub(super) fn route(http: &Http) -> Route {
    let doc = Doc::new("Operations", "Counters for Prometheus; also when the store does not answer").sends(OPENMETRICS);
    match http.metrics_public {
        true => Route::open("/metrics", "scrape", |app| async move { scraped(app).await }).doc(doc),
        false => Route::get("/metrics", "scrape", scrape_known).doc(doc),
    }
}

async fn scrape_known(call: Call) -> Reply {
    // The library knows who may, also by a token that another node has withdrawn, and records whom it refuses.
    call.session.permit_telemetry().await?;
    scraped(call.app).await
}

/// One look at the store is for all who ask meanwhile, and it goes on when the caller that began it goes away.
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
    let text = looking.await.map_err(|_| ApiError::internal("a look at the metrics ended unexpectedly"))??;
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
        // Each part ends the exposition; there is one end.
        text.truncate(text.trim_end_matches("# EOF\n").len());
        metrics::gauges(&telemetry, &app.standing(), &mut text)
    });
    written.map_err(|_| ApiError::internal("metrics could not be written"))?;
    Ok(text.into())
}

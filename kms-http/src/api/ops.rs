//! Routes for operators: probes, metrics, and the OpenAPI document.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use kms_lib::Ready;
use kms_lib::{Error, ErrorCode, Result, Timestamp};
use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::ToSchema;

use super::call::Call;
use super::reply::{self, Reply};
use super::{ApiError, App, Doc, Route};
use crate::error::ServiceCode;
use crate::openapi::schemas;
use crate::settings::Http;

/// How long a readiness result is cached, because a check takes a lock in the store.
const READINESS: Duration = Duration::from_secs(1);

/// The service is alive.
#[derive(Serialize, ToSchema)]
struct Health {
    /// Always `ok`.
    status: &'static str,
    #[schema(value_type = String, format = "date-time")]
    timestamp: Timestamp,
}

/// The service is ready for requests.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ReadyState {
    /// Always `ok`.
    status: &'static str,
    /// `ok`, or `degraded` while calls to a root key fail; then only keys that are in memory can be used.
    root_key: &'static str,
    #[schema(value_type = String, format = "date-time")]
    timestamp: Timestamp,
}

/// The time and result of a readiness check.
type Look = (Instant, Result<Ready>);

/// The cached result of the last readiness check.
pub struct Readiness {
    last: Arc<Mutex<Option<Look>>>,
    /// How long the result is cached.
    fresh: Duration,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { last: Arc::default(), fresh: READINESS }
    }
}

impl Readiness {
    /// Returns the cached result, or checks readiness once for all concurrent callers. The check continues if the first
    /// caller disconnects; otherwise unauthenticated clients could start many checks by disconnecting.
    async fn look<Looking>(&self, ask: impl FnOnce() -> Looking) -> Result<Ready>
    where
        Looking: Future<Output = Result<Ready>> + Send + 'static,
    {
        let mut last = Arc::clone(&self.last).lock_owned().await;
        if let Some((when, found)) = &*last
            && when.elapsed() < self.fresh
        {
            return found.clone();
        }
        let looking = ask();
        let looking = tokio::spawn(async move {
            let found = looking.await;
            // Log once per check, not once per request, so that clients cannot fill the log.
            if let Err(error) = &found {
                tracing::warn!(%error, "not ready");
            }
            *last = Some((Instant::now(), found.clone()));
            found
        });
        looking.await.map_err(|_| Error::new(ErrorCode::Internal, "the readiness check ended unexpectedly"))?
    }
}

/// All routes for operators.
pub(super) fn routes(http: &Http) -> Vec<Route> {
    let doc = |summary| Doc::new("Operations", summary);
    let mut routes =
        vec![
            Route::open("/v1/healthz", "healthz", |app| async move { alive(&app) }).doc(
                doc("Liveness: fails once the ledger has stopped permanently, which a restart may fix")
                    .gives::<Health>()
                    .errors(&[503]),
            ),
            Route::open("/v1/readyz", "readyz", ready).doc(
                doc("Readiness: the store is writable and the ledger runs; calls no root key")
                    .gives::<ReadyState>()
                    .errors(&[503]),
            ),
            Route::get("/v1/ops/metrics", "getMetrics", |call: Call| async move {
                reply::ok(&call.session.metrics().await?)
            })
            .doc(doc("Metrics of keys, audit log, usage and storage as JSON").gives::<schemas::Metrics>()),
        ];
    if http.docs {
        let contract = doc("This OpenAPI document").sends("application/json");
        routes.push(
            Route::open("/openapi.json", "getOpenApi", |app| async move {
                reply::text("application/json", app.openapi.clone())
            })
            .doc(contract),
        );
    }
    routes
}

fn alive(app: &App) -> Reply {
    if !app.kms.is_alive() {
        let message = "the ledger has stopped; see the process log for the reason";
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::IntegrityFailure.as_str(), message));
    }
    reply::ok(&Health { status: "ok", timestamp: Timestamp::now() })
}

async fn ready(app: Arc<App>) -> Reply {
    if app.draining.load(Ordering::Relaxed) {
        return Err(unready(ErrorCode::Closed.as_str()));
    }
    let kms = app.kms.clone();
    let looking = app.readiness.look(|| async move { kms.ready().await });
    match tokio::time::timeout(app.http.request_timeout(), looking).await {
        Ok(Ok(ready)) => {
            let root_key = ready.root_key.as_str();
            reply::ok(&ReadyState { status: "ok", root_key, timestamp: Timestamp::now() })
        }
        Ok(Err(error)) => Err(unready(error.code().as_str())),
        Err(_) => Err(unready(ServiceCode::TIMEOUT.name)),
    }
}

/// The error of an unready service. It reveals only the error code, because the route needs no authentication.
fn unready(code: &'static str) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, "not ready; see the process log for the reason")
}

#[cfg(test)]
#[path = "../../tests/unit/readiness.rs"]
mod tests;

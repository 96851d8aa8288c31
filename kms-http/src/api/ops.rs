//! What those need who run the service: probes, metrics, the contract.

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

/// How long what was found about readiness is told again: asking costs the store a lock.
const READINESS: Duration = Duration::from_secs(1);

/// That the service answers.
#[derive(Serialize, ToSchema)]
struct Health {
    /// `ok`.
    status: &'static str,
    #[schema(value_type = String, format = "date-time")]
    timestamp: Timestamp,
}

/// That the service can be sent work.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ReadyState {
    /// `ok`.
    status: &'static str,
    /// `ok`, or `degraded` while calls to a root key fail: keys that are not in memory cannot be used then.
    root_key: &'static str,
    #[schema(value_type = String, format = "date-time")]
    timestamp: Timestamp,
}

/// When somebody looked, and what was found.
type Look = (Instant, Result<Ready>);

/// What was found when somebody last looked.
pub struct Readiness {
    last: Arc<Mutex<Option<Look>>>,
    /// How long it is told again.
    fresh: Duration,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { last: Arc::default(), fresh: READINESS }
    }
}

impl Readiness {
    /// Whether the service can be sent work, as of a second ago at most. Everybody may ask, so one look is for all who
    /// ask meanwhile, and it goes on when who began it goes away: else hanging up would be a way to have many.
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
            // Here, and not with every answer: whoever asks must not be able to fill the log.
            if let Err(error) = &found {
                tracing::warn!(%error, "not ready");
            }
            *last = Some((Instant::now(), found.clone()));
            found
        });
        looking.await.map_err(|_| Error::new(ErrorCode::Internal, "a look at the store ended unexpectedly"))?
    }
}

/// The routes.
pub(super) fn routes(http: &Http) -> Vec<Route> {
    let doc = |summary| Doc::new("Operations", summary);
    let mut routes =
        vec![
        Route::open("/v1/healthz", "healthz", |app| async move { alive(&app) }).doc(
            doc("Whether the service is alive; fails once its ledger has stopped for good, which a restart may mend")
                .gives::<Health>()
                .errors(&[503]),
        ),
        Route::open("/v1/readyz", "readyz", ready).doc(
            doc("Whether the service can be sent work: the store is writable and the ledger running. Calls no root key")
                .gives::<ReadyState>()
                .errors(&[503]),
        ),
        Route::get(
            "/v1/ops/metrics",
            "getMetrics",
            |call: Call| async move { reply::ok(&call.session.metrics().await?) },
        )
        .doc(doc("What people who run the service want to see").gives::<schemas::Metrics>()),
    ];
    if http.docs {
        let contract = doc("This contract").sends("application/json");
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
        let message = "the ledger has stopped; the log of the process says why";
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

/// Everybody may ask, so the code is all that is told.
fn unready(code: &'static str) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, "not ready; the log of the process says why")
}

#[cfg(test)]
#[path = "../../tests/unit/readiness.rs"]
mod tests;

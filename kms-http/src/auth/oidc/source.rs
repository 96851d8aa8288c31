//! Fetches and caches an issuer's keys.
//!
//! Keys older than `refresh` are fetched again in the background while requests continue with the known keys. An
//! unreachable issuer therefore delays no request until the keys are older than `stale`; from then on, no token is
//! accepted before a fetch succeeds. A token that names an unknown key waits for one fetch, since the issuer may have
//! rotated its keys, but there is at most one fetch per `retry`, so made-up key names cannot make this service flood
//! the issuer.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jsonwebtoken::Algorithm;
use reqwest::Url;
use serde::Deserialize;
use tokio::sync::Mutex;
use tracing::Instrument;

use super::fetch::{Fetcher, is_https, parse_url};
use super::keys::{IssuerKey, KeySet, Lookup};
use crate::auth::AuthError;
use crate::settings::OidcSettings;

/// The cached keys of one issuer.
pub(super) struct KeySource {
    settings: Arc<OidcSettings>,
    /// The configured URL of the key set; found by discovery if it is `None`.
    jwks_uri: Option<Url>,
    fetcher: Fetcher,
    state: RwLock<State>,
    /// Held during a fetch.
    fetching: Arc<Mutex<()>>,
}

/// The keys and the outcome of the latest fetch at one point in time.
#[derive(Clone, Default)]
pub(super) struct State {
    keys: Option<(Arc<KeySet>, Instant)>,
    attempted: Option<Instant>,
    /// Whether the last attempt failed.
    failed: bool,
}

impl KeySource {
    pub(super) fn new(settings: Arc<OidcSettings>, jwks_uri: Option<Url>, fetcher: Fetcher) -> Arc<Self> {
        Arc::new(Self { settings, jwks_uri, fetcher, state: RwLock::default(), fetching: Arc::default() })
    }

    /// Finds the key that a token names; fetches the keys if it is unknown.
    pub(super) async fn find(
        self: &Arc<Self>,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Arc<IssuerKey>, AuthError> {
        let state = self.fresh_enough().await;
        let keys = self.usable(&state)?;
        match keys.find(id, algorithm) {
            Lookup::Found(key) => return Ok(key),
            Lookup::Unfit(reason) => return Err(AuthError::rejected(reason)),
            Lookup::Unknown => {}
        }
        let state = self.refreshed().await;
        match self.usable(&state)?.find(id, algorithm) {
            Lookup::Found(key) => Ok(key),
            Lookup::Unfit(reason) => Err(AuthError::rejected(reason)),
            // The issuer may have rotated its keys but could not be reached.
            Lookup::Unknown if state.failed => Err(unreachable()),
            Lookup::Unknown => Err(AuthError::rejected("the issuer has no such key")),
        }
    }

    fn snapshot(&self) -> State {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The current state, after a fetch if one is due.
    async fn fresh_enough(self: &Arc<Self>) -> State {
        let state = self.snapshot();
        let Some(age) = state.keys.as_ref().map(|(_, fetched)| fetched.elapsed()) else {
            return self.refreshed().await;
        };
        if age >= self.stale() {
            return self.refreshed().await;
        }
        if age >= self.refresh() {
            self.refresh_aside();
        }
        state
    }

    /// Fetches the keys in the background whenever they are due, so that no caller waits for that, even after a time
    /// without requests. Never returns.
    pub(super) async fn keep_fresh(self: &Arc<Self>) {
        loop {
            self.fresh_enough().await;
            tokio::time::sleep((self.refresh() / 2).max(Duration::from_secs(1))).await;
        }
    }

    /// The age at which keys are fetched again.
    fn refresh(&self) -> Duration {
        Duration::from_secs(self.settings.refresh_seconds)
    }

    /// The maximum age of keys that are used while the issuer cannot be reached.
    fn stale(&self) -> Duration {
        Duration::from_secs(self.settings.stale_seconds)
    }

    /// The keys, unless they are too old to be used without a successful fetch.
    fn usable(&self, state: &State) -> Result<Arc<KeySet>, AuthError> {
        match &state.keys {
            Some((keys, fetched)) if !state.failed || fetched.elapsed() <= self.stale() => Ok(keys.clone()),
            _ => Err(unreachable()),
        }
    }

    /// The state after a fetch, or the current state if the last fetch was less than `retry` ago.
    ///
    /// The fetch is a task of its own, so that a caller that disconnects cannot cancel it. Otherwise repeated
    /// disconnects could keep new keys from being fetched.
    pub(super) async fn refreshed(self: &Arc<Self>) -> State {
        if self.is_due() {
            let source = self.clone();
            let attempt = async move {
                let _fetching = source.fetching.lock().await;
                // Another task may have fetched the keys while this one waited for the lock.
                if source.is_due() {
                    source.fetch_and_keep().await;
                }
            };
            if tokio::spawn(attempt.in_current_span()).await.is_err() {
                tracing::error!(issuer = self.settings.issuer, "the task that fetches the issuer's keys panicked");
            }
        } else {
            // Waits for a running fetch.
            drop(self.fetching.lock().await);
        }
        self.snapshot()
    }

    /// Starts a fetch in the background if one is due and none is running.
    fn refresh_aside(self: &Arc<Self>) {
        if !self.is_due() {
            return;
        }
        if let Ok(fetching) = self.fetching.clone().try_lock_owned() {
            let source = self.clone();
            tokio::spawn(async move {
                let _fetching = fetching;
                source.fetch_and_keep().await;
            });
        }
    }

    fn is_due(&self) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let retry = Duration::from_secs(self.settings.retry_seconds);
        state.attempted.is_none_or(|attempted| attempted.elapsed() >= retry)
    }

    async fn fetch_and_keep(&self) {
        {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            state.attempted = Some(Instant::now());
            // Counts as failed until the fetch succeeds.
            state.failed = true;
        }
        let outcome = self.fetch().await;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.failed = outcome.is_err();
        match outcome {
            Ok(keys) => state.keys = Some((Arc::new(keys), Instant::now())),
            Err(problem) => tracing::warn!(issuer = self.settings.issuer, problem, "cannot fetch the issuer's keys"),
        }
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        let location = match &self.jwks_uri {
            Some(location) => location.clone(),
            None => self.discover().await?,
        };
        KeySet::parse(&self.fetcher.get(&location).await?)
    }

    /// The URL of the key set in the issuer's discovery document (OpenID Connect Discovery 1.0, section 4).
    async fn discover(&self) -> Result<Url, String> {
        #[derive(Deserialize)]
        struct Document {
            issuer: String,
            jwks_uri: String,
        }
        let url = discovery_url(&self.settings.issuer)?;
        let document: Document = serde_json::from_slice(&self.fetcher.get(&url).await?)
            .map_err(|e| format!("{url}: not a discovery document: {e}"))?;
        if document.issuer != self.settings.issuer {
            return Err(format!("{url}: the discovery document names another issuer"));
        }
        let location = parse_url(&document.jwks_uri)?;
        if is_https(&url) && !is_https(&location) {
            return Err(format!("{url}: the key set of an https issuer must be at an https URL"));
        }
        Ok(location)
    }
}

/// The URL of an issuer's discovery document (OpenID Connect Discovery 1.0, section 4.1).
pub(super) fn discovery_url(issuer: &str) -> Result<Url, String> {
    if issuer.contains(['?', '#']) {
        return Err(format!("{issuer:?} has a query or a fragment"));
    }
    parse_url(&format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')))
}

fn unreachable() -> AuthError {
    AuthError::unavailable("the issuer's keys cannot be fetched")
}

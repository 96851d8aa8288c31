//! The configuration of the scheduler: when it runs, and its jobs: rotating due keys, erasing material whose date has
//! passed, revoking versions past their grace window, and verifying new audit records.

mod cron;

pub use cron::Schedule;

use serde::{Deserialize, Serialize};

/// The jobs of the scheduler, and when they run. The scheduler acts as the principal `scheduler`; its changes are
/// recorded.
///
/// ```
/// let nightly = kms_lib::SchedulerConfig::new().cron("0 3 * * *").revoke_expired(true);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SchedulerConfig {
    /// Whether the scheduler runs automatically.
    pub enabled: bool,
    /// When the scheduler runs: a five-field cron expression, in UTC.
    pub cron: String,
    /// Rotate keys whose rotation period has passed.
    pub rotate: bool,
    /// Erase the material of keys whose deletion is due. Automatic runs do so only if the clock has run evenly for ten
    /// minutes, so that a wrong clock does not erase material early.
    pub destroy: bool,
    /// Revoke versions past their grace window; in automatic runs under the same condition as `destroy`.
    pub revoke_expired: bool,
    /// Revoke versions past their grace window even if they were used after they had been replaced.
    pub revoke_expired_even_if_used: bool,
    /// Verify new audit records.
    pub verify: bool,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            cron: "0 * * * *".into(),
            rotate: true,
            destroy: true,
            revoke_expired: false,
            revoke_expired_even_if_used: false,
            verify: true,
        }
    }
}

impl SchedulerConfig {
    /// The defaults: every hour, all jobs except revoking.
    pub fn new() -> Self {
        Self::default()
    }
    /// No automatic runs; [`Kms::run_scheduler`](crate::Kms::run_scheduler) runs the jobs on request.
    pub fn disabled() -> Self {
        Self { enabled: false, ..Self::default() }
    }
    /// Sets when the scheduler runs: a five-field cron expression, in UTC.
    #[must_use]
    pub fn cron(mut self, expression: impl Into<String>) -> Self {
        self.cron = expression.into();
        self
    }
    /// Whether to rotate keys whose rotation period has passed.
    #[must_use]
    pub fn rotate(mut self, rotate: bool) -> Self {
        self.rotate = rotate;
        self
    }
    /// Whether to erase the material of keys whose deletion is due.
    #[must_use]
    pub fn destroy(mut self, destroy: bool) -> Self {
        self.destroy = destroy;
        self
    }
    /// Whether to revoke versions past their grace window.
    #[must_use]
    pub fn revoke_expired(mut self, revoke: bool) -> Self {
        self.revoke_expired = revoke;
        self
    }
    /// Whether to revoke versions past their grace window even if they were used after they had been replaced.
    #[must_use]
    pub fn revoke_expired_even_if_used(mut self, revoke: bool) -> Self {
        self.revoke_expired_even_if_used = revoke;
        self
    }
    /// Whether to verify new audit records.
    #[must_use]
    pub fn verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }
}

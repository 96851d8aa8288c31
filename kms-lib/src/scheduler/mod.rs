//! When the service works by itself, and which jobs it does then: rotating due keys, erasing material past its date,
//! revoking versions past their window, verifying what is new in the log.

mod cron;

pub use cron::Schedule;

use serde::{Deserialize, Serialize};

/// What the scheduler does, and when. It acts as `scheduler`, and everything it does is recorded.
///
/// ```
/// let nightly = kms_lib::SchedulerConfig::new().cron("0 3 * * *").revoke_expired(true);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SchedulerConfig {
    /// Whether it runs by itself.
    pub enabled: bool,
    /// When: five fields as cron has them, in UTC.
    pub cron: String,
    /// Rotate keys whose rotation period is over.
    pub rotate: bool,
    /// Erase the material of keys whose deletion is due. By itself only where the clock has run evenly for ten minutes:
    /// one that was set wrongly must not erase what can still be kept.
    pub destroy: bool,
    /// Revoke versions past their window; by itself under the same condition.
    pub revoke_expired: bool,
    /// Revoke them even if they were used after they had been replaced.
    pub revoke_expired_even_if_used: bool,
    /// Verify what is new in the log.
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
    /// The defaults: every hour, all jobs but revoking.
    pub fn new() -> Self {
        Self::default()
    }
    /// No jobs but those that [`Kms::run_scheduler`](crate::Kms::run_scheduler) is asked for.
    pub fn disabled() -> Self {
        Self { enabled: false, ..Self::default() }
    }
    /// At these times: five fields as cron has them, in UTC.
    #[must_use]
    pub fn cron(mut self, expression: impl Into<String>) -> Self {
        self.cron = expression.into();
        self
    }
    /// Whether to rotate keys whose rotation period is over.
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
    /// Whether to revoke versions past their window.
    #[must_use]
    pub fn revoke_expired(mut self, revoke: bool) -> Self {
        self.revoke_expired = revoke;
        self
    }
    /// Whether to revoke them even if they were used after they had been replaced.
    #[must_use]
    pub fn revoke_expired_even_if_used(mut self, revoke: bool) -> Self {
        self.revoke_expired_even_if_used = revoke;
        self
    }
    /// Whether to verify what is new in the log.
    #[must_use]
    pub fn verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }
}

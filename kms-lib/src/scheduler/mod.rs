//! Work that nobody asks for: rotating due keys, erasing material past its date, revoking versions past their window,
//! verifying what is new in the log. It acts through a session, as `scheduler`; everything it does is recorded.

mod cron;
mod jobs;

pub use cron::Schedule;
pub use jobs::{JobReport, run};

use serde::{Deserialize, Serialize};

/// What the scheduler does, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerConfig {
    /// Whether it runs by itself.
    pub enabled: bool,
    /// When: five fields as cron has them, in UTC.
    pub cron: String,
    /// Rotate keys whose rotation period is over.
    pub rotate: bool,
    /// Erase the material of keys whose deletion is due. By itself only where the clock has run evenly for ten minutes: one
    /// that was set wrongly must not erase what can still be kept.
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

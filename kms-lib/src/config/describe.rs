//! The effective settings for display, without secrets.

use std::path::PathBuf;

use super::{Config, MIB};
use crate::ledger::AuditAck;

impl Config {
    /// Every setting by its name in a file, with its effective value. The root key and the password in the store's URL
    /// are hidden.
    pub fn describe(&self) -> Vec<(&'static str, String)> {
        let ack = match self.audit_ack {
            AuditAck::Durable => "durable",
            AuditAck::Queued => "queued",
        };
        let none = || "none".to_owned();
        vec![
            ("store_url", self.shown_store_url()),
            (
                "store_password_file",
                self.store_password_file.as_ref().map_or_else(none, |path| path.display().to_string()),
            ),
            ("master_key", self.root_key.as_ref().map_or_else(none, |key| format!("{key:?}"))),
            ("master_key_next", self.next_root_key.as_ref().map_or_else(none, |key| format!("{key:?}"))),
            ("use_aws", self.use_aws.to_string()),
            ("aws.key_id", self.aws.key_id.clone().unwrap_or_else(none)),
            ("aws.key_id_next", self.aws.key_id_next.clone().unwrap_or_else(none)),
            ("aws.region", self.aws.region.clone().unwrap_or_else(none)),
            ("aws.endpoint", self.aws.endpoint.clone().unwrap_or_else(none)),
            ("aws.attempt_timeout_seconds", self.aws.attempt_timeout_seconds.unwrap_or(5).to_string()),
            ("aws.timeout_seconds", self.aws.timeout_seconds.unwrap_or(15).to_string()),
            ("grace_days", self.grace_days.map_or_else(|| "no end".into(), |days| days.to_string())),
            ("crypto_provider", self.crypto_provider.as_str().into()),
            ("high_water", self.high_water.as_ref().map_or_else(none, |path| path.display().to_string())),
            ("lock_memory", self.lock_memory.to_string()),
            ("audit.ack", ack.into()),
            ("audit.reverify_days", self.reverify_days.to_string()),
            ("scheduler.enabled", self.scheduler.enabled.to_string()),
            ("scheduler.cron", self.scheduler.cron.clone()),
            ("scheduler.revoke_expired", self.scheduler.revoke_expired.to_string()),
            ("cache.size", self.cache_size.to_string()),
            ("cache.ttl_seconds", self.cache_ttl.as_secs().to_string()),
            ("deletion.wait_days", self.deletion_wait_days.to_string()),
            ("deletion.minimum_days", self.deletion_wait_min_days.to_string()),
            ("limits.operations", self.limits.operations.to_string()),
            ("limits.result_mib", (self.limits.bytes as u64 / MIB).to_string()),
            ("limits.versions", self.versions_max.to_string()),
            ("disk.alarm_mib", (self.space.alarm / MIB).to_string()),
            ("disk.reserve_mib", (self.space.reserve / MIB).to_string()),
        ]
    }

    /// Whether a root key is configured, apart from one that is only to be added next.
    pub fn has_root_key(&self) -> bool {
        self.root_key.is_some() || !self.more_root_keys.is_empty() || !self.aws_root_keys().is_empty()
    }
    /// The path of a SQLite store; `None` for a database server or an invalid configuration.
    pub fn store_file(&self) -> Option<PathBuf> {
        self.store().ok()?.file().ok().cloned()
    }
    /// Whether the store is a file that this process cannot write, because of its permissions or a read-only file
    /// system. It can be opened with [`crate::Kms::open_read_only`].
    pub fn is_store_read_only(&self) -> bool {
        #[cfg(feature = "sqlite")]
        return self.store_file().is_some_and(|file| crate::storage::sqlite::is_read_only(&file));
        #[cfg(not(feature = "sqlite"))]
        false
    }
    /// The path of the high-water file, if one is configured.
    pub fn high_water_file(&self) -> Option<PathBuf> {
        self.high_water.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_key_is_hidden() {
        let config = Config::new("sqlite:kms.db").root_key_bytes([0xab; 32]);
        let text = format!("{:?}", config.describe());
        assert!(text.contains("32 bytes, hidden"), "{text}");
        assert!(!text.contains("171") && !text.contains("abab"), "{text}");
    }
}

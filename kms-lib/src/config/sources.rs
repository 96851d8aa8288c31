//! Where settings come from: a TOML file and the environment.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Config, MIB, invalid, is_service_link};
use crate::crypto::ProviderName;
use crate::envelope::RootKeySource;
use crate::ledger::AuditAck;
use crate::scheduler::SchedulerConfig;
use crate::types::error::Result;

/// Largest configuration file, in bytes.
const FILE_BYTES: u64 = 1024 * 1024;

impl Config {
    pub(super) fn apply_file(&mut self, path: &Path) -> Result<()> {
        let unreadable = |e: std::io::Error| invalid(format!("{} cannot be read: {e}", path.display()));
        let size = std::fs::metadata(path).map_err(unreadable)?.len();
        if size > FILE_BYTES {
            return Err(invalid(format!("{} is too large", path.display())));
        }
        self.apply_toml(&std::fs::read_to_string(path).map_err(unreadable)?)
    }

    pub(super) fn apply_toml(&mut self, text: &str) -> Result<()> {
        // The parser's own message quotes the line, and the line may hold the root key.
        let file: File = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            invalid(format!("the configuration is malformed at line {line}: {}", e.message()))
        })?;
        let File {
            store_url,
            master_key,
            grace_days,
            crypto_provider,
            high_water,
            audit,
            scheduler,
            cache,
            deletion,
            limits,
            disk,
            lock_memory,
            _http: _,
        } = file;
        if let Some(url) = store_url {
            self.store_url = url;
        }
        if let Some(key) = master_key {
            self.root_key = Some(RootKeySource::parse(&key)?);
        }
        self.grace_days = grace_days.or(self.grace_days);
        if let Some(name) = crypto_provider {
            self.crypto_provider = ProviderName::parse(&name)?;
        }
        self.high_water = high_water.or_else(|| self.high_water.take());
        if let Some(ack) = audit.ack {
            self.audit_ack = parse_ack(&ack)?;
        }
        self.reverify_days = audit.reverify_days.unwrap_or(self.reverify_days);
        if let Some(scheduler) = scheduler {
            self.scheduler = scheduler;
        }
        self.cache_size = cache.size.unwrap_or(self.cache_size);
        self.cache_ttl = cache.ttl_seconds.map_or(self.cache_ttl, Duration::from_secs);
        self.deletion_wait_days = deletion.wait_days.unwrap_or(self.deletion_wait_days);
        self.deletion_wait_min_days = deletion.minimum_days.unwrap_or(self.deletion_wait_min_days);
        self.limits.operations = limits.operations.unwrap_or(self.limits.operations);
        if let Some(mib) = limits.result_mib {
            self.limits.bytes = mebibytes(mib)?;
        }
        if let Some(mib) = disk.alarm_mib {
            self.space.alarm = mib.saturating_mul(MIB);
        }
        if let Some(mib) = disk.reserve_mib {
            self.space.reserve = mib.saturating_mul(MIB);
        }
        self.lock_memory = lock_memory.unwrap_or(self.lock_memory);
        Ok(())
    }

    /// Applies variables whose name begins with `KMS_`. Unknown ones are refused: a misspelt setting must not go
    /// unnoticed. Names that begin with `KMS_TEST_` or `KMS_HTTP_` belong to others, and service links of Kubernetes are
    /// ignored ([`is_service_link`]).
    pub fn apply_variables(&mut self, variables: impl IntoIterator<Item = (String, String)>) -> Result<()> {
        for (name, value) in variables {
            let Some(setting) = name.strip_prefix("KMS_") else { continue };
            if setting.starts_with("TEST_") || setting.starts_with("HTTP_") || is_service_link(&name, &value) {
                continue;
            }
            let number = || value.parse::<u64>().map_err(|_| invalid(format!("{name} is not a number")));
            let days = || value.parse::<u32>().map_err(|_| invalid(format!("{name} is not a number of days")));
            match setting {
                "STORE_URL" => self.store_url = value,
                "MASTER_KEY" => self.root_key = Some(RootKeySource::parse(&value)?),
                "GRACE_DAYS" => self.grace_days = Some(days()?),
                "AUDIT_ACK" => self.audit_ack = parse_ack(&value)?,
                "AUDIT_REVERIFY_DAYS" => self.reverify_days = days()?,
                "CRYPTO_PROVIDER" => self.crypto_provider = ProviderName::parse(&value)?,
                "SCHEDULER_ENABLED" => self.scheduler.enabled = boolean(&name, &value)?,
                "SCHEDULER_CRON" => self.scheduler.cron = value,
                "SCHEDULER_REVOKE_EXPIRED" => self.scheduler.revoke_expired = boolean(&name, &value)?,
                "HIGH_WATER" => self.high_water = Some(PathBuf::from(value)),
                "CACHE_SIZE" => self.cache_size = number()?,
                "CACHE_TTL_SECONDS" => self.cache_ttl = Duration::from_secs(number()?),
                "DELETION_WAIT_DAYS" => self.deletion_wait_days = days()?,
                "DELETION_MINIMUM_DAYS" => self.deletion_wait_min_days = days()?,
                "DISK_ALARM_MIB" => self.space.alarm = number()?.saturating_mul(MIB),
                "DISK_RESERVE_MIB" => self.space.reserve = number()?.saturating_mul(MIB),
                "LOCK_MEMORY" => self.lock_memory = boolean(&name, &value)?,
                "LIMITS_OPERATIONS" => self.limits.operations = usize::try_from(number()?).unwrap_or(usize::MAX),
                "LIMITS_RESULT_MIB" => self.limits.bytes = mebibytes(number()?)?,
                _ => return Err(invalid(format!("{name} is not a setting"))),
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    store_url: Option<String>,
    master_key: Option<String>,
    grace_days: Option<u32>,
    crypto_provider: Option<String>,
    high_water: Option<PathBuf>,
    #[serde(default)]
    audit: AuditSection,
    scheduler: Option<SchedulerConfig>,
    #[serde(default)]
    cache: CacheSection,
    #[serde(default)]
    deletion: DeletionSection,
    #[serde(default)]
    limits: LimitsSection,
    #[serde(default)]
    disk: DiskSection,
    lock_memory: Option<bool>,
    /// The settings of `kms-http`, which reads them itself.
    #[serde(rename = "http")]
    _http: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditSection {
    ack: Option<String>,
    reverify_days: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CacheSection {
    size: Option<u64>,
    ttl_seconds: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeletionSection {
    wait_days: Option<u32>,
    minimum_days: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsSection {
    operations: Option<usize>,
    result_mib: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DiskSection {
    alarm_mib: Option<u64>,
    reserve_mib: Option<u64>,
}

fn parse_ack(text: &str) -> Result<AuditAck> {
    match text {
        "durable" => Ok(AuditAck::Durable),
        "queued" => Ok(AuditAck::Queued),
        _ => Err(invalid("audit.ack is durable or queued")),
    }
}

fn boolean(name: &str, text: &str) -> Result<bool> {
    match text {
        "true" | "1" | "on" | "yes" => Ok(true),
        "false" | "0" | "off" | "no" => Ok(false),
        _ => Err(invalid(format!("{name} is true or false"))),
    }
}

fn mebibytes(count: u64) -> Result<usize> {
    let bytes = count.checked_mul(1024 * 1024).and_then(|bytes| usize::try_from(bytes).ok());
    bytes.ok_or_else(|| invalid("limits.result_mib is too large"))
}

//! Configuration: by builder, from a TOML file, from the environment.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::crypto::ProviderName;
use crate::envelope::RootKeySource;
use crate::ledger::{AuditAck, Limits};
use crate::scheduler::{Schedule, SchedulerConfig};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::limits::{DELETION_WAIT_DAYS, DELETION_WAIT_MIN_DAYS, PERIOD_DAYS};
use crate::types::time::Clock;

/// Most unwrapped keys in memory.
const CACHE_SIZE: u64 = 10_000_000;
/// Longest time one is kept: a year.
const CACHE_TTL: Duration = Duration::from_secs(365 * 86_400);
/// Largest configuration file, in bytes.
const FILE_BYTES: u64 = 1024 * 1024;

/// How the service is set up.
///
/// ```
/// use kms_lib::Config;
/// let config = Config::new("sqlite:kms.db").root_key("passphrase:correct horse battery staple")?.grace_days(30);
/// # Ok::<(), kms_lib::Error>(())
/// ```
///
/// | setting | file | environment | default |
/// | --- | --- | --- | --- |
/// | where everything is kept | `store_url` | `KMS_STORE_URL` | `sqlite:kms.db` |
/// | root key ([`RootKeySource`]) | `master_key` | `KMS_MASTER_KEY` | none: must be given |
/// | days former versions stay usable | `grace_days` | `KMS_GRACE_DAYS` | for ever |
/// | when results are released: `durable`, `queued` | `audit.ack` | `KMS_AUDIT_ACK` | `durable` |
/// | `aws-lc`, `rust-crypto` | `crypto_provider` | `KMS_CRYPTO_PROVIDER` | `aws-lc` |
/// | the scheduler | `[scheduler]` | `KMS_SCHEDULER_ENABLED`, `KMS_SCHEDULER_CRON`, `KMS_SCHEDULER_REVOKE_EXPIRED` | on, `0 * * * *`, off |
/// | the last signed head, outside of the store | `high_water` | `KMS_HIGH_WATER` | none |
/// | unwrapped keys in memory | `cache.size`, `cache.ttl_seconds` | `KMS_CACHE_SIZE`, `KMS_CACHE_TTL_SECONDS` | 10,000, 3,600 |
/// | days before a deletion | `deletion.wait_days`, `deletion.minimum_days` | `KMS_DELETION_WAIT_DAYS`, `KMS_DELETION_MINIMUM_DAYS` | 30, 7 |
/// | operations under way, and MiB of their results | `limits.operations`, `limits.result_mib` | `KMS_LIMITS_OPERATIONS`, `KMS_LIMITS_RESULT_MIB` | 16,384, 256 |
#[derive(Clone)]
pub struct Config {
    pub(crate) store_url: String,
    pub(crate) root_key: Option<RootKeySource>,
    pub(crate) grace_days: Option<u32>,
    pub(crate) audit_ack: AuditAck,
    pub(crate) crypto_provider: ProviderName,
    pub(crate) scheduler: SchedulerConfig,
    pub(crate) cache_size: u64,
    pub(crate) cache_ttl: Duration,
    pub(crate) deletion_wait_days: u32,
    pub(crate) deletion_wait_min_days: u32,
    pub(crate) limits: Limits,
    pub(crate) clock: Clock,
    pub(crate) high_water: Option<PathBuf>,
    pub(crate) acknowledge_restore: bool,
}

impl Config {
    /// A configuration with this store and the defaults. It needs a root key before it can be used.
    pub fn new(store_url: impl Into<String>) -> Self {
        Self {
            store_url: store_url.into(),
            root_key: None,
            grace_days: None,
            audit_ack: AuditAck::Durable,
            crypto_provider: ProviderName::default(),
            scheduler: SchedulerConfig::default(),
            cache_size: 10_000,
            cache_ttl: Duration::from_secs(3_600),
            deletion_wait_days: DELETION_WAIT_DAYS,
            deletion_wait_min_days: DELETION_WAIT_MIN_DAYS,
            limits: Limits { operations: 16_384, changes: 1_024, bytes: 256 * 1024 * 1024 },
            clock: Clock::default(),
            high_water: None,
            acknowledge_restore: false,
        }
    }

    /// The configuration of a file, if one is named, and of the environment, which goes ahead.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        let mut config = Self::new("sqlite:kms.db");
        if let Some(path) = file {
            config.apply_file(path)?;
        }
        config.apply_variables(std::env::vars_os().filter_map(|(name, value)| {
            // What is not text is none of ours, unless it is, and then it is refused.
            let name = name.into_string().ok()?;
            name.starts_with("KMS_").then(|| (name, value.into_string().unwrap_or_else(|_| "\u{fffd}".into())))
        }))?;
        config.check()?;
        Ok(config)
    }

    /// The configuration of the environment alone.
    pub fn from_env() -> Result<Self> {
        Self::load(None)
    }

    /// The configuration of a TOML text. Unknown settings are refused.
    pub fn from_toml(text: &str) -> Result<Self> {
        let mut config = Self::new("sqlite:kms.db");
        config.apply_toml(text)?;
        config.check()?;
        Ok(config)
    }

    /// With this root key, in one of the forms of [`RootKeySource`].
    pub fn root_key(mut self, text: &str) -> Result<Self> {
        self.root_key = Some(RootKeySource::parse(text)?);
        Ok(self)
    }
    /// With these 32 bytes as the root key.
    #[must_use]
    pub fn root_key_bytes(mut self, key: [u8; 32]) -> Self {
        self.root_key = Some(RootKeySource::from_bytes(key));
        self
    }
    /// Former versions of keys without their own grace period stay usable for so many days; for ever without.
    #[must_use]
    pub fn grace_days(mut self, days: u32) -> Self {
        self.grace_days = Some(days);
        self
    }
    /// When results are given to their callers.
    #[must_use]
    pub fn audit_ack(mut self, ack: AuditAck) -> Self {
        self.audit_ack = ack;
        self
    }
    /// With this cryptography provider.
    #[must_use]
    pub fn crypto_provider(mut self, provider: ProviderName) -> Self {
        self.crypto_provider = provider;
        self
    }
    /// With this scheduler.
    #[must_use]
    pub fn scheduler(mut self, scheduler: SchedulerConfig) -> Self {
        self.scheduler = scheduler;
        self
    }
    /// At most so many unwrapped keys in memory, each for so long.
    #[must_use]
    pub fn cache(mut self, size: u64, time_to_live: Duration) -> Self {
        (self.cache_size, self.cache_ttl) = (size, time_to_live);
        self
    }
    /// Days before a scheduled deletion unless the caller says otherwise, and the least that it may say.
    #[must_use]
    pub fn deletion_wait(mut self, days: u32, minimum: u32) -> Self {
        (self.deletion_wait_days, self.deletion_wait_min_days) = (days, minimum);
        self
    }
    /// At most so many operations, and bytes of their results, under way.
    #[must_use]
    pub fn limits(mut self, operations: usize, result_bytes: usize) -> Self {
        (self.limits.operations, self.limits.bytes) = (operations, result_bytes);
        self
    }

    /// With a high-water file: the last signed head is kept in it, outside of the database, and opening a store that is
    /// older fails with `RestoreDetected`. Put it where a restore of the database does not reach.
    #[must_use]
    pub fn high_water(mut self, path: impl Into<PathBuf>) -> Self {
        self.high_water = Some(path.into());
        self
    }
    /// Accept, this once, that the store was put back to an older state: opening records what was lost.
    #[must_use]
    pub fn acknowledge_restore(mut self, acknowledge: bool) -> Self {
        self.acknowledge_restore = acknowledge;
        self
    }
    /// With another clock than the system's, for tests and simulations.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Whether the settings make sense together; done at open too.
    pub fn check(&self) -> Result<()> {
        if self.scheduler.enabled {
            Schedule::parse(&self.scheduler.cron)?;
        }
        for (what, days) in [
            ("grace_days", self.grace_days.unwrap_or(0)),
            ("deletion.wait_days", self.deletion_wait_days),
            ("deletion.minimum_days", self.deletion_wait_min_days),
        ] {
            if days > PERIOD_DAYS {
                return Err(invalid(format!("{what} is more than {PERIOD_DAYS}")));
            }
        }
        if self.deletion_wait_days < self.deletion_wait_min_days {
            return Err(invalid("deletion.wait_days is less than deletion.minimum_days"));
        }
        if !(1..=CACHE_SIZE).contains(&self.cache_size) || self.cache_ttl.is_zero() || self.cache_ttl > CACHE_TTL {
            return Err(invalid(format!(
                "cache.size lies between 1 and {CACHE_SIZE}, cache.ttl_seconds between 1 and {}",
                CACHE_TTL.as_secs()
            )));
        }
        if !(1..=1_000_000).contains(&self.limits.operations) || self.limits.bytes < 1024 * 1024 {
            return Err(invalid("limits.operations lies between 1 and 1,000,000, limits.result_mib is at least 1"));
        }
        self.store().map(drop)
    }

    /// The file of the store.
    pub(crate) fn store(&self) -> Result<PathBuf> {
        let url = &self.store_url;
        let Some(path) = url.strip_prefix("sqlite:") else {
            let scheme = url.split(':').next().unwrap_or_default();
            return Err(invalid(match scheme {
                "mysql" | "mariadb" | "postgres" | "postgresql" => format!("store_url: {scheme} is not supported yet"),
                _ => "store_url: sqlite:PATH is expected".into(),
            }));
        };
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() || path.starts_with(":memory:") || path.contains(['?', '\0']) {
            return Err(invalid("store_url: sqlite:PATH names a file, without parameters"));
        }
        Ok(PathBuf::from(path))
    }

    fn apply_file(&mut self, path: &Path) -> Result<()> {
        let unreadable = |e: std::io::Error| invalid(format!("{} cannot be read: {e}", path.display()));
        let size = std::fs::metadata(path).map_err(unreadable)?.len();
        if size > FILE_BYTES {
            return Err(invalid(format!("{} is too large", path.display())));
        }
        self.apply_toml(&std::fs::read_to_string(path).map_err(unreadable)?)
    }

    fn apply_toml(&mut self, text: &str) -> Result<()> {
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
        Ok(())
    }

    /// Applies variables whose name begins with `KMS_`. Unknown ones are refused: a misspelt setting must not go
    /// unnoticed. Names that begin with `KMS_TEST_` or `KMS_HTTP_` belong to others.
    pub fn apply_variables(&mut self, variables: impl IntoIterator<Item = (String, String)>) -> Result<()> {
        for (name, value) in variables {
            let Some(setting) = name.strip_prefix("KMS_") else { continue };
            if setting.starts_with("TEST_") || setting.starts_with("HTTP_") {
                continue;
            }
            let number = || value.parse::<u64>().map_err(|_| invalid(format!("{name} is not a number")));
            let days = || value.parse::<u32>().map_err(|_| invalid(format!("{name} is not a number of days")));
            match setting {
                "STORE_URL" => self.store_url = value,
                "MASTER_KEY" => self.root_key = Some(RootKeySource::parse(&value)?),
                "GRACE_DAYS" => self.grace_days = Some(days()?),
                "AUDIT_ACK" => self.audit_ack = parse_ack(&value)?,
                "CRYPTO_PROVIDER" => self.crypto_provider = ProviderName::parse(&value)?,
                "SCHEDULER_ENABLED" => self.scheduler.enabled = boolean(&name, &value)?,
                "SCHEDULER_CRON" => self.scheduler.cron = value,
                "SCHEDULER_REVOKE_EXPIRED" => self.scheduler.revoke_expired = boolean(&name, &value)?,
                "HIGH_WATER" => self.high_water = Some(PathBuf::from(value)),
                "CACHE_SIZE" => self.cache_size = number()?,
                "CACHE_TTL_SECONDS" => self.cache_ttl = Duration::from_secs(number()?),
                "DELETION_WAIT_DAYS" => self.deletion_wait_days = days()?,
                "DELETION_MINIMUM_DAYS" => self.deletion_wait_min_days = days()?,
                "LIMITS_OPERATIONS" => self.limits.operations = usize::try_from(number()?).unwrap_or(usize::MAX),
                "LIMITS_RESULT_MIB" => self.limits.bytes = mebibytes(number()?)?,
                _ => return Err(invalid(format!("{name} is not a setting"))),
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("store_url", &self.store_url)
            .field("root_key", &self.root_key)
            .field("grace_days", &self.grace_days)
            .field("audit_ack", &self.audit_ack)
            .field("crypto_provider", &self.crypto_provider)
            .field("scheduler", &self.scheduler)
            .finish_non_exhaustive()
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
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditSection {
    ack: Option<String>,
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

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidConfiguration, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const KEY: &str = "hex:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    #[test]
    fn a_file_sets_everything_and_unknown_settings_are_refused() {
        let config = Config::from_toml(&format!(
            "store_url = 'sqlite://x.db'\nmaster_key = '{KEY}'\ngrace_days = 3\ncrypto_provider = 'rust-crypto'\n\
             [audit]\nack = 'queued'\n[scheduler]\ncron = '5 4 * * *'\nrevoke_expired = true\n\
             [cache]\nsize = 5\nttl_seconds = 6\n[deletion]\nwait_days = 9\nminimum_days = 1\n\
             [limits]\noperations = 7\nresult_mib = 8\n"
        ))
        .unwrap();
        assert_eq!(config.store().unwrap(), Path::new("x.db"));
        assert_eq!((config.grace_days, config.audit_ack), (Some(3), AuditAck::Queued));
        assert_eq!((config.cache_size, config.cache_ttl), (5, Duration::from_secs(6)));
        assert_eq!((config.limits.operations, config.limits.bytes), (7, 8 << 20));
        assert!(config.scheduler.revoke_expired && config.scheduler.destroy);
        for bad in [
            "store = 'x'",
            "grace_days = -1",
            "grace_days = 99999",
            "[scheduler]\ncorn = 'x'",
            "[scheduler]\ncron = '* *'",
            "[audit]\nack = 'maybe'",
            "crypto_provider = 'openssl'",
            "store_url = 'sqlite::memory:'",
            "store_url = 'mysql://localhost'",
            "store_url = 'sqlite:x?mode=ro'",
            "[cache]\nsize = 0",
            "[cache]\nsize = 99999999999",
            "[cache]\nttl_seconds = 0",
            "[cache]\nttl_seconds = 9223372036854775807",
            "[deletion]\nwait_days = 2",
            "= = =",
            "[limits]\nresult_mib = 99999999999999999",
        ] {
            assert_eq!(Config::from_toml(bad).unwrap_err().code(), ErrorCode::InvalidConfiguration, "{bad}");
        }
    }

    #[test]
    fn an_error_never_quotes_the_root_key() {
        let error = Config::from_toml("master_key = 'very secret words' oops").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(error.to_string().contains("line 1"), "{error}");
        let config = Config::new("sqlite:x").root_key("very secret words").unwrap();
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn the_environment_sets_and_refuses() {
        let apply = |name: &str, value: &str| {
            let mut config = Config::new("sqlite:x");
            config.apply_variables([(name.to_owned(), value.to_owned())]).map(|()| config)
        };
        assert_eq!(apply("KMS_GRACE_DAYS", "12").unwrap().grace_days, Some(12));
        assert_eq!(apply("KMS_STORE_URL", "sqlite:y").unwrap().store_url, "sqlite:y");
        assert!(apply("KMS_MASTER_KEY", KEY).unwrap().root_key.is_some());
        assert!(!apply("KMS_SCHEDULER_ENABLED", "off").unwrap().scheduler.enabled);
        apply("KMS_TEST_MODE", "fast").unwrap();
        apply("PATH", "x").unwrap();
        for (name, value) in [
            ("KMS_GRACE_DAY", "1"),
            ("KMS_GRACE_DAYS", "-1"),
            ("KMS_GRACE_DAYS", "\u{fffd}"),
            ("KMS_SCHEDULER_ENABLED", "perhaps"),
            ("KMS_CACHE_SIZE", "many"),
        ] {
            assert_eq!(apply(name, value).unwrap_err().code(), ErrorCode::InvalidConfiguration, "{name}={value}");
        }
        assert_eq!(apply("KMS_MASTER_KEY", "short").unwrap_err().code(), ErrorCode::InvalidRootKey);
    }
}

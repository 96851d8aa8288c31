//! The configuration, from a builder, a TOML file and the environment.

mod aws;
mod describe;
mod service_links;
mod sources;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::aws::AwsSettings;
use crate::crypto::CryptoProvider;
use crate::envelope::{AwsRootKey, RootKeySource, read_secret_file};
use crate::ledger::{AuditAck, Limits, SpaceLimits};
use crate::scheduler::{Schedule, SchedulerConfig};
use crate::storage::{Location, redact};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::limits::{DELETION_WAIT_DAYS, DELETION_WAIT_MIN_DAYS, PERIOD_DAYS, VERSIONS};
use crate::types::time::{Clock, Timestamp};

/// Largest value of `limits.versions`.
const VERSIONS_MOST: u32 = 10_000_000;
/// Largest value of `cache.size`, in keys.
const CACHE_SIZE: u64 = 10_000_000;
/// Largest value of `cache.ttl_seconds`: 365 days.
const CACHE_TTL: Duration = Duration::from_secs(365 * 86_400);
/// Bytes of a mebibyte.
const MIB: u64 = 1024 * 1024;
/// Largest disk reserve, in bytes.
const RESERVE: u64 = 1024 * MIB;

/// The configuration of the service.
///
/// ```
/// use kms_lib::Config;
/// let config = Config::new("sqlite:kms.db").root_key("passphrase:correct horse battery staple")?.grace_days(30);
/// # Ok::<(), kms_lib::Error>(())
/// ```
///
/// | setting | file | environment | default |
/// | --- | --- | --- | --- |
/// | URL of the store: `sqlite:PATH`, `mysql://USER:PASSWORD@HOST/DATABASE`, `postgres://...` | `store_url` | `KMS_STORE_URL` | `sqlite:kms.db` |
/// | a file of mode 0600 with the password for that URL | `store_password_file` | `KMS_STORE_PASSWORD_FILE` | none |
/// | the root key ([`RootKeySource`]), or a file of mode 0600 that contains it | `master_key`, `master_key_file` | `KMS_MASTER_KEY`, `KMS_MASTER_KEY_FILE` | none: must be given |
/// | a second root key, to replace the first ([`crate::Session::add_root_key`]) | `master_key_next`, `master_key_next_file` | `KMS_MASTER_KEY_NEXT`, `KMS_MASTER_KEY_NEXT_FILE` | none |
/// | AWS KMS as the root key ([`AwsRootKey`]) | `use_aws`, `[aws]` | `KMS_USE_AWS`, `KMS_AWS_KEY_ID`, `KMS_AWS_REGION`, `KMS_AWS_ENDPOINT`, ... | off |
/// | length of the grace window of former versions, in days | `grace_days` | `KMS_GRACE_DAYS` | no end |
/// | when results are returned: after the commit (`durable`) or before (`queued`) | `audit.ack` | `KMS_AUDIT_ACK` | `durable` |
/// | the cryptography provider: `aws-lc`, `rust-crypto` | `crypto_provider` | `KMS_CRYPTO_PROVIDER` | `aws-lc` |
/// | the scheduler: whether it runs, when, and whether it revokes expired versions | `[scheduler]` | `KMS_SCHEDULER_ENABLED`, `KMS_SCHEDULER_CRON`, `KMS_SCHEDULER_REVOKE_EXPIRED` | on, `0 * * * *`, off |
/// | days within which incremental verification reads the whole log again (0: each time) | `audit.reverify_days` | `KMS_AUDIT_REVERIFY_DAYS` | 7 |
/// | a file outside of the store with the last signed head | `high_water` | `KMS_HIGH_WATER` | none |
/// | most unwrapped keys in memory, and for how long | `cache.size`, `cache.ttl_seconds` | `KMS_CACHE_SIZE`, `KMS_CACHE_TTL_SECONDS` | 10,000, 3,600 |
/// | default and shortest wait before a deletion, in days | `deletion.wait_days`, `deletion.minimum_days` | `KMS_DELETION_WAIT_DAYS`, `KMS_DELETION_MINIMUM_DAYS` | 30, 7 |
/// | MiB of free disk space below which an alarm is raised, and size of the disk reserve in MiB (0: none) | `disk.alarm_mib`, `disk.reserve_mib` | `KMS_DISK_ALARM_MIB`, `KMS_DISK_RESERVE_MIB` | 256, 4 |
/// | keep the process's memory out of swap, if the system allows it | `lock_memory` | `KMS_LOCK_MEMORY` | off |
/// | most operations in flight, and MiB of their results and copies of large inputs | `limits.operations`, `limits.result_mib` | `KMS_LIMITS_OPERATIONS`, `KMS_LIMITS_RESULT_MIB` | 16,384, 256 |
/// | most versions with material that a key can have ([`crate::Session::trim_key`] erases old ones) | `limits.versions` | `KMS_LIMITS_VERSIONS` | 100,000 |
#[derive(Clone)]
pub struct Config {
    pub(crate) store_url: String,
    pub(crate) store_password_file: Option<PathBuf>,
    pub(crate) root_key: Option<RootKeySource>,
    pub(crate) next_root_key: Option<RootKeySource>,
    pub(crate) more_root_keys: Vec<RootKeySource>,
    pub(crate) use_aws: bool,
    pub(crate) aws: AwsSettings,
    pub(crate) grace_days: Option<u32>,
    pub(crate) audit_ack: AuditAck,
    pub(crate) crypto_provider: CryptoProvider,
    pub(crate) scheduler: SchedulerConfig,
    pub(crate) cache_size: u64,
    pub(crate) cache_ttl: Duration,
    pub(crate) deletion_wait_days: u32,
    pub(crate) deletion_wait_min_days: u32,
    pub(crate) limits: Limits,
    pub(crate) versions_max: u32,
    pub(crate) clock: Clock,
    pub(crate) high_water: Option<PathBuf>,
    pub(crate) reverify_days: u32,
    pub(crate) make_store: bool,
    pub(crate) acknowledge_restore: bool,
    pub(crate) acknowledge_clock: Option<Timestamp>,
    pub(crate) space: SpaceLimits,
    pub(crate) lock_memory: bool,
}

impl Config {
    /// The defaults with this store URL. A root key must be set before the store can be opened.
    pub fn new(store_url: impl Into<String>) -> Self {
        Self {
            store_url: store_url.into(),
            store_password_file: None,
            root_key: None,
            next_root_key: None,
            more_root_keys: Vec::new(),
            use_aws: false,
            aws: AwsSettings::default(),
            grace_days: None,
            audit_ack: AuditAck::Durable,
            crypto_provider: CryptoProvider::default(),
            scheduler: SchedulerConfig::default(),
            cache_size: 10_000,
            cache_ttl: Duration::from_secs(3_600),
            deletion_wait_days: DELETION_WAIT_DAYS,
            deletion_wait_min_days: DELETION_WAIT_MIN_DAYS,
            limits: Limits { operations: 16_384, changes: 1_024, bytes: 256 * 1024 * 1024 },
            versions_max: VERSIONS,
            clock: Clock::default(),
            high_water: None,
            reverify_days: 7,
            make_store: true,
            acknowledge_restore: false,
            acknowledge_clock: None,
            space: SpaceLimits::default(),
            lock_memory: false,
        }
    }

    /// Loads the configuration from the file, if one is given, and the environment, which overrides the file. Fails
    /// with `InvalidConfiguration` or `InvalidRootKey` as [`check`](Self::check) does.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        let config = Self::new("sqlite:kms.db").overlaid(file)?;
        config.check()?;
        Ok(config)
    }

    /// Overrides these settings by those of the file, if one is given, and then by those of the environment. Does not
    /// [`check`](Self::check) the result.
    pub fn overlaid(mut self, file: Option<&Path>) -> Result<Self> {
        if let Some(path) = file {
            self.apply_file(path)?;
        }
        self.apply_variables(std::env::vars_os().filter_map(|(name, value)| {
            // A variable whose name is not UTF-8 is not a setting. A value that is not UTF-8 becomes U+FFFD, which all
            // settings but paths refuse.
            let name = name.into_string().ok()?;
            name.starts_with("KMS_").then(|| (name, value.into_string().unwrap_or_else(|_| "\u{fffd}".into())))
        }))?;
        Ok(self)
    }

    /// Loads the configuration from the environment alone.
    pub fn from_env() -> Result<Self> {
        Self::load(None)
    }

    /// Parses and checks a configuration in TOML. Unknown settings are refused.
    pub fn from_toml(text: &str) -> Result<Self> {
        let mut config = Self::new("sqlite:kms.db");
        config.apply_toml(text).map(drop)?;
        config.check()?;
        Ok(config)
    }

    /// Whether an environment variable is one that Kubernetes injects for a service called `kms`, such as
    /// `KMS_SERVICE_HOST`. It is not a setting, although its name begins with `KMS_`.
    pub fn is_service_link(name: &str, value: &str) -> bool {
        service_links::is_service_link(name, value)
    }

    /// Sets the URL of the store.
    #[must_use]
    pub fn store_url(mut self, url: impl Into<String>) -> Self {
        self.store_url = url.into();
        self
    }
    /// Sets the file with the password for the store's URL. The file must have mode 0600 and is read when the store is
    /// opened.
    #[must_use]
    pub fn store_password_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.store_password_file = Some(path.into());
        self
    }
    /// Sets the root key, in one of the forms of [`RootKeySource`].
    pub fn root_key(mut self, text: &str) -> Result<Self> {
        self.root_key = Some(RootKeySource::parse(text)?);
        Ok(self)
    }
    /// Adds a further root key, in one of the forms of [`RootKeySource`]. A store opens with any of the root keys that
    /// it is wrapped under; another key is used after [`crate::Session::add_root_key`] has added it to the store.
    pub fn add_root_key(mut self, text: &str) -> Result<Self> {
        self.more_root_keys.push(RootKeySource::parse(text)?);
        Ok(self)
    }
    /// Adds these 32 bytes as a further root key.
    #[must_use]
    pub fn add_root_key_bytes(mut self, key: [u8; 32]) -> Self {
        self.more_root_keys.push(RootKeySource::from_bytes(key));
        self
    }
    /// Sets a key in AWS KMS as the root key. Needs the feature `aws-kms`.
    #[must_use]
    pub fn aws_root_key(mut self, root: AwsRootKey) -> Self {
        self.root_key = Some(RootKeySource::aws(root));
        self
    }
    /// Adds a key in AWS KMS as a further root key. Needs the feature `aws-kms`.
    #[must_use]
    pub fn add_aws_root_key(mut self, root: AwsRootKey) -> Self {
        self.more_root_keys.push(RootKeySource::aws(root));
        self
    }
    /// The root key to be added next: `master_key_next`, else `aws.key_id_next`, else the key in AWS KMS if a local
    /// root key is configured too.
    pub fn next_root_key(&self) -> Option<RootKeySource> {
        let of_aws = self.aws_root_keys();
        let beside = usize::from(self.root_key.is_none());
        self.next_root_key.clone().or_else(|| of_aws.into_iter().skip(beside).next_back())
    }
    /// All configured root keys. A new store is created with the first one, which is that in AWS KMS if `use_aws` is
    /// on.
    pub(crate) fn root_keys(&self) -> Vec<RootKeySource> {
        let local = self.root_key.iter().chain(&self.next_root_key).chain(&self.more_root_keys).cloned();
        self.aws_root_keys().into_iter().chain(local).collect()
    }
    /// The keys in AWS KMS from files and the environment; none if they are invalid, which [`Config::check`] reports.
    fn aws_root_keys(&self) -> Vec<RootKeySource> {
        let keys = if self.use_aws { self.aws.root_keys().unwrap_or_default() } else { Vec::new() };
        keys.into_iter().map(RootKeySource::aws).collect()
    }
    /// Sets these 32 bytes as the root key.
    #[must_use]
    pub fn root_key_bytes(mut self, key: [u8; 32]) -> Self {
        self.root_key = Some(RootKeySource::from_bytes(key));
        self
    }
    /// Sets the grace period, in days, of keys without their own. By default, grace windows have no end.
    #[must_use]
    pub fn grace_days(mut self, days: u32) -> Self {
        self.grace_days = Some(days);
        self
    }
    /// Sets when results are returned to callers: after the commit of their audit records, or before.
    #[must_use]
    pub fn audit_ack(mut self, ack: AuditAck) -> Self {
        self.audit_ack = ack;
        self
    }
    /// Sets the cryptography provider.
    #[must_use]
    pub fn crypto_provider(mut self, provider: CryptoProvider) -> Self {
        self.crypto_provider = provider;
        self
    }
    /// Sets the configuration of the scheduler.
    #[must_use]
    pub fn scheduler(mut self, scheduler: SchedulerConfig) -> Self {
        self.scheduler = scheduler;
        self
    }
    /// Sets how many unwrapped keys are cached in memory at most, and for how long.
    #[must_use]
    pub fn cache(mut self, size: u64, time_to_live: Duration) -> Self {
        (self.cache_size, self.cache_ttl) = (size, time_to_live);
        self
    }
    /// Sets the default waiting period before a deletion, in days, and the shortest one that callers can choose.
    #[must_use]
    pub fn deletion_wait(mut self, days: u32, minimum: u32) -> Self {
        (self.deletion_wait_days, self.deletion_wait_min_days) = (days, minimum);
        self
    }
    /// Sets how many operations may be in flight, and how many bytes their results and copies of large inputs may take.
    #[must_use]
    pub fn limits(mut self, operations: usize, result_bytes: usize) -> Self {
        (self.limits.operations, self.limits.bytes) = (operations, result_bytes);
        self
    }

    /// Sets the high-water file, which contains the last signed head. Opening a store that was rolled back to an older
    /// state, even if it was used since, fails with `RestoreDetected`; a missing store is not created again. Keep the
    /// file where a restore of the database does not overwrite it. If the name begins with `high-water` and the file
    /// does not exist yet, the store is compared with all files in the folder whose names begin so.
    #[must_use]
    pub fn high_water(mut self, path: impl Into<PathBuf>) -> Self {
        self.high_water = Some(path.into());
        self
    }
    /// Removes the high-water file.
    #[must_use]
    pub fn no_high_water(mut self) -> Self {
        self.high_water = None;
        self
    }
    /// Sets whether opening creates a missing store, which is the default. If not, it fails with `StoreUnavailable`, so
    /// that a wrong URL is noticed.
    #[must_use]
    pub fn make_store(mut self, make: bool) -> Self {
        self.make_store = make;
        self
    }
    /// Accepts, for one opening, that the store was rolled back to an older state. Opening records what was lost.
    #[must_use]
    pub fn acknowledge_restore(mut self, acknowledge: bool) -> Self {
        self.acknowledge_restore = acknowledge;
        self
    }
    /// Accepts that the time of the log's last record is in the future, because a clock was ahead when it was written
    /// (`ClockSkew`). Opening records that the time is correct again. Without such a record, it has no effect.
    ///
    /// `now` is the current time from an independent source, not from this machine's clock. The clock must agree with
    /// it within five minutes (else `InvalidArgument`), because more often this machine's clock is behind, and then
    /// expired grants, tokens and windows would be valid again.
    ///
    /// Dates written while the clock was wrong are not corrected. Keys with a rotation period that were created or
    /// rotated meanwhile are rotated in the next run of the scheduler. But a grace window that was ended meanwhile is
    /// open again until its date, so end it again, and tokens that were created meanwhile expire too late.
    #[must_use]
    pub fn acknowledge_clock(mut self, now: Timestamp) -> Self {
        self.acknowledge_clock = Some(now);
        self
    }
    /// Sets, for a SQLite store, below how many free bytes an alarm is raised (a warning in the logs, `low` in the
    /// metrics), and the size of the disk reserve: a file beside the store that is deleted when the disk is full, so
    /// that keys and grants can still be revoked. 0 for none.
    #[must_use]
    pub fn disk_space(mut self, alarm_bytes: u64, reserve_bytes: u64) -> Self {
        self.space = SpaceLimits { alarm: alarm_bytes, reserve: reserve_bytes };
        self
    }
    /// Keeps the process's memory out of swap (`mlockall`); if the system does not allow it, only a warning is logged.
    /// On Linux, it needs an unlimited `RLIMIT_MEMLOCK` (systemd: `LimitMEMLOCK=infinity`) or root.
    #[must_use]
    pub fn lock_memory(mut self, lock: bool) -> Self {
        self.lock_memory = lock;
        self
    }
    /// Sets within how many days incremental verifications, such as those of the scheduler, read the whole log again, a
    /// part each time. With 0, each of them reads the whole log.
    #[must_use]
    pub fn reverify_days(mut self, days: u32) -> Self {
        self.reverify_days = days;
        self
    }
    /// Replaces the system's clock, for tests and simulations.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Checks that the settings are valid and fit together, without opening the store or calling AWS KMS. Opening a
    /// store does the same first.
    pub fn check(&self) -> Result<()> {
        if self.scheduler.enabled {
            Schedule::parse(&self.scheduler.cron)?;
        }
        if self.use_aws {
            self.aws.root_keys()?;
        }
        let keys = self.root_keys();
        keys.iter().try_for_each(RootKeySource::check)?;
        if (1..keys.len()).any(|n| keys[..n].contains(&keys[n])) {
            return Err(Error::new(ErrorCode::InvalidRootKey, "the same root key is configured twice; remove one"));
        }
        for (what, days) in [
            ("grace_days", self.grace_days.unwrap_or(0)),
            ("deletion.wait_days", self.deletion_wait_days),
            ("deletion.minimum_days", self.deletion_wait_min_days),
            ("audit.reverify_days", self.reverify_days),
        ] {
            if days > PERIOD_DAYS {
                return Err(invalid(format!("{what} is {days}; at most {PERIOD_DAYS} is allowed")));
            }
        }
        if self.deletion_wait_days < self.deletion_wait_min_days {
            return Err(invalid("deletion.wait_days must not be less than deletion.minimum_days"));
        }
        if !(1..=CACHE_SIZE).contains(&self.cache_size) || self.cache_ttl.is_zero() || self.cache_ttl > CACHE_TTL {
            return Err(invalid(format!(
                "cache.size must be from 1 to {CACHE_SIZE}, and cache.ttl_seconds from 1 to {}",
                CACHE_TTL.as_secs()
            )));
        }
        if !(1..=1_000_000).contains(&self.limits.operations) || self.limits.bytes < 1024 * 1024 {
            return Err(invalid("limits.operations must be from 1 to 1,000,000, and limits.result_mib at least 1"));
        }
        if !(2..=VERSIONS_MOST).contains(&self.versions_max) {
            return Err(invalid(format!("limits.versions must be from 2 to {VERSIONS_MOST}")));
        }
        if self.space.reserve > RESERVE {
            return Err(invalid(format!("disk.reserve_mib must be at most {}", RESERVE / MIB)));
        }
        self.store().map(drop)
    }

    /// The parsed location of the store. Reads the password file, if one is configured.
    pub(crate) fn store(&self) -> Result<Location> {
        let location = match &self.store_password_file {
            None => Location::parse(&self.store_url)?,
            Some(file) => {
                let password = read_secret_file(file)
                    .map_err(|why| invalid(format!("store_password_file: {why}")).with_source(why))?;
                let password = password.trim_end_matches(['\r', '\n']);
                Location::parse_with_password(&self.store_url, password)?
            }
        };
        if self.audit_ack == AuditAck::Queued && !matches!(location, Location::Sqlite(_)) {
            return Err(invalid("audit.ack = \"queued\" needs a SQLite store: no other process uses its file"));
        }
        Ok(location)
    }
    /// The URL of the store, without its password.
    pub fn shown_store_url(&self) -> String {
        redact(&self.store_url)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("store_url", &self.shown_store_url())
            .field("root_key", &self.root_key)
            .field("next_root_key", &self.next_root_key)
            .field("grace_days", &self.grace_days)
            .field("audit_ack", &self.audit_ack)
            .field("crypto_provider", &self.crypto_provider)
            .field("scheduler", &self.scheduler)
            .finish_non_exhaustive()
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidConfiguration, message)
}

#[cfg(test)]
mod tests;

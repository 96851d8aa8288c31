//! Configuration: by builder, from a TOML file, from the environment.

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

/// The most versions with material that a key can be configured to have.
const VERSIONS_MOST: u32 = 10_000_000;
/// Most unwrapped keys in memory.
const CACHE_SIZE: u64 = 10_000_000;
/// Longest time one is kept: a year.
const CACHE_TTL: Duration = Duration::from_secs(365 * 86_400);
/// A mebibyte.
const MIB: u64 = 1024 * 1024;
/// Largest reserve.
const RESERVE: u64 = 1024 * MIB;

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
/// | where everything is kept: `sqlite:PATH`, `mysql://USER:PASSWORD@HOST/DATABASE`, `postgres://...` | `store_url` | `KMS_STORE_URL` | `sqlite:kms.db` |
/// | a file of mode 0600 with the password that belongs into that URL | `store_password_file` | `KMS_STORE_PASSWORD_FILE` | none |
/// | root key ([`RootKeySource`]), or a file of mode 0600 with it | `master_key`, `master_key_file` | `KMS_MASTER_KEY`, `KMS_MASTER_KEY_FILE` | none: must be given |
/// | a further root key, for moving from one to another ([`crate::Session::add_root_key`]) | `master_key_next`, `master_key_next_file` | `KMS_MASTER_KEY_NEXT`, `KMS_MASTER_KEY_NEXT_FILE` | none |
/// | AWS KMS as the root key ([`AwsRootKey`]) | `use_aws`, `[aws]` | `KMS_USE_AWS`, `KMS_AWS_KEY_ID`, `KMS_AWS_REGION`, `KMS_AWS_ENDPOINT`, ... | off |
/// | days former versions stay usable | `grace_days` | `KMS_GRACE_DAYS` | for ever |
/// | when results are released: `durable`, `queued` | `audit.ack` | `KMS_AUDIT_ACK` | `durable` |
/// | `aws-lc`, `rust-crypto` | `crypto_provider` | `KMS_CRYPTO_PROVIDER` | `aws-lc` |
/// | the scheduler | `[scheduler]` | `KMS_SCHEDULER_ENABLED`, `KMS_SCHEDULER_CRON`, `KMS_SCHEDULER_REVOKE_EXPIRED` | on, `0 * * * *`, off |
/// | days within which the whole log is read again (0: each run) | `audit.reverify_days` | `KMS_AUDIT_REVERIFY_DAYS` | 7 |
/// | the last signed head, outside of the store | `high_water` | `KMS_HIGH_WATER` | none |
/// | unwrapped keys in memory | `cache.size`, `cache.ttl_seconds` | `KMS_CACHE_SIZE`, `KMS_CACHE_TTL_SECONDS` | 10,000, 3,600 |
/// | days before a deletion | `deletion.wait_days`, `deletion.minimum_days` | `KMS_DELETION_WAIT_DAYS`, `KMS_DELETION_MINIMUM_DAYS` | 30, 7 |
/// | MiB of free disk below which there is an alarm, and MiB set aside for revocations (0: none) | `disk.alarm_mib`, `disk.reserve_mib` | `KMS_DISK_ALARM_MIB`, `KMS_DISK_RESERVE_MIB` | 256, 4 |
/// | keep the memory of the process out of swap, if that is allowed | `lock_memory` | `KMS_LOCK_MEMORY` | off |
/// | operations under way, and MiB that they hold: results, and copies of large inputs | `limits.operations`, `limits.result_mib` | `KMS_LIMITS_OPERATIONS`, `KMS_LIMITS_RESULT_MIB` | 16,384, 256 |
/// | versions with material that a key can have ([`crate::Session::trim_key`] makes room) | `limits.versions` | `KMS_LIMITS_VERSIONS` | 100,000 |
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
    /// A configuration with this store and the defaults. It needs a root key before it can be used.
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

    /// The configuration of a file, if one is named, and of the environment, which goes ahead.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        let config = Self::new("sqlite:kms.db").overlaid(file)?;
        config.check()?;
        Ok(config)
    }

    /// These settings as defaults: what the file, if one is named, and the environment say goes ahead. Not checked yet.
    pub fn overlaid(mut self, file: Option<&Path>) -> Result<Self> {
        if let Some(path) = file {
            self.apply_file(path)?;
        }
        self.apply_variables(std::env::vars_os().filter_map(|(name, value)| {
            // What is not text is none of ours, unless it is, and then it is refused.
            let name = name.into_string().ok()?;
            name.starts_with("KMS_").then(|| (name, value.into_string().unwrap_or_else(|_| "\u{fffd}".into())))
        }))?;
        Ok(self)
    }

    /// The configuration of the environment alone.
    pub fn from_env() -> Result<Self> {
        Self::load(None)
    }

    /// The configuration of a TOML text. Unknown settings are refused.
    pub fn from_toml(text: &str) -> Result<Self> {
        let mut config = Self::new("sqlite:kms.db");
        config.apply_toml(text).map(drop)?;
        config.check()?;
        Ok(config)
    }

    /// Whether a variable of the environment is one that Kubernetes injects for a service called `kms`, such as
    /// `KMS_SERVICE_HOST`: no setting, though its name begins like one.
    pub fn is_service_link(name: &str, value: &str) -> bool {
        service_links::is_service_link(name, value)
    }

    /// With this store.
    #[must_use]
    pub fn store_url(mut self, url: impl Into<String>) -> Self {
        self.store_url = url.into();
        self
    }
    /// With the password of this file, which has mode 0600, in the URL of the store. It is read when the store is
    /// opened.
    #[must_use]
    pub fn store_password_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.store_password_file = Some(path.into());
        self
    }
    /// With this root key, in one of the forms of [`RootKeySource`].
    pub fn root_key(mut self, text: &str) -> Result<Self> {
        self.root_key = Some(RootKeySource::parse(text)?);
        Ok(self)
    }
    /// With a further root key, in one of the forms of [`RootKeySource`]. A store opens with any of the keys that it is
    /// wrapped under; a key that is none of them is used once [`crate::Session::add_root_key`] has added it.
    pub fn add_root_key(mut self, text: &str) -> Result<Self> {
        self.more_root_keys.push(RootKeySource::parse(text)?);
        Ok(self)
    }
    /// With these 32 bytes as a further root key.
    #[must_use]
    pub fn add_root_key_bytes(mut self, key: [u8; 32]) -> Self {
        self.more_root_keys.push(RootKeySource::from_bytes(key));
        self
    }
    /// With a key in AWS KMS as the root key. Needs the feature `aws-kms`.
    #[must_use]
    pub fn aws_root_key(mut self, root: AwsRootKey) -> Self {
        self.root_key = Some(RootKeySource::aws(root));
        self
    }
    /// With a key in AWS KMS as a further root key.
    #[must_use]
    pub fn add_aws_root_key(mut self, root: AwsRootKey) -> Self {
        self.more_root_keys.push(RootKeySource::aws(root));
        self
    }
    /// The root key that is configured to be added next: `master_key_next`, else `aws.key_id_next`, else the key in AWS
    /// KMS if there is a local root key beside it.
    pub fn next_root_key(&self) -> Option<RootKeySource> {
        let of_aws = self.aws_root_keys();
        let beside = usize::from(self.root_key.is_none());
        self.next_root_key.clone().or_else(|| of_aws.into_iter().skip(beside).next_back())
    }
    /// All root keys that are configured. A new store is made with the first one: that of AWS KMS, if it is in use.
    pub(crate) fn root_keys(&self) -> Vec<RootKeySource> {
        let local = self.root_key.iter().chain(&self.next_root_key).chain(&self.more_root_keys).cloned();
        self.aws_root_keys().into_iter().chain(local).collect()
    }
    /// The keys in AWS KMS that files and the environment name. [`Config::check`] says what is wrong with them.
    fn aws_root_keys(&self) -> Vec<RootKeySource> {
        let keys = if self.use_aws { self.aws.root_keys().unwrap_or_default() } else { Vec::new() };
        keys.into_iter().map(RootKeySource::aws).collect()
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
    pub fn crypto_provider(mut self, provider: CryptoProvider) -> Self {
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
    /// At most so many operations under way, and bytes that they hold: results, and copies of large inputs.
    #[must_use]
    pub fn limits(mut self, operations: usize, result_bytes: usize) -> Self {
        (self.limits.operations, self.limits.bytes) = (operations, result_bytes);
        self
    }

    /// With a high-water file: the last signed head is kept in it, outside of the database, and opening a store that is
    /// older, or was older once and has gone on from there, fails with `RestoreDetected`; one that is missing is not
    /// made anew. Put it where a restore of the database does not reach. A store without a file of its own is held
    /// against all files of that folder whose names begin with `high-water`, if that of this one does.
    #[must_use]
    pub fn high_water(mut self, path: impl Into<PathBuf>) -> Self {
        self.high_water = Some(path.into());
        self
    }
    /// Without one.
    #[must_use]
    pub fn no_high_water(mut self) -> Self {
        self.high_water = None;
        self
    }
    /// Whether opening makes a store where there is none, as it does unless told otherwise. Else it fails with
    /// `StoreUnavailable`: for what must not pass for a success on another store than was meant.
    #[must_use]
    pub fn make_store(mut self, make: bool) -> Self {
        self.make_store = make;
        self
    }
    /// Accept, this once, that the store was put back to an older state: opening records what was lost.
    #[must_use]
    pub fn acknowledge_restore(mut self, acknowledge: bool) -> Self {
        self.acknowledge_restore = acknowledge;
        self
    }
    /// Accept that the log's last record is of a time that has not come yet, because a clock was ahead when it was
    /// written (`ClockSkew`): opening records that time is the present again. Where no record is of such a time, it
    /// does nothing.
    ///
    /// `now` is the present as somebody knows it from elsewhere than this machine's clock, which must agree with it by
    /// five minutes (`InvalidArgument`): far more often it is this machine's clock that is behind, and then whatever
    /// has ended by its date would be open again.
    ///
    /// What the clock that was ahead gave a date keeps it. Keys with a rotation period that it made or rotated are
    /// rotated by the scheduler in its next run; but a window that was ended by hand meanwhile is open again until that
    /// date, so end it again, and tokens made meanwhile expire accordingly late.
    #[must_use]
    pub fn acknowledge_clock(mut self, now: Timestamp) -> Self {
        self.acknowledge_clock = Some(now);
        self
    }
    /// An alarm (a warning in the logs, `low` in the metrics) when less than so many bytes are free where a SQLite
    /// store is; and so many bytes set aside in a file beside it, given up when the disk is full, so that keys can
    /// still be revoked and grants withdrawn. 0 for none.
    #[must_use]
    pub fn disk_space(mut self, alarm_bytes: u64, reserve_bytes: u64) -> Self {
        self.space = SpaceLimits { alarm: alarm_bytes, reserve: reserve_bytes };
        self
    }
    /// Keep the whole process's memory out of swap (`mlockall`), if that is allowed: a warning in the logs if not. It
    /// needs an unlimited `RLIMIT_MEMLOCK` (systemd: `LimitMEMLOCK=infinity`) or root, on Linux.
    #[must_use]
    pub fn lock_memory(mut self, lock: bool) -> Self {
        self.lock_memory = lock;
        self
    }
    /// Incremental verifications, which the scheduler does, read the whole log again within so many days, a part
    /// each time; 0: each of them reads all of it.
    #[must_use]
    pub fn reverify_days(mut self, days: u32) -> Self {
        self.reverify_days = days;
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
        if self.use_aws {
            self.aws.root_keys()?;
        }
        let keys = self.root_keys();
        keys.iter().try_for_each(RootKeySource::check)?;
        if (1..keys.len()).any(|n| keys[..n].contains(&keys[n])) {
            return Err(Error::new(ErrorCode::InvalidRootKey, "the same root key is configured twice"));
        }
        for (what, days) in [
            ("grace_days", self.grace_days.unwrap_or(0)),
            ("deletion.wait_days", self.deletion_wait_days),
            ("deletion.minimum_days", self.deletion_wait_min_days),
            ("audit.reverify_days", self.reverify_days),
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
        if !(2..=VERSIONS_MOST).contains(&self.versions_max) {
            return Err(invalid(format!("limits.versions lies between 2 and {VERSIONS_MOST}")));
        }
        if self.space.reserve > RESERVE {
            return Err(invalid(format!("disk.reserve_mib is more than {}", RESERVE / MIB)));
        }
        self.store().map(drop)
    }

    /// Where the store is.
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
            return Err(invalid("audit.ack = \"queued\" needs the store alone: a SQLite file"));
        }
        Ok(location)
    }
    /// The URL of the store, without the password in it.
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

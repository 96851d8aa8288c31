//! The sources of settings: a TOML file and the environment.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use zeroize::Zeroizing;

use super::aws::AwsSettings;
use super::service_links::is_service_link;
use super::{Config, MIB, invalid};
use crate::crypto::CryptoProvider;
use crate::envelope::{RootKeySource, check_secret_file};
use crate::ledger::AuditAck;
use crate::scheduler::SchedulerConfig;
use crate::storage::redact;
use crate::types::error::Result;

/// Largest configuration file, in bytes.
const FILE_BYTES: usize = 1024 * 1024;
/// More spare capacity than `read_to_string` needs to detect the end of a file without growing the text.
const SLACK: usize = 64;

/// A message of serde without the value that it quotes, which may be a secret.
fn without_value(message: &str) -> String {
    for what in ["invalid type", "invalid value"] {
        if message.starts_with(what)
            && let Some((_, expected)) = message.rsplit_once(", expected ")
        {
            return format!("{what}, expected {expected}");
        }
    }
    message.to_owned()
}

impl Config {
    pub(super) fn apply_file(&mut self, path: &Path) -> Result<()> {
        let unreadable = |e: std::io::Error| invalid(format!("{} cannot be read: {e}", path.display())).with_source(e);
        let file = std::fs::File::open(path).map_err(unreadable)?;
        // The file may contain secrets. The capacity is sufficient for all of it, because growing would leave copies.
        let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES + SLACK));
        let read = (&file).take(FILE_BYTES as u64 + 1).read_to_string(&mut text).map_err(unreadable)?;
        if read > FILE_BYTES {
            return Err(invalid(format!("{} is larger than {FILE_BYTES} bytes", path.display())));
        }
        if self.apply_toml(&text)? {
            let instead = "or use master_key_file and store_password_file";
            check_secret_file(&file, path).map_err(|why| {
                invalid(format!("the configuration file contains a secret: {why}, {instead}")).with_source(why)
            })?;
        }
        Ok(())
    }

    /// Applies a TOML text. Returns whether it contains a secret.
    pub(super) fn apply_toml(&mut self, text: &str) -> Result<bool> {
        // The parser's error quotes the line and the value, either of which may be the root key. So it is not kept as
        // the source.
        let file: File = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            invalid(format!("the configuration is malformed at line {line}: {}", without_value(e.message())))
        })?;
        let File {
            store_url,
            master_key,
            master_key_file,
            master_key_next,
            master_key_next_file,
            use_aws,
            aws,
            store_password_file,
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
        let is_secret_url = store_url.as_ref().is_some_and(|url| redact(url) != *url);
        let mut keys = master_key.iter().chain(&master_key_next);
        let is_secret_key = keys.any(|key| !key.starts_with("file:"));
        if let Some(url) = store_url {
            self.store_url = url;
        }
        let first = root_key("master_key", master_key.as_deref(), master_key_file.as_deref())?;
        let next = root_key("master_key_next", master_key_next.as_deref(), master_key_next_file.as_deref())?;
        self.root_key = first.or_else(|| self.root_key.take());
        self.next_root_key = next.or_else(|| self.next_root_key.take());
        self.use_aws = use_aws.unwrap_or(self.use_aws);
        self.aws.overlay(aws);
        self.store_password_file = store_password_file.or_else(|| self.store_password_file.take());
        self.grace_days = grace_days.or(self.grace_days);
        if let Some(name) = crypto_provider {
            self.crypto_provider = CryptoProvider::parse(&name)?;
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
        self.versions_max = limits.versions.unwrap_or(self.versions_max);
        if let Some(mib) = disk.alarm_mib {
            self.space.alarm = mib.saturating_mul(MIB);
        }
        if let Some(mib) = disk.reserve_mib {
            self.space.reserve = mib.saturating_mul(MIB);
        }
        self.lock_memory = lock_memory.unwrap_or(self.lock_memory);
        Ok(is_secret_url || is_secret_key)
    }

    /// Applies variables whose name begins with `KMS_`. Unknown ones are refused, so that a misspelled setting is
    /// noticed. Names that begin with `KMS_TEST_`, `KMS_HTTP_` or `KMS_IMPORT_` and service links of Kubernetes
    /// ([`Config::is_service_link`]) are ignored.
    pub fn apply_variables(&mut self, variables: impl IntoIterator<Item = (String, String)>) -> Result<()> {
        let (mut key, mut key_file): (Option<Zeroizing<String>>, Option<PathBuf>) = (None, None);
        let (mut next, mut next_file): (Option<Zeroizing<String>>, Option<PathBuf>) = (None, None);
        for (name, value) in variables {
            let Some(setting) = name.strip_prefix("KMS_") else { continue };
            let is_others = ["TEST_", "HTTP_", "IMPORT_"].iter().any(|prefix| setting.starts_with(prefix));
            if is_others || is_service_link(&name, &value) {
                continue;
            }
            let number = || value.parse::<u64>().map_err(|_| invalid(format!("{name} is not a number")));
            let days = || value.parse::<u32>().map_err(|_| invalid(format!("{name} is not a number of days")));
            match setting {
                "STORE_URL" => self.store_url = value,
                "STORE_PASSWORD_FILE" => self.store_password_file = Some(PathBuf::from(value)),
                "MASTER_KEY" => key = Some(Zeroizing::new(value)),
                "MASTER_KEY_FILE" => key_file = Some(PathBuf::from(value)),
                "MASTER_KEY_NEXT" => next = Some(Zeroizing::new(value)),
                "MASTER_KEY_NEXT_FILE" => next_file = Some(PathBuf::from(value)),
                "USE_AWS" => self.use_aws = boolean(&name, &value)?,
                _ if setting.starts_with("AWS_") => self.aws.set_variable(&name, value)?,
                "GRACE_DAYS" => self.grace_days = Some(days()?),
                "AUDIT_ACK" => self.audit_ack = parse_ack(&value)?,
                "AUDIT_REVERIFY_DAYS" => self.reverify_days = days()?,
                "CRYPTO_PROVIDER" => self.crypto_provider = CryptoProvider::parse(&value)?,
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
                "LIMITS_VERSIONS" => self.versions_max = u32::try_from(number()?).unwrap_or(u32::MAX),
                "LIMITS_RESULT_MIB" => self.limits.bytes = mebibytes(number()?)?,
                _ => return Err(invalid(format!("{name} is not a setting; check its name"))),
            }
        }
        let first = root_key("master_key", key.as_ref().map(|key| key.as_str()), key_file.as_deref())?;
        let next = root_key("master_key_next", next.as_ref().map(|key| key.as_str()), next_file.as_deref())?;
        self.root_key = first.or_else(|| self.root_key.take());
        self.next_root_key = next.or_else(|| self.next_root_key.take());
        Ok(())
    }
}

/// The root key of the setting `name` or, as a file, of `{name}_file`.
fn root_key(name: &str, key: Option<&str>, file: Option<&Path>) -> Result<Option<RootKeySource>> {
    match (key, file) {
        (Some(_), Some(_)) => Err(invalid(format!("both {name} and {name}_file are set; remove one of them"))),
        (Some(key), None) => RootKeySource::parse(key).map(Some),
        (None, Some(file)) => RootKeySource::parse(&format!("file:{}", file.display())).map(Some),
        (None, None) => Ok(None),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    store_url: Option<String>,
    master_key: Option<String>,
    master_key_file: Option<PathBuf>,
    master_key_next: Option<String>,
    master_key_next_file: Option<PathBuf>,
    use_aws: Option<bool>,
    #[serde(default)]
    aws: AwsSettings,
    store_password_file: Option<PathBuf>,
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
    versions: Option<u32>,
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
        _ => Err(invalid("audit.ack must be durable or queued")),
    }
}

fn boolean(name: &str, text: &str) -> Result<bool> {
    match text {
        "true" | "1" | "on" | "yes" => Ok(true),
        "false" | "0" | "off" | "no" => Ok(false),
        _ => Err(invalid(format!("{name} must be true or false"))),
    }
}

fn mebibytes(count: u64) -> Result<usize> {
    let bytes = count.checked_mul(1024 * 1024).and_then(|bytes| usize::try_from(bytes).ok());
    bytes.ok_or_else(|| invalid("limits.result_mib is more memory than this platform can address"))
}

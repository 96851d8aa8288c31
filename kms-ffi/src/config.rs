//! The configuration: setters with the names that Rust, TOML and the environment use.

use std::ffi::c_char;
use std::path::Path;
use std::time::Duration;

use kms_lib::{AuditAck, Config, CryptoProvider, SchedulerConfig};

use crate::arguments::{self, Extensible};
use crate::boundary::{call, free};
use crate::error::mkms_error;
use crate::failure::{Failure, Outcome};
use crate::handle::{self, Opaque, tag};
use crate::shared::Shared;
use crate::status::mkms_status;

/// A configuration. It can open any number of services, and can be changed in between.
pub struct mkms_config {
    _opaque: (),
}

/// The current configuration.
pub struct Settings(Shared<Config>);

impl Settings {
    fn new(config: Config) -> Self {
        Self(Shared::new(config, mkms_config::NAME))
    }
    /// A copy of the settings that later setters do not affect.
    pub fn snapshot(&self) -> Outcome<Config> {
        Ok(self.0.read()?.clone())
    }
    /// Replaces the configuration with the result of `change`.
    pub fn change(&self, change: impl FnOnce(Config) -> kms_lib::Result<Config>) -> Outcome<()> {
        let mut settings = self.0.write()?;
        *settings = change(settings.clone())?;
        Ok(())
    }
}

impl Opaque for mkms_config {
    type Value = Settings;
    const TAG: u64 = tag(b"mkmsconf");
    const NAME: &'static str = "mkms_config";
    const BOUND_TO_PROCESS: bool = false;
}

/// Creates a configuration with the defaults and a store: `sqlite:PATH`, `mysql://...` or `postgres://...`. It needs a
/// root key before a service can be opened with it. The caller frees it with `mkms_config_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`. The URL is checked when a service is opened.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_new(
    store_url: *const c_char,
    store_url_len: usize,
    config: *mut *mut mkms_config,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    store_url = arguments::text [store_url, store_url_len];
    config = arguments::place [config];
    => {
        config.set(handle::new(Settings::new(Config::new(store_url))));
        Ok(())
    })
}

/// Creates a configuration from TOML text. Unknown settings are refused. The caller frees it with `mkms_config_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_INVALID_CONFIGURATION`, `MKMS_INVALID_ROOT_KEY`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_from_toml(
    toml: *const c_char,
    toml_len: usize,
    config: *mut *mut mkms_config,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    toml = arguments::text [toml, toml_len];
    config = arguments::place [config];
    => {
        config.set(handle::new(Settings::new(Config::from_toml(toml)?)));
        Ok(())
    })
}

/// Creates a configuration from the environment (`KMS_...`) and an optional TOML file; the environment takes
/// precedence. The caller frees it with `mkms_config_free`.
///
/// `path` may be NULL: then only the environment is read.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_INVALID_CONFIGURATION`, `MKMS_INVALID_ROOT_KEY`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_load(
    path: *const c_char,
    path_len: usize,
    config: *mut *mut mkms_config,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    path = arguments::optional_text [path, path_len];
    config = arguments::place [config];
    => {
        config.set(handle::new(Settings::new(Config::load(path.map(Path::new))?)));
        Ok(())
    })
}

/// Frees a configuration, wipes its root key, and sets `*config` to NULL. NULL and a pointer to NULL are ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_free(config: *mut *mut mkms_config) -> mkms_status {
    free!(config)
}

/// Sets the URL of the store.
///
/// Errors: `MKMS_INVALID_ARGUMENT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_store_url(
    config: *mut mkms_config,
    url: *const c_char,
    url_len: usize,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; url = arguments::text [url, url_len]; => {
        config.change(|settings| Ok(settings.store_url(url)))
    })
}

/// Sets the file with the password for the store's URL, of mode 0600. It is read when a service is opened.
///
/// Errors: `MKMS_INVALID_ARGUMENT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_store_password_file(
    config: *mut mkms_config,
    path: *const c_char,
    path_len: usize,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; path = arguments::text [path, path_len]; => {
        config.change(|settings| Ok(settings.store_password_file(path)))
    })
}

/// Sets the grace period in days for keys that have none of their own: how long former versions decrypt and verify.
///
/// Errors: `MKMS_INVALID_ARGUMENT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_grace_days(
    config: *mut mkms_config,
    days: u32,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; => { config.change(|settings| Ok(settings.grace_days(days))) })
}

/// Sets when results are returned: `durable` (once their record is on disk) or `queued` (earlier; see
/// docs/operations.md).
///
/// Errors: `MKMS_INVALID_ARGUMENT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_audit_ack(
    config: *mut mkms_config,
    ack: *const c_char,
    ack_len: usize,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; ack = arguments::text [ack, ack_len]; => {
        let ack = match ack {
            "durable" => AuditAck::Durable,
            "queued" => AuditAck::Queued,
            _ => return Err(Failure::invalid("ack must be durable or queued")),
        };
        config.change(|settings| Ok(settings.audit_ack(ack)))
    })
}

/// Sets the cryptography provider: `aws-lc` or `rust-crypto`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_INVALID_CONFIGURATION`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_crypto_provider(
    config: *mut mkms_config,
    provider: *const c_char,
    provider_len: usize,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; provider = arguments::text [provider, provider_len]; => {
        config.change(|settings| Ok(settings.crypto_provider(CryptoProvider::parse(provider)?)))
    })
}

/// The jobs of the scheduler. Flags are 1 or 0. Set `size` to `sizeof(mkms_scheduler)`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mkms_scheduler {
    /// `sizeof(mkms_scheduler)`.
    pub size: usize,
    /// When the scheduler runs: a cron expression with five fields, in UTC. NULL: every hour on the hour.
    pub cron: *const c_char,
    /// Length of `cron`.
    pub cron_len: usize,
    /// Whether the scheduler runs automatically; `mkms_run_scheduler` works in either case.
    pub enabled: u8,
    /// Rotate keys whose rotation period has ended.
    pub rotate: u8,
    /// Erase the material of keys whose deletion is due.
    pub destroy: u8,
    /// Revoke versions past their grace window.
    pub revoke_expired: u8,
    /// Revoke versions past their grace window even if they were used after a rotation.
    pub revoke_expired_even_if_used: u8,
    /// Verify the log incrementally.
    pub verify: u8,
}

// SAFETY: integers and a raw pointer; the size comes first.
unsafe impl Extensible for mkms_scheduler {
    const NAME: &'static str = "mkms_scheduler";
}

/// Sets the jobs of the scheduler. Without this call it runs every hour on the hour, and does everything except
/// revoking.
///
/// Errors: `MKMS_INVALID_ARGUMENT`. The expression is checked when a service is opened.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_scheduler(
    config: *mut mkms_config,
    scheduler: *const mkms_scheduler,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; scheduler = arguments::structure [scheduler]; => {
        // SAFETY: the caller keeps the contract of the header: `cron` is NULL or valid for its length.
        let cron = unsafe { arguments::optional_text(scheduler.cron, scheduler.cron_len, "scheduler->cron") }?;
        let mut wanted = SchedulerConfig::default();
        if let Some(cron) = cron {
            wanted.cron = cron.to_owned();
        }
        wanted.enabled = scheduler.enabled != 0;
        wanted.rotate = scheduler.rotate != 0;
        wanted.destroy = scheduler.destroy != 0;
        wanted.revoke_expired = scheduler.revoke_expired != 0;
        wanted.revoke_expired_even_if_used = scheduler.revoke_expired_even_if_used != 0;
        wanted.verify = scheduler.verify != 0;
        config.change(|settings| Ok(settings.scheduler(wanted)))
    })
}

/// Sets the maximum number of unwrapped keys in memory, and how long each is kept.
///
/// Errors: `MKMS_INVALID_ARGUMENT`. The range is checked when a service is opened.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_cache(
    config: *mut mkms_config,
    size: u64,
    ttl_seconds: u64,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; => {
        config.change(|settings| Ok(settings.cache(size, Duration::from_secs(ttl_seconds))))
    })
}

/// Sets the default and the minimum number of days that a scheduled deletion waits.
///
/// Errors: `MKMS_INVALID_ARGUMENT`. The range is checked when a service is opened.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_deletion_wait(
    config: *mut mkms_config,
    days: u32,
    minimum_days: u32,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; => {
        config.change(|settings| Ok(settings.deletion_wait(days, minimum_days)))
    })
}

/// Sets the limits for operations in flight: their number, and the bytes of their results.
///
/// Errors: `MKMS_INVALID_ARGUMENT`. The range is checked when a service is opened.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_limits(
    config: *mut mkms_config,
    operations: usize,
    result_bytes: usize,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; => {
        config.change(|settings| Ok(settings.limits(operations, result_bytes)))
    })
}

/// Sets the high-water file, which keeps the last signed head outside the store. A store that is older than this head
/// is refused.
///
/// `path` may be NULL: then there is no high-water file.
///
/// Errors: `MKMS_INVALID_ARGUMENT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_high_water(
    config: *mut mkms_config,
    path: *const c_char,
    path_len: usize,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; path = arguments::optional_text [path, path_len]; => {
        config.change(|settings| Ok(match path {
            Some(path) => settings.high_water(path),
            None => settings.no_high_water(),
        }))
    })
}

/// Sets whether opening creates a missing store, which is the default.
///
/// Errors: `MKMS_INVALID_ARGUMENT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_make_store(
    config: *mut mkms_config,
    make: bool,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; => { config.change(|settings| Ok(settings.make_store(make))) })
}

/// Sets whether opening accepts once that the store was rolled back to an older state. An audit record says which
/// records were lost.
///
/// Errors: `MKMS_INVALID_ARGUMENT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_acknowledge_restore(
    config: *mut mkms_config,
    acknowledge: bool,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; => {
        config.change(|settings| Ok(settings.acknowledge_restore(acknowledge)))
    })
}

/// Accepts that the time of the log's last record is in the future. `now` is the current time (RFC 3339) from a source
/// other than this machine's clock.
///
/// Errors: `MKMS_INVALID_ARGUMENT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_acknowledge_clock(
    config: *mut mkms_config,
    now: *const c_char,
    now_len: usize,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; now = arguments::text [now, now_len]; => {
        let now = now.parse()?;
        config.change(|settings| Ok(settings.acknowledge_clock(now)))
    })
}

/// Sets the number of free bytes below which there is an alarm, and the size of the disk reserve for revocations in
/// bytes; 0 for none.
///
/// Errors: `MKMS_INVALID_ARGUMENT`. The range is checked when a service is opened.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_disk_space(
    config: *mut mkms_config,
    alarm_bytes: u64,
    reserve_bytes: u64,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; => {
        config.change(|settings| Ok(settings.disk_space(alarm_bytes, reserve_bytes)))
    })
}

/// Sets whether the memory of the whole process is kept out of swap (`mlockall`), where that is permitted.
///
/// Errors: `MKMS_INVALID_ARGUMENT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_lock_memory(
    config: *mut mkms_config,
    lock: bool,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; => { config.change(|settings| Ok(settings.lock_memory(lock))) })
}

/// Sets the number of days within which incremental verifications read the whole log again; 0: each of them reads all
/// of it.
///
/// Errors: `MKMS_INVALID_ARGUMENT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_reverify_days(
    config: *mut mkms_config,
    days: u32,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error; config = handle::get [config]; => { config.change(|settings| Ok(settings.reverify_days(days))) })
}

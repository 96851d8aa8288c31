//! The configuration: setters of the same names as in Rust, TOML and the environment.

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

/// A configuration. It can be used to open any number of services, and changed in between.
pub struct mkms_config {
    _opaque: (),
}

/// The configuration as it is now.
pub struct Settings(Shared<Config>);

impl Settings {
    fn new(config: Config) -> Self {
        Self(Shared::new(config, mkms_config::NAME))
    }
    /// A copy of the settings, which later setters do not change.
    pub fn snapshot(&self) -> Outcome<Config> {
        Ok(self.0.read()?.clone())
    }
    /// Replaces it by what `change` makes of it.
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

/// Makes a configuration with this store (`sqlite:PATH`, `mysql://...`, `postgres://...`) and the defaults. It needs a
/// root key before a service can be opened with it. The caller frees it with `mkms_config_free`.
///
/// Errors: `MKMS_INVALID_ARGUMENT`. Whether the URL is good is found out when a service is opened.
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

/// Makes a configuration of a TOML text. Unknown settings are refused. The caller frees it with `mkms_config_free`.
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

/// Makes a configuration of a TOML file, if one is named, and of the environment (`KMS_...`), which takes precedence.
/// The caller frees it with `mkms_config_free`.
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

/// Frees a configuration and sets `*config` to NULL. Its root key is wiped. NULL and a pointer to NULL are left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_config_free(config: *mut *mut mkms_config) -> mkms_status {
    free!(config)
}

/// Sets the store.
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

/// Sets the file, of mode 0600, with the password that belongs into the store's URL. It is read when a service is
/// opened.
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

/// Sets for how many days former versions stay usable, for keys without a grace period of their own.
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

/// Sets when results are released: `durable` (once their record is on disk) or `queued`.
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
    /// When it runs: a cron expression of five fields, in UTC. NULL: at every full hour.
    pub cron: *const c_char,
    /// Length of `cron`.
    pub cron_len: usize,
    /// Whether it runs by itself.
    pub enabled: u8,
    /// Rotate keys whose rotation period is over.
    pub rotate: u8,
    /// Erase the material of keys whose deletion is due.
    pub destroy: u8,
    /// Revoke versions past their window.
    pub revoke_expired: u8,
    /// Revoke them even if they were used after they had been replaced.
    pub revoke_expired_even_if_used: u8,
    /// Verify what is new in the log.
    pub verify: u8,
}

// SAFETY: integers and a raw pointer; the size comes first.
unsafe impl Extensible for mkms_scheduler {
    const NAME: &'static str = "mkms_scheduler";
}

/// Sets the jobs of the scheduler. Without this call it runs at every full hour, and does everything but revoking.
///
/// Errors: `MKMS_INVALID_ARGUMENT`. Whether the expression is good is found out when a service is opened.
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

/// Sets how many unwrapped keys are kept in memory at most, and for how long.
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

/// Sets how many days a scheduled deletion waits unless the caller says otherwise, and the least that it may say.
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

/// Sets how many operations, and bytes of their results, can be in flight.
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

/// Sets the high-water file: the last signed head, kept outside of the store. A store that is older than it is refused.
///
/// `path` may be NULL: then there is none.
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

/// Sets whether opening makes a store where there is none, as it does by default.
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

/// Sets whether opening accepts, this once, that the store was reset to an older state. A record says which records
/// were lost.
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

/// Accepts that the log's last record is of a time that has not come yet. `now` is the present (RFC 3339) as it is
/// known from elsewhere than this machine's clock.
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

/// Sets below how many free bytes there is an alarm, and how many bytes are set aside for revocations; 0 for none.
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

/// Sets whether the memory of the whole process is kept out of swap (`mlockall`), if that is allowed.
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

/// Sets within how many days incremental verifications read the whole log again; 0: each of them reads all of it.
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

//! Settings, as keyword arguments.

use std::time::Duration;

use kms_lib::{AuditAck, AwsRootKey, Config, RootKeySource, SchedulerConfig};
use pyo3::Borrowed;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyString, PyType};

use crate::arguments::{Named, Path, Text, Time, text};
use crate::errors::{Failure, Outcome, invalid, wrong_type};

/// A root key argument: text, 32 bytes, or a key in AWS KMS.
pub enum RootKey {
    /// Text in one of the forms of `RootKeySource`.
    Text(String),
    /// The 32 bytes of the key.
    Bytes([u8; 32]),
    /// A key in AWS KMS.
    Aws(AwsRootKey),
}

impl<'py> FromPyObject<'_, 'py> for RootKey {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        static AWS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        if value.cast::<PyString>().is_ok() {
            return Ok(Self::Text(text(&value, "a root key")?.into_owned()));
        }
        if let Ok(bytes) = value.cast::<PyBytes>() {
            let wrong = |_| invalid(format!("a root key must have 32 bytes, not {}", bytes.as_bytes().len()));
            return Ok(Self::Bytes(bytes.as_bytes().try_into().map_err(wrong)?));
        }
        if !value.is_instance(AWS.import(value.py(), "mini_kms._results", "AwsRootKey")?)? {
            let kind = value.get_type().name()?;
            return Err(wrong_type(format!("a root key must be str, bytes or AwsRootKey, not {kind}")).into());
        }
        let mut key = AwsRootKey::new(value.getattr("key_id")?.extract::<Text>()?.0);
        if let Some(region) = value.getattr("region")?.extract::<Option<Text>>()? {
            key = key.region(region.0);
        }
        if let Some(endpoint) = value.getattr("endpoint")?.extract::<Option<Text>>()? {
            key = key.endpoint(endpoint.0);
        }
        if let Some(timeout) = value.getattr("timeout")?.extract::<Option<f64>>()? {
            key = key.timeout(seconds(timeout, "timeout")?);
        }
        if let Some(timeout) = value.getattr("attempt_timeout")?.extract::<Option<f64>>()? {
            key = key.attempt_timeout(seconds(timeout, "attempt_timeout")?);
        }
        Ok(Self::Aws(key))
    }
}

impl RootKey {
    /// Converts the request to the type of the library.
    pub fn source(self) -> Outcome<RootKeySource> {
        Ok(match self {
            Self::Text(text) => RootKeySource::parse(&text)?,
            Self::Bytes(bytes) => RootKeySource::from_bytes(bytes),
            Self::Aws(key) => RootKeySource::aws(key),
        })
    }

    fn first(self, config: Config) -> Outcome<Config> {
        Ok(match self {
            Self::Text(text) => config.root_key(&text)?,
            Self::Bytes(bytes) => config.root_key_bytes(bytes),
            Self::Aws(key) => config.aws_root_key(key),
        })
    }

    fn further(self, config: Config) -> Outcome<Config> {
        Ok(match self {
            Self::Text(text) => config.add_root_key(&text)?,
            Self::Bytes(bytes) => config.add_root_key_bytes(bytes),
            Self::Aws(key) => config.add_aws_root_key(key),
        })
    }
}

fn seconds(value: f64, what: &str) -> Outcome<Duration> {
    Duration::try_from_secs_f64(value).map_err(|e| invalid(format!("{what}: {e}")))
}

/// Applies settings to a configuration, in the order in which they were given.
pub fn apply(mut config: Config, settings: Option<&Bound<'_, PyDict>>) -> Outcome<Config> {
    for (name, value) in settings.into_iter().flatten() {
        let name = name.extract::<Text>()?;
        config = set(config, &name.0, &value)?;
    }
    Ok(config)
}

fn set(config: Config, name: &str, value: &Bound<'_, PyAny>) -> Outcome<Config> {
    Ok(match name {
        "store_password_file" => config.store_password_file(value.extract::<Path>()?.0),
        "root_key" => value.extract::<RootKey>()?.first(config)?,
        "add_root_keys" => {
            value.extract::<Vec<RootKey>>()?.into_iter().try_fold(config, |config, key| key.further(config))?
        }
        "grace_days" => config.grace_days(value.extract()?),
        "audit_ack" => config.audit_ack(audit_ack(&text(value, name)?)?),
        "crypto_provider" => config.crypto_provider(value.extract::<Named<_>>()?.0),
        "scheduler" => config.scheduler(scheduler(value)?),
        "cache" => {
            let (size, time_to_live): (u64, f64) = value.extract()?;
            config.cache(size, seconds(time_to_live, name)?)
        }
        "deletion_wait" => {
            let (days, minimum) = value.extract()?;
            config.deletion_wait(days, minimum)
        }
        "limits" => {
            let (operations, bytes) = value.extract()?;
            config.limits(operations, bytes)
        }
        "high_water" => match value.extract::<Option<Path>>()? {
            Some(path) => config.high_water(path.0),
            None => config.no_high_water(),
        },
        "make_store" => config.make_store(value.extract()?),
        "acknowledge_restore" => config.acknowledge_restore(value.extract()?),
        "acknowledge_clock" => config.acknowledge_clock(value.extract::<Time>()?.0),
        "disk_space" => {
            let (alarm, reserve) = value.extract()?;
            config.disk_space(alarm, reserve)
        }
        "lock_memory" => config.lock_memory(value.extract()?),
        "reverify_days" => config.reverify_days(value.extract()?),
        _ => return Err(wrong_type(format!("there is no setting {name:?}"))),
    })
}

fn audit_ack(text: &str) -> Outcome<AuditAck> {
    match text {
        "durable" => Ok(AuditAck::Durable),
        "queued" => Ok(AuditAck::Queued),
        _ => Err(invalid("audit_ack must be \"durable\" or \"queued\"")),
    }
}

fn scheduler(value: &Bound<'_, PyAny>) -> Outcome<SchedulerConfig> {
    static SCHEDULER: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    if !value.is_instance(SCHEDULER.import(value.py(), "mini_kms._results", "Scheduler")?)? {
        return Err(wrong_type(format!("scheduler must be a Scheduler, not {}", value.get_type().name()?)));
    }
    let flag = |name: &str| value.getattr(name).and_then(|flag| flag.extract::<bool>());
    let mut made = SchedulerConfig::new()
        .cron(value.getattr("cron")?.extract::<Text>()?.0)
        .rotate(flag("rotate")?)
        .destroy(flag("destroy")?)
        .revoke_expired(flag("revoke_expired")?)
        .revoke_expired_even_if_used(flag("revoke_expired_even_if_used")?)
        .verify(flag("verify")?);
    made.enabled = flag("enabled")?;
    Ok(made)
}

/// Generates a root key as text, for ``root_key`` or a file: 32 random bytes, in base64.
///
/// >>> generate_root_key().startswith("base64:")
/// True
#[pyfunction]
pub fn generate_root_key() -> Outcome<String> {
    Ok(RootKeySource::generate().map_err(Failure::Kms)?.to_string())
}

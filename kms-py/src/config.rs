//! `Config`: the store and the settings of a service.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::arguments::{Path, Text, text};
use crate::errors::{Outcome, wrong_type};
use crate::settings::apply;

/// The store and the settings of a service.
///
/// The settings are those of ``Settings``; ``docs/configuration.md`` describes them. ``repr`` shows neither passwords
/// nor root keys.
///
/// >>> config = Config("sqlite:kms.db", root_key="passphrase:correct horse battery staple", grace_days=30)
/// >>> config.replace(audit_ack="queued").describe()["audit.ack"]
/// 'queued'
#[pyclass(frozen, module = "mini_kms")]
pub struct Config(pub kms_lib::Config);

#[pymethods]
impl Config {
    #[new]
    #[pyo3(signature = (url, **settings))]
    fn new(url: Text, settings: Option<&Bound<'_, PyDict>>) -> Outcome<Self> {
        Ok(Self(apply(kms_lib::Config::new(url.0), settings)?))
    }
    /// Reads the configuration from an optional TOML file and the environment (``KMS_...``), which takes precedence.
    #[staticmethod]
    #[pyo3(signature = (path=None))]
    fn load(path: Option<Path>) -> Outcome<Self> {
        Ok(Self(kms_lib::Config::load(path.as_ref().map(|path| path.0.as_path()))?))
    }
    /// Reads the configuration from the environment only (``KMS_...``).
    #[staticmethod]
    fn from_env() -> Outcome<Self> {
        Ok(Self(kms_lib::Config::from_env()?))
    }
    /// Reads the configuration from TOML text. Unknown settings are refused.
    ///
    /// >>> Config.from_toml('store_url = "sqlite:kms.db"\nmaster_key = "passphrase:correct horse battery staple"')
    /// Config('sqlite:kms.db')
    #[staticmethod]
    fn from_toml(text: Text) -> Outcome<Self> {
        Ok(Self(kms_lib::Config::from_toml(&text.0)?))
    }
    /// Returns a copy of the configuration with other settings.
    #[pyo3(signature = (url=None, **settings))]
    fn replace(&self, url: Option<Text>, settings: Option<&Bound<'_, PyDict>>) -> Outcome<Self> {
        let mut config = self.0.clone();
        if let Some(url) = url {
            config = config.store_url(url.0);
        }
        Ok(Self(apply(config, settings)?))
    }
    /// Returns all settings and their values as text, without secrets.
    fn describe<'py>(&self, py: Python<'py>) -> Outcome<Bound<'py, PyDict>> {
        let described = PyDict::new(py);
        for (name, value) in self.0.describe() {
            described.set_item(name, value)?;
        }
        Ok(described)
    }
    fn __repr__(&self) -> String {
        format!("Config('{}')", self.0.shown_store_url())
    }
}

/// Makes a configuration from the arguments of `open`: a URL or a `Config`, and settings.
pub fn read(url: &Bound<'_, PyAny>, settings: Option<&Bound<'_, PyDict>>) -> Outcome<kms_lib::Config> {
    let config = if let Ok(config) = url.cast::<Config>() {
        config.get().0.clone()
    } else if url.cast::<PyString>().is_ok() {
        kms_lib::Config::new(text(url, "the URL")?)
    } else {
        return Err(wrong_type(format!("url must be a str or a Config, not {}", url.get_type().name()?)));
    };
    apply(config, settings)
}

//! What the service is set up with: a TOML file, the environment and flags, in that order of rising precedence.
//!
//! The file is the one of [`kms_lib::Config`], with a section `[http]` for what only a service has. In the environment
//! the settings of that section begin with `KMS_HTTP_`.

mod http;
mod places;
mod table;

pub use http::{AuthMethod, Http, LogFormat, TlsForm};
pub use places::Places;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use kms_lib::{Config, Error, ErrorCode, Result};

/// Variables of Mini KMS on Node that mean nothing here, each with what takes its place. To go on without a word would
/// start an empty store beside the one that was meant.
const REPLACED: &[(&str, &str)] = &[
    ("DB_HOST", "the whole address goes into KMS_STORE_URL, such as mysql://user:password@host:3306/database"),
    ("DB_PORT", "the whole address goes into KMS_STORE_URL, such as mysql://user:password@host:3306/database"),
    ("DB_USER", "the whole address goes into KMS_STORE_URL, such as mysql://user:password@host:3306/database"),
    ("DB_PASSWORD", "the whole address goes into KMS_STORE_URL, such as mysql://user:password@host:3306/database"),
    ("DB_NAME", "the whole address goes into KMS_STORE_URL, such as mysql://user:password@host:3306/database"),
];

/// What flags say. They go ahead of the file and the environment.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// The configuration file; without, the one in the configuration folder if there is one.
    pub config: Option<PathBuf>,
    /// Where everything is kept.
    pub store_url: Option<String>,
    /// A file with the root key.
    pub master_key_file: Option<PathBuf>,
    /// Settings of the section `http`: name and value.
    pub http: Vec<(String, String)>,
}

/// Everything that is in force.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The service's.
    pub kms: Config,
    /// The server's.
    pub http: Http,
    /// The file they were read from.
    pub file: Option<PathBuf>,
    /// The root key file that is to be used, and made if it is not there, when no root key was given.
    pub default_key_file: Option<PathBuf>,
}

impl Settings {
    /// Reads file and environment, and applies the flags.
    pub fn load(flags: &Flags, places: &Places) -> Result<Self> {
        refuse_replaced(std::env::vars_os())?;
        let file = flags.config.clone().or_else(|| places.config_file().filter(|path| path.exists()));
        let mut kms = Config::new(places.store_url()).overlaid(file.as_deref())?;
        if let Some(url) = &flags.store_url {
            kms = kms.store_url(url);
        }
        if let Some(path) = &flags.master_key_file {
            kms = kms.root_key(&format!("file:{}", path.display()))?;
        }
        kms = match kms.high_water_file() {
            None => {
                let path = places.high_water(&kms);
                kms.high_water(path)
            }
            Some(path) if path.as_os_str().is_empty() => kms.no_high_water(),
            Some(_) => kms,
        };
        let default_key_file = (!kms.has_root_key()).then(|| places.root_key_file());
        kms.check()?;

        let mut http = Http::default();
        if let Some(path) = &file {
            table::apply_file(&mut http, path)?;
        }
        table::apply_variables(&mut http, std::env::vars_os())?;
        for (name, value) in &flags.http {
            table::apply(&mut http, name, value)?;
        }
        http.check()?;
        Ok(Self { kms, http, file, default_key_file })
    }

    /// Every setting with its value, secrets hidden.
    pub fn describe(&self) -> Vec<(String, String)> {
        let lib = self.kms.describe().into_iter().map(|(name, value)| (name.to_owned(), value));
        let lib = lib.map(|(name, value)| match &self.default_key_file {
            Some(path) if name == "master_key" => (name, format!("file:{} (the default)", path.display())),
            _ => (name, value),
        });
        lib.chain(table::describe(&self.http)).collect()
    }

    /// With the root key of the default file, if no other was given. `InvalidRootKey` if it is not there.
    pub fn with_default_key(mut self) -> Result<Self> {
        if let Some(path) = &self.default_key_file {
            if !path.exists() {
                return Err(Error::new(
                    ErrorCode::InvalidRootKey,
                    format!(
                        "there is no root key: neither KMS_MASTER_KEY is set nor {} there; run `kms-http init`",
                        path.display()
                    ),
                ));
            }
            self.kms = self.kms.root_key(&format!("file:{}", path.display()))?;
        }
        Ok(self)
    }
}

fn refuse_replaced(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<()> {
    // `DB_PORT` may be the link of a Kubernetes Service called `db`.
    for (name, _) in variables.filter(|(name, value)| !is_service_link(name, value)) {
        let found = name.to_str().and_then(|name| REPLACED.iter().find(|(old, _)| *old == name));
        if let Some((old, instead)) = found {
            return Err(invalid(format!(
                "{old} is a variable of Mini KMS on Node and has no meaning here: {instead}. Unset it"
            )));
        }
    }
    Ok(())
}

/// Whether a variable is one that Kubernetes injects for a Service ([`kms_lib::config::is_service_link`]).
fn is_service_link(name: &OsStr, value: &OsStr) -> bool {
    let pair = name.to_str().zip(value.to_str());
    pair.is_some_and(|(name, value)| kms_lib::config::is_service_link(name, value))
}

/// Whether two paths lie in the same folder.
pub(crate) fn is_same_folder(a: &Path, b: &Path) -> bool {
    let folder = |path: &Path| {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        parent.canonicalize().unwrap_or_else(|_| parent.to_owned())
    };
    folder(a) == folder(b)
}

pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidConfiguration, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_node_service_name_what_replaces_them() {
        let variables = |variables: [(&str, &str); 2]| {
            variables.map(|(name, value)| (OsString::from(name), OsString::from(value))).into_iter()
        };
        let refused = refuse_replaced(variables([("PATH", "/bin"), ("DB_HOST", "db")]));
        let message = refused.expect_err("refused").to_string();
        assert!(message.contains("DB_HOST") && message.contains("KMS_STORE_URL"), "{message}");
        refuse_replaced(variables([("PORT", "80"), ("HOME", "/")])).expect("accepted");
        refuse_replaced(variables([("PATH", "/bin"), ("DB_PORT", "tcp://10.96.0.17:3306")])).expect("accepted");
    }
}

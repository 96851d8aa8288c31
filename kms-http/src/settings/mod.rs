//! The configuration of the service, from a TOML file, the environment and flags, in that order of rising precedence.
//!
//! The file is that of [`kms_lib::Config`] with a section `[http]` for the settings of the service. The environment
//! variables of that section begin with `KMS_HTTP_`.

/// Declares a section of the settings: each field with its default. Unknown fields are refused.
macro_rules! section {
    ($(#[$about:meta])* pub struct $name:ident {
        $($(#[$field_about:meta])* pub $field:ident: $kind:ty = $default:expr,)+
    }) => {
        $(#[$about])*
        #[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name { $($(#[$field_about])* pub $field: $kind,)+ }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }
    };
}

mod anchors;
pub(crate) mod forms;
mod http;
mod layers;
mod mtls;
mod oidc;
mod otlp;
mod tls;
mod xdg_dirs;

pub use anchors::AnchorSettings;
pub use http::{AuthMethod, Http, LogFormat, TrustedHeadersSettings};
pub use mtls::{MtlsSettings, PrincipalField, RoleField};
pub use oidc::OidcSettings;
pub use otlp::OtlpSettings;
pub use tls::{ClientCertificates, TlsSettings};
pub use xdg_dirs::XdgDirs;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use kms_lib::{Config, Error, ErrorCode, Result};

/// Variables of Mini KMS on Node that are not supported here. They are refused, because ignoring them would silently
/// start with an empty store instead of the intended one.
const REPLACED: [&str; 5] = ["DB_HOST", "DB_PORT", "DB_USER", "DB_PASSWORD", "DB_NAME"];

/// The settings from flags, which override the file and the environment.
#[derive(Args, Clone, Default)]
pub struct Flags {
    /// Configuration file [default: ~/.config/mini-kms/kms-http.toml, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The store, such as sqlite:/var/lib/kms/kms.db
    #[arg(long, global = true, value_name = "URL")]
    pub store_url: Option<String>,
    /// File with the root key (mode 0600)
    #[arg(long, global = true, value_name = "FILE")]
    pub master_key_file: Option<PathBuf>,
    /// Override a setting of the section http, such as log=debug
    #[arg(long = "set", global = true, value_name = "NAME=VALUE", value_parser = pair)]
    pub http: Vec<(String, String)>,
}

fn pair(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.trim_start_matches("http.").to_owned(), value.to_owned()))
}

/// Placeholder for the store URL of a user without a home folder; refused unless another URL is configured.
const NO_STORE: &str = "sqlite:/nowhere";
/// The file of [`NO_STORE`].
const NOWHERE: &str = "/nowhere";

/// The settings after all sources are merged.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The settings of `kms-lib`.
    pub kms: Config,
    /// The settings of the service, section `http`.
    pub http: Http,
    /// The configuration file, if there is one.
    pub file: Option<PathBuf>,
    /// The default root key file, if no root key is configured. `serve` and `init` create it if it is missing.
    pub default_key_file: Option<PathBuf>,
    /// The file for the first token if standard output is not a terminal, or the error that there is no folder for it.
    pub token_file: Result<PathBuf>,
}

impl Settings {
    /// Reads the file and the environment, applies the flags, and checks the result.
    pub fn load(flags: &Flags, dirs: &XdgDirs) -> Result<Self> {
        let variables = environment()?;
        let file = flags.config.clone().or_else(|| dirs.config_file().filter(|path| path.exists()));
        let default_url = dirs.store_url();
        let mut kms = Config::new(default_url.as_deref().unwrap_or(NO_STORE)).overlaid(file.as_deref())?;
        if let Some(url) = &flags.store_url {
            kms = kms.store_url(url);
        }
        if let Some(path) = &flags.master_key_file {
            kms = kms.root_key(&format!("file:{}", path.display()))?;
        }
        if default_url.is_none() && kms.store_file().is_some_and(|file| file.as_os_str() == NOWHERE) {
            return Err(xdg_dirs::homeless("XDG_DATA_HOME", "set --store-url or KMS_STORE_URL"));
        }
        kms = match kms.high_water_file() {
            None => {
                let path = dirs.high_water(&kms)?;
                kms.high_water(path)
            }
            Some(path) if path.as_os_str().is_empty() => kms.no_high_water(),
            Some(_) => kms,
        };
        let default_key_file = (!kms.has_root_key()).then(|| dirs.root_key_file()).transpose()?;
        kms.check()?;

        let text = file.as_ref().map(std::fs::read_to_string).transpose();
        let text = text.map_err(|e| invalid(format!("cannot read the configuration file: {e}")))?;
        let http = layers::read(text.as_deref(), variables, &flags.http)?;
        http.check()?;
        let token_file = dirs.first_token(&kms);
        Ok(Self { kms, http, file, default_key_file, token_file })
    }

    /// Every setting with its value. Secrets are hidden.
    pub fn describe(&self) -> Vec<(String, String)> {
        let lib = self.kms.describe().into_iter().map(|(name, value)| (name.to_owned(), value));
        let lib = lib.map(|(name, value)| match &self.default_key_file {
            Some(path) if name == "master_key" => (name, format!("file:{} (the default)", path.display())),
            _ => (name, value),
        });
        lib.chain(self.http.describe()).collect()
    }

    /// Uses the default root key file if no other root key is configured. `InvalidRootKey` if that file is missing.
    pub fn with_default_key(mut self) -> Result<Self> {
        if let Some(path) = &self.default_key_file {
            if !path.exists() {
                return Err(Error::new(
                    ErrorCode::InvalidRootKey,
                    format!(
                        "there is no root key: KMS_MASTER_KEY is not set and {} does not exist; run `kms-http init`",
                        path.display()
                    ),
                ));
            }
            self.kms = self.kms.root_key(&format!("file:{}", path.display()))?;
        }
        Ok(self)
    }
}

/// The `KMS_HTTP_` variables. Ignores or refuses the other variables that concern the service, except those of the
/// library, which [`Config::overlaid`] reads.
fn environment() -> Result<Vec<(String, OsString)>> {
    filtered(std::env::vars_os())
}

fn filtered(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Vec<(String, OsString)>> {
    let mut own = Vec::new();
    for (name, value) in variables {
        // No variable of the service has a name that is not UTF-8.
        let Ok(name) = name.into_string() else { continue };
        // Kubernetes injects links for Services: one called `kms-http` sets KMS_HTTP_PORT, one called `db` sets
        // DB_PORT.
        if value.to_str().is_some_and(|value| Config::is_service_link(&name, value)) {
            continue;
        }
        if REPLACED.contains(&&*name) {
            return Err(invalid(format!(
                "{name} is a variable of Mini KMS on Node and is not supported; unset it and set KMS_STORE_URL, such \
                 as mysql://user:password@host:3306/database"
            )));
        }
        if name.starts_with("KMS_HTTP_") {
            own.push((name, value));
        }
    }
    Ok(own)
}

/// Whether two paths are in the same folder.
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
#[path = "../../tests/unit/settings.rs"]
mod tests;

//! What the service is set up with: a TOML file, the environment and flags, in that order of rising precedence.
//!
//! The file is the one of [`kms_lib::Config`], with a section `[http]` for what only a service has. In the environment
//! the settings of that section begin with `KMS_HTTP_`.

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

/// Variables of Mini KMS on Node that mean nothing here. To go on without a word would start an empty store beside the
/// one that was meant.
const REPLACED: [&str; 5] = ["DB_HOST", "DB_PORT", "DB_USER", "DB_PASSWORD", "DB_NAME"];

/// What flags say. They go ahead of the file and the environment.
#[derive(Args, Clone, Default)]
pub struct Flags {
    /// The configuration file [default: kms-http.toml in the configuration folder, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where everything is kept, such as sqlite:/var/lib/kms/kms.db
    #[arg(long, global = true, value_name = "URL")]
    pub store_url: Option<String>,
    /// A file of mode 0600 with the root key
    #[arg(long, global = true, value_name = "FILE")]
    pub master_key_file: Option<PathBuf>,
    /// A setting of the section http, such as log=debug
    #[arg(long = "set", global = true, value_name = "NAME=VALUE", value_parser = pair)]
    pub http: Vec<(String, String)>,
}

fn pair(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is expected")?;
    Ok((name.trim_start_matches("http.").to_owned(), value.to_owned()))
}

/// Stands for the store of a user without a home folder until another one is named.
const NO_STORE: &str = "sqlite:/nowhere";
/// Its file.
const NOWHERE: &str = "/nowhere";

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
    /// Where the first token goes if there is no terminal to show it on.
    pub token_file: Result<PathBuf>,
}

impl Settings {
    /// Reads file and environment, and applies the flags.
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
            return Err(xdg_dirs::homeless("XDG_DATA_HOME", "where the store is with --store-url or KMS_STORE_URL"));
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
        let text = text.map_err(|e| invalid(format!("the configuration file cannot be read: {e}")))?;
        let http = layers::read(text.as_deref(), variables, &flags.http)?;
        http.check()?;
        let token_file = dirs.first_token(&kms);
        Ok(Self { kms, http, file, default_key_file, token_file })
    }

    /// Every setting with its value, secrets hidden.
    pub fn describe(&self) -> Vec<(String, String)> {
        let lib = self.kms.describe().into_iter().map(|(name, value)| (name.to_owned(), value));
        let lib = lib.map(|(name, value)| match &self.default_key_file {
            Some(path) if name == "master_key" => (name, format!("file:{} (the default)", path.display())),
            _ => (name, value),
        });
        lib.chain(self.http.describe()).collect()
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

/// The variables of this service. Everything that is to be passed over or refused in the environment is so here, but
/// for those of the library, which [`Config::overlaid`] reads.
fn environment() -> Result<Vec<(String, OsString)>> {
    filtered(std::env::vars_os())
}

fn filtered(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Vec<(String, OsString)>> {
    let mut own = Vec::new();
    for (name, value) in variables {
        // A name that is not UTF-8 is none of ours.
        let Ok(name) = name.into_string() else { continue };
        // Kubernetes injects links for a Service called `kms-http`, or `db`, whose link is called DB_PORT.
        if value.to_str().is_some_and(|value| Config::is_service_link(&name, value)) {
            continue;
        }
        if REPLACED.contains(&&*name) {
            return Err(invalid(format!(
                "{name} is a variable of Mini KMS on Node and has no meaning here: the whole address goes into \
                 KMS_STORE_URL, such as mysql://user:password@host:3306/database. Unset it"
            )));
        }
        if name.starts_with("KMS_HTTP_") {
            own.push((name, value));
        }
    }
    Ok(own)
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
#[path = "../../tests/unit/settings.rs"]
mod tests;

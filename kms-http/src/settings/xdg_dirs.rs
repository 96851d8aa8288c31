//! Default paths. Data, configuration and state have separate folders (XDG Base Directory Specification), so that the
//! root key is never in the same folder as the store.

use std::env;
use std::path::PathBuf;

use kms_lib::{Config, Error, Result};

use super::invalid;

/// The folder of this service within each of the user's XDG folders.
const FOLDER: &str = "mini-kms";
/// Maximum length of the part of a file name that is derived from a store's path or URL, in bytes.
const NAME: usize = 200;

/// The user's data, configuration and state folders for this service. A folder is None if neither its variable nor
/// `HOME` is set, which matters only for paths that are not configured.
#[derive(Clone, Debug)]
pub struct XdgDirs {
    data: Option<PathBuf>,
    config: Option<PathBuf>,
    state: Option<PathBuf>,
}

impl XdgDirs {
    /// The folders from the XDG variables, or their defaults in the home folder.
    pub fn of_user() -> Self {
        let home = env::var_os("HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let folder = |variable: &str, below_home: &str| {
            // The specification says that relative paths are ignored.
            let named = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
            let path = named.or_else(|| home.as_ref().map(|home| home.join(below_home)));
            path.map(|path| path.join(FOLDER))
        };
        Self {
            data: folder("XDG_DATA_HOME", ".local/share"),
            config: folder("XDG_CONFIG_HOME", ".config"),
            state: folder("XDG_STATE_HOME", ".local/state"),
        }
    }

    /// The URL of the default store.
    pub fn store_url(&self) -> Option<String> {
        self.data.as_ref().map(|data| format!("sqlite:{}", data.join("kms.db").display()))
    }
    /// The path of the default configuration file.
    pub fn config_file(&self) -> Option<PathBuf> {
        self.config.as_ref().map(|config| config.join("kms-http.toml"))
    }
    /// The path of the default root key file.
    pub fn root_key_file(&self) -> Result<PathBuf> {
        let config = self
            .config
            .as_ref()
            .ok_or_else(|| homeless("XDG_CONFIG_HOME", "set --master-key-file or KMS_MASTER_KEY"))?;
        Ok(config.join("root.key"))
    }
    /// The path of the high-water file, in the state folder, which a restore of the data folder does not affect.
    pub fn high_water(&self, store: &Config) -> Result<PathBuf> {
        self.of_store(
            "high-water",
            store,
            "set KMS_HIGH_WATER to the path of the high-water file, or to an empty value for none",
        )
    }
    /// The path for the first token if standard output is not a terminal.
    pub fn first_token(&self, store: &Config) -> Result<PathBuf> {
        self.of_store(
            "first-token",
            store,
            "set one, so that the first token can be written to a file, or run `kms-http init`",
        )
    }

    /// The path of a file in the state folder whose name is derived from the store.
    fn of_store(&self, what: &str, store: &Config, advice: &str) -> Result<PathBuf> {
        let state = self.state.as_ref().ok_or_else(|| homeless("XDG_STATE_HOME", advice))?;
        let store = match store.store_file() {
            Some(file) => std::path::absolute(&file).unwrap_or(file).to_string_lossy().into_owned(),
            None => store.describe().into_iter().find(|(name, _)| *name == "store_url").unwrap_or_default().1,
        };
        let mut name = String::new();
        // The name is unique per store, unless paths are longer than NAME bytes.
        for byte in store.bytes() {
            match byte {
                b'/' => name.push('-'),
                b'.' | b'_' => name.push(char::from(byte)),
                _ if byte.is_ascii_alphanumeric() => name.push(char::from(byte)),
                _ => name.push_str(&format!("%{byte:02x}")),
            }
        }
        // Keep the end of a long path, which is more specific than its beginning.
        let name = &name[name.len().saturating_sub(NAME)..];
        Ok(state.join(format!("{what}{name}")))
    }
}

/// The error that there is no folder for a default path. `advice` says what to configure instead.
pub(super) fn homeless(variable: &str, advice: &str) -> Error {
    invalid(format!("neither {variable} nor HOME is set; {advice}"))
}

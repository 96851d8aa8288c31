//! Where things are when nothing is configured: data, configuration and state each in their own folder (XDG Base
//! Directory Specification), so that the root key is never beside what it wraps.

use std::env;
use std::path::PathBuf;

use kms_lib::{Config, Error, Result};

use super::invalid;

/// The folder of this service within each of the user's.
const FOLDER: &str = "mini-kms";
/// Longest part of a file's name that is made from a store's.
const NAME: usize = 200;

/// The user's folders: those that the environment names or that are below the home folder. None of them is needed when
/// everything that would be there is configured.
#[derive(Clone, Debug)]
pub struct XdgDirs {
    data: Option<PathBuf>,
    config: Option<PathBuf>,
    state: Option<PathBuf>,
}

impl XdgDirs {
    /// The folders that the environment names, and their defaults below the home folder.
    pub fn of_user() -> Self {
        let home = env::var_os("HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let folder = |variable: &str, below_home: &str| {
            // A relative path is to be ignored, says the specification.
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

    /// The store, if there is a folder for it.
    pub fn store_url(&self) -> Option<String> {
        self.data.as_ref().map(|data| format!("sqlite:{}", data.join("kms.db").display()))
    }
    /// The configuration file, if there is a folder for it.
    pub fn config_file(&self) -> Option<PathBuf> {
        self.config.as_ref().map(|config| config.join("kms-http.toml"))
    }
    /// The root key.
    pub fn root_key_file(&self) -> Result<PathBuf> {
        let config = self.config.as_ref().ok_or_else(|| {
            homeless("XDG_CONFIG_HOME", "where the root key is with --master-key-file or KMS_MASTER_KEY")
        })?;
        Ok(config.join("root.key"))
    }
    /// The last signed head: in a third folder, which a restore of the data does not reach.
    pub fn high_water(&self, store: &Config) -> Result<PathBuf> {
        self.of_store("high-water", store, "where the high-water file is with KMS_HIGH_WATER, or nothing for none")
    }
    /// The first token, if there is no terminal to show it on.
    pub fn first_token(&self, store: &Config) -> Result<PathBuf> {
        self.of_store("first-token", store, "which folder the file of the first token goes to, or run `kms-http init`")
    }

    /// A file in the state folder. Every store has its own.
    fn of_store(&self, what: &str, store: &Config, say: &str) -> Result<PathBuf> {
        let state = self.state.as_ref().ok_or_else(|| homeless("XDG_STATE_HOME", say))?;
        let store = match store.store_file() {
            Some(file) => std::path::absolute(&file).unwrap_or(file).to_string_lossy().into_owned(),
            None => store.describe().into_iter().find(|(name, _)| *name == "store_url").unwrap_or_default().1,
        };
        let mut name = String::new();
        // No two stores have the same, unless their paths are longer than this is.
        for byte in store.bytes() {
            match byte {
                b'/' => name.push('-'),
                b'.' | b'_' => name.push(char::from(byte)),
                _ if byte.is_ascii_alphanumeric() => name.push(char::from(byte)),
                _ => name.push_str(&format!("%{byte:02x}")),
            }
        }
        // The end of a path tells more than its beginning.
        let name = &name[name.len().saturating_sub(NAME)..];
        Ok(state.join(format!("{what}{name}")))
    }
}

/// That something has no place.
pub(super) fn homeless(variable: &str, say: &str) -> Error {
    invalid(format!("neither {variable} nor HOME is set: say {say}"))
}

//! Reads the section `http` from the file, the environment and flags, in that order of rising precedence. The crate
//! `config` merges them and records the origin of each value; serde reads the result.

use std::ffi::OsString;

use config::builder::DefaultState;
use config::{ConfigBuilder, ConfigError, FileFormat, Value, ValueKind};
use kms_lib::Result;
use serde_path_to_error::Segment;

use super::{Http, invalid};

/// Reads the section. `variables` are the environment variables that begin with `KMS_HTTP_`.
pub(super) fn read(
    file: Option<&str>,
    variables: impl IntoIterator<Item = (String, OsString)>,
    flags: &[(String, String)],
) -> Result<Http> {
    let mut layers = config::Config::builder();
    if let Some(text) = file {
        layers = layers.add_source(config::File::from_str(text, FileFormat::Toml));
    }
    let known: Vec<String> = Http::default().describe().into_iter().map(|(name, _)| name).collect();
    for (variable, value) in variables {
        let value = value.into_string().map_err(|_| invalid(format!("{variable} is not UTF-8")))?;
        let key = known.iter().find(|name| variable_of(name) == variable);
        layers = set(layers, key, &variable, value)?;
    }
    for (name, value) in flags {
        let name = format!("http.{name}");
        let key = known.iter().find(|known| **known == name);
        layers = set(layers, key, &name, value.clone())?;
    }
    // Leave out the parser's message: it quotes the line, which may contain the root key.
    let all = layers.build().map_err(|_| invalid("the configuration file is not valid TOML"))?;
    let ValueKind::Table(mut all) = all.cache.kind else { return Ok(Http::default()) };
    let Some(section) = all.remove("http") else { return Ok(Http::default()) };
    serde_path_to_error::deserialize(section.clone()).map_err(|error| {
        let known = error.path().iter().map_while(|segment| match segment {
            Segment::Map { key } => Some(key.as_str()),
            _ => None,
        });
        let origin = origin(&section, known).unwrap_or("the configuration file");
        let path = error.path().to_string();
        let name = if path == "." { "http".to_owned() } else { format!("http.{path}") };
        let place = if origin == name { "--set".to_owned() } else { origin.to_owned() };
        invalid(format!("{name}, from {place}: {}", reason(error.inner())))
    })
}

/// Sets a value from the environment or a flag.
fn set(
    layers: ConfigBuilder<DefaultState>,
    key: Option<&String>,
    source: &str,
    value: String,
) -> Result<ConfigBuilder<DefaultState>> {
    let unknown = || invalid(format!("{source} is not a setting; `kms-http config check` lists them"));
    let value = Value::new(Some(&source.to_owned()), value);
    layers.set_override(key.ok_or_else(unknown)?, value).map_err(|_| unknown())
}

/// The environment variable of a setting: `KMS_HTTP_TLS_KEY_FILE` for `http.tls.key_file`.
fn variable_of(name: &str) -> String {
    format!("KMS_{}", name.to_ascii_uppercase().replace('.', "_"))
}

/// The origin of the value at a path.
fn origin<'a>(section: &'a Value, path: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut value = section;
    for key in path {
        let ValueKind::Table(table) = &value.kind else { break };
        value = table.get(key)?;
    }
    value.origin()
}

fn reason(error: &ConfigError) -> String {
    match error {
        ConfigError::Message(text) if text.starts_with("unknown field") => "is not a setting".into(),
        ConfigError::Message(text) => text.clone(),
        ConfigError::Type { unexpected, expected, .. } => format!("expected {expected}, not {unexpected}"),
        ConfigError::At { error, .. } => reason(error),
        other => other.to_string(),
    }
}

#[cfg(test)]
#[path = "../../tests/unit/settings_layers.rs"]
mod tests;

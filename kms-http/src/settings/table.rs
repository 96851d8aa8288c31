//! Every setting of the section `http` in one table: its name in files and flags, how it is read, how it is shown. Its
//! name in the environment follows: `tls.key_file` is `KMS_HTTP_TLS_KEY_FILE`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use kms_lib::Result;
use serde::de::{DeserializeOwned, IntoDeserializer};
use toml::Value;

use super::http::{AuthMethod, Http, LogFormat};
use super::invalid;

type Outcome = std::result::Result<(), String>;

struct Setting {
    name: &'static str,
    set: fn(&mut Http, &str) -> Outcome,
    show: fn(&Http) -> String,
}

macro_rules! settings {
    ($($name:literal => $($field:ident).+: $read:ident, $show:ident;)+) => {
        const SETTINGS: &[Setting] = &[$(Setting {
            name: $name,
            set: |http, text| { http.$($field).+ = $read(text)?; Ok(()) },
            show: |http| $show(&http.$($field).+),
        }),+];
    };
}

settings! {
    "listen" => listen: optional, show_option;
    "unix_socket" => unix_socket: path, show_path;
    "auth" => auth: methods, show_methods;
    "token.prefix" => token_prefix: text, show_text;
    "trusted_headers.prefix" => trusted_headers_prefix: text, show_text;
    "trusted_headers_beyond_loopback" => trusted_headers_beyond_loopback: boolean, show_plain;
    "tls.certificate_file" => tls.certificate_file: path, show_path;
    "tls.key_file" => tls.key_file: path, show_path;
    "tls.client_certificates" => tls.client_certificates: word, show_word;
    "tls.client_ca_file" => tls.client_ca_file: path, show_path;
    "tls.client_crl_file" => tls.client_crl_file: path, show_path;
    "tls.handshake_timeout_seconds" => tls.handshake_timeout_seconds: plain, show_plain;
    "tls.reload_seconds" => tls.reload_seconds: plain, show_plain;
    "oidc.issuer" => oidc.issuer: text, show_text;
    "oidc.audiences" => oidc.audiences: list, show_list;
    "oidc.jwks_uri" => oidc.jwks_uri: some_text, show_option;
    "oidc.ca_file" => oidc.ca_file: path, show_path;
    "oidc.principal_claim" => oidc.principal_claim: text, show_text;
    "oidc.principal_prefix" => oidc.principal_prefix: text, show_text;
    "oidc.role_claim" => oidc.role_claim: some_text, show_option;
    "oidc.admin_values" => oidc.admin_values: list, show_list;
    "oidc.auditor_values" => oidc.auditor_values: list, show_list;
    "oidc.leeway_seconds" => oidc.leeway_seconds: plain, show_plain;
    "oidc.refresh_seconds" => oidc.refresh_seconds: plain, show_plain;
    "oidc.stale_seconds" => oidc.stale_seconds: plain, show_plain;
    "oidc.retry_seconds" => oidc.retry_seconds: plain, show_plain;
    "oidc.timeout_seconds" => oidc.timeout_seconds: plain, show_plain;
    "mtls.principal_field" => mtls.principal_field: word, show_word;
    "mtls.principal_prefix" => mtls.principal_prefix: text, show_text;
    "mtls.role_field" => mtls.role_field: some_word, show_some_word;
    "mtls.admin_values" => mtls.admin_values: list, show_list;
    "mtls.auditor_values" => mtls.auditor_values: list, show_list;
    "trusted_proxies" => trusted_proxies: list, show_list;
    "trust_unix_socket_proxy" => trust_unix_socket_proxy: boolean, show_plain;
    "cors_origins" => cors_origins: list, show_list;
    "public_origins" => public_origins: list, show_list;
    "body_limit_kib" => body_limit: kibibytes, show_kibibytes;
    "body_memory_mib" => body_memory: mebibytes, show_mebibytes;
    "request_timeout_seconds" => request_timeout: seconds, show_seconds;
    "idle_timeout_seconds" => idle_timeout: seconds, show_seconds;
    "body_timeout_seconds" => body_timeout: seconds, show_seconds;
    "shutdown_timeout_seconds" => shutdown_timeout: seconds, show_seconds;
    "connections" => connections: plain, show_plain;
    "concurrency" => concurrency: plain, show_plain;
    "queue" => queue: plain, show_plain;
    "rate_per_second" => rate: plain, show_plain;
    "rate_burst" => rate_burst: plain, show_plain;
    "log" => log: text, show_text;
    "log_format" => log_format: log_format, show_log_format;
    "log_requests" => log_requests: boolean, show_plain;
    "metrics_public" => metrics_public: boolean, show_plain;
    "docs" => docs: boolean, show_plain;
    "threads" => threads: optional, show_option;
}

/// Applies one setting.
pub(super) fn apply(http: &mut Http, name: &str, value: &str) -> Result<()> {
    let setting = SETTINGS.iter().find(|setting| setting.name == name);
    let setting = setting.ok_or_else(|| invalid(format!("http.{name} is not a setting")))?;
    (setting.set)(http, value).map_err(|why| invalid(format!("http.{name} {why}")))
}

/// Applies the variables whose name begins with `KMS_HTTP_`; unknown ones are refused.
pub(super) fn apply_variables(http: &mut Http, variables: impl Iterator<Item = (OsString, OsString)>) -> Result<()> {
    for (name, value) in variables {
        let Some(variable) = name.to_str().and_then(|name| name.strip_prefix("KMS_HTTP_")) else { continue };
        let setting = SETTINGS.iter().find(|setting| variable_of(setting.name) == variable);
        let setting = setting.ok_or_else(|| invalid(format!("KMS_HTTP_{variable} is not a setting")))?;
        let value = value.to_str().ok_or_else(|| invalid(format!("KMS_HTTP_{variable} is not UTF-8")))?;
        (setting.set)(http, value).map_err(|why| invalid(format!("KMS_HTTP_{variable} {why}")))?;
    }
    Ok(())
}

fn variable_of(name: &str) -> String {
    name.to_ascii_uppercase().replace('.', "_")
}

/// Applies the section `http` of a file.
pub(super) fn apply_file(http: &mut Http, path: &Path) -> Result<()> {
    let unreadable = |e: std::io::Error| invalid(format!("{} cannot be read: {e}", path.display()));
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    // That it is well-formed was found before, by the library's own reading; its message must not quote the root key.
    let file: toml::Table = text.parse().map_err(|_| invalid(format!("{} is malformed", path.display())))?;
    match file.get("http") {
        None => Ok(()),
        Some(Value::Table(section)) => apply_section(http, "", section),
        Some(_) => Err(invalid("http is a section of settings")),
    }
}

fn apply_section(http: &mut Http, prefix: &str, section: &toml::Table) -> Result<()> {
    for (name, value) in section {
        let name = format!("{prefix}{name}");
        match value {
            Value::Table(inner) => apply_section(http, &format!("{name}."), inner)?,
            value => apply(http, &name, &plain_text(value).map_err(|why| invalid(format!("http.{name} {why}")))?)?,
        }
    }
    Ok(())
}

fn plain_text(value: &Value) -> std::result::Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Boolean(value) => Ok(value.to_string()),
        Value::Array(values) => {
            let texts: std::result::Result<Vec<String>, String> = values.iter().map(plain_text).collect();
            Ok(texts?.join(","))
        }
        _ => Err("is of a type that no setting has".into()),
    }
}

/// Every setting with its value.
pub(super) fn describe(http: &Http) -> impl Iterator<Item = (String, String)> {
    SETTINGS.iter().map(|setting| (format!("http.{}", setting.name), (setting.show)(http)))
}

fn text(text: &str) -> std::result::Result<String, String> {
    Ok(text.to_owned())
}
fn some_text(text: &str) -> std::result::Result<Option<String>, String> {
    Ok((!text.is_empty()).then(|| text.to_owned()))
}
fn path(text: &str) -> std::result::Result<Option<PathBuf>, String> {
    Ok((!text.is_empty()).then(|| PathBuf::from(text)))
}
fn plain<T: FromStr>(text: &str) -> std::result::Result<T, String> {
    text.trim().parse().map_err(|_| format!("does not take {text:?}"))
}
fn optional<T: FromStr>(text: &str) -> std::result::Result<Option<T>, String> {
    if matches!(text, "" | "none") { Ok(None) } else { plain(text).map(Some) }
}
fn list<T: FromStr>(text: &str) -> std::result::Result<Vec<T>, String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(plain).collect()
}
fn boolean(text: &str) -> std::result::Result<bool, String> {
    match text {
        "true" | "1" | "on" | "yes" => Ok(true),
        "false" | "0" | "off" | "no" => Ok(false),
        _ => Err("is true or false".into()),
    }
}
/// One of the words that an enumeration has in a file.
fn word<T: DeserializeOwned>(text: &str) -> std::result::Result<T, String> {
    T::deserialize(text.into_deserializer())
        .map_err(|e: serde::de::value::Error| format!("does not take {text:?}: {e}"))
}
fn some_word<T: DeserializeOwned>(text: &str) -> std::result::Result<Option<T>, String> {
    if matches!(text, "" | "none") { Ok(None) } else { word(text).map(Some) }
}
fn seconds(text: &str) -> std::result::Result<Duration, String> {
    match plain::<u64>(text)? {
        n @ 1..=86_400 => Ok(Duration::from_secs(n)),
        _ => Err("lies between 1 and 86400 seconds".into()),
    }
}
fn kibibytes(text: &str) -> std::result::Result<usize, String> {
    plain::<usize>(text)?.checked_mul(1024).ok_or_else(|| "is too large".into())
}
fn mebibytes(text: &str) -> std::result::Result<usize, String> {
    plain::<usize>(text)?.checked_mul(1024 * 1024).ok_or_else(|| "is too large".into())
}
fn methods(text: &str) -> std::result::Result<Vec<AuthMethod>, String> {
    let mut methods = Vec::new();
    for name in list::<String>(text)? {
        let method = AuthMethod::ALL.into_iter().find(|method| method.as_str() == name);
        let method = method.ok_or_else(|| format!("has {name:?}: token, oidc, mtls, trusted_headers are known"))?;
        if !methods.contains(&method) {
            methods.push(method);
        }
    }
    Ok(methods)
}
fn log_format(text: &str) -> std::result::Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("is text or json".into()),
    }
}

fn show_plain<T: ToString>(value: &T) -> String {
    value.to_string()
}
fn show_text(text: &str) -> String {
    text.to_owned()
}
/// `CommonName` as `common_name`.
fn show_word<T: std::fmt::Debug>(value: &T) -> String {
    let mut shown = String::new();
    for (n, c) in format!("{value:?}").chars().enumerate() {
        if c.is_ascii_uppercase() && n > 0 {
            shown.push('_');
        }
        shown.push(c.to_ascii_lowercase());
    }
    shown
}
fn show_some_word<T: std::fmt::Debug>(value: &Option<T>) -> String {
    value.as_ref().map_or_else(|| "none".into(), show_word)
}
fn show_option<T: ToString>(value: &Option<T>) -> String {
    value.as_ref().map_or_else(|| "none".into(), ToString::to_string)
}
fn show_path(value: &Option<PathBuf>) -> String {
    value.as_ref().map_or_else(|| "none".into(), |path| path.display().to_string())
}
fn show_list<T: ToString>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
fn show_methods(methods: &[AuthMethod]) -> String {
    methods.iter().map(|method| method.as_str()).collect::<Vec<_>>().join(",")
}
fn show_seconds(value: &Duration) -> String {
    value.as_secs().to_string()
}
fn show_kibibytes(value: &usize) -> String {
    (value / 1024).to_string()
}
fn show_mebibytes(value: &usize) -> String {
    (value / (1024 * 1024)).to_string()
}
fn show_log_format(format: &LogFormat) -> String {
    match format {
        LogFormat::Text => "text".into(),
        LogFormat::Json => "json".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_read_again() {
        let mut http = Http::default();
        apply(&mut http, "trusted_proxies", "10.0.0.0/8, fd00::/8").expect("read");
        apply(&mut http, "auth", "token,trusted_headers").expect("read");
        apply(&mut http, "body_limit_kib", "2048").expect("read");
        let mut again = Http::default();
        for (name, value) in describe(&http) {
            apply(&mut again, name.trim_start_matches("http."), &value).expect(&name);
        }
        assert_eq!(describe(&again).collect::<Vec<_>>(), describe(&http).collect::<Vec<_>>());
    }

    #[test]
    fn a_section_and_the_environment_name_the_same_settings() {
        let mut http = Http::default();
        let file: toml::Table =
            "listen = '0.0.0.0:1'\ncors_origins = ['https://a', 'https://b']\n[tls]\nkey_file = 'k'\n"
                .parse()
                .expect("TOML");
        apply_section(&mut http, "", &file).expect("a section");
        apply_variables(&mut http, [("KMS_HTTP_TLS_KEY_FILE".into(), "other".into())].into_iter()).expect("a variable");
        assert_eq!(http.tls.key_file, Some(PathBuf::from("other")));
        assert_eq!(http.cors_origins, ["https://a", "https://b"]);
        let unknown = apply_variables(&mut http, [("KMS_HTTP_LISTN".into(), "x".into())].into_iter());
        assert!(unknown.expect_err("refused").to_string().contains("KMS_HTTP_LISTN"));
    }
}

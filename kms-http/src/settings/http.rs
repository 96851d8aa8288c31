//! The settings of the section `http`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use kms_lib::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::mtls::MtlsSettings;
use super::oidc::OidcSettings;
use super::tls::{ClientCertificates, TlsSettings};
use super::{AnchorSettings, OtlpSettings, forms, invalid};

/// Maximum overhead per batch item when a returned value is sent back, in bytes: a signature, or a nonce and a tag.
const BESIDE: usize = 512;

/// A method of authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMethod {
    /// `Authorization: Bearer` with a token of this service.
    Token,
    /// `Authorization: Bearer` with a JWT of the configured issuer.
    Oidc,
    /// A TLS client certificate.
    Mtls,
    /// The headers `x-principal` and `x-role`, trusted without proof.
    TrustedHeaders,
}

/// The format of the process log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One line of text per event.
    Text,
    /// One JSON object per line.
    Json,
}

/// The settings of access tokens, section `http.token`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenSettings {
    /// Prefix of the principals of tokens, such as `token:`.
    pub prefix: String,
}

/// The settings of trusted headers, section `http.trusted_headers`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrustedHeadersSettings {
    /// Prefix of the principals of trusted headers, such as `proxy:`.
    pub prefix: String,
    /// Host names, without a port, that the `Host` header may contain besides the loopback names.
    #[serde(deserialize_with = "forms::words")]
    pub hosts: Vec<String>,
}

section! {
    /// The section `http`. The field names are the setting names in a file; the environment variable for
    /// `tls.key_file` is `KMS_HTTP_TLS_KEY_FILE`.
    pub struct Http {
        /// Address to listen on. `none`: only on the Unix socket.
        #[serde(deserialize_with = "forms::maybe")]
        pub listen: Option<SocketAddr> = Some(SocketAddr::from(([127, 0, 0, 1], 8080))),
        /// Path of a Unix socket to listen on.
        #[serde(deserialize_with = "forms::maybe")]
        pub unix_socket: Option<PathBuf> = None,
        /// Mode of the Unix socket in octal, such as 0660, which decides which users may connect.
        #[serde(deserialize_with = "forms::mode", serialize_with = "forms::octal")]
        pub unix_socket_mode: u32 = 0o600,
        /// Accepted methods of authentication.
        #[serde(deserialize_with = "forms::words")]
        pub auth: Vec<AuthMethod> = vec![AuthMethod::Token],
        /// Settings for access tokens of this service.
        pub token: TokenSettings = TokenSettings::default(),
        /// Settings for trusted headers.
        pub trusted_headers: TrustedHeadersSettings = TrustedHeadersSettings::default(),
        /// Allow trusted headers although other machines can connect (`listen` is not a loopback address).
        #[serde(deserialize_with = "forms::switch")]
        pub trusted_headers_beyond_loopback: bool = false,
        /// TLS: the server's certificate and key, and the authorities of client certificates.
        pub tls: TlsSettings = TlsSettings::default(),
        /// OpenID Connect: the issuer of JWTs.
        pub oidc: OidcSettings = OidcSettings::default(),
        /// How client certificates map to principals and roles.
        pub mtls: MtlsSettings = MtlsSettings::default(),
        /// Networks of proxies whose `x-forwarded-for` is trusted.
        #[serde(deserialize_with = "forms::words")]
        pub trusted_proxies: Vec<IpNet> = Vec::new(),
        /// Whether clients of the Unix socket are trusted proxies.
        #[serde(deserialize_with = "forms::switch")]
        pub trust_unix_socket_proxy: bool = false,
        /// Origins whose web pages may call the service (CORS); `*` for all.
        #[serde(deserialize_with = "forms::words")]
        pub cors_origins: Vec<String> = Vec::new(),
        /// Origins under which browsers reach this service through a proxy that changes `Host`.
        #[serde(deserialize_with = "forms::words")]
        pub public_origins: Vec<String> = Vec::new(),
        /// Maximum size of a request body, in KiB.
        #[serde(deserialize_with = "forms::count::<1, 92_160, _, _>")]
        pub body_limit_kib: usize = 1024,
        /// Memory for request bodies and large responses, in MiB.
        #[serde(deserialize_with = "forms::count::<1, 1_048_576, _, _>")]
        pub body_memory_mib: usize = 64,
        /// Maximum duration of a request, from the end of its head to its response.
        #[serde(deserialize_with = "forms::count::<1, 86_400, _, _>")]
        pub request_timeout_seconds: u64 = 30,
        /// Maximum time that a connection may be silent before, between and within request heads.
        #[serde(deserialize_with = "forms::count::<1, 86_400, _, _>")]
        pub idle_timeout_seconds: u64 = 30,
        /// Maximum time for a request body to arrive.
        #[serde(deserialize_with = "forms::count::<1, 86_400, _, _>")]
        pub body_timeout_seconds: u64 = 15,
        /// How long the service continues to serve after SIGTERM, reporting that it is not ready, so that load
        /// balancers notice.
        #[serde(deserialize_with = "forms::count::<0, 86_400, _, _>")]
        pub drain_seconds: u64 = 0,
        /// How long the shutdown then waits for running requests.
        #[serde(deserialize_with = "forms::count::<1, 86_400, _, _>")]
        pub shutdown_timeout_seconds: u64 = 30,
        /// Maximum age of a connection before it is closed when idle, so that clients reconnect; 0 for no limit.
        #[serde(deserialize_with = "forms::count::<0, 31_536_000, _, _>")]
        pub connection_age_seconds: u64 = 3_600,
        /// Maximum number of open connections. Beyond it, connections of the caller or network with the most are
        /// closed, idle ones first; or idle ones of a caller or network with at least half as many. One whose request
        /// waits takes about 17 kB of memory.
        #[serde(deserialize_with = "forms::count::<1, 1_000_000, _, _>")]
        pub connections: usize = 7_500,
        /// Maximum number of requests in progress.
        #[serde(deserialize_with = "forms::count::<1, 100_000, _, _>")]
        pub concurrency: usize = 256,
        /// Maximum number of requests that wait to be processed.
        #[serde(deserialize_with = "forms::count::<0, 1_000_000, _, _>")]
        pub queue: usize = 8_192,
        /// Maximum number of requests per second and principal; 0 for no limit.
        #[serde(deserialize_with = "forms::count::<0, 4_294_967_295, _, _>")]
        pub rate_per_second: u32 = 0,
        /// Maximum burst of requests of a principal within `rate_per_second`; 0 for as many as in a second.
        #[serde(deserialize_with = "forms::count::<0, 4_294_967_295, _, _>")]
        pub rate_burst: u32 = 0,
        /// Maximum number of invalid credentials per second and network, with bursts of five times as many; 0 for no
        /// limit.
        #[serde(deserialize_with = "forms::count::<0, 4_294_967_295, _, _>")]
        pub auth_failures_per_second: u32 = 20,
        /// Level or filter of the process log, such as `debug` or `info,kms_lib=debug`.
        pub log: String = "info".into(),
        /// Format of the process log: text or JSON lines.
        #[serde(deserialize_with = "forms::word")]
        pub log_format: LogFormat = LogFormat::Text,
        /// Whether the process log has a line for each request.
        #[serde(deserialize_with = "forms::switch")]
        pub log_requests: bool = false,
        /// Whether `/metrics` is served without authentication.
        #[serde(deserialize_with = "forms::switch")]
        pub metrics_public: bool = false,
        /// Whether `/openapi.json` and `/docs` are served.
        #[serde(deserialize_with = "forms::switch")]
        pub docs: bool = true,
        /// Anchors: signed checkpoints of the audit log, kept outside the database.
        pub anchors: AnchorSettings = AnchorSettings::default(),
        /// Export of OpenTelemetry traces.
        pub otlp: OtlpSettings = OtlpSettings::default(),
        /// Number of worker threads; 0 for one per CPU core.
        #[serde(deserialize_with = "forms::count::<0, 1_024, _, _>")]
        pub threads: usize = 0,
    }
}

impl Http {
    /// Whether a method of authentication is enabled.
    pub fn has(&self, method: AuthMethod) -> bool {
        self.auth.contains(&method)
    }

    /// The setting name and value of the prefix of a method's principals.
    pub fn prefix(&self, method: AuthMethod) -> (&'static str, &str) {
        match method {
            AuthMethod::Token => ("http.token.prefix", &self.token.prefix),
            AuthMethod::Oidc => ("http.oidc.principal_prefix", &self.oidc.principal_prefix),
            AuthMethod::Mtls => ("http.mtls.principal_prefix", &self.mtls.principal_prefix),
            AuthMethod::TrustedHeaders => ("http.trusted_headers.prefix", &self.trusted_headers.prefix),
        }
    }

    /// Checks that no two enabled methods can produce the same principal.
    fn check_prefixes(&self) -> Result<()> {
        let methods = [AuthMethod::Token, AuthMethod::Oidc, AuthMethod::Mtls, AuthMethod::TrustedHeaders];
        let on = methods.into_iter().filter(|method| self.has(*method)).map(|method| self.prefix(method));
        let on: Vec<(&str, String)> = on.map(|(name, prefix)| (name, prefix.to_lowercase())).collect();
        if on.len() < 2 {
            return Ok(());
        }
        if let Some((name, _)) = on.iter().find(|(_, prefix)| prefix.is_empty()) {
            return Err(invalid(format!(
                "http.auth has several methods, so each needs its own prefix for principals; set {name}"
            )));
        }
        for (n, (name, prefix)) in on.iter().enumerate() {
            // With the prefixes `a:` and `a:b:`, name `b:x` of the first and name `x` of the second are the same
            // principal.
            let same = |(_, other): &&(&str, String)| other.starts_with(prefix) || prefix.starts_with(other);
            if let Some((other, _)) = on[n + 1..].iter().find(same) {
                return Err(invalid(format!(
                    "{name} and {other} must differ, and neither may begin with the other, so that their principals \
                     cannot be the same"
                )));
            }
        }
        Ok(())
    }

    /// Every setting: its full name, and its value in the form in which it can be set.
    pub fn describe(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        flatten("http", serde_json::to_value(self).unwrap_or_default(), &mut all);
        all
    }
    /// Maximum size of a request body, in bytes.
    pub fn body_limit(&self) -> usize {
        self.body_limit_kib * 1024
    }
    /// Maximum size of a request body that sends back values from a response, such as ciphertexts, in bytes: 4/3 of the
    /// body limit for base64, plus a fixed overhead per batch item.
    pub fn returning_body_limit(&self) -> usize {
        self.body_limit() / 3 * 4 + kms_lib::limits::BATCH_ITEMS * BESIDE
    }
    /// Memory for request bodies and large responses, in bytes. [`Http::check`] requires room for two of
    /// [`Http::returning_body_limit`].
    pub fn body_memory(&self) -> usize {
        self.body_memory_mib * 1024 * 1024
    }
    /// Maximum duration of a request, from the end of its head to its response.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout_seconds)
    }
    /// Maximum time that a connection may be silent before, between and within request heads.
    pub fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_seconds)
    }

    /// Checks that the settings are consistent with each other.
    pub fn check(&self) -> Result<()> {
        if self.listen.is_none() && self.unix_socket.is_none() {
            return Err(invalid(
                "http.listen is none and http.unix_socket is not set; set one of them so that clients can connect",
            ));
        }
        if self.auth.is_empty() {
            return Err(invalid("http.auth is empty; name at least one method of authentication"));
        }
        self.check_prefixes()?;
        self.anchors.check()?;
        self.otlp.check()?;
        if self.has(AuthMethod::TrustedHeaders) && self.cors_origins.iter().any(|origin| origin == "*") {
            return Err(invalid(
                "http.auth has trusted_headers and http.cors_origins is *, so every page in a browser could act as any \
                 principal; list the allowed origins",
            ));
        }
        let beyond = self.listen.filter(|address| !address.ip().is_loopback());
        if let Some(address) = beyond
            && self.has(AuthMethod::TrustedHeaders)
            && !self.trusted_headers_beyond_loopback
        {
            return Err(invalid(format!(
                "http.auth has trusted_headers and http.listen is {address}, so every client that can connect could \
                 act as any principal; if only an authenticating proxy can connect, set \
                 http.trusted_headers_beyond_loopback = true"
            )));
        }
        if self.tls.is_on() == self.tls.key_file.as_os_str().is_empty() {
            return Err(invalid("http.tls.certificate_file and http.tls.key_file must be set together"));
        }
        let asks = self.tls.client_certificates != ClientCertificates::Off;
        if self.has(AuthMethod::Mtls) && !(self.tls.is_on() && asks) {
            return Err(invalid(
                "http.auth has mtls; set http.tls.certificate_file and http.tls.key_file, and set \
                 http.tls.client_certificates to optional or required",
            ));
        }
        if self.has(AuthMethod::Oidc) && (self.oidc.issuer.is_empty() || self.oidc.audiences.is_empty()) {
            return Err(invalid("http.auth has oidc; set http.oidc.issuer and http.oidc.audiences"));
        }
        if self.body_memory() < 2 * self.returning_body_limit() {
            let least = (2 * self.returning_body_limit()).div_ceil(1024 * 1024);
            return Err(invalid(format!(
                "http.body_memory_mib must be at least {least}: room for two bodies of 4/3 of http.body_limit_kib plus \
                 512 kB each"
            )));
        }
        let origins = self.cors_origins.iter().filter(|origin| *origin != "*").map(|origin| ("cors_origins", origin));
        for (name, origin) in origins.chain(self.public_origins.iter().map(|origin| ("public_origins", origin))) {
            let is_origin = origin.split_once("://").is_some_and(|(scheme, host)| {
                matches!(scheme, "http" | "https") && !host.is_empty() && !host.contains(['/', '?', '#', ' ', '@'])
            });
            if !is_origin {
                return Err(invalid(format!(
                    "http.{name}: {origin:?} is not an origin such as https://kms.example.com"
                )));
            }
        }
        Ok(())
    }
}

fn flatten(name: &str, value: Value, all: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            fields.into_iter().for_each(|(field, value)| flatten(&format!("{name}.{field}"), value, all))
        }
        Value::Null => all.push((name.to_owned(), "none".into())),
        Value::String(text) => all.push((name.to_owned(), text)),
        // A JSON array of these values is also a TOML array.
        other => all.push((name.to_owned(), other.to_string())),
    }
}

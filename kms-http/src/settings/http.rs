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

/// Bytes that an item of a batch takes at most beside what was sent for it before: a signature, or a nonce and a tag.
const BESIDE: usize = 512;

/// A way to say who is calling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMethod {
    /// `Authorization: Bearer` with a token of this service.
    Token,
    /// `Authorization: Bearer` with a JWT of a configured issuer.
    Oidc,
    /// The client's certificate.
    Mtls,
    /// `x-principal` and `x-role`, believed.
    TrustedHeaders,
}

/// How the log of the process is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: a JSON object a line.
    Json,
}

/// The section `http.token`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenSettings {
    /// Put ahead of the principals of tokens.
    pub prefix: String,
}

/// The section `http.trusted_headers`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrustedHeadersSettings {
    /// Put ahead of the principals of trusted headers.
    pub prefix: String,
    /// Names that the `Host` header may have beside those of this machine's loopback, without a port.
    #[serde(deserialize_with = "forms::words")]
    pub hosts: Vec<String>,
}

section! {
    /// The server's settings. Their names are those in files; in the environment `tls.key_file` is
    /// `KMS_HTTP_TLS_KEY_FILE`.
    pub struct Http {
        /// Where to listen. None: on the unix socket only.
        #[serde(deserialize_with = "forms::maybe")]
        pub listen: Option<SocketAddr> = Some(SocketAddr::from(([127, 0, 0, 1], 8080))),
        /// A unix socket to listen on too.
        #[serde(deserialize_with = "forms::maybe")]
        pub unix_socket: Option<PathBuf> = None,
        /// Who may connect to it: its mode, in octal, such as 0660.
        #[serde(deserialize_with = "forms::mode", serialize_with = "forms::octal")]
        pub unix_socket_mode: u32 = 0o600,
        /// The ways to say who is calling.
        #[serde(deserialize_with = "forms::words")]
        pub auth: Vec<AuthMethod> = vec![AuthMethod::Token],
        /// Tokens of this service.
        pub token: TokenSettings = TokenSettings::default(),
        /// Headers that name the caller.
        pub trusted_headers: TrustedHeadersSettings = TrustedHeadersSettings::default(),
        /// Headers are believed even where others than this machine can connect.
        #[serde(deserialize_with = "forms::switch")]
        pub trusted_headers_beyond_loopback: bool = false,
        /// The server's certificate and key, and the authority of client certificates.
        pub tls: TlsSettings = TlsSettings::default(),
        /// The issuer of JWTs.
        pub oidc: OidcSettings = OidcSettings::default(),
        /// What client certificates mean.
        pub mtls: MtlsSettings = MtlsSettings::default(),
        /// Proxies whose `x-forwarded-for` is believed.
        #[serde(deserialize_with = "forms::words")]
        pub trusted_proxies: Vec<IpNet> = Vec::new(),
        /// Whether who connects through the unix socket is such a proxy.
        #[serde(deserialize_with = "forms::switch")]
        pub trust_unix_socket_proxy: bool = false,
        /// Origins whose pages may call; `*` for all.
        #[serde(deserialize_with = "forms::words")]
        pub cors_origins: Vec<String> = Vec::new(),
        /// Origins under which browsers reach this service through a proxy that changes `Host`.
        #[serde(deserialize_with = "forms::words")]
        pub public_origins: Vec<String> = Vec::new(),
        /// Largest body of a request, in KiB.
        #[serde(deserialize_with = "forms::count::<1, 92_160, _, _>")]
        pub body_limit_kib: usize = 1024,
        /// Memory for bodies and large answers, in MiB.
        #[serde(deserialize_with = "forms::count::<1, 1_048_576, _, _>")]
        pub body_memory_mib: usize = 64,
        /// How long a request may take.
        #[serde(deserialize_with = "forms::count::<1, 86_400, _, _>")]
        pub request_timeout_seconds: u64 = 30,
        /// How long a connection may be silent before, between and within requests' heads.
        #[serde(deserialize_with = "forms::count::<1, 86_400, _, _>")]
        pub idle_timeout_seconds: u64 = 30,
        /// How long a body may take to arrive.
        #[serde(deserialize_with = "forms::count::<1, 86_400, _, _>")]
        pub body_timeout_seconds: u64 = 15,
        /// How long the service goes on after it was told to stop, not ready any more, so that balancers notice.
        #[serde(deserialize_with = "forms::count::<0, 86_400, _, _>")]
        pub drain_seconds: u64 = 0,
        /// How long shutting down then waits for what is running.
        #[serde(deserialize_with = "forms::count::<1, 86_400, _, _>")]
        pub shutdown_timeout_seconds: u64 = 30,
        /// How old a connection may get; 0 for any age. A client opens another one.
        #[serde(deserialize_with = "forms::count::<0, 31_536_000, _, _>")]
        pub connection_age_seconds: u64 = 3_600,
        /// The most open connections; beyond it the one that was idle longest is closed.
        #[serde(deserialize_with = "forms::count::<1, 1_000_000, _, _>")]
        pub connections: usize = 12_000,
        /// Most requests being worked on.
        #[serde(deserialize_with = "forms::count::<1, 100_000, _, _>")]
        pub concurrency: usize = 256,
        /// Most requests that wait for that.
        #[serde(deserialize_with = "forms::count::<0, 1_000_000, _, _>")]
        pub queue: usize = 8_192,
        /// Requests a second that a principal may send; 0 for any number.
        #[serde(deserialize_with = "forms::count::<0, 4_294_967_295, _, _>")]
        pub rate_per_second: u32 = 0,
        /// How many it may send at once within that; 0 for as many as in a second.
        #[serde(deserialize_with = "forms::count::<0, 4_294_967_295, _, _>")]
        pub rate_burst: u32 = 0,
        /// Invalid credentials a second that a network may send, five times as many at once; 0 for any number.
        #[serde(deserialize_with = "forms::count::<0, 4_294_967_295, _, _>")]
        pub auth_failures_per_second: u32 = 20,
        /// The level or filter of the log.
        pub log: String = "info".into(),
        /// Whether the log of the process is written as text or as JSON lines.
        #[serde(deserialize_with = "forms::word")]
        pub log_format: LogFormat = LogFormat::Text,
        /// Whether each request is logged.
        #[serde(deserialize_with = "forms::switch")]
        pub log_requests: bool = false,
        /// Whether `/metrics` needs no authentication.
        #[serde(deserialize_with = "forms::switch")]
        pub metrics_public: bool = false,
        /// Whether `/openapi.json` and `/docs` are served.
        #[serde(deserialize_with = "forms::switch")]
        pub docs: bool = true,
        /// Where signed states of the log are kept outside of the database.
        pub anchors: AnchorSettings = AnchorSettings::default(),
        /// Where OpenTelemetry traces are sent.
        pub otlp: OtlpSettings = OtlpSettings::default(),
        /// Threads that serve; 0 for as many as the machine has.
        #[serde(deserialize_with = "forms::count::<0, 1_024, _, _>")]
        pub threads: usize = 0,
    }
}

impl Http {
    /// Whether a method of authentication is on.
    pub fn has(&self, method: AuthMethod) -> bool {
        self.auth.contains(&method)
    }

    /// The prefix of a method's principals, behind the name of its setting.
    pub fn prefix(&self, method: AuthMethod) -> (&'static str, &str) {
        match method {
            AuthMethod::Token => ("http.token.prefix", &self.token.prefix),
            AuthMethod::Oidc => ("http.oidc.principal_prefix", &self.oidc.principal_prefix),
            AuthMethod::Mtls => ("http.mtls.principal_prefix", &self.mtls.principal_prefix),
            AuthMethod::TrustedHeaders => ("http.trusted_headers.prefix", &self.trusted_headers.prefix),
        }
    }

    /// Two methods must never name the same principal, so that none lets a caller in as another method's.
    fn check_prefixes(&self) -> Result<()> {
        let methods = [AuthMethod::Token, AuthMethod::Oidc, AuthMethod::Mtls, AuthMethod::TrustedHeaders];
        let on = methods.into_iter().filter(|method| self.has(*method)).map(|method| self.prefix(method));
        let on: Vec<(&str, String)> = on.map(|(name, prefix)| (name, prefix.to_lowercase())).collect();
        if on.len() < 2 {
            return Ok(());
        }
        if let Some((name, _)) = on.iter().find(|(_, prefix)| prefix.is_empty()) {
            return Err(invalid(format!(
                "http.auth has several methods, so each needs a prefix of its own for its principals: set {name}"
            )));
        }
        for (n, (name, prefix)) in on.iter().enumerate() {
            // With `a:` and `a:b:`, the name `b:x` of the one would be the name `x` of the other.
            let same = |(_, other): &&(&str, String)| other.starts_with(prefix) || prefix.starts_with(other);
            if let Some((other, _)) = on[n + 1..].iter().find(same) {
                return Err(invalid(format!(
                    "{name} and {other} must differ, and neither may begin with the other: their principals could be \
                     the same"
                )));
            }
        }
        Ok(())
    }

    /// Every setting by its full name, with its value as it can be set.
    pub fn describe(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        flatten("http", serde_json::to_value(self).unwrap_or_default(), &mut all);
        all
    }
    /// Largest body of a request, in bytes.
    pub fn body_limit(&self) -> usize {
        self.body_limit_kib * 1024
    }
    /// Largest body of a request that brings back what another one got: base64 takes a third more, and every item of a
    /// batch what stands beside it.
    pub fn returning_body_limit(&self) -> usize {
        self.body_limit() / 3 * 4 + kms_lib::limits::BATCH_ITEMS * BESIDE
    }
    /// Memory for bodies and large answers, in bytes.
    pub fn body_memory(&self) -> usize {
        self.body_memory_mib * 1024 * 1024
    }
    /// How long a request may take.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout_seconds)
    }
    /// How long a connection may be silent.
    pub fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_seconds)
    }

    /// Whether the settings make sense together.
    pub fn check(&self) -> Result<()> {
        if self.listen.is_none() && self.unix_socket.is_none() {
            return Err(invalid("http.listen is none and there is no http.unix_socket: nobody could connect"));
        }
        if self.auth.is_empty() {
            return Err(invalid("http.auth names no method: nobody could be let in"));
        }
        self.check_prefixes()?;
        self.anchors.check()?;
        self.otlp.check()?;
        if self.has(AuthMethod::TrustedHeaders) && self.cors_origins.iter().any(|origin| origin == "*") {
            return Err(invalid(
                "http.auth has trusted_headers and http.cors_origins is *: every page in a browser could act as \
                 anybody; name the origins that may call",
            ));
        }
        let beyond = self.listen.filter(|address| !address.ip().is_loopback());
        if let Some(address) = beyond
            && self.has(AuthMethod::TrustedHeaders)
            && !self.trusted_headers_beyond_loopback
        {
            return Err(invalid(format!(
                "http.auth has trusted_headers, and http.listen is {address}: everybody who can connect would be \
                 whoever he says. If a proxy that authenticates stands before it and nobody else can connect, set \
                 http.trusted_headers_beyond_loopback = true"
            )));
        }
        if self.tls.is_on() == self.tls.key_file.as_os_str().is_empty() {
            return Err(invalid("http.tls.certificate_file and http.tls.key_file belong together"));
        }
        let asks = self.tls.client_certificates != ClientCertificates::Off;
        if self.has(AuthMethod::Mtls) && !(self.tls.is_on() && asks) {
            return Err(invalid(
                "http.auth has mtls: http.tls.certificate_file and .key_file are needed, and .client_certificates must \
                 be optional or required",
            ));
        }
        if self.has(AuthMethod::Oidc) && (self.oidc.issuer.is_empty() || self.oidc.audiences.is_empty()) {
            return Err(invalid("http.auth has oidc: http.oidc.issuer and http.oidc.audiences are needed"));
        }
        if self.body_memory() < 2 * self.returning_body_limit() {
            return Err(invalid("http.body_memory_mib has no room for two bodies of http.body_limit_kib"));
        }
        let origins = self.cors_origins.iter().filter(|origin| *origin != "*").map(|origin| ("cors_origins", origin));
        for (name, origin) in origins.chain(self.public_origins.iter().map(|origin| ("public_origins", origin))) {
            let is_origin = origin.split_once("://").is_some_and(|(scheme, host)| {
                matches!(scheme, "http" | "https") && !host.is_empty() && !host.contains(['/', '?', '#', ' ', '@'])
            });
            if !is_origin {
                return Err(invalid(format!("http.{name}: {origin:?} is no origin, such as https://kms.example.com")));
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
        // A list as an array, which also is one in TOML.
        other => all.push((name.to_owned(), other.to_string())),
    }
}

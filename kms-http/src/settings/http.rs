//! The settings of the section `http`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use kms_lib::Result;

use super::invalid;

/// A way to say who is calling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

impl AuthMethod {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Token, Self::Oidc, Self::Mtls, Self::TrustedHeaders];
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Oidc => "oidc",
            Self::Mtls => "mtls",
            Self::TrustedHeaders => "trusted_headers",
        }
    }
}

/// How the log of the process is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: a JSON object a line.
    Json,
}

/// Certificates of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// The certificate chain, PEM. TLS is on when it is set.
    pub certificate: Option<PathBuf>,
    /// Its key, PEM.
    pub key: Option<PathBuf>,
    /// The authorities of client certificates, PEM; asked for when it is set.
    pub client_ca: Option<PathBuf>,
    /// Whether who shows no certificate is turned away at once.
    pub require_client_certificate: bool,
}

/// An issuer of JWTs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OidcSettings {
    /// Its URL, below which its discovery document is.
    pub issuer: Option<String>,
    /// Whom its tokens must be for.
    pub audience: Option<String>,
    /// The claim that becomes the principal; `sub` without.
    pub principal_claim: Option<String>,
    /// The claim that holds the role; `role` without.
    pub role_claim: Option<String>,
    /// Values of the role claim that make an admin.
    pub admin_values: Vec<String>,
    /// Values of the role claim that make an auditor.
    pub auditor_values: Vec<String>,
    /// Put ahead of its principals.
    pub prefix: String,
}

/// What client certificates mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MtlsSettings {
    /// Principals that are admins.
    pub admins: Vec<String>,
    /// Principals that are auditors.
    pub auditors: Vec<String>,
    /// Put ahead of its principals.
    pub prefix: String,
}

/// The server's settings.
#[derive(Clone, Debug)]
pub struct Http {
    /// Where to listen. None: on the unix socket only.
    pub listen: Option<SocketAddr>,
    /// A unix socket to listen on too.
    pub unix_socket: Option<PathBuf>,
    /// The ways to say who is calling.
    pub auth: Vec<AuthMethod>,
    /// Put ahead of the principals of tokens.
    pub token_prefix: String,
    /// Put ahead of the principals of trusted headers.
    pub trusted_headers_prefix: String,
    /// Headers are believed even where others than this machine can connect.
    pub trusted_headers_beyond_loopback: bool,
    /// Certificates.
    pub tls: TlsSettings,
    /// The issuer of JWTs.
    pub oidc: OidcSettings,
    /// What client certificates mean.
    pub mtls: MtlsSettings,
    /// Proxies whose `x-forwarded-for` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether who connects through the unix socket is such a proxy.
    pub trust_unix_socket_proxy: bool,
    /// Origins that browsers may call from; `*` for all.
    pub cors_origins: Vec<String>,
    /// Largest body of a request, in bytes.
    pub body_limit: usize,
    /// Bytes of bodies in memory at a time.
    pub body_memory: usize,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// How long a connection may be silent before, between and within requests' heads.
    pub idle_timeout: Duration,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// How long shutting down waits for what is running.
    pub shutdown_timeout: Duration,
    /// Most connections.
    pub connections: usize,
    /// Most requests being worked on.
    pub concurrency: usize,
    /// Most requests that wait for that.
    pub queue: usize,
    /// Requests a second that a principal may send; 0 for any number.
    pub rate: u32,
    /// How many it may send at once within that.
    pub rate_burst: u32,
    /// The level or filter of the log.
    pub log: String,
    /// Its form.
    pub log_format: LogFormat,
    /// Whether each request is logged.
    pub log_requests: bool,
    /// Whether `/metrics` needs no authentication.
    pub metrics_public: bool,
    /// Whether `/openapi.json` and `/docs` are served.
    pub docs: bool,
    /// Threads that serve; as many as the machine has without.
    pub threads: Option<usize>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 8080))),
            unix_socket: None,
            auth: vec![AuthMethod::Token],
            token_prefix: String::new(),
            trusted_headers_prefix: String::new(),
            trusted_headers_beyond_loopback: false,
            tls: TlsSettings::default(),
            oidc: OidcSettings::default(),
            mtls: MtlsSettings::default(),
            trusted_proxies: Vec::new(),
            trust_unix_socket_proxy: false,
            cors_origins: Vec::new(),
            body_limit: 1024 * 1024,
            body_memory: 64 * 1024 * 1024,
            request_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(15),
            shutdown_timeout: Duration::from_secs(30),
            connections: 12_000,
            concurrency: 1_024,
            queue: 8_192,
            rate: 0,
            rate_burst: 0,
            log: "info".into(),
            log_format: LogFormat::Text,
            log_requests: false,
            metrics_public: false,
            docs: true,
            threads: None,
        }
    }
}

impl Http {
    /// Whether a method of authentication is on.
    pub fn has(&self, method: AuthMethod) -> bool {
        self.auth.contains(&method)
    }

    /// Whether the settings make sense together.
    pub fn check(&self) -> Result<()> {
        if self.listen.is_none() && self.unix_socket.is_none() {
            return Err(invalid("http.listen is none and there is no http.unix_socket: nobody could connect"));
        }
        if self.auth.is_empty() {
            return Err(invalid("http.auth names no method: nobody could be let in"));
        }
        let beyond = self.listen.filter(|address| !address.ip().is_loopback());
        if let Some(address) = beyond
            && self.has(AuthMethod::TrustedHeaders)
            && !self.trusted_headers_beyond_loopback
        {
            return Err(invalid(format!(
                "http.auth has trusted_headers, and http.listen is {address}: everybody who can connect would be whoever \
                 he says. If a proxy that authenticates stands before it and nobody else can connect, set \
                 http.trusted_headers_beyond_loopback = true"
            )));
        }
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            return Err(invalid("http.tls.certificate and http.tls.key belong together"));
        }
        if self.has(AuthMethod::Mtls) && (self.tls.certificate.is_none() || self.tls.client_ca.is_none()) {
            return Err(invalid("http.auth has mtls: http.tls.certificate, .key and .client_ca are needed"));
        }
        if self.has(AuthMethod::Oidc) && (self.oidc.issuer.is_none() || self.oidc.audience.is_none()) {
            return Err(invalid("http.auth has oidc: http.oidc.issuer and http.oidc.audience are needed"));
        }
        let ranges: [(&str, usize, usize, usize); 6] = [
            ("http.connections", self.connections, 1, 1_000_000),
            ("http.concurrency", self.concurrency, 1, 100_000),
            ("http.queue", self.queue, 0, 1_000_000),
            ("http.body_limit_kib", self.body_limit / 1024, 1, 90 * 1024),
            ("http.body_memory_mib", self.body_memory / (1024 * 1024), 1, 1024 * 1024),
            ("http.threads", self.threads.unwrap_or(1), 1, 1_024),
        ];
        for (name, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                return Err(invalid(format!("{name} lies between {least} and {most}")));
            }
        }
        if self.body_memory < 2 * self.body_limit {
            return Err(invalid("http.body_memory_mib has no room for two bodies of http.body_limit_kib"));
        }
        for origin in &self.cors_origins {
            let is_origin = origin.split_once("://").is_some_and(|(scheme, host)| {
                matches!(scheme, "http" | "https") && !host.is_empty() && !host.contains(['/', '?', '#', ' ', '@'])
            });
            if origin != "*" && !is_origin {
                return Err(invalid(format!(
                    "http.cors_origins: {origin:?} is no origin, such as https://kms.example.com"
                )));
            }
        }
        Ok(())
    }
}

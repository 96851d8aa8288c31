//! The settings of the section `http`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use kms_lib::Result;

use super::invalid;
use crate::auth::mtls::MtlsSettings;
use crate::auth::oidc::OidcSettings;
use crate::tls::{ClientCertificates, TlsSettings};

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

/// Certificates of the server, as far as they are set.
#[derive(Clone, Debug)]
pub struct TlsForm {
    /// The chain of certificates, PEM. TLS is on when it is set.
    pub certificate_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
    /// Whether callers must show a certificate.
    pub client_certificates: ClientCertificates,
    /// The authorities of callers' certificates, PEM.
    pub client_ca_file: Option<PathBuf>,
    /// What those authorities have revoked, PEM.
    pub client_crl_file: Option<PathBuf>,
    /// How long a handshake may take.
    pub handshake_timeout_seconds: u64,
    /// How often the files are looked at for changes.
    pub reload_seconds: u64,
}

impl Default for TlsForm {
    fn default() -> Self {
        let default = TlsSettings::new("", "");
        Self {
            certificate_file: None,
            key_file: None,
            client_certificates: default.client_certificates,
            client_ca_file: None,
            client_crl_file: None,
            handshake_timeout_seconds: default.handshake_timeout_seconds,
            reload_seconds: default.reload_seconds,
        }
    }
}

impl TlsForm {
    /// The settings, if TLS is on.
    pub fn settings(&self) -> Option<TlsSettings> {
        let (certificate, key) = self.certificate_file.as_ref().zip(self.key_file.as_ref())?;
        Some(TlsSettings {
            client_certificates: self.client_certificates,
            client_ca_file: self.client_ca_file.clone(),
            client_crl_file: self.client_crl_file.clone(),
            handshake_timeout_seconds: self.handshake_timeout_seconds,
            reload_seconds: self.reload_seconds,
            ..TlsSettings::new(certificate, key)
        })
    }
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
    pub tls: TlsForm,
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
    /// Origins under which browsers reach this service through a proxy that changes `Host`.
    pub public_origins: Vec<String>,
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
            tls: TlsForm::default(),
            oidc: OidcSettings { audiences: Vec::new(), ..OidcSettings::new("", "") },
            mtls: MtlsSettings::default(),
            trusted_proxies: Vec::new(),
            trust_unix_socket_proxy: false,
            cors_origins: Vec::new(),
            public_origins: Vec::new(),
            body_limit: 1024 * 1024,
            body_memory: 64 * 1024 * 1024,
            request_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(15),
            shutdown_timeout: Duration::from_secs(30),
            connections: 12_000,
            concurrency: 256,
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
        if self.tls.certificate_file.is_some() != self.tls.key_file.is_some() {
            return Err(invalid("http.tls.certificate_file and http.tls.key_file belong together"));
        }
        let asks = self.tls.settings().is_some_and(|tls| tls.client_certificates != ClientCertificates::Off);
        if self.has(AuthMethod::Mtls) && !asks {
            return Err(invalid(
                "http.auth has mtls: http.tls.certificate_file and .key_file are needed, and .client_certificates must be \
                 optional or required",
            ));
        }
        if self.has(AuthMethod::Oidc) && (self.oidc.issuer.is_empty() || self.oidc.audiences.is_empty()) {
            return Err(invalid("http.auth has oidc: http.oidc.issuer and http.oidc.audiences are needed"));
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

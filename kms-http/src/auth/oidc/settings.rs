//! What the configuration says about an issuer.

use std::path::PathBuf;

use serde::Deserialize;

/// An issuer whose tokens are accepted. In the configuration:
///
/// ```toml
/// issuer = "https://id.example.com/realms/main"
/// audiences = ["kms"]
/// principal_claim = "preferred_username"
/// role_claim = "/realm_access/roles"
/// admin_values = ["kms-admin"]
/// auditor_values = ["kms-auditor"]
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OidcSettings {
    /// The issuer, exactly as its tokens and its discovery document name it. https, or http on a loopback address.
    pub issuer: String,
    /// A token must be meant for one of these (`aud`).
    pub audiences: Vec<String>,
    /// Where the key set is, for issuers without discovery.
    #[serde(default)]
    pub jwks_uri: Option<String>,
    /// Certificate authorities (PEM) to trust for the issuer, instead of the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The claim that names the principal. Like the other claims, the name of one at the top, or a JSON pointer (RFC 6901)
    /// such as `/realm_access/roles`. `email` is only taken together with a true `email_verified`.
    #[serde(default = "sub")]
    pub principal_claim: String,
    /// What is put before the principal, such as `oidc:`.
    #[serde(default)]
    pub principal_prefix: String,
    /// The claim that gives roles: a text or an array of texts. `scope` is split at its blanks (RFC 8693, 4.2).
    #[serde(default)]
    pub role_claim: Option<String>,
    /// Its values that make an admin.
    #[serde(default)]
    pub admin_values: Vec<String>,
    /// Its values that make an auditor.
    #[serde(default)]
    pub auditor_values: Vec<String>,
    /// By how much clocks may differ; 300 at most.
    #[serde(default = "thirty")]
    pub leeway_seconds: u64,
    /// The age at which keys are fetched anew.
    #[serde(default = "five_minutes")]
    pub refresh_seconds: u64,
    /// The age until which keys are used while the issuer cannot be reached.
    #[serde(default = "hour")]
    pub stale_seconds: u64,
    /// The least time between two attempts to fetch keys. With 0, made-up tokens each make one: for tests only.
    #[serde(default = "ten")]
    pub retry_seconds: u64,
    /// How long fetching one document may take.
    #[serde(default = "five")]
    pub timeout_seconds: u64,
}

impl OidcSettings {
    /// An issuer and an audience, the rest as it is by default.
    pub fn new(issuer: impl Into<String>, audience: impl Into<String>) -> Self {
        Self {
            issuer: issuer.into(),
            audiences: vec![audience.into()],
            jwks_uri: None,
            ca_file: None,
            principal_claim: sub(),
            principal_prefix: String::new(),
            role_claim: None,
            admin_values: Vec::new(),
            auditor_values: Vec::new(),
            leeway_seconds: thirty(),
            refresh_seconds: five_minutes(),
            stale_seconds: hour(),
            retry_seconds: ten(),
            timeout_seconds: five(),
        }
    }
}

fn sub() -> String {
    "sub".to_owned()
}
fn five() -> u64 {
    5
}
fn ten() -> u64 {
    10
}
fn thirty() -> u64 {
    30
}
fn five_minutes() -> u64 {
    300
}
fn hour() -> u64 {
    3600
}

//! What the configuration says about an issuer.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::settings::forms;

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
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct OidcSettings {
    /// The issuer, exactly as its tokens and its discovery document name it. https, or http on a loopback address.
    pub issuer: String,
    /// A token must be meant for one of these (`aud`).
    #[serde(deserialize_with = "forms::texts")]
    pub audiences: Vec<String>,
    /// Where the key set is, for issuers without discovery.
    #[serde(deserialize_with = "forms::maybe")]
    pub jwks_uri: Option<String>,
    /// Certificate authorities (PEM) to trust for the issuer, instead of the system's.
    #[serde(deserialize_with = "forms::maybe")]
    pub ca_file: Option<PathBuf>,
    /// The claim that names the principal. Like the other claims, the name of one at the top, or a JSON pointer (RFC
    /// 6901) such as `/realm_access/roles`. `email` is only taken together with a true `email_verified`.
    pub principal_claim: String,
    /// What is put before the principal, such as `oidc:`.
    pub principal_prefix: String,
    /// The claim that gives roles: a text or an array of texts. `scope` is split at its blanks (RFC 8693, 4.2).
    #[serde(deserialize_with = "forms::maybe")]
    pub role_claim: Option<String>,
    /// Its values that make an admin.
    #[serde(deserialize_with = "forms::texts")]
    pub admin_values: Vec<String>,
    /// Its values that make an auditor.
    #[serde(deserialize_with = "forms::texts")]
    pub auditor_values: Vec<String>,
    /// By how much clocks may differ; 300 at most.
    #[serde(deserialize_with = "forms::count::<0, 300, _, _>")]
    pub leeway_seconds: u64,
    /// The age at which keys are fetched anew.
    #[serde(deserialize_with = "forms::count::<0, 31_536_000, _, _>")]
    pub refresh_seconds: u64,
    /// The age until which keys are used while the issuer cannot be reached.
    #[serde(deserialize_with = "forms::count::<0, 31_536_000, _, _>")]
    pub stale_seconds: u64,
    /// The least time between two attempts to fetch keys. With 0, made-up tokens each make one: for tests only.
    #[serde(deserialize_with = "forms::count::<0, 86_400, _, _>")]
    pub retry_seconds: u64,
    /// How long fetching one document may take.
    #[serde(deserialize_with = "forms::count::<1, 86_400, _, _>")]
    pub timeout_seconds: u64,
}

impl Default for OidcSettings {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audiences: Vec::new(),
            jwks_uri: None,
            ca_file: None,
            principal_claim: "sub".into(),
            principal_prefix: String::new(),
            role_claim: None,
            admin_values: Vec::new(),
            auditor_values: Vec::new(),
            leeway_seconds: 30,
            refresh_seconds: 300,
            stale_seconds: 3600,
            retry_seconds: 10,
            timeout_seconds: 5,
        }
    }
}

impl OidcSettings {
    /// An issuer and an audience, the rest as it is by default.
    pub fn new(issuer: impl Into<String>, audience: impl Into<String>) -> Self {
        Self { issuer: issuer.into(), audiences: vec![audience.into()], ..Self::default() }
    }
}

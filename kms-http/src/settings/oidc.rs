//! The settings of the section `http.oidc`.

use std::path::PathBuf;

use super::forms;

section! {
    /// The issuer whose tokens are accepted. For example:
    ///
    /// ```toml
    /// issuer = "https://id.example.com/realms/main"
    /// audiences = ["kms"]
    /// principal_claim = "preferred_username"
    /// role_claim = "/realm_access/roles"
    /// admin_values = ["kms-admin"]
    /// auditor_values = ["kms-auditor"]
    /// ```
    pub struct OidcSettings {
        /// URL of the issuer, exactly as in its tokens and its discovery document: https, or http on a loopback
        /// address.
        pub issuer: String = String::new(),
        /// Accepted audiences. The `aud` claim of a token must contain one of them.
        #[serde(deserialize_with = "forms::texts")]
        pub audiences: Vec<String> = Vec::new(),
        /// URL of the key set (JWKS), for issuers without discovery.
        #[serde(deserialize_with = "forms::maybe")]
        pub jwks_uri: Option<String> = None,
        /// Certificate authorities (PEM) to trust for the issuer, instead of the system's.
        #[serde(deserialize_with = "forms::maybe")]
        pub ca_file: Option<PathBuf> = None,
        /// The claim that names the principal. Claims are given as the name of a top-level claim or as a JSON pointer
        /// (RFC 6901) such as `/realm_access/roles`. `email` is accepted only if `email_verified` is true.
        pub principal_claim: String = "sub".into(),
        /// Prefix of the principals, such as `oidc:`.
        pub principal_prefix: String = String::new(),
        /// The claim that lists roles: a text or an array of texts. `scope` is split at spaces (RFC 8693, 4.2).
        #[serde(deserialize_with = "forms::maybe")]
        pub role_claim: Option<String> = None,
        /// Values of the role claim that make an admin.
        #[serde(deserialize_with = "forms::texts")]
        pub admin_values: Vec<String> = Vec::new(),
        /// Values of the role claim that make an auditor.
        #[serde(deserialize_with = "forms::texts")]
        pub auditor_values: Vec<String> = Vec::new(),
        /// Tolerated difference between the issuer's clock and this machine's; at most 300.
        #[serde(deserialize_with = "forms::count::<0, 300, _, _>")]
        pub leeway_seconds: u64 = 30,
        /// Age at which keys are fetched again, in the background.
        #[serde(deserialize_with = "forms::count::<0, 31_536_000, _, _>")]
        pub refresh_seconds: u64 = 300,
        /// Maximum age of keys that are used while the issuer cannot be reached.
        #[serde(deserialize_with = "forms::count::<0, 31_536_000, _, _>")]
        pub stale_seconds: u64 = 3600,
        /// Minimum time between two attempts to fetch keys. With 0, every forged token triggers one; for tests only.
        #[serde(deserialize_with = "forms::count::<0, 86_400, _, _>")]
        pub retry_seconds: u64 = 10,
        /// Timeout for fetching one document.
        #[serde(deserialize_with = "forms::count::<1, 86_400, _, _>")]
        pub timeout_seconds: u64 = 5,
    }
}

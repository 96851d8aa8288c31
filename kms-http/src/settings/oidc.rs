//! What the configuration says about an issuer.

use std::path::PathBuf;

use super::forms;

section! {
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
    pub struct OidcSettings {
        /// The issuer, exactly as its tokens and its discovery document name it. https, or http on a loopback address.
        pub issuer: String = String::new(),
        /// A token must be meant for one of these (`aud`).
        #[serde(deserialize_with = "forms::texts")]
        pub audiences: Vec<String> = Vec::new(),
        /// Where the key set is, for issuers without discovery.
        #[serde(deserialize_with = "forms::maybe")]
        pub jwks_uri: Option<String> = None,
        /// Certificate authorities (PEM) to trust for the issuer, instead of the system's.
        #[serde(deserialize_with = "forms::maybe")]
        pub ca_file: Option<PathBuf> = None,
        /// The claim that names the principal. Like the other claims, the name of one at the top, or a JSON pointer
        /// (RFC 6901) such as `/realm_access/roles`. `email` is only taken together with a true `email_verified`.
        pub principal_claim: String = "sub".into(),
        /// What is put before the principal, such as `oidc:`.
        pub principal_prefix: String = String::new(),
        /// The claim that gives roles: a text or an array of texts. `scope` is split at its blanks (RFC 8693, 4.2).
        #[serde(deserialize_with = "forms::maybe")]
        pub role_claim: Option<String> = None,
        /// Its values that make an admin.
        #[serde(deserialize_with = "forms::texts")]
        pub admin_values: Vec<String> = Vec::new(),
        /// Its values that make an auditor.
        #[serde(deserialize_with = "forms::texts")]
        pub auditor_values: Vec<String> = Vec::new(),
        /// By how much clocks may differ; 300 at most.
        #[serde(deserialize_with = "forms::count::<0, 300, _, _>")]
        pub leeway_seconds: u64 = 30,
        /// The age at which keys are fetched anew, beside the requests.
        #[serde(deserialize_with = "forms::count::<0, 31_536_000, _, _>")]
        pub refresh_seconds: u64 = 300,
        /// The age until which keys are used while the issuer cannot be reached.
        #[serde(deserialize_with = "forms::count::<0, 31_536_000, _, _>")]
        pub stale_seconds: u64 = 3600,
        /// The least time between two attempts to fetch keys. With 0, made-up tokens each make one: for tests only.
        #[serde(deserialize_with = "forms::count::<0, 86_400, _, _>")]
        pub retry_seconds: u64 = 10,
        /// How long fetching one document may take.
        #[serde(deserialize_with = "forms::count::<1, 86_400, _, _>")]
        pub timeout_seconds: u64 = 5,
    }
}

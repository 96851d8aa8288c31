//! Grants: permissions of a principal on a key or on all keys, with conditions.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::actor::Role;
use super::context::Context;
use super::error::{Error, ErrorCode, Result};
use super::ids::{GrantId, KeyId};
use super::named::named;
use super::time::Timestamp;

named!(
    /// A permission that a grant can give.
    Permission {
        /// Create keys. Only a grant on all keys can give it.
        Create = "create",
        /// Read a key's description.
        Read = "read",
        /// Encrypt, generate data keys, re-encrypt to the key.
        Encrypt = "encrypt",
        /// Decrypt, re-encrypt from the key.
        Decrypt = "decrypt",
        /// Sign payloads with the key.
        Sign = "sign",
        /// Verify signatures of the key.
        Verify = "verify",
        /// Rotate the key to a new version.
        Rotate = "rotate",
        /// Revoke or disable a key or version, end a grace window.
        Revoke = "revoke",
        /// Enable a key or version, edit periods and metadata, extend a grace window, cancel a deletion.
        Manage = "manage",
        /// Schedule a deletion; erase versions that are revoked or past their grace window.
        Delete = "delete",
        /// Pass on permissions that the caller has on the key, under conditions at least as strict.
        Grant = "grant",
    }
);

/// The keys that a grant covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum GrantScope {
    /// Every key, including future ones; written `*`.
    AllKeys,
    /// The key with this id.
    Key(KeyId),
}

impl GrantScope {
    /// Whether the grant covers this key.
    pub fn covers(self, key: KeyId) -> bool {
        match self {
            Self::AllKeys => true,
            Self::Key(id) => id == key,
        }
    }
    /// Parses `*` or a key's id.
    pub fn parse(text: &str) -> Result<Self> {
        if text == "*" { Ok(Self::AllKeys) } else { text.parse().map(Self::Key) }
    }
}

impl std::fmt::Display for GrantScope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AllKeys => f.write_str("*"),
            Self::Key(id) => id.fmt(f),
        }
    }
}

impl Serialize for GrantScope {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GrantScope {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Conditions of a grant; all that are set must be met. In JSON, an unknown name is refused when a grant is written;
/// a stored grant with an unknown name allows nothing.
///
/// ```
/// use kms_lib::{Conditions, Timestamp};
/// let office = Conditions::new().not_after(Timestamp::now().plus_days(30)).source_ip(["10.0.0.0/8".parse().unwrap()]);
/// assert!(!office.is_empty());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[non_exhaustive]
pub struct Conditions {
    /// The grant is valid from this time on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// The grant is valid before this time, exclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// The networks (CIDR) that callers must come from; a caller without a known address is denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ip: Option<Vec<IpNet>>,
    /// The encryption context must equal this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_context_equals: Option<Context>,
    /// The encryption context must contain at least these entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_context_subset: Option<Context>,
}

impl Conditions {
    /// No conditions: the grant is valid at all times and from every address.
    pub fn new() -> Self {
        Self::default()
    }
    /// Makes the grant valid from this time on.
    #[must_use]
    pub fn not_before(mut self, time: Timestamp) -> Self {
        self.not_before = Some(time);
        self
    }
    /// Makes the grant valid until this time, exclusive.
    #[must_use]
    pub fn not_after(mut self, time: Timestamp) -> Self {
        self.not_after = Some(time);
        self
    }
    /// Callers must come from one of these networks; see [`Actor::with_source_ip`](crate::Actor::with_source_ip).
    #[must_use]
    pub fn source_ip(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.source_ip = Some(networks.into_iter().collect());
        self
    }
    /// The encryption context must equal this one.
    #[must_use]
    pub fn encryption_context_equals(mut self, context: Context) -> Self {
        self.encryption_context_equals = Some(context);
        self
    }
    /// The encryption context must contain at least these entries.
    #[must_use]
    pub fn encryption_context_subset(mut self, context: Context) -> Self {
        self.encryption_context_subset = Some(context);
        self
    }
    /// Whether no condition is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The conditions of a stored grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredConditions {
    /// Conditions that this version knows.
    Known(Conditions),
    /// Text that this version does not understand, probably written by a newer one: the grant allows nothing.
    Unknown(String),
}

impl StoredConditions {
    /// The JSON text, as it is stored and recorded.
    pub fn to_json(&self) -> Result<String> {
        match self {
            Self::Known(conditions) => serde_json::to_string(conditions).map_err(|e| {
                Error::new(ErrorCode::Internal, format!("conditions do not serialize: {e}")).with_source(e)
            }),
            Self::Unknown(text) => Ok(text.clone()),
        }
    }
    /// Parses stored text. Text that is not understood becomes [`Unknown`](Self::Unknown).
    pub fn from_json(text: &str) -> Self {
        serde_json::from_str(text).map_or_else(|_| Self::Unknown(text.to_owned()), Self::Known)
    }
}

/// A grant. One row of `grants`; the rows of revoked grants are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The grant's identifier, a UUID.
    pub id: GrantId,
    /// The principal that has the grant.
    pub principal: String,
    /// The role of the callers that the grant is meant for. Informative: it does not affect decisions.
    pub role: Role,
    /// The keys that the grant covers.
    pub scope: GrantScope,
    /// The permissions, sorted and without duplicates.
    pub permissions: Vec<Permission>,
    /// The conditions under which the grant is valid.
    pub conditions: StoredConditions,
    /// When the grant was made.
    pub created_at: Timestamp,
    /// When the grant was revoked.
    pub withdrawn_at: Option<Timestamp>,
    /// The principal that made the grant, and its authority to do so.
    pub grantor: Grantor,
    /// Whether the grant was revoked together with everything that was passed on through it.
    pub cascade: bool,
    /// The sequence number of the record of its last change.
    pub revision: u64,
}

/// The principal that made a grant, and its authority to do so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grantor {
    /// The principal that made the grant; `system` for the grant that the creator of a key gets.
    pub principal: String,
    /// The role of the grantor when it made the grant.
    pub role: Role,
    /// The grants that an app passed on, sorted by id. Empty for admins and for the service itself.
    pub through: Vec<GrantId>,
}

impl Grantor {
    /// The service itself as the grantor.
    pub fn service() -> Self {
        Self { principal: "system".into(), role: Role::System, through: Vec::new() }
    }

    /// Whether a grant of this grantor replaces one of `other`, to the same principal and on the same scope: true for
    /// two grants of one app, and for two of admins or the service, which share one authority.
    pub fn replaces(&self, other: &Self) -> bool {
        let is_app = |grantor: &Self| grantor.role == Role::App;
        match (is_app(self), is_app(other)) {
            (true, true) => self.principal == other.principal,
            (false, false) => true,
            _ => false,
        }
    }
}

//! Grants: who may do what with which key, under which conditions.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::actor::Role;
use super::context::Context;
use super::error::{Error, ErrorCode, Result};
use super::ids::{GrantId, KeyId};
use super::named::named;
use super::time::Timestamp;

named!(
    /// What a grant can allow.
    Permission {
        /// Create keys; only on `*`.
        Create = "create",
        /// Read a key's description.
        Read = "read",
        /// Encrypt, generate data keys, be the destination of a re-encryption.
        Encrypt = "encrypt",
        /// Decrypt, be the source of a re-encryption.
        Decrypt = "decrypt",
        /// Sign.
        Sign = "sign",
        /// Verify signatures.
        Verify = "verify",
        /// Rotate.
        Rotate = "rotate",
        /// Revoke and disable a key or version, end a window.
        Revoke = "revoke",
        /// Enable, edit periods and metadata, extend a window, cancel a deletion.
        Manage = "manage",
        /// Schedule a deletion; erase versions that are revoked or past their window.
        Delete = "delete",
        /// Pass on permissions one holds oneself on that key, with conditions no weaker.
        Grant = "grant",
    }
);

/// Which keys a grant covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum GrantScope {
    /// Every key, those to come included; written `*`.
    AllKeys,
    /// One key.
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
    /// The scope written as `*` or as a key's id.
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

/// Conditions of a grant. All that are set must hold. Written as JSON; a name that is not known here is
/// refused on writing and makes the grant deny on reading.
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
    /// Not before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Not at or after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// Only from these networks (CIDR); a caller without a known address is denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ip: Option<Vec<IpNet>>,
    /// The encryption context must be exactly this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_context_equals: Option<Context>,
    /// The encryption context must hold at least these entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_context_subset: Option<Context>,
}

impl Conditions {
    /// No conditions: the grant holds always and everywhere.
    pub fn new() -> Self {
        Self::default()
    }
    /// The grant holds from this time on.
    #[must_use]
    pub fn not_before(mut self, time: Timestamp) -> Self {
        self.not_before = Some(time);
        self
    }
    /// The grant holds until this time, which is excluded.
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
    /// The encryption context must be exactly this one.
    #[must_use]
    pub fn encryption_context_equals(mut self, context: Context) -> Self {
        self.encryption_context_equals = Some(context);
        self
    }
    /// The encryption context must hold at least these entries.
    #[must_use]
    pub fn encryption_context_subset(mut self, context: Context) -> Self {
        self.encryption_context_subset = Some(context);
        self
    }
    /// Whether nothing is required.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The conditions of a stored grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredConditions {
    /// Understood.
    Known(Conditions),
    /// Written by something that knows more than this version: the grant denies.
    Unknown(String),
}

impl StoredConditions {
    /// The JSON text that storage and records hold.
    pub fn to_json(&self) -> Result<String> {
        match self {
            Self::Known(conditions) => serde_json::to_string(conditions).map_err(|e| {
                Error::new(ErrorCode::Internal, format!("conditions do not serialize: {e}")).with_source(e)
            }),
            Self::Unknown(text) => Ok(text.clone()),
        }
    }
    /// Reads stored text; what is not understood is kept as it is and denies.
    pub fn from_json(text: &str) -> Self {
        serde_json::from_str(text).map_or_else(|_| Self::Unknown(text.to_owned()), Self::Known)
    }
}

/// A grant. One row of `grants`; withdrawn ones stay as tombstones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Identifies the grant.
    pub id: GrantId,
    /// The principal that holds the grant.
    pub principal: String,
    /// A note about the callers it is meant for. It restricts nothing and gives nothing.
    pub role: Role,
    /// On which keys.
    pub scope: GrantScope,
    /// What it allows, sorted, without repetition.
    pub permissions: Vec<Permission>,
    /// Under which conditions.
    pub conditions: StoredConditions,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was withdrawn.
    pub withdrawn_at: Option<Timestamp>,
    /// Who made it.
    pub grantor: Grantor,
    /// Whether it was withdrawn with everything that was passed on through it.
    pub cascade: bool,
    /// The sequence number of the record of its last change.
    pub revision: u64,
}

/// Who made a grant, and by which right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grantor {
    /// The principal that made the grant; `system` for the grant that the creator of a key gets.
    pub principal: String,
    /// The grantor's role.
    pub role: Role,
    /// The grants that an app passed on, sorted. Empty for admins and for the service itself.
    pub through: Vec<GrantId>,
}

impl Grantor {
    /// The service itself.
    pub fn service() -> Self {
        Self { principal: "system".into(), role: Role::System, through: Vec::new() }
    }

    /// Whether two grants to one principal on one scope cannot stand beside each other: those of one app, and those of
    /// admins and the service, who share the same authority.
    pub fn replaces(&self, other: &Self) -> bool {
        let is_app = |grantor: &Self| grantor.role == Role::App;
        match (is_app(self), is_app(other)) {
            (true, true) => self.principal == other.principal,
            (false, false) => true,
            _ => false,
        }
    }
}

//! Who is acting.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::ids::CredentialId;
use super::limits::{PRINCIPAL_BYTES, TEXT_BYTES};

/// What a caller is by role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May do everything.
    Admin,
    /// May read keys, grants, metrics and the log, and verify it.
    Auditor,
    /// May do what its grants allow.
    App,
    /// The service itself (scheduler, opening). Not available to callers.
    #[serde(skip_deserializing)]
    System,
}

impl Role {
    /// The role's name in records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Auditor => "auditor",
            Self::App => "app",
            Self::System => "system",
        }
    }
    /// The role of this name; `system` is not to be had.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "admin" => Ok(Self::Admin),
            "auditor" => Ok(Self::Auditor),
            "app" => Ok(Self::App),
            _ => Err(Error::invalid("unknown role: admin, auditor or app is expected")),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Principals that the service keeps for itself.
pub const RESERVED_PRINCIPALS: [&str; 3] = ["scheduler", "system", "anonymous"];

/// Who performs an operation: a principal in a role, and from where. Cheap to clone.
///
/// Mini KMS does not authenticate; whoever embeds it says who is acting.
///
/// ```
/// use kms_lib::{Actor, Role};
/// let actor = Actor::new("Alice@Example.com", Role::App)?;
/// assert_eq!(actor.principal(), "alice@example.com");
/// assert!(Actor::new("scheduler", Role::App).is_err());
/// # Ok::<(), kms_lib::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    principal: Arc<str>,
    role: Role,
    source_ip: Option<IpAddr>,
    request_id: Option<Arc<str>>,
    credential: Option<CredentialId>,
}

impl Actor {
    /// An actor; the principal is lower-cased. Refused are empty, overlong and unprintable principals,
    /// the reserved ones (`scheduler`, `system`, `anonymous`) and [`Role::System`].
    pub fn new(principal: impl AsRef<str>, role: Role) -> Result<Self> {
        let principal = normalize_principal(principal.as_ref())?;
        if RESERVED_PRINCIPALS.contains(&principal.as_str()) {
            return Err(Error::invalid(format!("the principal {principal:?} is reserved")));
        }
        if role == Role::System {
            return Err(Error::invalid("the role system is not available to callers"));
        }
        Ok(Self { principal: principal.into(), role, source_ip: None, request_id: None, credential: None })
    }
    /// A caller who did not say who it is: `anonymous`. It can hold no grants, so that only its role gives it rights. For
    /// services that trust what their network says of a caller, and for nothing else.
    pub fn anonymous(role: Role) -> Result<Self> {
        if role == Role::System {
            return Err(Error::invalid("the role system is not available to callers"));
        }
        Ok(Self { principal: "anonymous".into(), role, source_ip: None, request_id: None, credential: None })
    }
    /// The service acting for itself under one of its reserved names.
    pub(crate) fn internal(principal: &'static str) -> Self {
        Self { principal: principal.into(), role: Role::System, source_ip: None, request_id: None, credential: None }
    }
    /// The same actor, calling from this address (grant conditions look at it; records name it).
    #[must_use]
    pub fn with_source_ip(mut self, address: IpAddr) -> Self {
        self.source_ip = Some(address.to_canonical());
        self
    }
    /// The same actor with an id for the request, which records carry. At most 256 printable bytes.
    pub fn with_request_id(mut self, request_id: impl AsRef<str>) -> Result<Self> {
        let id = request_id.as_ref();
        if id.is_empty() || id.len() > TEXT_BYTES || id.chars().any(char::is_control) {
            return Err(Error::invalid("a request id has 1 to 256 printable bytes"));
        }
        self.request_id = Some(id.into());
        Ok(self)
    }
    /// The same actor, known by this credential: it is looked at again before anything is committed.
    #[must_use]
    pub fn with_credential(mut self, credential: CredentialId) -> Self {
        self.credential = Some(credential);
        self
    }
    /// The credential it is known by.
    pub fn credential(&self) -> Option<CredentialId> {
        self.credential
    }
    /// Who it is, in lower case.
    pub fn principal(&self) -> &str {
        &self.principal
    }
    /// In which role.
    pub fn role(&self) -> Role {
        self.role
    }
    /// From where, if known.
    pub fn source_ip(&self) -> Option<IpAddr> {
        self.source_ip
    }
    /// The request's id, if given.
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }
}

/// A principal in the form it is compared in: lower case, 1 to 256 printable bytes, no outer blanks. Letters that only become
/// ASCII by lower-casing (the Kelvin sign, for one) are refused: nobody shall choose a name that turns into another's.
pub fn normalize_principal(text: &str) -> Result<String> {
    if text.chars().any(|c| !c.is_ascii() && c.to_lowercase().any(|lower| lower.is_ascii())) {
        return Err(Error::invalid("a principal has no letters that pass for others"));
    }
    let lower = text.to_lowercase();
    if lower.is_empty() || lower.len() > PRINCIPAL_BYTES || lower.trim() != lower || lower.chars().any(char::is_control)
    {
        return Err(Error::invalid("a principal has 1 to 256 printable bytes and no outer blanks"));
    }
    Ok(lower)
}

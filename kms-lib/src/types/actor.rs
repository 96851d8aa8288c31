//! Who is acting.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::ids::CredentialId;
use super::limits::{PRINCIPAL_BYTES, TEXT_BYTES};
use super::text::{is_deceptive, is_printable};

/// What a caller is by role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
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

/// Principals that the service keeps for itself, in any case: [`is_reserved`].
const RESERVED_PRINCIPALS: [&str; 4] = ["scheduler", "system", "operator", "anonymous"];

/// Who performs an operation: a principal in a role, and from where. Cheap to clone.
///
/// Mini KMS does not authenticate; whoever embeds it says who is acting.
///
/// ```
/// use kms_lib::{Actor, Role};
/// let actor = Actor::new("Alice@Example.com", Role::App)?;
/// assert_eq!(actor.principal(), "Alice@Example.com");
/// assert_ne!(actor, Actor::new("alice@example.com", Role::App)?);
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
    /// An actor. Principals are compared exactly: a caller that folds case or normalizes Unicode does so before. Fails
    /// with `InvalidArgument` for a principal that [`check_principal`](Self::check_principal) refuses, for a reserved
    /// one (`scheduler`, `system`, `operator`, `anonymous`) and for [`Role::System`].
    pub fn new(principal: impl AsRef<str>, role: Role) -> Result<Self> {
        let principal = principal.as_ref();
        check_principal(principal)?;
        if is_reserved(principal) {
            return Err(Error::invalid(format!("the principal {principal:?} is reserved")));
        }
        if role == Role::System {
            return Err(Error::invalid("the role system is not available to callers"));
        }
        Ok(Self { principal: principal.into(), role, source_ip: None, request_id: None, credential: None })
    }
    /// A caller who did not say who it is: `anonymous`. It can hold no grants, so that only its role gives it rights.
    /// For services that trust what their network says of a caller, and for nothing else.
    pub fn anonymous(role: Role) -> Result<Self> {
        if role == Role::System {
            return Err(Error::invalid("the role system is not available to callers"));
        }
        Ok(Self { principal: "anonymous".into(), role, source_ip: None, request_id: None, credential: None })
    }
    /// The operator: an admin known by nothing but access to the store and its root key, such as a command line.
    pub fn operator() -> Self {
        let (principal, role) = ("operator".into(), Role::Admin);
        Self { principal, role, source_ip: None, request_id: None, credential: None }
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
    /// The same actor with an id for the request, which records carry: 1 to 256 bytes, no control or invisible
    /// characters.
    pub fn with_request_id(mut self, request_id: impl AsRef<str>) -> Result<Self> {
        let id = request_id.as_ref();
        if !is_printable(id, TEXT_BYTES) {
            return Err(Error::invalid("a request id has 1 to 256 bytes and no control or invisible characters"));
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
    /// Refuses what cannot name a principal, with `InvalidArgument`: anything but 1 to 256 bytes without outer blanks
    /// and without control, invisible or bidirectional characters (the rule for names of keys), and `*`, which stands
    /// for all keys.
    pub fn check_principal(principal: &str) -> Result<()> {
        check_principal(principal)
    }
    /// Whether the service keeps this principal for itself: `scheduler`, `system`, `operator` and `anonymous`, in any
    /// case.
    pub fn is_reserved(principal: &str) -> bool {
        is_reserved(principal)
    }
    /// The credential it is known by.
    pub fn credential(&self) -> Option<CredentialId> {
        self.credential
    }
    /// The principal, as it was given.
    pub fn principal(&self) -> &str {
        &self.principal
    }
    /// Whether this is a caller who did not say who it is.
    pub fn is_anonymous(&self) -> bool {
        &*self.principal == "anonymous"
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

/// Refuses what cannot name a principal, with `InvalidArgument`: anything but 1 to 256 bytes without outer blanks and
/// without control, invisible or bidirectional characters (the rule for names of keys), and `*`, which stands for all
/// keys.
pub fn check_principal(text: &str) -> Result<()> {
    if text.is_empty() || text.len() > PRINCIPAL_BYTES {
        return Err(Error::invalid(format!("a principal has 1 to {PRINCIPAL_BYTES} bytes")));
    }
    if text.trim() != text {
        return Err(Error::invalid("a principal must not begin or end with a blank"));
    }
    if text.chars().any(is_deceptive) {
        return Err(Error::invalid("a principal must not contain control, invisible or bidirectional characters"));
    }
    if text == "*" {
        return Err(Error::invalid("a principal must not be *, which stands for all keys"));
    }
    Ok(())
}

/// Whether the service keeps this principal for itself. In any case: `System` would pass for `system` in a log.
pub fn is_reserved(principal: &str) -> bool {
    RESERVED_PRINCIPALS.iter().any(|reserved| reserved.eq_ignore_ascii_case(principal))
}

//! The actor: the principal and role in whose name a session acts.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::ids::CredentialId;
use super::limits::{PRINCIPAL_BYTES, TEXT_BYTES};
use super::text::{is_deceptive, is_printable};

/// The role of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// May do everything that callers can do.
    Admin,
    /// May read keys, grants, credentials, metrics and the log, and verify the log.
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
    /// The role with this name, except `system`, which callers cannot have.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "admin" => Ok(Self::Admin),
            "auditor" => Ok(Self::Auditor),
            "app" => Ok(Self::App),
            _ => Err(Error::invalid("unknown role; use admin, auditor or app")),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Principals that are reserved for the service; compared without regard to case by [`is_reserved`].
const RESERVED_PRINCIPALS: [&str; 4] = ["scheduler", "system", "operator", "anonymous"];

/// The principal and role in whose name a session acts, with request id and source address. Cheap to clone.
///
/// The library trusts its caller: the embedding program authenticates the principal, or uses
/// [`Kms::authenticate`](crate::Kms::authenticate).
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
    parts: Arc<Parts>,
}

/// The parts of an actor. Every decision and record has an actor, and these are expensive to move.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    principal: Arc<str>,
    role: Role,
    source_ip: Option<IpAddr>,
    request_id: Option<Arc<str>>,
    credential: Option<CredentialId>,
}

impl Actor {
    /// An actor with this principal and role. Principals are compared byte by byte, without folding case or
    /// normalizing Unicode. Fails with `InvalidArgument` for a principal that
    /// [`check_principal`](Self::check_principal) refuses, for a reserved one (`scheduler`, `system`, `operator`,
    /// `anonymous`) and for [`Role::System`].
    pub fn new(principal: impl AsRef<str>, role: Role) -> Result<Self> {
        let principal = principal.as_ref();
        check_principal(principal)?;
        if is_reserved(principal) {
            let text = format!("the principal {principal:?} is reserved for the service; choose another");
            return Err(Error::invalid(text));
        }
        if role == Role::System {
            return Err(Error::invalid("the role system is not available to callers"));
        }
        Ok(Self::of(principal, role))
    }
    fn of(principal: &str, role: Role) -> Self {
        let (source_ip, request_id, credential) = (None, None, None);
        Self { parts: Arc::new(Parts { principal: principal.into(), role, source_ip, request_id, credential }) }
    }
    /// The actor of an unauthenticated caller: `anonymous`. Grants cannot be made to it, so it has only the rights of
    /// its role. Only for services that rely on their network to restrict callers.
    pub fn anonymous(role: Role) -> Result<Self> {
        if role == Role::System {
            return Err(Error::invalid("the role system is not available to callers"));
        }
        Ok(Self::of("anonymous", role))
    }
    /// The operator: an admin identified only by access to the store and its root key, such as a command line.
    pub fn operator() -> Self {
        Self::of("operator", Role::Admin)
    }
    /// The service itself, under one of its reserved principals.
    pub(crate) fn internal(principal: &'static str) -> Self {
        Self::of(principal, Role::System)
    }
    /// The same actor with this source address, which grant conditions are checked against and records contain.
    #[must_use]
    pub fn with_source_ip(mut self, address: IpAddr) -> Self {
        Arc::make_mut(&mut self.parts).source_ip = Some(address.to_canonical());
        self
    }
    /// The same actor with a request id, which records contain: 1 to 256 bytes, no control or invisible characters.
    pub fn with_request_id(mut self, request_id: impl AsRef<str>) -> Result<Self> {
        let id = request_id.as_ref();
        if !is_printable(id, TEXT_BYTES) {
            return Err(Error::invalid("a request id has 1 to 256 bytes and no control or invisible characters"));
        }
        Arc::make_mut(&mut self.parts).request_id = Some(id.into());
        Ok(self)
    }
    /// The same actor, authenticated by this credential, which is checked again before anything is committed.
    #[must_use]
    pub fn with_credential(mut self, credential: CredentialId) -> Self {
        Arc::make_mut(&mut self.parts).credential = Some(credential);
        self
    }
    /// Checks the name of a principal: 1 to 256 bytes, no leading or trailing blanks, no control, invisible or
    /// bidirectional characters (as for names of keys), and not `*`, which represents all keys. Fails with
    /// `InvalidArgument`.
    pub fn check_principal(principal: &str) -> Result<()> {
        check_principal(principal)
    }
    /// Whether this principal is reserved for the service: `scheduler`, `system`, `operator` or `anonymous`, without
    /// regard to case.
    pub fn is_reserved(principal: &str) -> bool {
        is_reserved(principal)
    }
    /// The credential that authenticated the actor, if one did.
    pub fn credential(&self) -> Option<CredentialId> {
        self.parts.credential
    }
    /// The principal, unchanged.
    pub fn principal(&self) -> &str {
        &self.parts.principal
    }
    /// Whether this is the unauthenticated caller, `anonymous`.
    pub fn is_anonymous(&self) -> bool {
        &*self.parts.principal == "anonymous"
    }
    /// The role in which the actor acts.
    pub fn role(&self) -> Role {
        self.parts.role
    }
    /// The source address, if known. IPv4 addresses mapped into IPv6 are shown as IPv4.
    pub fn source_ip(&self) -> Option<IpAddr> {
        self.parts.source_ip
    }
    /// The request's id, if given.
    pub fn request_id(&self) -> Option<&str> {
        self.parts.request_id.as_deref()
    }
}

/// Checks the name of a principal; see [`Actor::check_principal`].
pub fn check_principal(text: &str) -> Result<()> {
    if text.is_empty() || text.len() > PRINCIPAL_BYTES {
        return Err(Error::invalid(format!(
            "the principal has {} bytes; 1 to {PRINCIPAL_BYTES} are allowed",
            text.len()
        )));
    }
    if text.trim() != text {
        return Err(Error::invalid("a principal must not begin or end with a blank"));
    }
    if text.chars().any(is_deceptive) {
        return Err(Error::invalid("a principal must not contain control, invisible or bidirectional characters"));
    }
    if text == "*" {
        return Err(Error::invalid("a principal must not be *, which represents all keys"));
    }
    Ok(())
}

/// Whether this principal is reserved for the service. Compared without regard to case, because a reader of the log
/// could take `System` for `system`.
pub fn is_reserved(principal: &str) -> bool {
    RESERVED_PRINCIPALS.iter().any(|reserved| reserved.eq_ignore_ascii_case(principal))
}

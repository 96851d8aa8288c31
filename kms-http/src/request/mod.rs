//! Processing of every request before and after its route: request id, headers and limits.

mod accounts;
pub mod body;
mod claims;
pub mod fair_queue;
mod greed;
pub mod head;
pub mod headers;
pub mod linger;
pub mod memory;
pub mod origins;
pub mod owner;
pub mod rate;
pub mod response_memory;
pub mod timer;
pub mod trace_context;
pub mod unread;
pub mod waiting;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::http::header::HOST;
use axum::http::uri::{Authority, Uri};
use axum::http::{HeaderMap, HeaderValue};
use kms_lib::RecordId;

use self::memory::{Evict, Kept, Room};
use self::owner::Owner;
use self::timer::Timer;
use self::unread::Unread;

/// Maximum length of a request id sent by a caller.
const REQUEST_ID: usize = 128;
/// The header that carries the request id, in requests and responses.
pub const X_REQUEST_ID: &str = "x-request-id";

/// The remote end of a connection.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// The remote IP address; `None` on a Unix socket.
    pub address: Option<IpAddr>,
    /// The client certificate (DER), verified against the configured authorities.
    pub certificate: Option<Arc<[u8]>>,
    /// The owner that the connection is charged to.
    pub caller: Caller,
    /// The bodies on this connection that wait for memory.
    pub unread: Unread,
}

impl Peer {
    /// A peer without a certificate; `address` is `None` on a Unix socket.
    pub fn at(address: Option<IpAddr>) -> Self {
        Self { address, certificate: None, caller: Caller::new(Owner::at(address)), unread: Unread::default() }
    }
}

/// The owner that a connection is charged to: its network at first, and then the principal that last sent a request.
/// Clones share the same value.
#[derive(Clone, Debug, Default)]
pub struct Caller(Arc<Mutex<Owner>>);

impl Caller {
    /// A connection that is charged to `owner`.
    pub fn new(owner: Owner) -> Self {
        Self(Arc::new(Mutex::new(owner)))
    }
    /// The owner that the connection is charged to now.
    pub fn get(&self) -> Owner {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Charges the connection to `owner` from now on.
    pub fn set(&self, owner: &Owner) {
        let mut caller = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *caller != *owner {
            caller.clone_from(owner);
        }
    }
}

/// The facts about a request that are known before it is routed.
#[derive(Clone)]
pub struct RequestContext {
    /// The request id, from the caller or generated.
    pub id: Arc<str>,
    /// The remote end of the connection.
    pub peer: Arc<Peer>,
    /// The time at which the request's head was complete.
    pub started: Instant,
    /// The memory reserved for the head, if it is counted.
    pub room: Option<Room>,
    /// Ends the request if another owner needs its memory.
    pub evict: Arc<dyn Evict>,
    /// The timer of the task that handles the request.
    pub timer: Timer,
}

impl RequestContext {
    /// The context of a request, with the caller's request id if it is acceptable, otherwise with a new one.
    pub fn new(headers: &HeaderMap, peer: Arc<Peer>, evict: Arc<dyn Evict>, timer: Timer) -> Self {
        let sent = headers.get(X_REQUEST_ID).and_then(sane_id).map(Arc::from);
        let id = sent.unwrap_or_else(|| RecordId::random().to_string().into());
        Self { id, peer, started: Instant::now(), room: None, evict, timer }
    }

    /// Like [`RequestContext::new`], for a request that has a task of its own and is not ended early.
    pub fn alone(headers: &HeaderMap, peer: Arc<Peer>) -> Self {
        Self::new(headers, peer, Arc::new(Kept), Timer::default())
    }
}

/// The host that a request is for, from the request target or otherwise from the `Host` header.
pub fn host(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    let named = || Authority::try_from(headers.get(HOST)?.as_bytes()).ok();
    uri.authority().cloned().or_else(named)
}

/// Whether a host, as written in URLs and headers, is the loopback interface.
pub fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// The caller's id, if it can be used in audit records, logs and headers without escaping.
fn sane_id(value: &HeaderValue) -> Option<&str> {
    let id = value.to_str().ok()?;
    let is_sane = |c: char| c.is_ascii_alphanumeric() || "-_.:/+=@".contains(c);
    (!id.is_empty() && id.len() <= REQUEST_ID && id.chars().all(is_sane)).then_some(id)
}

#[cfg(test)]
#[path = "../../tests/unit/request_id.rs"]
mod tests;

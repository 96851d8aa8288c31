//! What happens to every request before and after its route: an id, headers, limits.

pub mod body;
pub mod fair_queue;
pub mod headers;
pub mod linger;
pub mod memory;
pub mod origins;
pub mod owner;
pub mod rate;
pub mod response_memory;
pub mod trace_context;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::http::header::HOST;
use axum::http::uri::{Authority, Uri};
use axum::http::{HeaderMap, HeaderValue};
use kms_lib::RecordId;

use self::memory::{Evict, Kept, Room};
use self::owner::Owner;

/// Longest request id that is taken over from a caller.
const REQUEST_ID: usize = 128;
/// The header it comes and goes in.
pub const X_REQUEST_ID: &str = "x-request-id";

/// Who is at the other end of a connection.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Its address; none on a unix socket.
    pub address: Option<IpAddr>,
    /// The certificate it showed (DER), verified against the configured authorities.
    pub certificate: Option<Arc<[u8]>>,
    /// Who the connection is charged to.
    pub caller: Caller,
}

impl Peer {
    /// The peer at an address; none on a unix socket.
    pub fn at(address: Option<IpAddr>) -> Self {
        Self { address, certificate: None, caller: Caller::new(Owner::at(address)) }
    }
}

/// Who a connection is charged to: its network, and once a principal is known, the one that last sent a request. All
/// clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Caller(Arc<Mutex<Owner>>);

impl Caller {
    /// A connection of this owner.
    pub fn new(owner: Owner) -> Self {
        Self(Arc::new(Mutex::new(owner)))
    }
    /// The owner.
    pub fn get(&self) -> Owner {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Charges the connection to this owner.
    pub fn set(&self, owner: &Owner) {
        let mut caller = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *caller != *owner {
            caller.clone_from(owner);
        }
    }
}

/// What is known of a request from the start.
#[derive(Clone)]
pub struct RequestContext {
    /// Its id.
    pub id: Arc<str>,
    /// Who sent it.
    pub peer: Arc<Peer>,
    /// When its head was there.
    pub started: Instant,
    /// The memory that its head takes, if that is counted.
    pub room: Option<Room>,
    /// What ends it while it waits for its caller.
    pub evict: Arc<dyn Evict>,
}

impl RequestContext {
    /// The context of a request: with the caller's id if it sent a sane one, else with a new one.
    pub fn new(headers: &HeaderMap, peer: Arc<Peer>) -> Self {
        let sent = headers.get(X_REQUEST_ID).and_then(sane_id).map(Arc::from);
        let id = sent.unwrap_or_else(|| RecordId::random().to_string().into());
        Self { id, peer, started: Instant::now(), room: None, evict: Arc::new(Kept) }
    }
}

/// The host that a request is for: of its target, else of its header.
pub fn host(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    let named = || Authority::try_from(headers.get(HOST)?.as_bytes()).ok();
    uri.authority().cloned().or_else(named)
}

/// Whether a host, as URLs and headers name it, is this machine's loopback.
pub fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// An id that may go into records, logs and headers as it is.
fn sane_id(value: &HeaderValue) -> Option<&str> {
    let id = value.to_str().ok()?;
    let is_sane = |c: char| c.is_ascii_alphanumeric() || "-_.:/+=@".contains(c);
    (!id.is_empty() && id.len() <= REQUEST_ID && id.chars().all(is_sane)).then_some(id)
}

#[cfg(test)]
#[path = "../../tests/unit/request_id.rs"]
mod tests;

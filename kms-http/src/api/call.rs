//! An authenticated request, as handlers receive it.

use std::fmt::Display;
use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use axum::http::request::Parts;
use kms_lib::limits::PAGE_LIMIT;
use kms_lib::{Actor, Paging, Session};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{ApiError, App, strict_json};
use crate::request::RequestContext;
use crate::request::body::Whole;
use crate::request::headers::single;
use crate::request::memory::{Evict, Kept, Room};
use crate::request::owner::Owner;

/// Size up to which responses need no memory reserved in advance, in bytes.
const SMALL: usize = 4 * 1024;

/// A request with its authenticated caller.
pub struct Call {
    /// The state shared by all requests.
    pub app: Arc<App>,
    /// The session of the caller, which checks its permissions.
    pub session: Session,
    parts: Parts,
    body: Whole,
    /// The memory reserved for the request, which becomes that of its response.
    room: Option<Room>,
}

impl Call {
    /// Creates the call of an actor.
    pub fn new(app: Arc<App>, actor: Actor, parts: Parts, body: Whole) -> Self {
        let session = app.kms.session(actor);
        Self { app, session, parts, body, room: None }
    }

    /// Sets the memory reserved for the request.
    #[must_use]
    pub fn with_room(mut self, room: Option<Room>) -> Self {
        self.room = room;
        self
    }

    /// The session for a change, with the idempotency key if the request has one.
    pub fn changing(&self) -> Result<Session, ApiError> {
        let key = single(&self.parts.headers, "idempotency-key");
        let key = key.map_err(|_| ApiError::invalid("idempotency-key: the header is present more than once"))?;
        let Some(key) = key else { return Ok(self.session.clone()) };
        let key = key.to_str().map_err(|_| ApiError::invalid("idempotency-key: only printable ASCII is allowed"))?;
        Ok(self.session.with_idempotency_key(key)?)
    }

    /// Parses the body as JSON.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, ApiError> {
        self.check_content_type()?;
        strict_json::parse(&self.body)
    }

    /// Parses a body as JSON that [`Call::json`] has already checked.
    pub fn json_again<'a, T: Deserialize<'a>>(&'a self) -> Result<T, ApiError> {
        strict_json::parse_checked(&self.body)
    }

    /// Parses an optional body as JSON.
    pub fn json_or_default<'a, T: Deserialize<'a> + Default>(&'a self) -> Result<T, ApiError> {
        if self.body.is_empty() { Ok(T::default()) } else { self.json() }
    }

    /// Checks that the headers declare uncompressed JSON in UTF-8.
    fn check_content_type(&self) -> Result<(), ApiError> {
        let is = |name: HeaderName, fits: fn(&str) -> bool| {
            self.parts.headers.get_all(name).iter().all(|value| value.to_str().is_ok_and(fits))
        };
        let is_json = |value: &str| {
            let mut parts = value.split(';').map(str::trim);
            parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"))
                && parts.all(|part| match part.split_once('=') {
                    Some((name, value)) if name.trim_end().eq_ignore_ascii_case("charset") => {
                        value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
                    }
                    _ => true,
                })
        };
        if !self.parts.headers.contains_key(CONTENT_TYPE) || !is(CONTENT_TYPE, is_json) {
            return Err(ApiError::unsupported("content-type: expected application/json in UTF-8"));
        }
        if !is(CONTENT_ENCODING, |value| value.eq_ignore_ascii_case("identity")) {
            return Err(ApiError::unsupported("content-encoding: compressed bodies are not supported"));
        }
        Ok(())
    }

    /// Whether the body may contain `items`. This cheap check saves most bodies a second parse.
    pub fn mentions_items(&self) -> bool {
        names_items(&self.body)
    }

    /// Reserves memory on behalf of the caller. A response that holds it may be aborted while it waits for a slow
    /// client, to free the memory for another caller.
    pub fn room(&self, bytes: usize) -> Result<Room, ApiError> {
        let context = self.parts.extensions.get::<RequestContext>();
        let evict: Arc<dyn Evict> = context.map_or_else(|| Arc::new(Kept) as _, |context| Arc::clone(&context.evict));
        self.app.bodies.memory.room(Owner::principal(self.session.actor().principal()), bytes, evict)
    }

    /// Reserves memory for a response of at most `bytes` bytes before any work is done: afterwards the response must be
    /// sent. Waits for the memory within the time of the request. `InvalidArgument` if it would never fit.
    pub async fn reserve_response(&self, bytes: usize) -> Result<(), ApiError> {
        let Some(room) = self.room.as_ref().filter(|_| bytes > SMALL) else { return Ok(()) };
        if !room.could_grow(bytes) {
            return Err(ApiError::invalid(format!(
                "the response could take {bytes} bytes, which is more than http.body_memory_mib allows; send fewer or \
                 smaller items, and decrypt long plaintexts with \"encoding\": \"base64\""
            )));
        }
        let Some(context) = self.parts.extensions.get::<RequestContext>() else { return room.grow(bytes) };
        room.claim_for_response(bytes, self.app.bodies.end(context)).await
    }

    /// Parses the query as a `T`. A parameter that does not fit is an `InvalidArgument` error.
    pub fn query<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        let query = self.parts.uri.query().unwrap_or_default();
        let read = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
        serde_path_to_error::deserialize(read)
            .map_err(|e| ApiError::invalid(format!("the query: {}: {}", e.path(), e.inner())))
    }

    /// The id or name of the key in the path.
    pub async fn key(&mut self) -> Result<String, ApiError> {
        self.path("key").await
    }

    /// Whether the query is not empty.
    pub fn has_query(&self) -> bool {
        self.parts.uri.query().is_some_and(|query| !query.is_empty())
    }

    /// The value of a path parameter.
    pub async fn path(&mut self, name: &str) -> Result<String, ApiError> {
        let params = RawPathParams::from_request_parts(&mut self.parts, &()).await;
        let params = params.map_err(|_| ApiError::invalid("the path is not UTF-8"))?;
        let found = params.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
        found.ok_or_else(ApiError::no_route)
    }

    /// The version number in the path.
    pub async fn version(&mut self) -> Result<u32, ApiError> {
        let text = self.path("version").await?;
        text.parse().map_err(|_| ApiError::invalid(format!("version: {text:?} is not a version number")))
    }
}

/// Whether `"items"` occurs in a body. Looks at one byte in seven as long as it is none of the name (Horspool).
fn names_items(body: &[u8]) -> bool {
    const NAME: [u8; 7] = *b"\"items\"";
    let mut at = 0;
    while let Some(window) = body.get(at..at + NAME.len()) {
        at += match window[NAME.len() - 1] {
            b'"' if window == NAME => return true,
            b's' => 1,
            b'm' => 2,
            b'e' => 3,
            b't' => 4,
            b'i' => 5,
            b'"' => 6,
            _ => 7,
        };
    }
    false
}

/// The page that a query requests.
pub fn paging(limit: Option<usize>, cursor: Option<impl Display>) -> Paging {
    let mut paging = Paging::new(limit.unwrap_or(PAGE_LIMIT));
    paging.cursor = cursor.map(|cursor| cursor.to_string());
    paging
}

/// The body of a request without parameters. Unknown fields are ignored, as in Mini KMS on Node.
#[derive(Default, Deserialize, Serialize, utoipa::ToSchema)]
pub struct Nothing {}

/// The body of a request without parameters. Unknown fields are refused.
#[derive(Default, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StrictlyNothing {}

#[cfg(test)]
#[path = "../../tests/unit/call.rs"]
mod tests;

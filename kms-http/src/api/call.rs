//! A request on its way to its handler: who calls, and what was sent.

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

/// A request whose caller is known.
pub struct Call {
    /// The service.
    pub app: Arc<App>,
    /// What the caller may do.
    pub session: Session,
    parts: Parts,
    body: Whole,
}

impl Call {
    /// A call by this actor.
    pub fn new(app: Arc<App>, actor: Actor, parts: Parts, body: Whole) -> Self {
        let session = app.kms.session(actor);
        Self { app, session, parts, body }
    }

    /// The session for something that changes: with the idempotency key, if the request has one.
    pub fn changing(&self) -> Result<Session, ApiError> {
        let key = single(&self.parts.headers, "idempotency-key");
        let key = key.map_err(|_| ApiError::invalid("idempotency-key: there is more than one"))?;
        let Some(key) = key else { return Ok(self.session.clone()) };
        let key = key.to_str().map_err(|_| ApiError::invalid("idempotency-key: only printable ASCII is taken"))?;
        Ok(self.session.with_idempotency_key(key)?)
    }

    /// The body as JSON.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, ApiError> {
        self.check_content_type()?;
        strict_json::parse(&self.body)
    }

    /// The body as JSON that was found to be accepted before.
    pub fn json_again<'a, T: Deserialize<'a>>(&'a self) -> Result<T, ApiError> {
        strict_json::parse_checked(&self.body)
    }

    /// The body as JSON, where nothing has to be sent.
    pub fn json_or_default<'a, T: Deserialize<'a> + Default>(&'a self) -> Result<T, ApiError> {
        if self.body.is_empty() { Ok(T::default()) } else { self.json() }
    }

    /// Only JSON in UTF-8 that is not compressed, and said so.
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
            return Err(ApiError::unsupported("content-type: application/json in UTF-8 is expected"));
        }
        if !is(CONTENT_ENCODING, |value| value.eq_ignore_ascii_case("identity")) {
            return Err(ApiError::unsupported("content-encoding: compressed bodies are not handled"));
        }
        Ok(())
    }

    /// Whether the body can hold many items: a look that spares most bodies a second reading.
    pub fn mentions_items(&self) -> bool {
        self.body.windows(7).any(|window| window == b"\"items\"")
    }

    /// Memory of the caller. While an answer with it waits to be taken, it may be ended for another caller.
    pub fn room(&self, bytes: usize) -> Result<Room, ApiError> {
        let context = self.parts.extensions.get::<RequestContext>();
        let evict: Arc<dyn Evict> = context.map_or_else(|| Arc::new(Kept) as _, |context| Arc::clone(&context.evict));
        self.app.bodies.memory.room(Owner::principal(self.session.actor().principal()), bytes, evict)
    }

    /// The query.
    pub fn query<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        let query = self.parts.uri.query().unwrap_or_default();
        let read = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
        serde_path_to_error::deserialize(read)
            .map_err(|e| ApiError::invalid(format!("the query: {}: {}", e.path(), e.inner())))
    }

    /// The key in the path, by id or name.
    pub async fn key(&mut self) -> Result<String, ApiError> {
        self.path("key").await
    }

    /// Whether there is a query.
    pub fn has_query(&self) -> bool {
        self.parts.uri.query().is_some_and(|query| !query.is_empty())
    }

    /// What stands in the path in the place of this name.
    pub async fn path(&mut self, name: &str) -> Result<String, ApiError> {
        let params = RawPathParams::from_request_parts(&mut self.parts, &()).await;
        let params = params.map_err(|_| ApiError::invalid("the path is not UTF-8"))?;
        let found = params.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
        found.ok_or_else(ApiError::no_route)
    }

    /// A version in the path.
    pub async fn version(&mut self) -> Result<u32, ApiError> {
        let text = self.path("version").await?;
        text.parse().map_err(|_| ApiError::invalid(format!("version: {text:?} is not the number of a version")))
    }
}

/// The page that a query asks for.
pub fn paging(limit: Option<usize>, cursor: Option<impl Display>) -> Paging {
    let mut paging = Paging::new(limit.unwrap_or(PAGE_LIMIT));
    paging.cursor = cursor.map(|cursor| cursor.to_string());
    paging
}

/// The body of a request that says nothing.
#[derive(Default, Deserialize, Serialize, utoipa::ToSchema)]
pub struct Nothing {}

/// The body of an added request that says nothing.
#[derive(Default, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StrictlyNothing {}

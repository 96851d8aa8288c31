//! Builds the responses of handlers.

use std::fmt::Display;

use axum::BoxError;
use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use futures_util::Stream;
use serde::Serialize;
use zeroize::Zeroizing;

use super::ApiError;
use crate::request::headers::of_json;

/// Initial buffer size in bytes; most responses to single operations fit.
const COMMON: usize = 1_024;

/// The result of a handler.
pub type Reply = Result<Response, ApiError>;

/// A response with status 200 and this value as JSON.
pub fn ok(body: &impl Serialize) -> Reply {
    json(StatusCode::OK, body, COMMON)
}

/// 200 with JSON of about `about` bytes. The buffer is allocated at once, because growing it would copy the content.
pub fn large(body: &impl Serialize, about: usize) -> Reply {
    json(StatusCode::OK, body, about.max(COMMON))
}

/// A response with status 201 and this value as JSON.
pub fn created(body: &impl Serialize) -> Reply {
    json(StatusCode::CREATED, body, COMMON)
}

/// A response with status 204 and no body.
pub fn no_content() -> Reply {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// A response with status 200 and this text.
pub fn text(content_type: &'static str, text: impl Into<Bytes>) -> Reply {
    let mut response = Response::new(Body::from(text.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(response)
}

/// 200 with JSON that contains a secret: the buffer of `about` bytes is wiped after it has been sent.
pub fn secret(body: &impl Serialize, about: usize) -> Reply {
    // Allocate the maximum at once: growing the buffer would leave copies of the secret in memory.
    let mut text = Zeroizing::new(Vec::with_capacity(about));
    serde_json::to_writer(&mut *text, body).map_err(|_| unwritable())?;
    Ok(respond(StatusCode::OK, Body::from(Bytes::from_owner(text))))
}

/// 200 with JSON that is streamed.
pub fn stream(chunks: impl Stream<Item = Result<Vec<u8>, BoxError>> + Send + 'static) -> Reply {
    Ok(respond(StatusCode::OK, Body::from_stream(chunks)))
}

/// 200 with a page of a list; the header `x-next-cursor` names the next page.
pub fn page(body: &impl Serialize, next: Option<impl Display>) -> Reply {
    let mut response = ok(body)?;
    if let Some(next) = next {
        let cursor = HeaderValue::from_str(&next.to_string()).map_err(|_| unwritable())?;
        response.headers_mut().insert("x-next-cursor", cursor);
    }
    Ok(response)
}

fn json(status: StatusCode, body: &impl Serialize, about: usize) -> Reply {
    let mut text = Vec::with_capacity(about);
    serde_json::to_writer(&mut text, body).map_err(|_| unwritable())?;
    Ok(respond(status, Body::from(text)))
}

fn respond(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = of_json();
    response
}

/// The error that a response cannot be serialized.
pub fn unwritable() -> ApiError {
    ApiError::internal("the response could not be serialized")
}

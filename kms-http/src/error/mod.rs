//! Errors as HTTP responses: the status, the code and the message of each.

mod code;
pub mod lines;

use std::borrow::Cow;

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::Response;
use kms_lib::{Error, ErrorCode};
use serde::Serialize;
use utoipa::ToSchema;

pub use self::code::ServiceCode;
use self::lines::Lines;

/// Lines about faults, by code.
static FAULTS: Lines = Lines::new();

/// An error as callers see it.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// The status.
    pub status: StatusCode,
    /// What programs rely on: the name of an [`ErrorCode`] or of a [`ServiceCode`].
    pub code: &'static str,
    /// For a person.
    pub message: Cow<'static, str>,
    /// In how many seconds it may be worth trying again.
    pub retry_after: Option<u32>,
}

/// The body of every answer that is an error.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Error)]
pub struct ErrorBody<'a> {
    /// For a person.
    error: &'a str,
    /// What programs rely on.
    code: &'a str,
    /// Names the request in logs.
    request_id: &'a str,
}

impl ApiError {
    /// An error.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, message: message.into(), retry_after: None }
    }
    /// An error that only a service has.
    fn own(code: &ServiceCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(status(code.status), code.name, message)
    }
    /// An error with a code of the library.
    pub fn of(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(status_of(code), code.as_str(), message)
    }
    /// Malformed input.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::of(ErrorCode::InvalidArgument, message)
    }
    /// A fault in this software.
    pub fn internal(message: &'static str) -> Self {
        Self::of(ErrorCode::Internal, message)
    }
    /// Nobody we know. Always the same words: they tell nothing about what was wrong.
    pub fn not_authenticated() -> Self {
        Self::of(ErrorCode::NotAuthenticated, "show a valid credential; this service does not know the caller")
    }
    /// A page of another site made a browser send it.
    pub fn cross_site() -> Self {
        let message = "a page of another site sent this request; if it may, add its origin to http.cors_origins";
        Self::of(ErrorCode::AccessDenied, message)
    }
    /// No such route.
    pub fn no_route() -> Self {
        Self::own(&ServiceCode::NOT_FOUND, "there is no such route; /openapi.json lists them")
    }
    /// No such method on this route.
    pub fn no_method() -> Self {
        Self::own(&ServiceCode::METHOD_NOT_ALLOWED, "the route does not take this method")
    }
    /// A body over the limit.
    pub fn too_large(limit: usize) -> Self {
        Self::own(&ServiceCode::PAYLOAD_TOO_LARGE, format!("a body has at most {limit} bytes"))
    }
    /// A body in a form that is not handled.
    pub fn unsupported(message: &'static str) -> Self {
        Self::own(&ServiceCode::UNSUPPORTED_MEDIA_TYPE, message)
    }
    /// A body that took too long.
    pub fn slow_body() -> Self {
        Self::own(&ServiceCode::REQUEST_TIMEOUT, "the body took too long to arrive")
    }
    /// A body that ended too early.
    pub fn broken_body() -> Self {
        Self::invalid("the body ended before its announced length, or its framing is wrong")
    }
    /// Too much under way: by this caller alone, or in the whole service.
    pub fn overloaded(is_own_excess: bool) -> Self {
        let (code, message) = match is_own_excess {
            true => (ErrorCode::CallerOverloaded, "too much in flight for this caller; nothing was done, retry later"),
            false => (ErrorCode::Overloaded, "the service has too much in flight; nothing was done, retry later"),
        };
        Self { retry_after: Some(1), ..Self::of(code, message) }
    }
    /// More than a principal's rate.
    pub fn rate_limited(seconds: u32) -> Self {
        let message = "this caller sends more requests a second than it may; nothing was done";
        Self { retry_after: Some(seconds), ..Self::own(&ServiceCode::RATE_LIMITED, message) }
    }
    /// More credentials that are not good than a network may send.
    pub fn too_many_failures(seconds: u32) -> Self {
        let message = "too many credentials that are not good come from this address; nothing was done";
        Self { retry_after: Some(seconds), ..Self::own(&ServiceCode::RATE_LIMITED, message) }
    }
    /// The issuer of the caller's token cannot be reached.
    pub fn issuer_unavailable(message: Cow<'static, str>) -> Self {
        Self { retry_after: Some(5), ..Self::own(&ServiceCode::ISSUER_UNAVAILABLE, message) }
    }
    /// It took too long, and nothing was submitted.
    pub fn timed_out() -> Self {
        let message = "the request ran out of time; nothing was done, retry later";
        Self { retry_after: Some(1), ..Self::own(&ServiceCode::TIMEOUT, message) }
    }
    /// It took too long, and what was submitted may have its effect yet.
    pub fn outcome_unknown() -> Self {
        let message =
            "the request ran out of time; it may have had its effect, or have it yet: look before you repeat it";
        Self::of(ErrorCode::OutcomeUnknown, message)
    }

    /// The error of a request. If its outcome is unknown it may be sent again only with an idempotency key.
    #[must_use]
    pub fn for_request(mut self, has_idempotency_key: bool) -> Self {
        if self.code == ErrorCode::OutcomeUnknown.as_str() {
            self.retry_after = has_idempotency_key.then_some(1);
        }
        self
    }

    /// The answer, which names the request.
    pub fn respond(&self, request_id: &str) -> Response {
        let body = ErrorBody { error: &self.message, code: self.code, request_id };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let code = error.code();
        let status = status_of(code);
        if status == StatusCode::INTERNAL_SERVER_ERROR
            && let Some(line) = FAULTS.next(code.as_str())
        {
            let left_out = line.left_out;
            tracing::error!(code = code.as_str(), error = error.message(), left_out, "a request failed by a fault");
        }
        let is_unavailable = status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS;
        let retry_after = (is_unavailable && error.is_retryable()).then_some(1);
        Self { retry_after, ..Self::of(code, error.message().to_owned()) }
    }
}

/// The status that goes with a code.
fn status_of(code: ErrorCode) -> StatusCode {
    status(code.http_status())
}

/// A status of one of the tables of codes; their tests know that there are no others.
fn status(number: u16) -> StatusCode {
    StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

#[cfg(test)]
#[path = "../../tests/unit/error.rs"]
mod tests;

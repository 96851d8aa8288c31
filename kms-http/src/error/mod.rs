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

/// Limits the log lines about faults, by error code.
static FAULTS: Lines = Lines::new();

/// An error as it is returned to callers.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// The HTTP status of the response.
    pub status: StatusCode,
    /// The stable name of the error, for programs: that of an [`ErrorCode`] or a [`ServiceCode`].
    pub code: &'static str,
    /// The message for people. Its wording may change.
    pub message: Cow<'static, str>,
    /// The value of `Retry-After`, in seconds, if a retry may succeed.
    pub retry_after: Option<u32>,
}

/// The body of every error response.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Error)]
pub struct ErrorBody<'a> {
    /// The message for people. Its wording may change.
    error: &'a str,
    /// The stable name of the error, for programs.
    code: &'a str,
    /// The id of the request, as in the logs.
    request_id: &'a str,
}

impl ApiError {
    /// An error with this status, code and message.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, message: message.into(), retry_after: None }
    }
    /// An error with a code of the HTTP service.
    fn own(code: &ServiceCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(status(code.status), code.name, message)
    }
    /// An error with a code of `kms-lib`, and its status.
    pub fn of(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(status_of(code), code.as_str(), message)
    }
    /// `InvalidArgument`: malformed input.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::of(ErrorCode::InvalidArgument, message)
    }
    /// `Internal`: a fault in this software.
    pub fn internal(message: &'static str) -> Self {
        Self::of(ErrorCode::Internal, message)
    }
    /// `NotAuthenticated`. The message is always the same, so that it does not reveal why a credential was refused.
    pub fn not_authenticated() -> Self {
        Self::of(ErrorCode::NotAuthenticated, "the request has no valid credential")
    }
    /// `AccessDenied`: a web page of another site made a browser send the request.
    pub fn cross_site() -> Self {
        let message = "a web page of another site sent this request; to allow it, add its origin to http.cors_origins";
        Self::of(ErrorCode::AccessDenied, message)
    }
    /// `NotFound`: the path matches no route.
    pub fn no_route() -> Self {
        Self::own(&ServiceCode::NOT_FOUND, "the route does not exist; /openapi.json lists all routes")
    }
    /// `MethodNotAllowed`: the route does not support the method.
    pub fn no_method() -> Self {
        Self::own(&ServiceCode::METHOD_NOT_ALLOWED, "the route does not support the method")
    }
    /// `PayloadTooLarge`: the body is larger than `limit` bytes.
    pub fn too_large(limit: usize) -> Self {
        Self::own(&ServiceCode::PAYLOAD_TOO_LARGE, format!("the body is larger than the limit of {limit} bytes"))
    }
    /// `UnsupportedMediaType`: the content type or encoding of the body is not supported.
    pub fn unsupported(message: &'static str) -> Self {
        Self::own(&ServiceCode::UNSUPPORTED_MEDIA_TYPE, message)
    }
    /// `RequestTimeout`: the body took too long to arrive.
    pub fn slow_body() -> Self {
        Self::own(&ServiceCode::REQUEST_TIMEOUT, "the body took too long to arrive")
    }
    /// `InvalidArgument`: the body is incomplete or has invalid framing.
    pub fn broken_body() -> Self {
        Self::invalid("the body ended before its announced length, or its framing is invalid")
    }
    /// `CallerOverloaded` or `Overloaded`: too many requests in progress, of this caller or in the whole service.
    pub fn overloaded(is_own_excess: bool) -> Self {
        let (code, message) = match is_own_excess {
            true => (
                ErrorCode::CallerOverloaded,
                "too many requests of this caller are in progress; nothing was done, retry later",
            ),
            false => (ErrorCode::Overloaded, "too many requests are in progress; nothing was done, retry later"),
        };
        Self { retry_after: Some(1), ..Self::of(code, message) }
    }
    /// `RateLimited`: the principal exceeds its request rate. `seconds` is the time until it may retry.
    pub fn rate_limited(seconds: u32) -> Self {
        let message = "this caller sends too many requests per second; nothing was done, retry later";
        Self { retry_after: Some(seconds), ..Self::own(&ServiceCode::RATE_LIMITED, message) }
    }
    /// `RateLimited`: the network sends too many invalid credentials. `seconds` is the time until it may retry.
    pub fn too_many_failures(seconds: u32) -> Self {
        let message = "too many invalid credentials came from this network; nothing was done, retry later";
        Self { retry_after: Some(seconds), ..Self::own(&ServiceCode::RATE_LIMITED, message) }
    }
    /// `IssuerUnavailable`: the issuer of the caller's token cannot be reached.
    pub fn issuer_unavailable(message: Cow<'static, str>) -> Self {
        Self { retry_after: Some(5), ..Self::own(&ServiceCode::ISSUER_UNAVAILABLE, message) }
    }
    /// `Timeout`: the request timed out before anything was submitted.
    pub fn timed_out() -> Self {
        let message = "the request timed out; nothing was done, retry later";
        Self { retry_after: Some(1), ..Self::own(&ServiceCode::TIMEOUT, message) }
    }
    /// `OutcomeUnknown`: the request timed out after a change was submitted, which may still take effect.
    pub fn outcome_unknown() -> Self {
        let message =
            "the request timed out; it may have taken effect or may still do so, so check before repeating it";
        Self::of(ErrorCode::OutcomeUnknown, message)
    }

    /// Sets `Retry-After` of an unknown outcome: only a request with an idempotency key is safe to repeat.
    #[must_use]
    pub fn for_request(mut self, has_idempotency_key: bool) -> Self {
        if self.code == ErrorCode::OutcomeUnknown.as_str() {
            self.retry_after = has_idempotency_key.then_some(1);
        }
        self
    }

    /// The HTTP response, with the id of the request.
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
            tracing::error!(
                code = code.as_str(),
                error = error.message(),
                left_out,
                "a request failed because of a fault"
            );
        }
        let is_unavailable = status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS;
        let retry_after = (is_unavailable && error.is_retryable()).then_some(1);
        Self { retry_after, ..Self::of(code, error.message().to_owned()) }
    }
}

/// The HTTP status of an error code.
fn status_of(code: ErrorCode) -> StatusCode {
    status(code.http_status())
}

/// Converts a status number from the tables of codes, which tests check to be valid.
fn status(number: u16) -> StatusCode {
    StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

#[cfg(test)]
#[path = "../../tests/unit/error.rs"]
mod tests;

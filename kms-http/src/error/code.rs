//! The codes of errors that only the HTTP service has. All others are [`kms_lib::ErrorCode`]s.

/// An error code of the service itself, with what `docs/errors.md` says of it.
#[derive(Debug, PartialEq, Eq)]
pub struct ServiceCode {
    /// The name in the body of the answer.
    pub name: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// Whether the same request may succeed when it is simply sent again, after a short wait.
    pub is_retryable: bool,
    /// What it means.
    pub meaning: &'static str,
    /// What the caller or the operator can do about it.
    pub advice: &'static str,
}

impl ServiceCode {
    /// Every code of the service itself, by status.
    pub const ALL: [&'static Self; 8] = [
        &Self::NOT_FOUND,
        &Self::METHOD_NOT_ALLOWED,
        &Self::REQUEST_TIMEOUT,
        &Self::PAYLOAD_TOO_LARGE,
        &Self::UNSUPPORTED_MEDIA_TYPE,
        &Self::RATE_LIMITED,
        &Self::ISSUER_UNAVAILABLE,
        &Self::TIMEOUT,
    ];
    /// There is no such route.
    pub const NOT_FOUND: Self = Self {
        name: "NotFound",
        status: 404,
        is_retryable: false,
        meaning: "There is no such route.",
        advice: "Check the path; `/openapi.json` lists all routes.",
    };
    /// The route does not take this method.
    pub const METHOD_NOT_ALLOWED: Self = Self {
        name: "MethodNotAllowed",
        status: 405,
        is_retryable: false,
        meaning: "The route does not take this method.",
        advice: "Check the method; `/openapi.json` lists all routes.",
    };
    /// The body arrived too slowly.
    pub const REQUEST_TIMEOUT: Self = Self {
        name: "RequestTimeout",
        status: 408,
        is_retryable: true,
        meaning: "The body took too long to arrive. Nothing was done.",
        advice: "Send the body without pauses.",
    };
    /// The body is over the limit.
    pub const PAYLOAD_TOO_LARGE: Self = Self {
        name: "PayloadTooLarge",
        status: 413,
        is_retryable: false,
        meaning: "The body is over the limit.",
        advice: "Send less at a time, or raise `http.body_limit_kib`.",
    };
    /// The content type or encoding is not supported.
    pub const UNSUPPORTED_MEDIA_TYPE: Self = Self {
        name: "UnsupportedMediaType",
        status: 415,
        is_retryable: false,
        meaning: "The content type or content encoding of the body is not supported.",
        advice: "Send JSON in UTF-8, uncompressed.",
    };
    /// The caller sends more requests a second than allowed.
    pub const RATE_LIMITED: Self = Self {
        name: "RateLimited",
        status: 429,
        is_retryable: true,
        meaning: "The caller sends more requests per second than it may, or its address more invalid credentials. Nothing \
                  was done.",
        advice: "Wait as long as `Retry-After` says.",
    };
    /// The issuer of tokens cannot be reached.
    pub const ISSUER_UNAVAILABLE: Self = Self {
        name: "IssuerUnavailable",
        status: 503,
        is_retryable: true,
        meaning: "The OpenID Connect issuer cannot be reached, so callers with its tokens are not recognized.",
        advice: "Check the network between the service and the issuer.",
    };
    /// The request ran out of time before anything was submitted.
    pub const TIMEOUT: Self = Self {
        name: "Timeout",
        status: 504,
        is_retryable: true,
        meaning: "The request ran out of time before anything was submitted. Nothing was done.",
        advice: "Retry later.",
    };
}

//! Error codes that only the HTTP service uses. All others are [`kms_lib::ErrorCode`]s.

/// An error code of the HTTP service, with its texts in `docs/errors.md`.
#[derive(Debug, PartialEq, Eq)]
pub struct ServiceCode {
    /// The value of `code` in the body of the response.
    pub name: &'static str,
    /// The HTTP status of responses with this code.
    pub status: u16,
    /// Whether the unchanged request may succeed after a short wait.
    pub is_retryable: bool,
    /// The meaning of the error.
    pub meaning: &'static str,
    /// Advice for the caller or the operator.
    pub advice: &'static str,
}

impl ServiceCode {
    /// All codes, ordered by status.
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
    /// The route does not exist.
    pub const NOT_FOUND: Self = Self {
        name: "NotFound",
        status: 404,
        is_retryable: false,
        meaning: "The route does not exist.",
        advice: "Check the path; `/openapi.json` lists all routes.",
    };
    /// The route does not support the method.
    pub const METHOD_NOT_ALLOWED: Self = Self {
        name: "MethodNotAllowed",
        status: 405,
        is_retryable: false,
        meaning: "The route does not support the method.",
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
    /// The body is larger than the limit.
    pub const PAYLOAD_TOO_LARGE: Self = Self {
        name: "PayloadTooLarge",
        status: 413,
        is_retryable: false,
        meaning: "The body is larger than the limit.",
        advice: "Send smaller requests, or raise `http.body_limit_kib`.",
    };
    /// The content type or encoding is not supported.
    pub const UNSUPPORTED_MEDIA_TYPE: Self = Self {
        name: "UnsupportedMediaType",
        status: 415,
        is_retryable: false,
        meaning: "The content type or content encoding of the body is not supported.",
        advice: "Send JSON in UTF-8, uncompressed.",
    };
    /// The caller exceeds its request rate, or its network its rate of invalid credentials.
    pub const RATE_LIMITED: Self = Self {
        name: "RateLimited",
        status: 429,
        is_retryable: true,
        meaning: "The caller sends too many requests per second, or its network too many invalid credentials. Nothing \
                  was done.",
        advice: "Wait for the number of seconds in `Retry-After`.",
    };
    /// The OpenID Connect issuer cannot be reached.
    pub const ISSUER_UNAVAILABLE: Self = Self {
        name: "IssuerUnavailable",
        status: 503,
        is_retryable: true,
        meaning: "The OpenID Connect issuer cannot be reached, so its tokens cannot be verified.",
        advice: "Check the network between the service and the issuer.",
    };
    /// The request timed out before anything was submitted.
    pub const TIMEOUT: Self = Self {
        name: "Timeout",
        status: 504,
        is_retryable: true,
        meaning: "The request timed out before anything was submitted. Nothing was done.",
        advice: "Retry later.",
    };
}

//! The security headers of every response, and access to request headers that may occur only once.

use std::sync::LazyLock;

use axum::http::HeaderMap;
use axum::http::header::{self, AsHeaderName, HeaderName, HeaderValue};

use super::X_REQUEST_ID;

/// The headers that helmet 8 sets, and `cache-control`.
static SECURITY: [(HeaderName, HeaderValue); 13] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'self';base-uri 'self';font-src 'self' https: data:;form-action 'self';frame-ancestors 'self';\
             img-src 'self' data:;object-src 'none';script-src 'self';script-src-attr 'none';\
             style-src 'self' https: 'unsafe-inline';upgrade-insecure-requests",
        ),
    ),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("origin-agent-cluster"), HeaderValue::from_static("?1")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000; includeSubDomains")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_DNS_PREFETCH_CONTROL, HeaderValue::from_static("off")),
    (HeaderName::from_static("x-download-options"), HeaderValue::from_static("noopen")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("SAMEORIGIN")),
    (HeaderName::from_static("x-permitted-cross-domain-policies"), HeaderValue::from_static("none")),
    (header::X_XSS_PROTECTION, HeaderValue::from_static("0")),
    // Responses contain plaintexts and keys, which no cache may store.
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// Error: a header occurs more than once where exactly one value is expected.
pub struct Several;

/// The only value of a header, if it was sent. Repeated headers are an error, because a proxy might use one value and
/// this service another.
pub fn single(headers: &HeaderMap, name: impl AsHeaderName) -> Result<Option<&HeaderValue>, Several> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    if values.next().is_some() { Err(Several) } else { Ok(value) }
}

/// The headers of most responses, as a map that is copied: inserting each of them would cost several times as much. The
/// request id is replaced by that of the request; its place is here so that the copy need not grow.
static COMMON: LazyLock<HeaderMap> = LazyLock::new(|| {
    let mut headers = HeaderMap::with_capacity(SECURITY.len() + 3);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_REQUEST_ID, HeaderValue::from_static(""));
    secure(&mut headers);
    headers
});

/// The headers of a response with JSON.
pub fn of_json() -> HeaderMap {
    COMMON.clone()
}

/// Adds the security headers; headers that the response has already set are kept.
pub fn secure(headers: &mut HeaderMap) {
    // Responses with this header began with a copy of all of them.
    if headers.contains_key(header::X_XSS_PROTECTION) {
        return;
    }
    for (name, value) in &SECURITY {
        if let header::Entry::Vacant(place) = headers.entry(name) {
            place.insert(value.clone());
        }
    }
}

#[cfg(test)]
#[path = "../../tests/unit/headers.rs"]
mod tests;

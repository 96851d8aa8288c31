//! Headers that every answer carries: the ones that helmet sets, and CORS if it is configured.

use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;

/// What helmet 8 sets.
const SECURITY: [(HeaderName, HeaderValue); 13] = [
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
    // Answers hold plaintexts and keys: nothing between here and the caller is to keep them.
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// Headers with room for those that every answer carries, so that they need not grow.
pub fn roomy() -> HeaderMap {
    HeaderMap::with_capacity(SECURITY.len() + 6)
}

/// Adds the security headers; what an answer has set for itself stays.
pub fn secure(headers: &mut HeaderMap) {
    for (name, value) in &SECURITY {
        if let header::Entry::Vacant(place) = headers.entry(name) {
            place.insert(value.clone());
        }
    }
}

/// Who may call from a browser.
pub struct Cors {
    origins: Vec<String>,
}

impl Cors {
    /// These origins may; `*` lets all.
    pub fn new(origins: &[String]) -> Option<Self> {
        (!origins.is_empty()).then(|| Self { origins: origins.to_vec() })
    }

    fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        let all = self.origins.iter().any(|allowed| allowed == "*");
        if all {
            return Some(HeaderValue::from_static("*"));
        }
        self.origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()).then(|| origin.clone())
    }

    /// Answers a browser that asks beforehand; none if it is no such question.
    pub fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response> {
        if method != Method::OPTIONS || !headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let mut response = Response::default();
        *response.status_mut() = StatusCode::NO_CONTENT;
        let answer = response.headers_mut();
        self.allow(headers, answer);
        if answer.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
            let methods = HeaderValue::from_static("GET, POST, PATCH, DELETE");
            answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
            let names = "authorization, content-type, idempotency-key, x-request-id, x-principal, x-role";
            answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(names));
            answer.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        }
        Some(response)
    }

    /// Lets the page that asked read the answer, if its origin may.
    pub fn allow(&self, request: &HeaderMap, answer: &mut HeaderMap) {
        // Also when it may not: caches must not give one origin's answer to another.
        answer.append(header::VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = self.allowed(request) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            let names = HeaderValue::from_static("x-request-id, x-next-cursor, retry-after");
            answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, names);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(origin: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        headers.insert(header::ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("POST"));
        headers
    }

    #[test]
    fn only_configured_origins_are_let_in() {
        let cors = Cors::new(&["https://console.example".into()]).expect("configured");
        let good = cors.preflight(&Method::OPTIONS, &asked("https://console.example")).expect("a preflight");
        assert_eq!(good.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://console.example");
        let bad = cors.preflight(&Method::OPTIONS, &asked("https://console.example.evil")).expect("a preflight");
        assert!(!bad.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
        assert!(cors.preflight(&Method::POST, &asked("https://console.example")).is_none());
        assert!(Cors::new(&[]).is_none(), "off unless configured");
    }
}

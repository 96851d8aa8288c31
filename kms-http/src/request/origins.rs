//! Browsers: pages of which origins may call (CORS), and requests that a page of another site made a browser send.

use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;

use super::headers::single;

/// Fetch Metadata: how the site of the page relates to this service. Scripts cannot set it.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The origins that the settings name.
pub struct Origins {
    cors: Vec<String>,
    /// Under which names browsers know this service, where a proxy changes `Host`.
    public: Vec<String>,
    /// The service itself speaks TLS, so that a page without TLS is another origin.
    is_secure: bool,
}

impl Origins {
    /// Pages of the origins in `cors` may call, `*` for all; `public` are this service's own origins behind a proxy.
    pub fn new(cors: &[String], public: &[String], is_secure: bool) -> Self {
        Self { cors: cors.to_vec(), public: public.to_vec(), is_secure }
    }

    /// Whether a page of another site made a browser send this request, with the browser's client certificate or its
    /// session at a proxy. GET, HEAD and OPTIONS change nothing; without a browser neither header is sent.
    pub fn is_cross_site(&self, method: &Method, headers: &HeaderMap, host: Option<&Authority>) -> bool {
        if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
            return false;
        }
        let Ok(origin) = single(headers, header::ORIGIN) else { return true };
        if origin.is_some_and(|origin| self.is_allowed(origin)) {
            return false;
        }
        if headers.contains_key(SEC_FETCH_SITE) {
            return headers.get_all(SEC_FETCH_SITE).iter().any(|site| site != "same-origin" && site != "none");
        }
        origin.is_some_and(|origin| !self.is_own(origin, host))
    }

    fn is_allowed(&self, origin: &HeaderValue) -> bool {
        self.cors.iter().any(|allowed| allowed == "*" || allowed.as_bytes() == origin.as_bytes())
    }

    /// Whether an origin is this service, by the host that the request names or by the settings.
    fn is_own(&self, origin: &HeaderValue, host: Option<&Authority>) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        if self.public.iter().any(|public| public == origin) {
            return true;
        }
        let (default_port, authority) = match origin.split_once("://") {
            Some(("https", authority)) => (443, authority),
            Some(("http", authority)) if !self.is_secure => (80, authority),
            _ => return false,
        };
        // An origin has no user in it, which an authority may have.
        let (Ok(authority), Some(host), false) = (authority.parse::<Authority>(), host, authority.contains('@')) else {
            return false;
        };
        authority.host().eq_ignore_ascii_case(host.host())
            && authority.port_u16().unwrap_or(default_port) == host.port_u16().unwrap_or(default_port)
    }

    /// The answer to a preflight request; none if it is no such request or no origin may call.
    pub fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response> {
        let is_preflight = method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if self.cors.is_empty() || !is_preflight {
            return None;
        }
        let mut response = Response::default();
        *response.status_mut() = StatusCode::NO_CONTENT;
        let answer = response.headers_mut();
        if headers.get(header::ORIGIN).is_some_and(|origin| self.is_allowed(origin)) {
            let methods = HeaderValue::from_static("GET, POST, PATCH, DELETE");
            answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
            let names = "authorization, content-type, idempotency-key, x-request-id, x-principal, x-role";
            answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(names));
            answer.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        }
        Some(response)
    }

    /// Whether answers depend on the origin of the page that asks.
    pub fn is_open(&self) -> bool {
        !self.cors.is_empty()
    }

    /// Lets the page that asked read the answer, if its origin may call.
    pub fn allow(&self, origin: Option<HeaderValue>, answer: &mut HeaderMap) {
        // For every origin: caches must not give one origin's answer to another.
        answer.append(header::VARY, HeaderValue::from_static("origin"));
        let Some(origin) = origin.filter(|origin| self.is_allowed(origin)) else { return };
        let all = self.cors.iter().any(|allowed| allowed == "*");
        let origin = if all { HeaderValue::from_static("*") } else { origin };
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let names = HeaderValue::from_static("x-request-id, x-next-cursor, retry-after");
        answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, names);
    }
}

#[cfg(test)]
#[path = "../../tests/unit/origins.rs"]
mod tests;

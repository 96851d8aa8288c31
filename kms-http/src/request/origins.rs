//! Browser requests: the origins whose pages may call this service (CORS), and protection against cross-site requests.

use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;

use super::headers::single;

/// Fetch Metadata: the relationship between the page's site and this service. Scripts cannot set this header.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The configured origins and the checks of browser requests against them.
pub struct Origins {
    cors: Vec<String>,
    /// The service's own origins as browsers see them, for proxies that change `Host`.
    public: Vec<String>,
    /// Whether the service itself uses TLS; if so, an `http` origin is a different origin.
    is_secure: bool,
}

impl Origins {
    /// `cors` lists the origins whose pages may call this service (`*` for all); `public` lists this service's own
    /// origins in front of a proxy.
    pub fn new(cors: &[String], public: &[String], is_secure: bool) -> Self {
        Self { cors: cors.to_vec(), public: public.to_vec(), is_secure }
    }

    /// Whether a page of another site caused a browser to send this request, with the browser's client certificate or
    /// its session at a proxy. GET, HEAD and OPTIONS change nothing and always pass. Clients other than browsers send
    /// neither `Sec-Fetch-Site` nor `Origin`.
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

    /// Whether an origin is this service's own, according to the requested host or the settings.
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
        // An origin has no user information, but an authority may have.
        let (Ok(authority), Some(host), false) = (authority.parse::<Authority>(), host, authority.contains('@')) else {
            return false;
        };
        authority.host().eq_ignore_ascii_case(host.host())
            && authority.port_u16().unwrap_or(default_port) == host.port_u16().unwrap_or(default_port)
    }

    /// The response to a preflight request, or `None` if this is not a preflight request or CORS is not configured.
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

    /// Whether CORS is configured, so that responses depend on the origin of the calling page.
    pub fn is_open(&self) -> bool {
        !self.cors.is_empty()
    }

    /// Adds the CORS headers that let the calling page read the response, if its origin is allowed.
    pub fn allow(&self, origin: Option<HeaderValue>, answer: &mut HeaderMap) {
        // `Vary` is set for allowed and other origins, so that no cache serves one origin's response to another.
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

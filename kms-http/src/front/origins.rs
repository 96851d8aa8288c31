//! Browsers: pages of which origins may call (CORS), and requests that a page of another site made a browser send.

use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;

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
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let origin = origins.next();
        if origins.next().is_some() {
            return true;
        }
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
        let (Ok(authority), Some(host)) = (authority.parse::<Authority>(), host) else { return false };
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
mod tests {
    use super::*;

    const HOST: &str = "kms.example:8443";
    const CONSOLE: &str = "https://console.example";

    fn is_refused(origins: &Origins, method: &Method, site: Option<&str>, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(site) = site {
            headers.insert(SEC_FETCH_SITE, HeaderValue::from_str(site).expect("a header"));
        }
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_str(origin).expect("a header"));
        }
        origins.is_cross_site(method, &headers, Some(&HOST.parse().expect("an authority")))
    }

    #[test]
    fn origins_are_this_service_or_another() {
        let origins = Origins::new(&[CONSOLE.into()], &["https://public.example".into()], true);
        let plain = Origins::new(&[], &[], false);
        for (origin, is_own, is_own_without_tls) in [
            ("https://kms.example:8443", true, true),
            ("https://KMS.example:8443", true, true),
            ("http://kms.example:8443", false, true),
            ("https://kms.example", false, false),
            ("https://kms.example:8443.evil", false, false),
            ("https://evil.kms.example:8443", false, false),
            ("https://user@kms.example:8443", false, false),
            ("https://public.example", true, false),
            ("https://public.example:443", false, false),
            ("null", false, false),
            ("", false, false),
            (CONSOLE, true, false),
            ("https://console.example.evil", false, false),
        ] {
            assert_eq!(is_refused(&origins, &Method::POST, None, Some(origin)), !is_own, "{origin}");
            assert_eq!(is_refused(&plain, &Method::POST, None, Some(origin)), !is_own_without_tls, "{origin}");
        }
        let default_port = |host: &str, origin: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            origins.is_cross_site(&Method::DELETE, &headers, Some(&host.parse().expect("an authority")))
        };
        assert!(!default_port("kms.example:443", "https://kms.example"));
        assert!(!default_port("kms.example", "https://kms.example"));
        assert!(default_port("kms.example:444", "https://kms.example"));
    }

    #[test]
    fn what_the_browser_says_of_the_site_goes_ahead_of_the_origin() {
        let origins = Origins::new(&[CONSOLE.into()], &[], true);
        for (site, origin, refused) in [
            ("same-origin", None, false),
            ("none", None, false),
            ("same-site", Some("https://kms.example:8443"), true),
            ("cross-site", Some("https://kms.example:8443"), true),
            ("cross-site", Some(CONSOLE), false),
            ("cross-site", None, true),
            ("", None, true),
            ("same-origin", Some("https://evil.example"), false),
        ] {
            assert_eq!(is_refused(&origins, &Method::POST, Some(site), origin), refused, "{site} {origin:?}");
            assert!(!is_refused(&origins, &Method::GET, Some(site), origin));
        }
        let mut two = HeaderMap::new();
        two.append(header::ORIGIN, HeaderValue::from_static(CONSOLE));
        two.append(header::ORIGIN, HeaderValue::from_static("https://evil.example"));
        assert!(origins.is_cross_site(&Method::POST, &two, None));
        let all = Origins::new(&["*".into()], &[], true);
        assert!(!is_refused(&all, &Method::POST, Some("cross-site"), Some("null")));
    }
}

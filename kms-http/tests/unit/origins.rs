//! Unit tests of `src/request/origins.rs`.

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
fn an_origin_is_this_service_or_another() {
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
fn sec_fetch_site_takes_precedence_over_the_origin() {
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

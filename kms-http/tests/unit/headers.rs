//! Unit tests of `src/request/headers.rs`: the headers of every response.

#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn copied_and_inserted_headers_are_the_same() {
    let (mut copied, mut inserted) = (of_json(), HeaderMap::new());
    secure(&mut copied);
    secure(&mut inserted);
    for (name, value) in &SECURITY {
        assert_eq!(copied.get_all(name).iter().collect::<Vec<_>>(), [value]);
        assert_eq!(inserted.get_all(name).iter().collect::<Vec<_>>(), [value]);
    }
    assert_eq!(inserted.len(), SECURITY.len());
    // The content type, and the place of the request id.
    assert_eq!(copied.len(), SECURITY.len() + 2);
    assert_eq!(copied.get(header::CONTENT_TYPE).unwrap(), "application/json");
}

#[test]
fn headers_that_a_response_has_set_are_kept() {
    for mut headers in [of_json(), HeaderMap::new()] {
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'"));
        secure(&mut headers);
        assert_eq!(headers.get_all(header::CONTENT_SECURITY_POLICY).iter().count(), 1);
        assert_eq!(headers.get(header::CONTENT_SECURITY_POLICY).unwrap(), "default-src 'none'");
        assert_eq!(headers.get(header::CACHE_CONTROL).unwrap(), "no-store");
    }
}

//! Unit tests of `src/request/mod.rs`.

use super::*;

#[test]
fn invalid_request_ids_are_replaced() {
    for (sent, kept) in [("abc-1", true), ("a b", false), ("", false), ("x\ty", false)] {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_str(sent).expect("a header"));
        assert_eq!(&*RequestContext::alone(&headers, Arc::default()).id == sent, kept, "{sent:?}");
    }
    let mut headers = HeaderMap::new();
    headers.insert(X_REQUEST_ID, HeaderValue::from_str(&"x".repeat(129)).expect("a header"));
    assert_eq!(RequestContext::alone(&headers, Arc::default()).id.len(), 36);
}

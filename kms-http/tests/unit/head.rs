//! Unit tests of `src/request/head.rs`.

use super::*;
use axum::http::Request;

/// A head whose parts share one buffer, as hyper makes it.
fn head(uri: &str, values: &[&str]) -> (Bytes, Parts) {
    let all = Bytes::from([&[uri], values].concat().concat());
    let mut from = uri.len();
    let mut part = |length: usize| {
        from += length;
        all.slice(from - length..from)
    };
    let mut request = Request::builder().uri(Uri::from_maybe_shared(all.slice(..uri.len())).expect("a URI"));
    for value in values {
        request = request.header("x-many", HeaderValue::from_maybe_shared(part(value.len())).expect("a value"));
    }
    (all.clone(), request.body(()).expect("a request").into_parts().0)
}

#[test]
fn a_detached_head_says_the_same_and_leaves_its_buffer() {
    let values = ["first", "", "Bearer \u{fc}ber", "x"];
    let uris = ["/", "/v1/keys?limit=1&x=%20", "http://host:80/v1/keys?x", "http://host", "host:80", "*"];
    for uri in uris {
        let (buffer, mut head) = head(uri, &values);
        let text = head.uri.to_string();
        detach(&mut head);
        assert!(buffer.is_unique(), "{uri}");
        assert_eq!(head.uri.to_string(), text);
        assert!(head.headers.get_all("x-many").iter().eq(values.iter().map(|value| value.as_bytes())), "{uri}");
    }
}

//! Unit tests of `src/request/trace_context.rs`.

use super::*;
use axum::http::HeaderValue;

#[test]
fn only_a_valid_traceparent_is_used() {
    let of = |values: &[&'static str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("traceparent", HeaderValue::from_static(value));
        }
        trace_id(&headers).map(str::to_owned)
    };
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert_eq!(of(&[good]).as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
    // A later version may have more fields.
    assert!(of(&["01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what"]).is_some());
    for bad in [
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f35-00f067aa0ba902b7-01",
        "",
    ] {
        assert_eq!(of(&[bad]), None, "{bad}");
    }
    assert_eq!(of(&[good, good]), None);
}

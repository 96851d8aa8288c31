//! Request heads in HTTP/1.1. hyper passes them on as parts of the buffer in which they arrived, and reads on in a new
//! one.

use axum::http::HeaderValue;
use axum::http::request::Parts;
use axum::http::uri::Uri;
use bytes::{Bytes, BytesMut};

/// Copies the head of a request out of the buffer in which it arrived, so that hyper uses that buffer again. Otherwise
/// a request that waits holds two of them, each much larger than most heads.
pub fn detach(head: &mut Parts) {
    let mut copies = BytesMut::with_capacity(head.headers.values().map(HeaderValue::len).sum());
    for value in head.headers.values_mut() {
        copies.extend_from_slice(value.as_bytes());
        // Always valid, like the value.
        if let Ok(copy) = HeaderValue::from_maybe_shared(copies.split().freeze()) {
            *value = copy;
        }
    }
    let copy = match (head.uri.scheme(), head.uri.authority(), head.uri.path_and_query()) {
        (None, None, Some(path)) => Bytes::copy_from_slice(path.as_str().as_bytes()),
        _ => Bytes::from(head.uri.to_string()),
    };
    if let Ok(copy) = Uri::from_maybe_shared(copy) {
        head.uri = copy;
    }
}

#[cfg(test)]
#[path = "../../tests/unit/head.rs"]
mod tests;

//! The trace that a request belongs to, as sent by the caller (W3C Trace Context).

use axum::http::HeaderMap;

/// The trace id of a `traceparent` header (version 00 or a later one), if there is exactly one and it is valid.
pub fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all("traceparent").iter();
    let (value, None) = (values.next()?.to_str().ok()?, values.next()) else { return None };
    let mut parts = value.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_shaped = is_hex(version, 2) && is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2);
    let is_known = version != "ff" && (version != "00" || parts.next().is_none());
    let is_set = |text: &str| text.bytes().any(|byte| byte != b'0');
    (is_shaped && is_known && is_set(trace) && is_set(parent)).then_some(trace)
}

#[cfg(test)]
#[path = "../../tests/unit/trace_context.rs"]
mod tests;

//! JSON of the administrative functions, with the field names of the HTTP interface.

use std::ffi::c_char;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::arguments;
use crate::buffer::mkms_buffer;
use crate::failure::{Failure, Outcome};
use crate::handle;
use kms_lib::{Error, ErrorCode, Zeroizing};

/// An initial capacity that is enough for the JSON of most results. A result that fits is never copied, which matters
/// for tokens.
const ROOM: usize = 4 * 1024;

/// Reads a request.
///
/// # Safety
/// As [`arguments::bytes`].
pub unsafe fn request<T: DeserializeOwned>(pointer: *const c_char, length: usize, name: &'static str) -> Outcome<T> {
    // SAFETY: as the caller promises.
    parse(unsafe { arguments::text(pointer, length, name) }?, name)
}

/// Reads an optional request: NULL means an object without fields.
///
/// # Safety
/// As [`arguments::bytes`].
pub unsafe fn optional<T: DeserializeOwned>(pointer: *const c_char, length: usize, name: &'static str) -> Outcome<T> {
    // SAFETY: as the caller promises.
    parse(unsafe { arguments::optional_text(pointer, length, name) }?.unwrap_or("{}"), name)
}

fn parse<T: DeserializeOwned>(text: &str, name: &str) -> Outcome<T> {
    // serde would read an array as the fields in their order.
    if !text.trim_start().starts_with('{') {
        return Err(Failure::invalid(format!("{name} is not a JSON object")));
    }
    serde_json::from_str(text).map_err(|e| Failure::invalid(format!("{name}: {e}")))
}

/// Serializes a result as JSON, into a buffer that belongs to the caller.
pub fn answer(value: &impl Serialize) -> Outcome<*mut mkms_buffer> {
    let mut text = Zeroizing::new(Vec::with_capacity(ROOM));
    serde_json::to_writer(&mut *text, value)
        .map_err(|e| Error::new(ErrorCode::Internal, format!("the result cannot be serialized as JSON: {e}")))?;
    Ok(handle::new(text))
}

/// Copies text into a buffer that belongs to the caller.
pub fn text(text: String) -> *mut mkms_buffer {
    crate::buffer::made(text.into_bytes())
}

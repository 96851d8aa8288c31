//! Administration takes and gives JSON: the field names are those of the HTTP interface.

use std::ffi::c_char;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::arguments;
use crate::buffer::mkms_buffer;
use crate::failure::{Failure, Outcome};
use crate::handle;
use kms_lib::{Error, ErrorCode, Zeroizing};

/// Room for the JSON of most answers. An answer that fits leaves no copies behind, which matters for tokens.
const ROOM: usize = 4 * 1024;

/// Reads a request.
///
/// # Safety
/// As [`arguments::bytes`].
pub unsafe fn request<T: DeserializeOwned>(pointer: *const c_char, length: usize, name: &'static str) -> Outcome<T> {
    // SAFETY: as the caller promises.
    parse(unsafe { arguments::text(pointer, length, name) }?, name)
}

/// Reads a request that may be left out: NULL stands for an object without fields.
///
/// # Safety
/// As [`arguments::bytes`].
pub unsafe fn optional<T: DeserializeOwned>(pointer: *const c_char, length: usize, name: &'static str) -> Outcome<T> {
    // SAFETY: as the caller promises.
    parse(unsafe { arguments::optional_text(pointer, length, name) }?.unwrap_or("{}"), name)
}

fn parse<T: DeserializeOwned>(text: &str, name: &str) -> Outcome<T> {
    // An array would be taken for the fields in their order.
    if !text.trim_start().starts_with('{') {
        return Err(Failure::invalid(format!("{name} is not a JSON object")));
    }
    serde_json::from_str(text).map_err(|e| Failure::invalid(format!("{name}: {e}")))
}

/// An answer as JSON, in a buffer that belongs to the caller.
pub fn answer(value: &impl Serialize) -> Outcome<*mut mkms_buffer> {
    let mut text = Zeroizing::new(Vec::with_capacity(ROOM));
    serde_json::to_writer(&mut *text, value)
        .map_err(|e| Error::new(ErrorCode::Internal, format!("the answer cannot be written as JSON: {e}")))?;
    Ok(handle::new(text))
}

/// Text, in a buffer that belongs to the caller.
pub fn text(text: String) -> *mut mkms_buffer {
    crate::buffer::made(text.into_bytes())
}

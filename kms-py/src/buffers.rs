//! Bytes of the caller: only `bytes`, which nobody can change, are borrowed; all others are copied first.

use std::ops::Deref;

use kms_lib::Zeroizing;
use kms_lib::limits::PLAINTEXT_BYTES;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::{Failure, Outcome, wrong_type};

/// The most that is copied: more than any input may have, so that the service sees that it is too long.
const COPIED: usize = PLAINTEXT_BYTES + 64 * 1_024;

/// Bytes that an operation reads.
pub enum Input {
    /// The caller's `bytes`, which outlive the call that reads them.
    Borrowed(&'static [u8]),
    /// A copy, which is wiped.
    Copied(Zeroizing<Vec<u8>>),
}

impl Deref for Input {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Copied(bytes) => bytes,
        }
    }
}

impl Input {
    /// The bytes of an argument of a synchronous call.
    ///
    /// # Safety
    /// The input is dropped before `value` is: it does not leave the call that `value` is an argument of.
    pub unsafe fn borrow(value: &Bound<'_, PyAny>, what: &str) -> Outcome<Self> {
        let Ok(bytes) = value.cast::<PyBytes>() else { return Self::copy(value, what) };
        let bytes: *const [u8] = bytes.as_bytes();
        // SAFETY: the caller promises that the object, which cannot change its bytes, lives longer than the input.
        Ok(Self::Borrowed(unsafe { &*bytes }))
    }

    /// A copy of the bytes of an argument.
    pub fn copy(value: &Bound<'_, PyAny>, what: &str) -> Outcome<Self> {
        if let Ok(bytes) = value.cast::<PyBytes>() {
            let bytes = bytes.as_bytes();
            return Ok(Self::Copied(Zeroizing::new(bytes[..bytes.len().min(COPIED)].to_vec())));
        }
        let buffer = exported(value, what)?;
        let length = buffer.len_bytes().min(COPIED);
        let mut copy = Zeroizing::new(Vec::with_capacity(length));
        // SAFETY: the buffer is contiguous and has at least so many bytes; they are copied with the GIL held.
        unsafe { std::ptr::copy_nonoverlapping(buffer.buf_ptr().cast_const().cast(), copy.as_mut_ptr(), length) };
        // SAFETY: so many have just been written.
        unsafe { copy.set_len(length) };
        buffer.release(value.py());
        Ok(Self::Copied(copy))
    }
}

/// A contiguous buffer of an argument.
fn exported(value: &Bound<'_, PyAny>, what: &str) -> Outcome<PyUntypedBuffer> {
    let buffer =
        PyUntypedBuffer::get(value).map_err(|error| match error.is_instance_of::<PyBufferError>(value.py()) {
            true => Failure::Python(error),
            false => match value.get_type().name() {
                Ok(kind) => wrong_type(format!("{what} must be bytes or another buffer, not {kind}")),
                Err(error) => Failure::Python(error),
            },
        })?;
    if !buffer.is_c_contiguous() {
        return Err(Failure::Python(PyBufferError::new_err(format!("{what} must be a contiguous buffer"))));
    }
    Ok(buffer)
}

/// A buffer that a result is written into. While it exists, the caller's object cannot be resized.
pub struct Output(PyUntypedBuffer);

impl Output {
    /// The buffer of an argument, if it has this much room.
    pub fn new(value: &Bound<'_, PyAny>, needed: usize) -> Outcome<Self> {
        let buffer = exported(value, "the buffer")?;
        if buffer.readonly() {
            return Err(Failure::Python(PyBufferError::new_err("the buffer cannot be written")));
        }
        if buffer.len_bytes() < needed {
            let text = format!("the buffer has room for {} bytes; {needed} are needed", buffer.len_bytes());
            return Err(Failure::Python(PyValueError::new_err(text)));
        }
        Ok(Self(buffer))
    }

    /// Writes the result to the beginning of the buffer, with the GIL held.
    pub fn write(self, py: Python<'_>, bytes: &[u8]) -> PyResult<usize> {
        if bytes.len() > self.0.len_bytes() {
            return Err(PyValueError::new_err("the buffer has too little room"));
        }
        // SAFETY: the buffer is contiguous, writable and long enough; it is memory of Python, the bytes are ours.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.buf_ptr().cast(), bytes.len()) };
        self.0.release(py);
        Ok(bytes.len())
    }
}

/// `bytes` of a result.
pub fn bytes(py: Python<'_>, bytes: &[u8]) -> Py<PyBytes> {
    PyBytes::new(py, bytes).unbind()
}

//! Bytes of the caller: only `bytes`, which are immutable, are borrowed; all other buffers are copied first.

use std::ffi::c_int;
use std::ops::Deref;

use kms_lib::Zeroizing;
use kms_lib::limits::PLAINTEXT_BYTES;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::{Failure, Outcome, wrong_type};

/// The maximum number of bytes that are copied: more than any input may have, so that the service notices that the
/// input is too long.
const COPIED: usize = PLAINTEXT_BYTES + 64 * 1_024;

/// The input bytes of an operation.
pub enum Input {
    /// The caller's `bytes`, which live longer than the call that reads them.
    Borrowed(&'static [u8]),
    /// A copy, which is wiped when it is dropped.
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
    /// Borrows or copies the bytes of an argument of a synchronous call.
    ///
    /// # Safety
    /// The input must be dropped before `value`: it must not leave the call that `value` is an argument of.
    pub unsafe fn borrow(value: &Bound<'_, PyAny>, what: &str) -> Outcome<Self> {
        let Ok(bytes) = value.cast::<PyBytes>() else { return Self::copy(value, what) };
        let bytes: *const [u8] = bytes.as_bytes();
        // SAFETY: the caller promises that the object, which cannot change its bytes, lives longer than the input.
        Ok(Self::Borrowed(unsafe { &*bytes }))
    }

    /// Copies the bytes of an argument.
    pub fn copy(value: &Bound<'_, PyAny>, what: &str) -> Outcome<Self> {
        if let Ok(bytes) = value.cast::<PyBytes>() {
            let bytes = bytes.as_bytes();
            return Ok(Self::Copied(Zeroizing::new(bytes[..bytes.len().min(COPIED)].to_vec())));
        }
        let buffer = Exported::get(value, ffi::PyBUF_SIMPLE, what)?;
        let length = buffer.len().min(COPIED);
        let mut copy = Zeroizing::new(Vec::with_capacity(length));
        // SAFETY: the buffer is contiguous and has at least `length` bytes; they are copied with the GIL held.
        unsafe { std::ptr::copy_nonoverlapping(buffer.start(), copy.as_mut_ptr(), length) };
        // SAFETY: this number of bytes has just been written.
        unsafe { copy.set_len(length) };
        Ok(Self::Copied(copy))
    }
}

/// A contiguous buffer of an argument. While it exists, Python does not resize the caller's object.
struct Exported(Box<ffi::Py_buffer>);

// SAFETY: the memory does not move until the buffer is released, which is done with the GIL held.
unsafe impl Send for Exported {}

impl Exported {
    /// Requests a buffer of this kind from the object: `PyBUF_SIMPLE` or `PyBUF_WRITABLE`, which are contiguous.
    fn get(value: &Bound<'_, PyAny>, flags: c_int, what: &str) -> Outcome<Self> {
        let mut view = Box::new(ffi::Py_buffer::new());
        // SAFETY: the object is alive, and the view can be written.
        if unsafe { ffi::PyObject_GetBuffer(value.as_ptr(), &raw mut *view, flags) } == 0 {
            return Ok(Self(view));
        }
        // The view was not filled, so there is nothing to release.
        let error = PyErr::fetch(value.py());
        if error.is_instance_of::<PyTypeError>(value.py()) {
            let kind = value.get_type().name()?;
            return Err(wrong_type(format!("{what} must be bytes or another buffer, not {kind}")));
        }
        Err(Failure::Python(error))
    }

    fn len(&self) -> usize {
        usize::try_from(self.0.len).unwrap_or_default()
    }

    fn start(&self) -> *mut u8 {
        self.0.buf.cast()
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        // While the interpreter is shutting down, the buffer is leaked.
        Python::try_attach(|_| {
            // SAFETY: the view was filled, and is released once.
            unsafe { ffi::PyBuffer_Release(&raw mut *self.0) };
        });
    }
}

/// A buffer of the caller for a result.
pub struct Output(Exported);

impl Output {
    /// The buffer of an argument, if it has at least this length.
    pub fn new(value: &Bound<'_, PyAny>, needed: usize) -> Outcome<Self> {
        let buffer = Exported::get(value, ffi::PyBUF_WRITABLE, "the buffer")?;
        if buffer.len() < needed {
            let text = format!("the buffer has room for {} bytes, but {needed} are needed", buffer.len());
            return Err(Failure::Python(PyValueError::new_err(text)));
        }
        Ok(Self(buffer))
    }

    /// Writes the result to the beginning of the buffer, with the GIL held.
    pub fn write(self, _: Python<'_>, bytes: &[u8]) -> PyResult<usize> {
        if bytes.len() > self.0.len() {
            return Err(PyValueError::new_err("the buffer is too small for the result"));
        }
        // SAFETY: the buffer is contiguous, writable and long enough; it is memory of Python, the bytes are ours.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.start(), bytes.len()) };
        Ok(bytes.len())
    }
}

/// Creates the `bytes` of a result.
pub fn bytes(py: Python<'_>, bytes: &[u8]) -> Py<PyBytes> {
    PyBytes::new(py, bytes).unbind()
}

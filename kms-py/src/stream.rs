//! Streams, piece by piece.

use std::sync::{Mutex, PoisonError};

use kms_lib::Zeroizing;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffers::{Input, bytes};
use crate::engine::Local;
use crate::errors::{Failure, Outcome, not_portable};
use crate::results::StreamSummary;

/// A stream that one thread at a time uses. It is taken out meanwhile, so that no thread waits with the GIL held.
struct Shared<T>(Local<Mutex<Option<T>>>);

impl<T: Send> Shared<T> {
    fn new(value: T) -> Self {
        Self(Local::new(Mutex::new(Some(value))))
    }

    fn take(&self) -> Outcome<T> {
        self.0.check()?;
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.ok_or_else(|| {
            let text = "the stream has ended, has failed, or is in use by another thread";
            Failure::Python(PyRuntimeError::new_err(text))
        })
    }

    fn put_back(&self, value: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    }
}

/// Encrypts a stream piece by piece. Without the output of ``finish``, decryption fails because the stream is
/// truncated.
#[pyclass(frozen, module = "mini_kms")]
pub struct StreamEncryptor(Shared<kms_lib::StreamEncryptor>);

impl StreamEncryptor {
    /// Creates the Python object for a result.
    pub fn object(py: Python<'_>, encryptor: kms_lib::StreamEncryptor) -> PyResult<Py<PyAny>> {
        Ok(Py::new(py, Self(Shared::new(encryptor)))?.into_any())
    }
}

#[pymethods]
impl StreamEncryptor {
    /// Takes plaintext of any length, and returns the ciphertext that is ready.
    fn update(&self, py: Python<'_>, plaintext: &Bound<'_, PyAny>) -> Outcome<Py<PyBytes>> {
        // SAFETY: the input is dropped in this call, and the caller holds the argument until it returns.
        let input = unsafe { Input::borrow(plaintext, "plaintext") }?;
        let mut encryptor = self.0.take()?;
        let mut out = Vec::new();
        py.detach(|| encryptor.update(&input, &mut out))?;
        self.0.put_back(encryptor);
        Ok(bytes(py, &out))
    }
    /// Ends the stream, and returns the rest of the ciphertext and a summary.
    fn finish(&self, py: Python<'_>) -> Outcome<(Py<PyBytes>, StreamSummary)> {
        let encryptor = self.0.take()?;
        let mut out = Vec::new();
        let summary = py.detach(|| encryptor.finish(&mut out))?;
        Ok((bytes(py, &out), StreamSummary::new(&summary)))
    }
    fn __reduce__(&self) -> PyResult<()> {
        Err(not_portable("StreamEncryptor"))
    }
}

/// Decrypts a stream piece by piece. The output is authentic, but it is complete only when ``finish`` succeeds.
#[pyclass(frozen, module = "mini_kms")]
pub struct StreamDecryptor(Shared<kms_lib::StreamDecryptor>);

impl StreamDecryptor {
    /// Creates the Python object for a result, with the number of consumed bytes of the beginning; None if more are
    /// needed.
    pub fn object(py: Python<'_>, begun: Option<(kms_lib::StreamDecryptor, usize)>) -> PyResult<Py<PyAny>> {
        let Some((decryptor, taken)) = begun else { return Ok(py.None()) };
        Ok((Py::new(py, Self(Shared::new(decryptor)))?, taken).into_pyobject(py)?.into_any().unbind())
    }
}

#[pymethods]
impl StreamDecryptor {
    /// Takes ciphertext of any length, and returns the plaintext that is ready.
    fn update(&self, py: Python<'_>, ciphertext: &Bound<'_, PyAny>) -> Outcome<Py<PyBytes>> {
        // SAFETY: the input is dropped in this call, and the caller holds the argument until it returns.
        let input = unsafe { Input::borrow(ciphertext, "ciphertext") }?;
        let mut decryptor = self.0.take()?;
        let mut out = Zeroizing::new(Vec::new());
        py.detach(|| decryptor.update(&input, &mut out))?;
        self.0.put_back(decryptor);
        Ok(bytes(py, &out))
    }
    /// Ends the stream, and returns the rest of the plaintext and a summary. An error means that the stream was
    /// truncated or altered.
    fn finish(&self, py: Python<'_>) -> Outcome<(Py<PyBytes>, StreamSummary)> {
        let decryptor = self.0.take()?;
        let mut out = Zeroizing::new(Vec::new());
        let summary = py.detach(|| decryptor.finish(&mut out))?;
        Ok((bytes(py, &out), StreamSummary::new(&summary)))
    }
    fn __reduce__(&self) -> PyResult<()> {
        Err(not_portable("StreamDecryptor"))
    }
}

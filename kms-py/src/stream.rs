//! Streams, piece by piece.

use std::sync::{Mutex, PoisonError};

use kms_lib::Zeroizing;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffers::{Input, bytes};
use crate::engine::Local;
use crate::errors::{Failure, Outcome};
use crate::kms::not_portable;
use crate::results::StreamSummary;

/// A stream that one thread at a time works with. It is taken out meanwhile, so that nobody waits with the GIL held.
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

/// Encrypts a stream piece by piece. Without ``finish``, decrypting refuses it as cut.
#[pyclass(frozen, module = "mini_kms")]
pub struct StreamEncryptor(Shared<kms_lib::StreamEncryptor>);

impl StreamEncryptor {
    /// The object of a result.
    pub fn object(py: Python<'_>, encryptor: kms_lib::StreamEncryptor) -> PyResult<Py<PyAny>> {
        Ok(Py::new(py, Self(Shared::new(encryptor)))?.into_any())
    }
}

#[pymethods]
impl StreamEncryptor {
    /// Takes plaintext of any length, and gives the ciphertext that is ready.
    fn update(&self, py: Python<'_>, plaintext: &Bound<'_, PyAny>) -> Outcome<Py<PyBytes>> {
        // SAFETY: the input is dropped in this call, and the caller holds the argument until it returns.
        let input = unsafe { Input::borrow(plaintext, "plaintext") }?;
        let mut encryptor = self.0.take()?;
        let mut out = Vec::new();
        py.detach(|| encryptor.update(&input, &mut out))?;
        self.0.put_back(encryptor);
        Ok(bytes(py, &out))
    }
    /// Ends the stream, and gives what is left of it.
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

/// Decrypts a stream piece by piece. Its output is genuine, but only ``finish`` shows that nothing is missing.
#[pyclass(frozen, module = "mini_kms")]
pub struct StreamDecryptor(Shared<kms_lib::StreamDecryptor>);

impl StreamDecryptor {
    /// The object of a result, and how many bytes of the beginning were taken; None if more are needed.
    pub fn object(py: Python<'_>, begun: Option<(kms_lib::StreamDecryptor, usize)>) -> PyResult<Py<PyAny>> {
        let Some((decryptor, taken)) = begun else { return Ok(py.None()) };
        Ok((Py::new(py, Self(Shared::new(decryptor)))?, taken).into_pyobject(py)?.into_any().unbind())
    }
}

#[pymethods]
impl StreamDecryptor {
    /// Takes ciphertext of any length, and gives the plaintext that is ready.
    fn update(&self, py: Python<'_>, ciphertext: &Bound<'_, PyAny>) -> Outcome<Py<PyBytes>> {
        // SAFETY: the input is dropped in this call, and the caller holds the argument until it returns.
        let input = unsafe { Input::borrow(ciphertext, "ciphertext") }?;
        let mut decryptor = self.0.take()?;
        let mut out = Zeroizing::new(Vec::new());
        py.detach(|| decryptor.update(&input, &mut out))?;
        self.0.put_back(decryptor);
        Ok(bytes(py, &out))
    }
    /// Gives the rest. An error means that the stream was cut or altered.
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

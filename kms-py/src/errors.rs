//! Errors of the service as exceptions. The classes are in `mini_kms._errors`, one for each code.

use std::fmt::Display;

use kms_lib::{Error, ErrorCode};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// An error of the service or of the translation.
pub enum Failure {
    /// An error of the service, raised as `KmsError`.
    Kms(Error),
    /// An exception of Python, raised as it is.
    Python(PyErr),
}

/// The result of most functions of this crate.
pub type Outcome<T> = Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Kms(error)
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Self::Python(error)
    }
}

impl From<Failure> for PyErr {
    /// The caller holds the GIL: results of functions are converted before it is released.
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Kms(error) => Python::attach(|py| raised(py, &error)),
            Failure::Python(error) => error,
        }
    }
}

/// An argument that the service would refuse too.
pub fn invalid(message: impl Display) -> Failure {
    Failure::Kms(Error::invalid(message.to_string()))
}

/// An argument of the wrong type.
pub fn wrong_type(message: impl Display) -> Failure {
    Failure::Python(PyTypeError::new_err(message.to_string()))
}

/// The exception for pickling or copying a handle.
pub fn not_portable(kind: &str) -> PyErr {
    let text = format!("a {kind} can be neither pickled nor copied: open the service in the process that uses it");
    PyTypeError::new_err(text)
}

/// The Python function that creates exceptions. It is looked up when the module is imported, because imports fail while
/// the interpreter shuts down.
pub fn maker(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    MAKE.import(py, "mini_kms._errors", "make")
}

/// Creates the exception of an error.
pub fn exception<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyAny>> {
    maker(py)?.call1((error.code().as_str(), error.message()))
}

/// Creates the exception of an error as a `PyErr`.
pub fn raised(py: Python<'_>, error: &Error) -> PyErr {
    exception(py, error).map_or_else(|failed| failed, PyErr::from_value)
}

/// Returns every code of the service: the name, the number, whether a retry can help, and whether the service as a
/// whole is unusable.
#[pyfunction]
#[pyo3(name = "_error_codes")]
pub fn error_codes() -> Vec<(&'static str, u16, bool, bool)> {
    let row = |code: &ErrorCode| (code.as_str(), code.number(), code.is_retryable(), code.is_unusable_service());
    ErrorCode::ALL.iter().map(row).collect()
}

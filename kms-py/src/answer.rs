//! Results of administrative calls: JSON, which `mini_kms._reading` turns into data classes.

use kms_lib::{Error, ErrorCode, Zeroizing};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use serde::Serialize;

use crate::errors::raised;

/// Converts a result to its data class.
pub fn load<T: Serialize>(kind: &'static str) -> impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static {
    move |py, value| {
        static LOAD: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let text = serde_json::to_string(&value).map_err(|e| {
            raised(py, &Error::new(ErrorCode::Internal, format!("a result cannot be serialized as JSON: {e}")))
        })?;
        // The JSON may contain a token.
        let text = Zeroizing::new(text);
        Ok(LOAD.import(py, "mini_kms._reading", "load")?.call1((kind, text.as_str()))?.unbind())
    }
}

/// Converts text to a Python `str`.
pub fn text(py: Python<'_>, text: String) -> PyResult<Py<PyAny>> {
    Ok(text.into_pyobject(py)?.into_any().unbind())
}

/// Returns None, for operations without a result.
#[allow(clippy::unnecessary_wraps, reason = "one form for all results")]
pub fn nothing(py: Python<'_>, _: ()) -> PyResult<Py<PyAny>> {
    Ok(py.None())
}

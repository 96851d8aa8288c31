//! Results of administrative calls: JSON, from which `mini_kms._reading` makes data classes.

use kms_lib::{Error, ErrorCode, Zeroizing};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use serde::Serialize;

use crate::errors::raised;

/// Makes the data class of this kind of a result.
pub fn load<T: Serialize>(kind: &'static str) -> impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static {
    move |py, value| {
        static LOAD: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let text = serde_json::to_string(&value)
            .map_err(|e| raised(py, &Error::new(ErrorCode::Internal, format!("a result has no JSON form: {e}"))))?;
        // It may hold a token.
        let text = Zeroizing::new(text);
        Ok(LOAD.import(py, "mini_kms._reading", "load")?.call1((kind, text.as_str()))?.unbind())
    }
}

/// Makes a Python `str` of a text.
pub fn text(py: Python<'_>, text: String) -> PyResult<Py<PyAny>> {
    Ok(text.into_pyobject(py)?.into_any().unbind())
}

/// Gives None, for operations without a result.
#[allow(clippy::unnecessary_wraps, reason = "one form for all results")]
pub fn nothing(py: Python<'_>, _: ()) -> PyResult<Py<PyAny>> {
    Ok(py.None())
}

//! Data keys, whose plaintext can be wiped.

use std::ffi::{c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kms_lib::{KeyId, Zeroizing};
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffers::bytes;
use crate::errors::{Failure, Outcome, not_portable};
use crate::results::Receipt;

/// A plaintext, and the number of memoryviews of it that are alive.
struct Plaintext {
    bytes: Option<Zeroizing<Vec<u8>>>,
    views: usize,
}

/// A data key. The object is a read-only buffer of its plaintext: ``AESGCM(data_key)``, ``memoryview(data_key)``.
///
/// ``wipe``, and leaving a ``with`` block, overwrite the plaintext. That raises BufferError while a memoryview of it is
/// alive. A ``bytes`` copy cannot be wiped.
#[pyclass(frozen, module = "mini_kms")]
pub struct DataKey {
    plaintext: Mutex<Plaintext>,
    ciphertext: Py<PyBytes>,
    key: KeyId,
    version: u32,
    receipt: kms_lib::Receipt,
}

impl DataKey {
    /// Creates the Python object for a result.
    pub fn object(py: Python<'_>, done: kms_lib::DataKey) -> PyResult<Py<PyAny>> {
        let made = Self {
            plaintext: Mutex::new(Plaintext { bytes: done.plaintext, views: 0 }),
            ciphertext: bytes(py, &done.ciphertext),
            key: done.key,
            version: done.version,
            receipt: done.receipt,
        };
        Ok(Py::new(py, made)?.into_any())
    }

    fn plaintext(&self) -> MutexGuard<'_, Plaintext> {
        self.plaintext.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl DataKey {
    /// The encrypted data key: store it with the data.
    #[getter]
    fn ciphertext(&self, py: Python<'_>) -> Py<PyBytes> {
        self.ciphertext.clone_ref(py)
    }
    /// The id of the key.
    #[getter]
    fn key_id(&self) -> String {
        self.key.to_string()
    }
    /// The version of the key.
    #[getter]
    fn version(&self) -> u32 {
        self.version
    }
    /// The audit record of the operation.
    #[getter]
    fn receipt(&self) -> Receipt {
        Receipt::new(&self.receipt)
    }
    /// Whether the object has the plaintext: False if it was generated without it, and after ``wipe``.
    #[getter]
    fn has_plaintext(&self) -> bool {
        self.plaintext().bytes.is_some()
    }
    /// Overwrites the plaintext in memory.
    ///
    /// >>> data_key = alice.generate_data_key("users")
    /// >>> data_key.wipe()
    /// >>> data_key.has_plaintext
    /// False
    fn wipe(&self) -> Outcome<()> {
        let mut plaintext = self.plaintext();
        if plaintext.views > 0 {
            let text = "memoryviews of the data key are alive; release them before wiping it";
            return Err(Failure::Python(PyBufferError::new_err(text)));
        }
        plaintext.bytes = None;
        Ok(())
    }
    fn __len__(&self) -> usize {
        self.plaintext().bytes.as_ref().map_or(0, |bytes| bytes.len())
    }
    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }
    #[pyo3(signature = (kind, error, traceback, /))]
    fn __exit__(&self, kind: &Bound<'_, PyAny>, error: &Bound<'_, PyAny>, traceback: &Bound<'_, PyAny>) -> Outcome<()> {
        let _ = (kind, error, traceback);
        self.wipe()
    }
    /// Fills a view of the plaintext for Python.
    ///
    /// # Safety
    /// Python calls this with a view to be filled.
    unsafe fn __getbuffer__(this: &Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let key = this.get();
        let mut plaintext = key.plaintext();
        let Some(bytes) = &plaintext.bytes else {
            return Err(PyBufferError::new_err("the data key was wiped, or was generated without its plaintext"));
        };
        let (start, length) = (bytes.as_ptr().cast_mut().cast::<c_void>(), bytes.len());
        // SAFETY: the bytes do not move until the last view is released, and the view is read-only.
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, this.as_ptr(), start, length as ffi::Py_ssize_t, 1, flags) };
        if filled < 0 {
            return Err(PyErr::fetch(this.py()));
        }
        plaintext.views += 1;
        Ok(())
    }
    /// Releases a view.
    ///
    /// # Safety
    /// Python calls this once for each view.
    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        self.plaintext().views -= 1;
    }
    fn __reduce__(&self) -> PyResult<()> {
        Err(not_portable("DataKey"))
    }
    fn __repr__(&self) -> String {
        format!("DataKey(key_id='{}', version={}, receipt=Receipt(seq={}))", self.key, self.version, self.receipt.seq)
    }
}

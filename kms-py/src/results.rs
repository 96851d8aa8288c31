//! Results of cryptographic operations: frozen objects whose bytes become Python `bytes` when they are first read.

use std::sync::{Mutex, PoisonError};

use kms_lib::{KeyId, KeyType, Zeroizing};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use pyo3::{PyClass, PyClassInitializer, ffi};

use crate::buffers::{Input, bytes};
use crate::errors::Outcome;

/// The audit record of an operation.
///
/// ``seq`` is the sequence number of the record, or 0 if the record was accepted but is not yet written
/// (``audit_ack="queued"``).
#[pyclass(frozen, eq, hash, module = "mini_kms")]
#[derive(PartialEq, Eq, Hash)]
pub struct Receipt {
    seq: u64,
    digest: [u8; 32],
}

impl Receipt {
    /// Creates the Python object for a receipt.
    pub fn new(receipt: &kms_lib::Receipt) -> Self {
        Self { seq: receipt.seq, digest: receipt.hash }
    }
}

#[pymethods]
impl Receipt {
    /// The sequence number of the record.
    #[getter]
    fn seq(&self) -> u64 {
        self.seq
    }
    /// The hash of the record: 32 bytes.
    #[getter]
    fn hash(&self, py: Python<'_>) -> Py<PyBytes> {
        bytes(py, &self.digest)
    }
    fn __repr__(&self) -> String {
        format!("Receipt(seq={})", self.seq)
    }
}

/// Creates the object of a result that refers to `bytes` only. It cannot be part of a cycle, so the garbage collector
/// need not visit it: a batch makes a thousand, which would be visited several times.
fn untracked<T: PyClass + Into<PyClassInitializer<T>>>(py: Python<'_>, made: T) -> PyResult<Py<PyAny>> {
    let made = Py::new(py, made)?;
    // SAFETY: the object is alive, and its type supports garbage collection, as all native classes do.
    unsafe { ffi::PyObject_GC_UnTrack(made.as_ptr().cast()) };
    Ok(made.into_any())
}

/// The bytes of a result. They become a Python object when the program first reads them: a batch makes half as many
/// objects, and a plaintext that is never read is wiped.
struct Late<B>(Mutex<State<B>>);

enum State<B> {
    Ours(B),
    Python(Py<PyBytes>),
}

impl<B: AsRef<[u8]>> Late<B> {
    fn new(bytes: B) -> Self {
        Self(Mutex::new(State::Ours(bytes)))
    }

    /// The Python object, the same one every time.
    fn get(&self, py: Python<'_>) -> Py<PyBytes> {
        // No thread waits here: this one holds the GIL as long as it holds the lock.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Python(made) => made.clone_ref(py),
            State::Ours(ours) => {
                let made = bytes(py, ours.as_ref());
                *state = State::Python(made.clone_ref(py));
                made
            }
        }
    }
}

/// Defines a result class: the key, version and receipt of an operation, and its specific fields. The objects of a
/// batch use the memory of those before them, which saves a quarter of the time that an object takes.
macro_rules! operation {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty,)* } $($rest:item)*) => {
        $(#[$doc])*
        #[pyclass(frozen, freelist = 1_000, module = "mini_kms")]
        pub struct $name {
            key: KeyId,
            version: u32,
            receipt: kms_lib::Receipt,
            $($field: $kind,)*
        }

        #[pymethods]
        impl $name {
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
            fn __repr__(&self) -> String {
                let (name, key, version, seq) = (stringify!($name), self.key, self.version, self.receipt.seq);
                format!("{name}(key_id='{key}', version={version}, receipt=Receipt(seq={seq}))")
            }
        }
    };
}

operation! {
    /// The result of an encryption: the ciphertext, its key and version.
    Encrypted { ciphertext: Late<Vec<u8>>, key_type: KeyType, }
}

#[pymethods]
impl Encrypted {
    /// The ciphertext. It names its key and version.
    #[getter]
    fn ciphertext(&self, py: Python<'_>) -> Py<PyBytes> {
        self.ciphertext.get(py)
    }
    /// The type of the key.
    #[getter]
    fn key_type(&self) -> &'static str {
        self.key_type.as_str()
    }
}

impl Encrypted {
    /// Creates the Python object for a result.
    pub fn object(py: Python<'_>, done: kms_lib::Encrypted) -> PyResult<Py<PyAny>> {
        let made = Self {
            key: done.key,
            version: done.version,
            receipt: done.receipt,
            ciphertext: Late::new(done.ciphertext),
            key_type: done.key_type,
        };
        untracked(py, made)
    }
}

operation! {
    /// The result of a decryption: the plaintext, its key and version. ``bytes`` cannot be wiped: see
    /// ``Session.decrypt_into``.
    Decrypted { plaintext: Late<Zeroizing<Vec<u8>>>, }
}

#[pymethods]
impl Decrypted {
    /// The plaintext; ``repr`` does not show it.
    #[getter]
    fn plaintext(&self, py: Python<'_>) -> Py<PyBytes> {
        self.plaintext.get(py)
    }
}

impl Decrypted {
    /// Creates the Python object for a result.
    pub fn object(py: Python<'_>, done: kms_lib::Decrypted) -> PyResult<Py<PyAny>> {
        let plaintext = Late::new(done.plaintext);
        let made = Self { key: done.key, version: done.version, receipt: done.receipt, plaintext };
        untracked(py, made)
    }
}

operation! {
    /// The result of ``encrypt_into`` and ``decrypt_into``: ``length`` bytes at the beginning of the buffer.
    Written { length: usize, }
}

#[pymethods]
impl Written {
    /// The number of bytes that were written.
    #[getter]
    fn length(&self) -> usize {
        self.length
    }
}

impl Written {
    /// Creates the Python object for a result.
    pub fn object(
        py: Python<'_>,
        length: usize,
        (key, version, receipt): (KeyId, u32, kms_lib::Receipt),
    ) -> PyResult<Py<PyAny>> {
        untracked(py, Self { key, version, receipt, length })
    }
}

operation! {
    /// The result of signing: the signature, its key and version.
    Signature { signature: Late<Vec<u8>>, }
}

#[pymethods]
impl Signature {
    /// The signature.
    #[getter]
    fn signature(&self, py: Python<'_>) -> Py<PyBytes> {
        self.signature.get(py)
    }
}

impl Signature {
    /// Creates the Python object for a result.
    pub fn object(py: Python<'_>, done: kms_lib::Signature) -> PyResult<Py<PyAny>> {
        let signature = Late::new(done.signature);
        let made = Self { key: done.key, version: done.version, receipt: done.receipt, signature };
        untracked(py, made)
    }
}

/// The result of verifying a signature.
#[pyclass(frozen, get_all, module = "mini_kms")]
pub struct Verification {
    /// Whether the signature is valid.
    valid: bool,
    /// The version that the signature was verified with.
    version: u32,
    /// The audit record of the operation.
    receipt: Py<Receipt>,
}

#[pymethods]
impl Verification {
    fn __repr__(&self) -> String {
        format!("Verification(valid={}, version={})", if self.valid { "True" } else { "False" }, self.version)
    }
}

impl Verification {
    /// Creates the Python object for a result.
    pub fn object(py: Python<'_>, done: kms_lib::SignatureCheck) -> PyResult<Py<PyAny>> {
        let receipt = Py::new(py, Receipt::new(&done.receipt))?;
        Ok(Py::new(py, Self { valid: done.valid, version: done.version, receipt })?.into_any())
    }
}

operation! {
    /// The result of a re-encryption: the new ciphertext, its key and version, and those of the old ciphertext.
    Reencrypted { ciphertext: Late<Vec<u8>>, source_key: KeyId, source_version: u32, }
}

#[pymethods]
impl Reencrypted {
    /// The new ciphertext.
    #[getter]
    fn ciphertext(&self, py: Python<'_>) -> Py<PyBytes> {
        self.ciphertext.get(py)
    }
    /// The id of the key of the old ciphertext.
    #[getter]
    fn source_key_id(&self) -> String {
        self.source_key.to_string()
    }
    /// The version of the old ciphertext.
    #[getter]
    fn source_version(&self) -> u32 {
        self.source_version
    }
}

impl Reencrypted {
    /// Creates the Python object for a result.
    pub fn object(py: Python<'_>, done: kms_lib::Reencrypted) -> PyResult<Py<PyAny>> {
        let made = Self {
            key: done.encrypted.key,
            version: done.encrypted.version,
            receipt: done.encrypted.receipt,
            ciphertext: Late::new(done.encrypted.ciphertext),
            source_key: done.source_key,
            source_version: done.source_version,
        };
        untracked(py, made)
    }
}

operation! {
    /// The key and version of a stream, and its length.
    StreamSummary { length: u64, }
}

#[pymethods]
impl StreamSummary {
    /// The number of plaintext bytes.
    #[getter]
    fn length(&self) -> u64 {
        self.length
    }
}

impl StreamSummary {
    /// Creates the Python object for a result.
    pub fn new(done: &kms_lib::StreamSummary) -> Self {
        Self { key: done.key, version: done.version, receipt: done.receipt, length: done.bytes }
    }
}

/// The parts of a ciphertext. They are not authenticated: only decrypting shows whether the ciphertext was altered.
#[pyclass(frozen, module = "mini_kms")]
pub struct Ciphertext(Input);

impl Ciphertext {
    fn parts(&self) -> Outcome<kms_lib::Ciphertext<'_>> {
        Ok(kms_lib::Ciphertext::parse(&self.0)?)
    }
}

#[pymethods]
impl Ciphertext {
    #[new]
    fn new(data: &Bound<'_, PyAny>) -> Outcome<Self> {
        let made = Self(Input::copy(data, "data")?);
        made.parts()?;
        Ok(made)
    }
    /// The id of the key.
    #[getter]
    fn key_id(&self) -> Outcome<String> {
        Ok(self.parts()?.key.to_string())
    }
    /// The version of the key.
    #[getter]
    fn version(&self) -> Outcome<u32> {
        Ok(self.parts()?.version)
    }
    /// The algorithm: ``AES_256_GCM`` or ``RSA_OAEP_SHA_256``.
    #[getter]
    fn algorithm(&self) -> Outcome<&'static str> {
        Ok(self.parts()?.algorithm.as_str())
    }
    /// The nonce; empty for RSA.
    #[getter]
    fn iv(&self, py: Python<'_>) -> Outcome<Py<PyBytes>> {
        Ok(bytes(py, self.parts()?.iv()))
    }
    /// The authentication tag; empty for RSA.
    #[getter]
    fn auth_tag(&self, py: Python<'_>) -> Outcome<Py<PyBytes>> {
        Ok(bytes(py, self.parts()?.auth_tag()))
    }
    /// Returns the maximum length of the ciphertext for a plaintext of this length, whatever the key.
    #[staticmethod]
    fn max_len(plaintext_length: usize) -> usize {
        kms_lib::Ciphertext::max_len(plaintext_length)
    }
    /// Returns the maximum length of the plaintext of a ciphertext.
    #[staticmethod]
    fn max_plaintext_len(data: &Bound<'_, PyAny>) -> Outcome<usize> {
        Ok(kms_lib::Ciphertext::max_plaintext_len(&Input::copy(data, "data")?)?)
    }
}

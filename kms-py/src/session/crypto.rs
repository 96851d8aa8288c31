//! Encryption, decryption, signatures, data keys and re-encryption: single operations, into buffers, and as streams.

use kms_lib::{Ciphertext, Context, DecryptItem, ReencryptItem, SignatureAlgorithm};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::Session;
use crate::arguments::{ContextArgument, Key, Named};
use crate::buffers::{Input, Output};
use crate::call::Work;
use crate::data_key::DataKey;
use crate::errors::Outcome;
use crate::results::{Decrypted, Encrypted, Reencrypted, Signature, Verification, Written};
use crate::stream::{StreamDecryptor, StreamEncryptor};

/// The context of a decryption, and the properties that the ciphertext must have.
#[derive(Default)]
struct Expected {
    context: Context,
    key: Option<kms_lib::KeyRef>,
    version: Option<u32>,
    iv: Option<Input>,
    auth_tag: Option<Input>,
}

impl Expected {
    fn new(context: Option<ContextArgument>, key: Option<Key>, version: Option<u32>) -> Self {
        let context = context.map(|it| it.0).unwrap_or_default();
        Self { context, key: key.map(|it| it.0), version, ..Self::default() }
    }

    /// Converts the request to the type of the library, once: the context and the key are moved.
    fn item<'a>(&'a mut self, ciphertext: &'a [u8]) -> DecryptItem<'a> {
        let mut item = DecryptItem::new(ciphertext, std::mem::take(&mut self.context));
        item.key = self.key.take();
        item.version = self.version;
        item.iv = self.iv.as_deref();
        item.auth_tag = self.auth_tag.as_deref();
        item
    }
}

impl Session {
    /// Reads the bytes of an argument: `bytes` are borrowed in a synchronous call.
    pub(super) fn input(&self, value: &Bound<'_, PyAny>, what: &str) -> Outcome<Input> {
        if self.is_asynchronous() {
            return Input::copy(value, what);
        }
        // SAFETY: a synchronous operation drops its future, and the input with it, before it returns; until then the
        // caller of the method holds the argument.
        unsafe { Input::borrow(value, what) }
    }

    fn decrypt_expected<'py>(
        &self,
        py: Python<'py>,
        ciphertext: Input,
        mut expected: Expected,
        finish: impl FnOnce(Python<'_>, kms_lib::Decrypted) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> Outcome<Bound<'py, PyAny>> {
        let work = Work::on_bytes(ciphertext.len());
        let decrypt = |session: kms_lib::Session| async move { session.decrypt_item(expected.item(&ciphertext)).await };
        self.call(py, work, decrypt, finish)
    }
}

#[pymethods]
impl Session {
    /// Encrypts up to 64 MiB (RSA: 190 bytes) under the current version of a key, bound to ``context``: names and
    /// values that decrypting needs too. They are not secret: by default, audit records show them.
    ///
    /// >>> sealed = alice.encrypt("users", b"4111 1111 1111 1111", context={"row": "4711"})
    /// >>> alice.decrypt(sealed.ciphertext, context={"row": "4711"}).plaintext
    /// b'4111 1111 1111 1111'
    #[pyo3(signature = (key, plaintext, *, context=None))]
    fn encrypt<'py>(
        &self,
        py: Python<'py>,
        key: Key,
        plaintext: &Bound<'py, PyAny>,
        context: Option<ContextArgument>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let plaintext = self.input(plaintext, "plaintext")?;
        let (work, context) = (Work::on_bytes(plaintext.len()), context.map(|it| it.0).unwrap_or_default());
        let encrypt = |session: kms_lib::Session| async move { session.encrypt(key.0, &plaintext, &context).await };
        self.call(py, work, encrypt, Encrypted::object)
    }
    /// Like ``encrypt``, but writes to a buffer of the caller, which must have at least
    /// ``Ciphertext.max_len(len(plaintext))`` bytes; otherwise it raises ValueError, and nothing is done. It may be the
    /// buffer of the plaintext.
    ///
    /// >>> buffer = bytearray(Ciphertext.max_len(6))
    /// >>> written = alice.encrypt_into("users", b"secret", buffer)
    /// >>> alice.decrypt(buffer[:written.length]).plaintext
    /// b'secret'
    #[pyo3(signature = (key, plaintext, buffer, *, context=None))]
    fn encrypt_into<'py>(
        &self,
        py: Python<'py>,
        key: Key,
        plaintext: &Bound<'py, PyAny>,
        buffer: &Bound<'py, PyAny>,
        context: Option<ContextArgument>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let plaintext = self.input(plaintext, "plaintext")?;
        let buffer = Output::new(buffer, Ciphertext::max_len(plaintext.len()))?;
        let (work, context) = (Work::on_bytes(plaintext.len()), context.map(|it| it.0).unwrap_or_default());
        let encrypt = |session: kms_lib::Session| async move { session.encrypt(key.0, &plaintext, &context).await };
        self.call(py, work, encrypt, |py, done| {
            let length = buffer.write(py, &done.ciphertext)?;
            Written::object(py, length, (done.key, done.version, done.receipt))
        })
    }
    /// Decrypts a ciphertext of ``encrypt`` with the same context. If the other arguments do not agree with the
    /// ciphertext, it raises ``InvalidCiphertext``.
    ///
    /// >>> alice.decrypt(alice.encrypt("users", b"secret").ciphertext, key="users").version
    /// 1
    #[pyo3(signature = (ciphertext, *, context=None, key=None, version=None, iv=None, auth_tag=None))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn decrypt<'py>(
        &self,
        py: Python<'py>,
        ciphertext: &Bound<'py, PyAny>,
        context: Option<ContextArgument>,
        key: Option<Key>,
        version: Option<u32>,
        iv: Option<&Bound<'py, PyAny>>,
        auth_tag: Option<&Bound<'py, PyAny>>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let mut expected = Expected::new(context, key, version);
        expected.iv = iv.map(|iv| self.input(iv, "iv")).transpose()?;
        expected.auth_tag = auth_tag.map(|tag| self.input(tag, "auth_tag")).transpose()?;
        self.decrypt_expected(py, self.input(ciphertext, "ciphertext")?, expected, Decrypted::object)
    }
    /// Like ``decrypt``, but writes to a buffer of the caller, which must have at least
    /// ``Ciphertext.max_plaintext_len(ciphertext)`` bytes; otherwise it raises ValueError, and nothing is done. It may
    /// be the buffer of the ciphertext, and the caller can wipe it.
    ///
    /// >>> buffer = bytearray(alice.encrypt("users", b"secret").ciphertext)
    /// >>> written = alice.decrypt_into(buffer, buffer)
    /// >>> buffer[:written.length]
    /// bytearray(b'secret')
    #[pyo3(signature = (ciphertext, buffer, *, context=None, key=None, version=None))]
    fn decrypt_into<'py>(
        &self,
        py: Python<'py>,
        ciphertext: &Bound<'py, PyAny>,
        buffer: &Bound<'py, PyAny>,
        context: Option<ContextArgument>,
        key: Option<Key>,
        version: Option<u32>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let ciphertext = self.input(ciphertext, "ciphertext")?;
        // The service refuses and records input that is not a ciphertext.
        let buffer = Output::new(buffer, Ciphertext::max_plaintext_len(&ciphertext).unwrap_or(0))?;
        self.decrypt_expected(py, ciphertext, Expected::new(context, key, version), |py, done| {
            let length = buffer.write(py, &done.plaintext)?;
            Written::object(py, length, (done.key, done.version, done.receipt))
        })
    }
    /// Decrypts raw RSA-OAEP with SHA-256 that another tool encrypted with the public key of this version.
    fn decrypt_oaep<'py>(
        &self,
        py: Python<'py>,
        key: Key,
        version: u32,
        ciphertext: &Bound<'py, PyAny>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let ciphertext = self.input(ciphertext, "ciphertext")?;
        let decrypt =
            |session: kms_lib::Session| async move { session.decrypt_oaep(key.0, version, &ciphertext).await };
        self.call(py, Work::Long, decrypt, Decrypted::object)
    }
    /// Signs up to 64 MiB with the current version of an RSA key; ``version``, if given, must be the current one.
    ///
    /// >>> signed = alice.sign("invoices", b"total: 42.00 EUR", "RSASSA_PSS_SHA_256")
    /// >>> alice.verify("invoices", b"total: 42.00 EUR", signed.signature, "RSASSA_PSS_SHA_256").valid
    /// True
    #[pyo3(signature = (key, payload, algorithm, *, version=None))]
    fn sign<'py>(
        &self,
        py: Python<'py>,
        key: Key,
        payload: &Bound<'py, PyAny>,
        algorithm: Named<SignatureAlgorithm>,
        version: Option<u32>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let payload = self.input(payload, "payload")?;
        let sign = |session: kms_lib::Session| async move {
            match version {
                None => session.sign(key.0, &payload, algorithm.0).await,
                Some(version) => session.sign_with_version(key.0, version, &payload, algorithm.0).await,
            }
        };
        self.call(py, Work::Long, sign, Signature::object)
    }
    /// Verifies a signature. An invalid signature is not an error: ``valid`` is False. Without ``version``, the usable
    /// versions are tried, newest first.
    #[pyo3(signature = (key, payload, signature, algorithm, *, version=None))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn verify<'py>(
        &self,
        py: Python<'py>,
        key: Key,
        payload: &Bound<'py, PyAny>,
        signature: &Bound<'py, PyAny>,
        algorithm: Named<SignatureAlgorithm>,
        version: Option<u32>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let (payload, signature) = (self.input(payload, "payload")?, self.input(signature, "signature")?);
        let verify = |session: kms_lib::Session| async move {
            session.verify(key.0, &payload, &signature, algorithm.0, version).await
        };
        self.call(py, Work::Long, verify, Verification::object)
    }
    /// Generates a data key of 1 to 1,024 bytes, and encrypts it under a key. Store the ciphertext with the data.
    ///
    /// >>> with alice.generate_data_key("users") as data_key:
    /// ...     len(data_key), len(bytes(data_key))
    /// (32, 32)
    #[pyo3(signature = (key, length=32, *, context=None))]
    fn generate_data_key<'py>(
        &self,
        py: Python<'py>,
        key: Key,
        length: usize,
        context: Option<ContextArgument>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let context = context.map(|it| it.0).unwrap_or_default();
        let generate =
            |session: kms_lib::Session| async move { session.generate_data_key(key.0, length, &context).await };
        self.call(py, Work::Short, generate, DataKey::object)
    }
    /// Generates a data key and returns only its ciphertext.
    ///
    /// >>> alice.generate_data_key_without_plaintext("users").has_plaintext
    /// False
    #[pyo3(signature = (key, length=32, *, context=None))]
    fn generate_data_key_without_plaintext<'py>(
        &self,
        py: Python<'py>,
        key: Key,
        length: usize,
        context: Option<ContextArgument>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let context = context.map(|it| it.0).unwrap_or_default();
        let generate = |session: kms_lib::Session| async move {
            session.generate_data_key_without_plaintext(key.0, length, &context).await
        };
        self.call(py, Work::Short, generate, DataKey::object)
    }
    /// Re-encrypts a ciphertext under the current version of its key or of ``destination``; the plaintext is not
    /// returned.
    ///
    /// >>> sealed = alice.encrypt("users", b"secret")
    /// >>> _ = alice.rotate_key("users")
    /// >>> alice.reencrypt(sealed.ciphertext).version
    /// 2
    #[pyo3(signature = (ciphertext, *, context=None, destination=None, destination_context=None))]
    fn reencrypt<'py>(
        &self,
        py: Python<'py>,
        ciphertext: &Bound<'py, PyAny>,
        context: Option<ContextArgument>,
        destination: Option<Key>,
        destination_context: Option<ContextArgument>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let ciphertext = self.input(ciphertext, "ciphertext")?;
        let (work, context) = (Work::on_bytes(ciphertext.len()), context.map(|it| it.0).unwrap_or_default());
        let reencrypt = |session: kms_lib::Session| async move {
            let mut item = ReencryptItem::new(&ciphertext, context);
            item.destination = destination.map(|it| it.0);
            item.destination_context = destination_context.map(|it| it.0);
            session.reencrypt(item).await
        };
        self.call(py, work, reencrypt, Reencrypted::object)
    }
    /// Begins to encrypt a stream piece by piece.
    ///
    /// >>> stream = alice.encrypt_stream("users")
    /// >>> sealed = stream.update(b"any length") + stream.finish()[0]
    #[pyo3(signature = (key, *, context=None))]
    fn encrypt_stream<'py>(
        &self,
        py: Python<'py>,
        key: Key,
        context: Option<ContextArgument>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let context = context.map(|it| it.0).unwrap_or_default();
        let begin = |session: kms_lib::Session| async move { session.encrypt_stream(key.0, &context).await };
        self.call(py, Work::Short, begin, StreamEncryptor::object)
    }
    /// Begins to decrypt a stream. Returns the decryptor and the number of bytes of ``beginning`` that it has consumed;
    /// pass the remaining bytes to ``update``. Returns None if it needs a longer beginning.
    #[pyo3(signature = (beginning, *, context=None))]
    fn decrypt_stream<'py>(
        &self,
        py: Python<'py>,
        beginning: &Bound<'py, PyAny>,
        context: Option<ContextArgument>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let beginning = self.input(beginning, "beginning")?;
        let context = context.map(|it| it.0).unwrap_or_default();
        let begin = |session: kms_lib::Session| async move { session.decrypt_stream(&beginning, &context).await };
        self.call(py, Work::Short, begin, StreamDecryptor::object)
    }
    /// Encrypts everything from ``src`` to ``dst``, in constant memory: files that were opened with ``"rb"`` and
    /// ``"wb"``, or other objects with such a ``read`` and ``write``. ``progress`` is called with the number of bytes
    /// processed.
    ///
    /// >>> sealed = io.BytesIO()
    /// >>> alice.encrypt_file("users", io.BytesIO(b"secret"), sealed).length
    /// 6
    #[pyo3(signature = (key, src, dst, *, context=None, progress=None))]
    fn encrypt_file<'py>(
        this: &Bound<'py, Self>,
        key: Bound<'py, PyAny>,
        src: Bound<'py, PyAny>,
        dst: Bound<'py, PyAny>,
        context: Option<Bound<'py, PyAny>>,
        progress: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        static ENCRYPT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let encrypt = ENCRYPT.import(this.py(), "mini_kms._files", "encrypt")?;
        encrypt.call1((this, key, src, dst, context, progress))
    }
    /// Decrypts everything from ``src`` to ``dst``, in constant memory. The output is authentic, but it is complete
    /// only if the call succeeds.
    ///
    /// >>> sealed, opened = io.BytesIO(), io.BytesIO()
    /// >>> _ = alice.encrypt_file("users", io.BytesIO(b"secret"), sealed)
    /// >>> _ = alice.decrypt_file(io.BytesIO(sealed.getvalue()), opened)
    /// >>> opened.getvalue()
    /// b'secret'
    #[pyo3(signature = (src, dst, *, context=None, progress=None))]
    fn decrypt_file<'py>(
        this: &Bound<'py, Self>,
        src: Bound<'py, PyAny>,
        dst: Bound<'py, PyAny>,
        context: Option<Bound<'py, PyAny>>,
        progress: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        static DECRYPT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let decrypt = DECRYPT.import(this.py(), "mini_kms._files", "decrypt")?;
        decrypt.call1((this, src, dst, context, progress))
    }
}

//! Batches: many operations in one call, which releases the GIL once. The result of a failed item is its exception.

use kms_lib::{DecryptItem, EncryptItem, ReencryptItem, Result, SignItem, VerifyItem};
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::Session;
use super::items::read;
use crate::call::Work;
use crate::errors::{Outcome, exception};
use crate::results::{Decrypted, Encrypted, Reencrypted, Signature, Verification};

/// Creates the list of results and exceptions.
fn finish<T>(
    one: impl Fn(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
) -> impl FnOnce(Python<'_>, Vec<Result<T>>) -> PyResult<Py<PyAny>> + Send + 'static {
    move |py, results| {
        let each = |result: Result<T>| match result {
            Ok(done) => one(py, done),
            Err(error) => Ok(exception(py, &error)?.unbind()),
        };
        let mut made = Vec::with_capacity(results.len());
        for result in results {
            made.push(each(result)?);
        }
        Ok(PyList::new(py, made)?.into_any().unbind())
    }
}

#[pymethods]
impl Session {
    /// Encrypts up to 1,000 plaintexts, each under its own key and context.
    ///
    /// >>> sealed = alice.encrypt_batch([EncryptItem("users", b"one"), EncryptItem("nobody", b"two")])
    /// >>> [type(result).__name__ for result in sealed]
    /// ['Encrypted', 'KeyNotFound']
    fn encrypt_batch<'py>(&self, py: Python<'py>, items: &Bound<'py, PyAny>) -> Outcome<Bound<'py, PyAny>> {
        let (batch, _kept) = read(self, items, 2..=3, |parts| {
            Ok(EncryptItem::new(parts.key(0)?, parts.bytes(1, "plaintext")?, parts.context(2)?))
        })?;
        let encrypt = |session: kms_lib::Session| async move { session.encrypt_batch(batch.items()).await };
        self.call(py, Work::Long, encrypt, finish(Encrypted::object))
    }
    /// Decrypts up to 1,000 ciphertexts.
    ///
    /// >>> sealed = alice.encrypt("users", b"one").ciphertext
    /// >>> opened = alice.decrypt_batch([DecryptItem(sealed), DecryptItem(sealed, key="users")])
    /// >>> [result.plaintext for result in opened]
    /// [b'one', b'one']
    fn decrypt_batch<'py>(&self, py: Python<'py>, items: &Bound<'py, PyAny>) -> Outcome<Bound<'py, PyAny>> {
        let (batch, _kept) = read(self, items, 1..=9, |parts| {
            let mut item = DecryptItem::new(parts.bytes(0, "ciphertext")?, parts.context(1)?);
            if parts.count() > 2 {
                item.key = parts.optional_key(2)?;
                item.version = parts.number(3)?;
                item.iv = parts.optional_bytes(4, "iv")?;
                item.auth_tag = parts.optional_bytes(5, "auth_tag")?;
                item.oaep_version = parts.number(6)?;
                item.imported_aad = parts.optional_text(7)?;
                item.is_imported = parts.flag(8)?;
            }
            Ok(item)
        })?;
        let decrypt = |session: kms_lib::Session| async move { session.decrypt_batch(batch.items()).await };
        self.call(py, Work::Long, decrypt, finish(Decrypted::object))
    }
    /// Signs up to 1,000 payloads.
    ///
    /// >>> [signed] = alice.sign_batch([SignItem("invoices", b"total: 42.00 EUR", "RSASSA_PSS_SHA_256")])
    /// >>> len(signed.signature)
    /// 256
    fn sign_batch<'py>(&self, py: Python<'py>, items: &Bound<'py, PyAny>) -> Outcome<Bound<'py, PyAny>> {
        let (batch, _kept) = read(self, items, 3..=4, |parts| {
            let mut item = SignItem::new(parts.key(0)?, parts.bytes(1, "payload")?, parts.algorithm(2)?);
            item.version = parts.number(3)?;
            Ok(item)
        })?;
        let sign = |session: kms_lib::Session| async move { session.sign_batch(batch.items()).await };
        self.call(py, Work::Long, sign, finish(Signature::object))
    }
    /// Verifies up to 1,000 signatures.
    fn verify_batch<'py>(&self, py: Python<'py>, items: &Bound<'py, PyAny>) -> Outcome<Bound<'py, PyAny>> {
        let (batch, _kept) = read(self, items, 4..=5, |parts| {
            let (payload, signature) = (parts.bytes(1, "payload")?, parts.bytes(2, "signature")?);
            let mut item = VerifyItem::new(parts.key(0)?, payload, signature, parts.algorithm(3)?);
            item.version = parts.number(4)?;
            Ok(item)
        })?;
        let verify = |session: kms_lib::Session| async move { session.verify_batch(batch.items()).await };
        self.call(py, Work::Long, verify, finish(Verification::object))
    }
    /// Re-encrypts up to 1,000 ciphertexts.
    ///
    /// >>> sealed = alice.encrypt("users", b"one").ciphertext
    /// >>> [alice.decrypt(again.ciphertext).plaintext for again in alice.reencrypt_batch([ReencryptItem(sealed)])]
    /// [b'one']
    fn reencrypt_batch<'py>(&self, py: Python<'py>, items: &Bound<'py, PyAny>) -> Outcome<Bound<'py, PyAny>> {
        let (batch, _kept) = read(self, items, 1..=4, |parts| {
            let mut item = ReencryptItem::new(parts.bytes(0, "ciphertext")?, parts.context(1)?);
            item.destination = parts.optional_key(2)?;
            item.destination_context = parts.optional_context(3)?;
            Ok(item)
        })?;
        let reencrypt = |session: kms_lib::Session| async move { session.reencrypt_batch(batch.items()).await };
        self.call(py, Work::Long, reencrypt, finish(Reencrypted::object))
    }
}

//! Batches: many operations in one call, which releases the GIL once. The result of a failed item is its exception.

use kms_lib::{Context, EncryptItem, KeyRef, ReencryptItem, Result, SignItem, SignatureAlgorithm, VerifyItem};
use pyo3::Borrowed;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use super::Session;
use super::crypto::{Expected, Rare};
use crate::arguments::{Key, Named, Text, read_context};
use crate::buffers::Input;
use crate::call::Work;
use crate::errors::{Outcome, exception, wrong_type};
use crate::results::{Decrypted, Encrypted, Reencrypted, Signature, Verification};

/// The parts of an item: a tuple that may omit parts with a default.
struct Parts<'a, 'py> {
    session: &'a Session,
    parts: &'a Bound<'py, PyTuple>,
    count: usize,
}

impl<'a, 'py> Parts<'a, 'py> {
    fn get(&self, index: usize) -> Option<Borrowed<'a, 'py, PyAny>> {
        // Asking for a part beyond the end would make an exception, which costs more than all parts together.
        if index >= self.count {
            return None;
        }
        self.parts.get_borrowed_item(index).ok().filter(|part| !part.is_none())
    }

    fn needed(&self, index: usize, what: &str) -> Outcome<Borrowed<'a, 'py, PyAny>> {
        self.get(index).ok_or_else(|| wrong_type(format!("an item of the batch has no {what}")))
    }

    fn key(&self, index: usize) -> Outcome<KeyRef> {
        Ok(self.needed(index, "key")?.extract::<Key>()?.0)
    }

    fn optional_key(&self, index: usize) -> Outcome<Option<KeyRef>> {
        Ok(self.get(index).map(|key| key.extract::<Key>()).transpose()?.map(|key| key.0))
    }

    fn context(&self, index: usize) -> Outcome<Context> {
        Ok(self.optional_context(index)?.unwrap_or_default())
    }

    fn optional_context(&self, index: usize) -> Outcome<Option<Context>> {
        self.get(index).map(|context| read_context(&context)).transpose()
    }

    fn number(&self, index: usize) -> Outcome<Option<u32>> {
        Ok(self.get(index).map(|number| number.extract()).transpose()?)
    }

    fn optional_text(&self, index: usize) -> Outcome<Option<String>> {
        Ok(self.get(index).map(|text| text.extract::<Text>()).transpose()?.map(|text| text.0))
    }

    /// The last parts of an item to decrypt.
    fn rare(&self) -> Outcome<Rare> {
        Ok(Rare {
            iv: self.optional_bytes(4, "iv")?,
            auth_tag: self.optional_bytes(5, "auth_tag")?,
            oaep_version: self.number(6)?,
            imported_aad: self.optional_text(7)?,
            is_imported: self.flag(8)?,
        })
    }

    fn flag(&self, index: usize) -> Outcome<bool> {
        Ok(self.get(index).map(|flag| flag.extract()).transpose()?.unwrap_or(false))
    }

    fn algorithm(&self, index: usize) -> Outcome<SignatureAlgorithm> {
        Ok(self.needed(index, "algorithm")?.extract::<Named<SignatureAlgorithm>>()?.0)
    }

    /// Reads the bytes of a part. The items keep them alive: the list of items is an argument of the call, or lives as
    /// long as the call.
    fn bytes(&self, index: usize, what: &str) -> Outcome<Input> {
        let part = self.needed(index, what)?;
        self.session.input(&part, what)
    }

    fn optional_bytes(&self, index: usize, what: &str) -> Outcome<Option<Input>> {
        self.get(index).map(|part| Input::copy(&part, what)).transpose()
    }
}

/// A batch that was read, and the list that keeps the borrowed bytes alive.
struct Batch<'py, T> {
    items: Vec<T>,
    _kept: Bound<'py, PyTuple>,
}

/// Reads the items of a batch.
fn read<'py, T>(
    session: &Session,
    items: &Bound<'py, PyAny>,
    sizes: std::ops::RangeInclusive<usize>,
    item: impl Fn(&Parts<'_, 'py>) -> Outcome<T>,
) -> Outcome<Batch<'py, T>> {
    // A tuple is immutable, so the bytes of its items stay alive while they are borrowed.
    let kept = items.py().get_type::<PyTuple>().call1((items,))?.cast_into::<PyTuple>().map_err(PyErr::from)?;
    let each = |part: Borrowed<'_, 'py, PyAny>| {
        let Ok(parts) = part.cast::<PyTuple>() else {
            return Err(wrong_type("an item of a batch must be a tuple, such as EncryptItem"));
        };
        let count = parts.len();
        if !sizes.contains(&count) {
            let text = format!("an item of this batch has {} to {} parts", sizes.start(), sizes.end());
            return Err(wrong_type(text));
        }
        item(&Parts { session, parts: &parts, count })
    };
    let mut items = Vec::with_capacity(kept.len());
    for part in kept.iter_borrowed() {
        items.push(each(part)?);
    }
    Ok(Batch { items, _kept: kept })
}

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
        let batch =
            read(self, items, 2..=3, |parts| Ok((parts.key(0)?, parts.bytes(1, "plaintext")?, parts.context(2)?)))?;
        let mut items = batch.items;
        let encrypt = |session: kms_lib::Session| async move {
            let mut all = Vec::with_capacity(items.len());
            for (key, plaintext, context) in &mut items {
                let key = std::mem::replace(key, KeyRef::Name(String::new()));
                all.push(EncryptItem::new(key, plaintext, std::mem::take(context)));
            }
            session.encrypt_batch(&all).await
        };
        self.call(py, Work::Long, encrypt, finish(Encrypted::object))
    }
    /// Decrypts up to 1,000 ciphertexts.
    ///
    /// >>> sealed = alice.encrypt("users", b"one").ciphertext
    /// >>> opened = alice.decrypt_batch([DecryptItem(sealed), DecryptItem(sealed, key="users")])
    /// >>> [result.plaintext for result in opened]
    /// [b'one', b'one']
    fn decrypt_batch<'py>(&self, py: Python<'py>, items: &Bound<'py, PyAny>) -> Outcome<Bound<'py, PyAny>> {
        let batch = read(self, items, 1..=9, |parts| {
            let has_rare = (4..=7).any(|index| parts.get(index).is_some()) || parts.flag(8)?;
            let rare = has_rare.then(|| parts.rare()).transpose()?;
            let (context, key) = (parts.context(1)?, parts.optional_key(2)?);
            let expected = Expected { context, key, version: parts.number(3)?, rare: rare.map(Box::new) };
            Ok((parts.bytes(0, "ciphertext")?, expected))
        })?;
        let mut items = batch.items;
        let decrypt = |session: kms_lib::Session| async move {
            let items: Vec<_> = items.iter_mut().map(|(ciphertext, expected)| expected.item(ciphertext)).collect();
            session.decrypt_batch(&items).await
        };
        self.call(py, Work::Long, decrypt, finish(Decrypted::object))
    }
    /// Signs up to 1,000 payloads.
    ///
    /// >>> [signed] = alice.sign_batch([SignItem("invoices", b"total: 42.00 EUR", "RSASSA_PSS_SHA_256")])
    /// >>> len(signed.signature)
    /// 256
    fn sign_batch<'py>(&self, py: Python<'py>, items: &Bound<'py, PyAny>) -> Outcome<Bound<'py, PyAny>> {
        let batch = read(self, items, 3..=4, |parts| {
            Ok((parts.key(0)?, parts.bytes(1, "payload")?, parts.algorithm(2)?, parts.number(3)?))
        })?;
        let items = batch.items;
        let sign = |session: kms_lib::Session| async move {
            let mut all = Vec::with_capacity(items.len());
            for (key, payload, algorithm, version) in &items {
                let mut item = SignItem::new(key, payload, *algorithm);
                item.version = *version;
                all.push(item);
            }
            session.sign_batch(&all).await
        };
        self.call(py, Work::Long, sign, finish(Signature::object))
    }
    /// Verifies up to 1,000 signatures.
    fn verify_batch<'py>(&self, py: Python<'py>, items: &Bound<'py, PyAny>) -> Outcome<Bound<'py, PyAny>> {
        let batch = read(self, items, 4..=5, |parts| {
            let (payload, signature) = (parts.bytes(1, "payload")?, parts.bytes(2, "signature")?);
            Ok((parts.key(0)?, payload, signature, parts.algorithm(3)?, parts.number(4)?))
        })?;
        let items = batch.items;
        let verify = |session: kms_lib::Session| async move {
            let mut all = Vec::with_capacity(items.len());
            for (key, payload, signature, algorithm, version) in &items {
                let mut item = VerifyItem::new(key, payload, signature, *algorithm);
                item.version = *version;
                all.push(item);
            }
            session.verify_batch(&all).await
        };
        self.call(py, Work::Long, verify, finish(Verification::object))
    }
    /// Re-encrypts up to 1,000 ciphertexts.
    ///
    /// >>> sealed = alice.encrypt("users", b"one").ciphertext
    /// >>> [alice.decrypt(again.ciphertext).plaintext for again in alice.reencrypt_batch([ReencryptItem(sealed)])]
    /// [b'one']
    fn reencrypt_batch<'py>(&self, py: Python<'py>, items: &Bound<'py, PyAny>) -> Outcome<Bound<'py, PyAny>> {
        let batch = read(self, items, 1..=4, |parts| {
            let context = parts.context(1)?;
            Ok((parts.bytes(0, "ciphertext")?, context, parts.optional_key(2)?, parts.optional_context(3)?))
        })?;
        let items = batch.items;
        let reencrypt = |session: kms_lib::Session| async move {
            let mut all = Vec::with_capacity(items.len());
            for (ciphertext, context, destination, destination_context) in &items {
                let mut item = ReencryptItem::new(ciphertext, context.clone());
                item.destination.clone_from(destination);
                item.destination_context.clone_from(destination_context);
                all.push(item);
            }
            session.reencrypt_batch(&all).await
        };
        self.call(py, Work::Long, reencrypt, finish(Reencrypted::object))
    }
}

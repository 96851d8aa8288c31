//! Reading the items of batches: tuples, which become items of the library without a copy of their `bytes`.

use std::cell::RefCell;
use std::ops::RangeInclusive;

use kms_lib::{Context, KeyRef, SignatureAlgorithm, Zeroizing};
use pyo3::Borrowed;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::Session;
use crate::arguments::{Key, Named, Text, read_context};
use crate::buffers::Input;
use crate::errors::{Outcome, wrong_type};

/// Copies of the bytes of items, which are wiped when they are dropped.
type Copies = Vec<Zeroizing<Vec<u8>>>;

/// The items of a batch. Their bytes are in `copies`, or in objects that the caller of [`read`] keeps alive, so they
/// leave this type only by reference.
pub struct Batch<T> {
    items: Vec<T>,
    _copies: Copies,
}

impl<T> Batch<T> {
    /// The items, in the caller's order.
    pub fn items(&self) -> &[T] {
        &self.items
    }
}

/// The parts of an item: a tuple that may omit parts with a default.
pub struct Parts<'a, 'py> {
    session: &'a Session,
    parts: &'a Bound<'py, PyTuple>,
    count: usize,
    copies: &'a RefCell<Copies>,
}

impl<'a, 'py> Parts<'a, 'py> {
    /// The number of parts.
    pub fn count(&self) -> usize {
        self.count
    }

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

    /// The reference to a key at this index of the item; the item must have it.
    pub fn key(&self, index: usize) -> Outcome<KeyRef> {
        Ok(self.needed(index, "key")?.extract::<Key>()?.0)
    }

    /// A key, if it is given.
    pub fn optional_key(&self, index: usize) -> Outcome<Option<KeyRef>> {
        Ok(self.get(index).map(|key| key.extract::<Key>()).transpose()?.map(|key| key.0))
    }

    /// A context; the empty one if it is not given.
    pub fn context(&self, index: usize) -> Outcome<Context> {
        Ok(self.optional_context(index)?.unwrap_or_default())
    }

    /// A context, if it is given.
    pub fn optional_context(&self, index: usize) -> Outcome<Option<Context>> {
        self.get(index).map(|context| read_context(&context)).transpose()
    }

    /// A number, if it is given.
    pub fn number(&self, index: usize) -> Outcome<Option<u32>> {
        Ok(self.get(index).map(|number| number.extract()).transpose()?)
    }

    /// A flag; false if it is not given.
    pub fn flag(&self, index: usize) -> Outcome<bool> {
        Ok(self.get(index).map(|flag| flag.extract()).transpose()?.unwrap_or(false))
    }

    /// An algorithm of signatures.
    pub fn algorithm(&self, index: usize) -> Outcome<SignatureAlgorithm> {
        Ok(self.needed(index, "algorithm")?.extract::<Named<SignatureAlgorithm>>()?.0)
    }

    /// The bytes of a part, which live as long as the batch.
    pub fn bytes(&self, index: usize, what: &str) -> Outcome<&'static [u8]> {
        let part = self.needed(index, what)?;
        Ok(self.keep(self.session.input(&part, what)?))
    }

    /// The bytes of a part, if it is given.
    pub fn optional_bytes(&self, index: usize, what: &str) -> Outcome<Option<&'static [u8]>> {
        self.get(index).map(|part| Ok(self.keep(self.session.input(&part, what)?))).transpose()
    }

    /// A text, if it is given.
    pub fn optional_text(&self, index: usize) -> Outcome<Option<&'static str>> {
        let Some(text) = self.get(index).map(|text| text.extract::<Text>()).transpose()? else { return Ok(None) };
        let text = self.keep(Input::Copied(Zeroizing::new(text.0.into_bytes())));
        Ok(std::str::from_utf8(text).ok())
    }

    fn keep(&self, input: Input) -> &'static [u8] {
        match input {
            Input::Borrowed(bytes) => bytes,
            Input::Copied(copy) => {
                let bytes: *const [u8] = copy.as_slice();
                self.copies.borrow_mut().push(copy);
                // SAFETY: the batch keeps the copy, which is never changed, for longer than the item with these bytes.
                unsafe { &*bytes }
            }
        }
    }
}

/// Reads the items of a batch. The returned tuple has to outlive a synchronous call, since the items borrow from the
/// `bytes` in it; an asynchronous call has copies.
pub fn read<'py, T>(
    session: &Session,
    items: &Bound<'py, PyAny>,
    sizes: RangeInclusive<usize>,
    item: impl Fn(&Parts<'_, 'py>) -> Outcome<T>,
) -> Outcome<(Batch<T>, Bound<'py, PyTuple>)> {
    // A tuple is immutable, so the bytes of its items stay alive while they are borrowed.
    let kept = items.py().get_type::<PyTuple>().call1((items,))?.cast_into::<PyTuple>().map_err(PyErr::from)?;
    let copies = RefCell::default();
    let each = |part: Borrowed<'_, 'py, PyAny>| {
        let Ok(parts) = part.cast::<PyTuple>() else {
            return Err(wrong_type("an item of a batch must be a tuple, such as EncryptItem"));
        };
        let count = parts.len();
        if !sizes.contains(&count) {
            let text = format!("an item of this batch has {} to {} parts", sizes.start(), sizes.end());
            return Err(wrong_type(text));
        }
        item(&Parts { session, parts: &parts, count, copies: &copies })
    };
    let mut items = Vec::with_capacity(kept.len());
    for part in kept.iter_borrowed() {
        items.push(each(part)?);
    }
    Ok((Batch { items, _copies: copies.into_inner() }, kept))
}
